// The workspace dq_accum of a fused backward: floats, in the order in which the tensor cores leave them, so that a piece of
// dQ moves as one contiguous block.
//
//   A query tile of kTileM rows is two pieces of 64 x 64 (kHeadDim 128: columns [64 x, 64 x + 64) of its 64 rows;
//   kHeadDim 64: rows [64 x, 64 x + 64) of its 128). A piece is the result of four warps, 16 rows each; thread t of them holds
//   32 numbers of it, and the four of column group c are the float4 number 128 c + t (rows and columns of a fragment:
//   `Accumulator`, and sm90_wgmma.cuh).
//   Tiles of a head lie together, so that a walk over them stays on few pages of memory. Of these, sequence b begins at tile
//   cu_q[b] / kTileM + b: sequences are padded to whole tiles.
//
//   Size: (total_q / kTileM + B) H kTileM D floats. dq_turn, an int for each tile and head, says who came to it, and starts at
//   zero. Hopper: the first block that comes stores its share, the others add theirs. sm_80: all add, to sums that start at zero.
//   What lies behind the end of a sequence is never read.
#pragma once
#include "params.cuh"

namespace lg {

constexpr int kDqPieceFloats = 64 * 64;
constexpr int kDqPieceBytes = kDqPieceFloats * 4;
constexpr int kDqPieceThreads = 128;
static_assert(kTileM * kHeadDim == 2 * kDqPieceFloats, "a query tile is two pieces");

// What dq_turn says of a tile. In the ordered variant: 0, or the number (and one) of the key tile that came last.
constexpr int kUntouched = 0, kBeingStored = 1, kStored = 2;

// Number of a query tile and head in dq_accum, and in dq_turn.
LG_DEVICE int dq_tile(const Params& p, int sequence, int q_begin, int q_tile, int head) {
    return head * (p.total_q / kTileM + p.batch) + q_begin / kTileM + sequence + q_tile;
}

LG_DEVICE float* dq_piece(const Params& p, int dq_tile, int piece) {
    return p.dq_accum + (i64(dq_tile) * 2 + piece) * kDqPieceFloats;
}

// Adds four floats to four in global memory, at a 16-byte aligned address, each by itself.
LG_DEVICE void add_to_global(float* to, const float* four) {
#if __CUDA_ARCH__ >= 900
    asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(four[0]), "f"(four[1]), "f"(four[2]), "f"(four[3])
                 : "memory");
#else
#pragma unroll
    for (int e = 0; e < 4; ++e) asm volatile("red.global.add.f32 [%0], %1;" ::"l"(to + e), "f"(four[e]) : "memory");
#endif
}

}  // namespace lg
