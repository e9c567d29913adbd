// Matrix products of a warp: operands from swizzled shared tiles or registers, sums in registers.
//
// Three products cover attention and its gradients, rows of the result being the warp's own:
//   multiply_abt   C += A B^T   A and B in shared memory, both with the summed dimension along the row
//   multiply_ab    C += A B     A in registers (made from an earlier result), B with the summed dimension down the column
//   multiply_atb   C += A^T B   A and B in shared memory, both with the summed dimension down the column
#pragma once
#include "tile/layout.cuh"

namespace lg {

// D += A B for A 16 x 16, B 16 x 8.
LG_DEVICE void mma_16x8x16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    if constexpr (kBf16) {
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    } else {
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
}

// Four 8 x 8 matrices; lanes 8n .. 8n + 7 give the addresses of the rows of matrix n.
LG_DEVICE void load_matrices(u32 (&r)[4], u32 row_address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row_address)
                 : "memory");
}

LG_DEVICE void load_matrices_transposed(u32 (&r)[4], u32 row_address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row_address)
                 : "memory");
}

// What a lane must know to point `ldmatrix` at any 16 x 16 piece of a shared tile: the address of its chunk in the first piece,
// swizzled. A swizzle turns the lowest bits of a chunk's number only, and they are bits of the address too, as tiles are aligned
// to a bank line: pieces differ by an XOR of those bits and by a constant.
template <int kColumns>
struct PieceReader {
    static constexpr int kTurned = SharedTile<kColumns>::kChunks % 8 == 0 ? 7 : 3;
    u32 first;

    LG_DEVICE PieceReader(SharedTile<kColumns> tile, int lane_row, int lane_chunk)
        : first(opaque(int(tile.chunk(lane_row, lane_chunk)))) {}

    LG_DEVICE u32 at(int row_piece, int column_piece) const {
        const int chunk = column_piece * 2;
        return (first ^ u32((chunk & kTurned) << 4)) + (chunk & ~kTurned) * 16 + row_piece * 16 * SharedTile<kColumns>::kRowBytes;
    }

    // The same reader of the tile from this column piece on. Pieces asked of it then must have no bit in common with it.
    LG_DEVICE PieceReader from_column(int column_piece) const {
        PieceReader moved = *this;
        moved.first = at(0, column_piece);
        return moved;
    }
};

// The order of the four 8 x 8 matrices of a piece differs by use.
// Left operand, and right operand read transposed: down first, then right.
template <int kColumns>
LG_DEVICE PieceReader<kColumns> read_down_first(SharedTile<kColumns> tile) {
    const int lane = threadIdx.x % kWarpSize;
    return {tile, lane % 16, lane / 16};
}
// Right operand of A B^T: right first, then down, which gives both halves of the summed dimension for one 8-column result.
template <int kColumns>
LG_DEVICE PieceReader<kColumns> read_right_first(SharedTile<kColumns> tile) {
    const int lane = threadIdx.x % kWarpSize;
    return {tile, lane % 8 + lane / 16 * 8, lane / 8 % 2};
}

// C [kBlocks * 16, kN] += A [kBlocks * 16, kDepth] B [kN, kDepth]^T. beside() is called once, when the operands of the first
// step are on their way: what it does stands beside products, and ptxas mixes them.
template <int kBlocks, int kN, int kDepth, class Beside>
LG_DEVICE void multiply_abt(Accumulator<kBlocks, kN>& c, SharedTile<kDepth> a_tile, SharedTile<kDepth> b_tile,
                            Beside beside) {
    const PieceReader<kDepth> a = read_down_first(a_tile), b = read_right_first(b_tile);
#pragma unroll
    for (int depth = 0; depth < kDepth / 16; ++depth) {
        u32 left[kBlocks][4];
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) load_matrices(left[block], a.at(block, depth));
#pragma unroll
        for (int n = 0; n < kN / 16; ++n) {
            u32 right[4];
            load_matrices(right, b.at(n, depth));
            if (depth == 0 && n == kN / 16 - 1) beside();
#pragma unroll
            for (int block = 0; block < kBlocks; ++block) {
                mma_16x8x16(c.x[block][2 * n], left[block], right[0], right[1]);
                mma_16x8x16(c.x[block][2 * n + 1], left[block], right[2], right[3]);
            }
        }
    }
}

template <int kBlocks, int kN, int kDepth>
LG_DEVICE void multiply_abt(Accumulator<kBlocks, kN>& c, SharedTile<kDepth> a_tile, SharedTile<kDepth> b_tile) {
    multiply_abt(c, a_tile, b_tile, [] {});
}

// C [kBlocks * 16, kN] += A [kBlocks * 16, kDepth] B for the columns [first_b, first_b + kN) of B, kDepth rows of it.
// first_b is a multiple of kN, which is a power of two unless first_b is 0.
template <int kBlocks, int kN, int kDepth, int kB>
LG_DEVICE void multiply_ab(Accumulator<kBlocks, kN>& c, const Fragments<kBlocks, kDepth>& a, SharedTile<kB> b_tile,
                           int first_b = 0) {
    const PieceReader<kB> b = read_down_first(b_tile).from_column(first_b / 16);
#pragma unroll
    for (int depth = 0; depth < kDepth / 16; ++depth) {
#pragma unroll
        for (int n = 0; n < kN / 16; ++n) {
            u32 right[4];
            load_matrices_transposed(right, b.at(depth, n));
#pragma unroll
            for (int block = 0; block < kBlocks; ++block) {
                mma_16x8x16(c.x[block][2 * n], a.x[block][depth], right[0], right[1]);
                mma_16x8x16(c.x[block][2 * n + 1], a.x[block][depth], right[2], right[3]);
            }
        }
    }
}

// C [kBlocks * 16, kN] += A^T B for the columns [first_a, first_a + kBlocks * 16) of A and [first_b, first_b + kN) of B, kDepth
// rows of each. Both firsts are multiples of the width, which is a power of two.
template <int kDepth, int kBlocks, int kN, int kA, int kB>
LG_DEVICE void multiply_atb(Accumulator<kBlocks, kN>& c, SharedTile<kA> a_tile, int first_a, SharedTile<kB> b_tile, int first_b) {
    const PieceReader<kA> a = read_right_first(a_tile).from_column(first_a / 16);
    const PieceReader<kB> b = read_down_first(b_tile).from_column(first_b / 16);
#pragma unroll
    for (int depth = 0; depth < kDepth / 16; ++depth) {
        u32 left[kBlocks][4];
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) load_matrices_transposed(left[block], a.at(depth, block));
#pragma unroll
        for (int n = 0; n < kN / 16; ++n) {
            u32 right[4];
            load_matrices_transposed(right, b.at(depth, n));
#pragma unroll
            for (int block = 0; block < kBlocks; ++block) {
                mma_16x8x16(c.x[block][2 * n], left[block], right[0], right[1]);
                mma_16x8x16(c.x[block][2 * n + 1], left[block], right[2], right[3]);
            }
        }
    }
}

// The left operand that lies in the columns [first, first + kN) of a shared tile. first is a multiple of kN, a power of two.
template <int kBlocks, int kN, int kColumns>
LG_DEVICE void load_fragments(Fragments<kBlocks, kN>& to, SharedTile<kColumns> from, int first) {
    const PieceReader<kColumns> a = read_down_first(from).from_column(first / 16);
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
        for (int piece = 0; piece < kN / 16; ++piece) load_matrices(to.x[block][piece], a.at(block, piece));
    }
}

}  // namespace lg
