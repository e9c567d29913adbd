// Tiles of halves in shared memory as the copy engine writes and the tensor cores read them.
//
//   A tile [rows][D] is D / 64 panels, one after another. A panel is [rows][64 halves]: rows of 128 bytes, in which the
//   16-byte chunk c of row r lies at chunk c ^ (r mod 8) (the 128-byte swizzle). Panels start at multiples of 1024 bytes.
//
//   TMA        box of 64 halves x 1 head x rows: one load for one panel; the map is [token, head, D]
//   stmatrix   8 rows x 16 bytes, free of bank conflicts because of the swizzle
//   wgmma      K-major: the summed dimension runs along the row;  MN-major: the summed dimension runs down the rows
#pragma once
#include "tile/sm90_barrier.cuh"

namespace lg {

constexpr int kPanelColumns = 64;
constexpr int kPanelRowBytes = 128;
constexpr int kPanels = kHeadDim / kPanelColumns;
static_assert(kHeadDim % kPanelColumns == 0, "a head is a whole number of 64-column panels");

LG_DEVICE constexpr int panel_bytes(int rows) { return rows * kPanelRowBytes; }
LG_DEVICE constexpr int tile_bytes(int rows) { return rows * kHeadDim * 2; }

// ---- copy engine --------------------------------------------------------------------------------------------------------

// The driver's CUtensorMap, made on the host.
struct alignas(128) TensorMap {
    u64 opaque[16];
};

LG_DEVICE void prefetch_map(const TensorMap& map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// Starts the copy of one box at (column, head, token); its bytes complete on `barrier`. Tokens outside the tensor read as 0.
LG_DEVICE void tma_load_box(u32 target, const TensorMap& map, u32 barrier, int column, int head, int token) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(
            target),
        "l"(&map), "r"(barrier), "r"(column), "r"(head), "r"(token)
        : "memory");
}

// Some rows of a tile of kRows tokens, as many as the map's box has, starting at `target`: one box per panel.
template <int kRows>
LG_DEVICE void tma_load_tile(u32 target, const TensorMap& map, u32 barrier, int head, int token) {
    for (int panel = 0; panel < kPanels; ++panel) {
        tma_load_box(target + panel * panel_bytes(kRows), map, barrier, panel * kPanelColumns, head, token);
    }
}

// ---- ordinary accesses --------------------------------------------------------------------------------------------------

LG_DEVICE u32 chunk_address(u32 panel, int row, int chunk) {
    return panel + row * kPanelRowBytes + ((chunk ^ (row & 7)) << 4);
}

LG_DEVICE void store_shared(u32 address, float a, float b, float c, float d) {
    asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(a), "f"(b), "f"(c), "f"(d) : "memory");
}

LG_DEVICE void load_shared(float& a, float& b, u32 address) {
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(a), "=f"(b) : "r"(address) : "memory");
}

// Writes zeros to rows [first, end) of a tile, by one warpgroup, and makes them visible to the tensor cores' reads of this
// warpgroup. Whatever lies behind the end of a sequence (another sequence, padding, NaN) must not meet a zero weight.
// Several warpgroups may do it to the same tile: they write the same zeros.
template <int kRows>
LG_DEVICE void zero_rows(u32 tile, int first, int thread, int end = kRows) {
    constexpr int kChunksPerRow = kPanelRowBytes / 16;
#pragma unroll
    for (int panel = 0; panel < kPanels; ++panel) {
#pragma unroll 1
        for (int chunk = first * kChunksPerRow + thread; chunk < end * kChunksPerRow; chunk += kWarpgroup) {
            store_shared(tile + panel * panel_bytes(kRows) + chunk * 16, 0.0f, 0.0f, 0.0f, 0.0f);
        }
    }
    fence_async_proxy();
}

// Four 8x8 matrices of halves, registers to shared memory; lane l gives the address of row l % 8 of matrix l / 8.
LG_DEVICE void store_matrices(u32 address, u32 m0, u32 m1, u32 m2, u32 m3) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(m0), "r"(m1), "r"(m2),
                 "r"(m3)
                 : "memory");
}

// A warp's 16 rows of an accumulator of kColumns columns, packed to halves (see pack_fragment), to rows [row, row + 16) of
// a tile whose panels are `panel_stride` bytes apart.
template <int kColumns>
LG_DEVICE void store_fragment(u32 tile, int panel_stride, int row, const u32 (&packed)[kColumns / 4]) {
    const int lane = threadIdx.x % kWarpSize;
    const int my_row = row + lane % 16;
    const int my_chunk = lane / 16;
#pragma unroll
    for (int chunk = 0; chunk < kColumns / 8; chunk += 2) {
        const u32 panel = tile + (chunk / 8) * panel_stride;
        const u32* m = packed + 2 * chunk;
        store_matrices(chunk_address(panel, my_row, chunk % 8 + my_chunk), m[0], m[1], m[2], m[3]);
    }
}

// Rows [0, rows) of a 64-row slice of a tile to global memory, 16 bytes a thread, coalesced, by one warpgroup. `slice` is
// the address of the slice's first row in the first panel; `out` points at its first row, whose stride is in halves.
template <int kColumns>
LG_DEVICE void copy_rows_out(u32 slice, int panel_stride, Half* out, i64 row_stride, int rows, int thread) {
    constexpr int kChunks = kColumns / 8;
    for (int item = thread; item < 64 * kChunks; item += kWarpgroup) {
        const int row = item / kChunks, chunk = item % kChunks;
        if (row >= rows) break;
        uint4 value;
        asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                     : "r"(chunk_address(slice + (chunk / 8) * panel_stride, row, chunk % 8))
                     : "memory");
        *reinterpret_cast<uint4*>(out + row * row_stride + chunk * 8) = value;
    }
}

// ---- sums in global memory ----------------------------------------------------------------------------------------------

// Adds `bytes` of floats in shared memory to global memory (both 16-byte aligned, contiguous) in the background, as one
// group of the issuing thread. The writers of the source have passed fence_async_proxy and a barrier before.
LG_DEVICE void bulk_add(float* target, u32 source, int bytes) {
    asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(target), "r"(source),
                 "r"(bytes)
                 : "memory");
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// Stores them instead.
LG_DEVICE void bulk_store(float* target, u32 source, int bytes) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(target), "r"(source), "r"(bytes) : "memory");
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// Waits until all of this thread's groups but the last kPending have read their source, or until all are complete.
template <int kPending>
LG_DEVICE void bulk_wait_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}
LG_DEVICE void bulk_wait() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// Four floats at a 16-byte aligned address, read from L2, where other blocks add.
LG_DEVICE void load_from_global(float* four, const float* source) {
    asm volatile("ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(four[0]), "=f"(four[1]), "=f"(four[2]), "=f"(four[3])
                 : "l"(source)
                 : "memory");
}

// A word that orders what one block wrote before what another does next.
LG_DEVICE int load_acquire(const int* word) {
    int value;
    asm volatile("ld.acquire.gpu.global.b32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
    return value;
}
LG_DEVICE int compare_and_swap_acquire(int* word, int expected, int value) {
    int found;
    asm volatile("atom.acquire.gpu.global.cas.b32 %0, [%1], %2, %3;"
                 : "=r"(found)
                 : "l"(word), "r"(expected), "r"(value)
                 : "memory");
    return found;
}
LG_DEVICE void store_release(int* word, int value) {
    asm volatile("st.release.gpu.global.b32 [%0], %1;" ::"l"(word), "r"(value) : "memory");
}

}  // namespace lg
