// Where the elements of a tile lie in shared memory, and which of them a lane holds after an mma.
//
// A shared tile has rows of kColumns halves, cut into chunks of 16 bytes. `ldmatrix` reads eight rows at one chunk; in
// plain order those would fall on the same banks, so chunk c of row r is stored at place c XOR swizzle(r):
//
//   64, 128, 192, 256 columns: rows are whole bank lines, eight rows need eight places:       swizzle(r) = r mod 8
//   96 columns: rows are one and a half bank lines, a pair of rows shares a place of four:    swizzle(r) = (r / 2) mod 4
#pragma once
#include "prelude.cuh"

namespace lg {

extern __shared__ __align__(128) unsigned char dynamic_shared[];

constexpr int kChunkHalves = 8;  // 16 bytes

template <int kColumns>
struct SharedTile {
    static_assert(kColumns % 32 == 0, "a row is cut into chunks in groups of four");
    static constexpr int kChunks = kColumns / kChunkHalves;
    static constexpr int kRowBytes = kColumns * 2;

    u32 base;  // address in the shared window, 16-byte aligned

    LG_DEVICE static int swizzle(int row) { return kChunks % 8 == 0 ? row & 7 : (row >> 1) & 3; }
    LG_DEVICE u32 chunk(int row, int c) const { return base + row * kRowBytes + ((c ^ swizzle(row)) << 4); }
    LG_DEVICE SharedTile rows_from(int row) const { return {base + u32(row * kRowBytes)}; }  // row: a multiple of 8
};

// Tiles of kRows rows one behind the other, reused in turn.
template <int kRows, int kColumns>
struct SharedRing {
    static constexpr int kTileBytes = kRows * SharedTile<kColumns>::kRowBytes;
    u32 base;
    LG_DEVICE SharedTile<kColumns> tile(int slot) const { return {base + u32(slot * kTileBytes)}; }
};

// The result of an mma on kBlocks x 16 rows and kColumns columns, spread over a warp. Lane l holds, of each 16 x 8 piece,
// the rows l / 4 and l / 4 + 8 and there the columns 2 (l mod 4) and the next one.
template <int kBlocks, int kColumns>
struct Accumulator {
    static constexpr int kPieces = kColumns / 8;
    float x[kBlocks][kPieces][4];

    LG_DEVICE void clear() {
        for_each([](float& value, int, int) { value = 0.0f; });
    }

    LG_DEVICE void scale(float factor) {
        for_each([=](float& value, int, int) { value *= factor; });
    }

    // Calls f(value, row, column) for each element of this lane.
    template <class F>
    LG_DEVICE void for_each(F f) {
        const int lane = opaque(int(threadIdx.x)) % kWarpSize;
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
            for (int piece = 0; piece < kPieces; ++piece) {
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    f(x[block][piece][e], block * 16 + lane / 4 + (e / 2) * 8, piece * 8 + (lane % 4) * 2 + e % 2);
                }
            }
        }
    }
};

// kBlocks x 16 rows and kColumns columns of halves as left operands of an mma, 16 x 16 pieces.
template <int kBlocks, int kColumns>
struct Fragments {
    u32 x[kBlocks][kColumns / 16][4];
};

// The result of one mma is the left operand of the next: two neighbouring 16 x 8 results are one 16 x 16 operand.
template <int kBlocks, int kColumns>
LG_DEVICE void to_fragments(Fragments<kBlocks, kColumns>& out, const Accumulator<kBlocks, kColumns>& in) {
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
        for (int piece = 0; piece < kColumns / 8; ++piece) {
            const float(&x)[4] = in.x[block][piece];
            out.x[block][piece / 2][piece % 2 * 2 + 0] = pack_half2(x[0], x[1]);
            out.x[block][piece / 2][piece % 2 * 2 + 1] = pack_half2(x[2], x[3]);
        }
    }
}

}  // namespace lg
