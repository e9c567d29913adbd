// A walk that runs ahead of the arithmetic: the tiles whose copies are in flight, oldest first. And two small loops that
// kernels share.
#pragma once
#include "tile/layout.cuh"
#include "walk.cuh"

namespace lg {

// Holds kDepth tiles in registers: n[0] is the tile being computed, n[1] the next one, and so on; n = -1 past the end.
template <class Walk, int kDepth>
struct TileStream {
    Walk walk;
    int n[kDepth];
    int kind[kDepth];

    LG_DEVICE explicit TileStream(const Walk& start) : walk(start) {
#pragma unroll
        for (int place = 0; place < kDepth; ++place) n[place] = -1, kind[place] = kFull;
    }

    // Takes the walk's next tile into `place`.
    LG_DEVICE void fetch(int place) {
        if (!walk.next(n[place], kind[place])) n[place] = -1;
    }

    // Drops the oldest tile.
    LG_DEVICE void advance() {
#pragma unroll
        for (int place = 0; place + 1 < kDepth; ++place) n[place] = n[place + 1], kind[place] = kind[place + 1];
        n[kDepth - 1] = -1;
    }
};

// Calls apply(kind) for a tile that needs a mask, with the kind as a constant to the compiler: full tiles run no mask code
// and causal edges run none of the pattern's.
template <class F>
LG_DEVICE void mask_tile(int kind, F apply) {
    if (kind == kEdge) apply(kEdge);
    if (kind == kGeneral) apply(kGeneral);
}

// Calls f(value, row) for the rows of a warp once: the first lane of each quad speaks for its two rows of each block.
template <int kBlocks, class F>
LG_DEVICE void for_each_row(const float (&values)[kBlocks][2], F f) {
    const int lane = threadIdx.x % kWarpSize;
    if (lane % 4 != 0) return;
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
        f(values[block][0], block * 16 + lane / 4);
        f(values[block][1], block * 16 + lane / 4 + 8);
    }
}

}  // namespace lg
