// Tiles between global and shared memory: asynchronous copies in (cp.async, 16 bytes each), plain stores out.
#pragma once
#include "tile/layout.cuh"

namespace lg {

// 16 bytes, or zeros when not valid: then zero bytes are read, and the source may point anywhere.
LG_DEVICE void copy_chunk_async(u32 to, const void* from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(opaque(valid ? 16 : 0)) : "memory");
}

// One float, or zero when not valid.
LG_DEVICE void copy_float_async(u32 to, const float* from, bool valid) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(valid ? 4 : 0) : "memory");
}

// Closes the group of the copies that this thread has started since the last commit. A group may be empty.
LG_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most kPending of this thread's groups are unfinished. Other threads see the data after a barrier.
template <int kPending>
LG_DEVICE void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// What one of kWorkers threads, that numbered `worker`, copies of a tile: chunk c of every kRowsPerPass-th row from first_row on.
template <int kWorkers, int kColumns>
struct CopyShare {
    static constexpr int kChunks = SharedTile<kColumns>::kChunks;
    static constexpr int kRowsPerPass = kWorkers / kChunks;  // workers left over (96 columns) copy nothing
    int first_row, c;

    LG_DEVICE explicit CopyShare(int worker) {
        worker = opaque(worker);
        first_row = worker / kChunks, c = worker % kChunks;
    }

    // Starts this share of the copy of kRows rows whose distance is `row_stride` halves. `next` is chunk c of first_row. Where
    // pass_valid(row - first_row) is false, zeros are written: what lies there belongs to a neighbour, and 0 * NaN must not reach
    // an output.
    template <int kRows, class Valid>
    LG_DEVICE void start(SharedTile<kColumns> to, const Half* next, i64 row_stride, Valid pass_valid) const {
        if (kWorkers % kChunks != 0 && first_row >= kRowsPerPass) return;
#pragma unroll
        for (int pass = 0; pass < kRows; pass += kRowsPerPass) {
            const int row = pass + first_row;
            if (kRows % kRowsPerPass != 0 && row >= kRows) return;
            copy_chunk_async(to.chunk(row, c), next, pass_valid(pass));
            next += kRowsPerPass * row_stride;
        }
    }
};

// Starts the copy of the kRows rows from `from` on, by kWorkers threads numbered `worker`; zeros where row_valid(row) is false.
template <int kRows, int kWorkers, int kColumns, class Valid>
LG_DEVICE void copy_rows_async(SharedTile<kColumns> to, const Half* from, i64 row_stride, int worker, Valid row_valid) {
    const CopyShare<kWorkers, kColumns> share(worker);
    const Half* next = from + share.first_row * row_stride + share.c * kChunkHalves;
    share.template start<kRows>(to, next, row_stride, [&](int pass) { return row_valid(pass + share.first_row); });
}

// The same for the first `rows` rows of a tile, zeros below them, by the whole block.
template <int kRows, int kColumns>
LG_DEVICE void copy_tile_async(SharedTile<kColumns> to, const Half* from, i64 row_stride, int rows) {
    copy_rows_async<kRows, kThreads>(to, from, row_stride, threadIdx.x, [=](int row) { return row < rows; });
}

// kRows floats of which the first `rows` are real, by the whole block, or by as many threads as rows or more, numbered `worker`.
template <int kRows>
LG_DEVICE void copy_floats_async(u32 to, const float* from, int rows, int worker = threadIdx.x) {
#pragma unroll
    for (int pass = 0; pass < kRows; pass += kThreads) {
        const int row = pass + worker;
        if (row < kRows) copy_float_async(to + row * 4, from + row, row < rows);
    }
}

LG_DEVICE float2 load_shared_float2(u32 from) {
    float2 value;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(value.x), "=f"(value.y) : "r"(from));
    return value;
}

LG_DEVICE float load_shared_float(u32 from) {
    float value;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(from));
    return value;
}

LG_DEVICE void store_shared_float(u32 to, float value) {
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(to), "f"(value) : "memory");
}

LG_DEVICE void load_shared_words(u32 (&words)[4], u32 from) {
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(from)
                 : "memory");
}

LG_DEVICE void store_shared_words(u32 to, const u32 (&words)[4]) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
                 : "memory");
}

// 16 bytes to a 16-byte aligned address. As an assignment the compiler may make four stores of it, each of a quarter of a sector.
LG_DEVICE void store_global_chunk(void* to, uint4 bits) {
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(bits.x), "r"(bits.y), "r"(bits.z), "r"(bits.w)
                 : "memory");
}

// Stores a warp's left operand into its rows of a shared tile, from a column on. `lane` is the calling lane's number.
template <int kBlocks, int kColumns, int kTileColumns>
LG_DEVICE void store_fragments(SharedTile<kTileColumns> to, int first_column, const Fragments<kBlocks, kColumns>& from, u32 lane) {
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
        for (int piece = 0; piece < kColumns / 8; ++piece) {
            const int row = block * 16 + lane / 4, chunk = first_column / 8 + piece;
            const u32 upper = to.chunk(row, chunk) + (lane % 4) * 4;
            const u32 lower = to.chunk(row + 8, chunk) + (lane % 4) * 4;
            const u32(&x)[4] = from.x[block][piece / 2];
            asm volatile("st.shared.b32 [%0], %1;" ::"r"(upper), "r"(x[piece % 2 * 2]) : "memory");
            asm volatile("st.shared.b32 [%0], %1;" ::"r"(lower), "r"(x[piece % 2 * 2 + 1]) : "memory");
        }
    }
}

// Writes a warp's result, rounded to halves, to global memory: through shared rows that this warp alone uses, so that the
// global stores are 16 bytes wide. Only the first `rows` rows are stored.
template <int kBlocks, int kColumns>
LG_DEVICE void store_warp_rows(Half* to, i64 row_stride, int rows, SharedTile<kColumns> staging,
                               Accumulator<kBlocks, kColumns>& from) {
    constexpr int kChunks = SharedTile<kColumns>::kChunks;
    const int lane = threadIdx.x % kWarpSize;
    __syncwarp();  // the rows may still be read as an operand by other lanes
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
        for (int piece = 0; piece < kColumns / 8; ++piece) {
            const float(&x)[4] = from.x[block][piece];
            const int row = block * 16 + lane / 4;
            const u32 upper = staging.chunk(row, piece) + (lane % 4) * 4;
            const u32 lower = staging.chunk(row + 8, piece) + (lane % 4) * 4;
            asm volatile("st.shared.b32 [%0], %1;" ::"r"(upper), "r"(pack_half2(x[0], x[1])) : "memory");
            asm volatile("st.shared.b32 [%0], %1;" ::"r"(lower), "r"(pack_half2(x[2], x[3])) : "memory");
        }
    }
    __syncwarp();
#pragma unroll 4
    for (int index = lane; index < kBlocks * 16 * kChunks; index += kWarpSize) {
        const int row = index / kChunks, c = index % kChunks;
        if (row >= rows) break;
        uint4 bits;
        asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
                     : "r"(staging.chunk(row, c)));
        store_global_chunk(to + row * row_stride + c * kChunkHalves, bits);
    }
}

}  // namespace lg
