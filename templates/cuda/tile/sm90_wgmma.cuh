// Warpgroup matrix products: D[64 x N] (+)= A[64 x K] B[K x N], halves in, floats out, asynchronous.
//
// Accumulator of a thread (warp w of the warpgroup, lane l): rows 16 w + l / 4 (+ 8), and in every 8 columns the pair
// 2 (l % 4), + 1.  acc[4 c + 0, 1] = (row, columns 8 c + pair), acc[4 c + 2, 3] = (row + 8, the same columns).
//
// Rules that every caller keeps: between the issue of a product and the wait for its group nobody touches its accumulators
// or the registers of its A; `wgmma_begin` stands before the first product after such registers were written.
#pragma once
#include "tile/sm90_tile.cuh"

namespace lg {

// ---- operands in shared memory ------------------------------------------------------------------------------------------

// Matrix descriptor: 128-byte swizzle; groups of 8 rows are 1024 bytes apart; panels are `panel_stride` bytes apart (read
// for MN-major operands wider than a panel only). The upper word is a constant of the operand, the lower one holds the
// address: steps are additions to it alone.
LG_DEVICE u64 matrix_descriptor(u32 low) {
    constexpr u32 kSwizzle128 = 1u << 30;
    constexpr u32 kRowGroupStride = 1024 >> 4;
    u64 descriptor;
    asm("mov.b64 %0, {%1, %2};" : "=l"(descriptor) : "r"(low), "n"(kSwizzle128 | kRowGroupStride));
    return descriptor;
}
LG_DEVICE u32 descriptor_origin(u32 address, int panel_stride) { return (u32(panel_stride >> 4) << 16) | (address >> 4); }

// The summed dimension runs along the rows: 16 columns a step, 4 steps a panel.
template <int kPanelStride>
struct KMajor {
    static constexpr int kTransposed = 0;
    u32 origin;
    LG_DEVICE explicit KMajor(u32 address) : origin(descriptor_origin(address, kPanelStride)) {}
    LG_DEVICE u64 step(int t) const { return matrix_descriptor(origin + ((t / 4 * kPanelStride + t % 4 * 32) >> 4)); }
};

// The summed dimension runs down the rows: 16 rows a step.
template <int kPanelStride>
struct MnMajor {
    static constexpr int kTransposed = 1;
    u32 origin;
    LG_DEVICE explicit MnMajor(u32 address) : origin(descriptor_origin(address, kPanelStride)) {}
    LG_DEVICE u64 step(int t) const { return matrix_descriptor(origin + ((t * 16 * kPanelRowBytes) >> 4)); }
};

// ---- groups -------------------------------------------------------------------------------------------------------------

LG_DEVICE void wgmma_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
LG_DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most kPending of the committed groups are unfinished.
template <int kPending>
LG_DEVICE void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Tells the compiler that the registers change here, so that it moves no use of them across a begin or a wait.
template <int kCount>
LG_DEVICE void pin(float (&registers)[kCount]) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(registers[i])::"memory");
}
template <int kCount>
LG_DEVICE void pin(u32 (&registers)[kCount]) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(registers[i])::"memory");
}

// ---- one instruction: m64 n{64, 128} k16 ----------------------------------------------------------------------------------

#define LG_F4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define LG_F16(d, i) LG_F4(d, i), LG_F4(d, i + 4), LG_F4(d, i + 8), LG_F4(d, i + 12)
#define LG_F32(d) LG_F16(d, 0), LG_F16(d, 16)
#define LG_F64(d) LG_F16(d, 0), LG_F16(d, 16), LG_F16(d, 32), LG_F16(d, 48)
#define LG_T32                                                                                                               \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                                \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
#define LG_T64                                                                                                               \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                                \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                                       \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                                       \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"

// A and B from shared memory. Operands after the accumulator: A, B, add?, A transposed?, B transposed?
#define LG_WGMMA_SHARED(shape, type, text, out, a, b, p, ta, tb)                                                             \
    asm volatile("{\n .reg .pred add;\n setp.ne.b32 add, " p ", 0;\n"                                                        \
                 " wgmma.mma_async.sync.aligned.m64" shape "k16.f32." type "." type " " text ", " a ", " b                   \
                 ", add, 1, 1, " ta ", " tb ";\n}"                                                                           \
                 : out                                                                                                       \
                 : "l"(desc_a), "l"(desc_b), "r"(add), "n"(kTransposeA), "n"(kTransposeB))

template <int kN, int kTransposeA, int kTransposeB>
LG_DEVICE void wgmma_shared(float (&d)[kN / 2], u64 desc_a, u64 desc_b, int add) {
    static_assert(kN == 64 || kN == 128, "instruction shapes in use");
    if constexpr (kN == 64 && kBf16) {
        LG_WGMMA_SHARED("n64", "bf16", LG_T32, LG_F32(d), "%32", "%33", "%34", "%35", "%36");
    } else if constexpr (kN == 64) {
        LG_WGMMA_SHARED("n64", "f16", LG_T32, LG_F32(d), "%32", "%33", "%34", "%35", "%36");
    } else if constexpr (kBf16) {
        LG_WGMMA_SHARED("n128", "bf16", LG_T64, LG_F64(d), "%64", "%65", "%66", "%67", "%68");
    } else {
        LG_WGMMA_SHARED("n128", "f16", LG_T64, LG_F64(d), "%64", "%65", "%66", "%67", "%68");
    }
}

// A from registers (four, each two halves: the rows and columns of a 16-column accumulator fragment), B from shared memory.
#define LG_WGMMA_REGISTERS(shape, type, text, out, a, b, p, tb)                                                              \
    asm volatile("{\n .reg .pred add;\n setp.ne.b32 add, " p ", 0;\n"                                                        \
                 " wgmma.mma_async.sync.aligned.m64" shape "k16.f32." type "." type " " text ", " a ", " b                   \
                 ", add, 1, 1, " tb ";\n}"                                                                                   \
                 : out                                                                                                       \
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(desc_b), "r"(add), "n"(kTransposeB))

template <int kN, int kTransposeB>
LG_DEVICE void wgmma_registers(float (&d)[kN / 2], u32 a0, u32 a1, u32 a2, u32 a3, u64 desc_b, int add) {
    static_assert(kN == 64 || kN == 128, "instruction shapes in use");
    if constexpr (kN == 64 && kBf16) {
        LG_WGMMA_REGISTERS("n64", "bf16", LG_T32, LG_F32(d), "{%32, %33, %34, %35}", "%36", "%37", "%38");
    } else if constexpr (kN == 64) {
        LG_WGMMA_REGISTERS("n64", "f16", LG_T32, LG_F32(d), "{%32, %33, %34, %35}", "%36", "%37", "%38");
    } else if constexpr (kBf16) {
        LG_WGMMA_REGISTERS("n128", "bf16", LG_T64, LG_F64(d), "{%64, %65, %66, %67}", "%68", "%69", "%70");
    } else {
        LG_WGMMA_REGISTERS("n128", "f16", LG_T64, LG_F64(d), "{%64, %65, %66, %67}", "%68", "%69", "%70");
    }
}

#undef LG_F4
#undef LG_F16
#undef LG_F32
#undef LG_F64
#undef LG_T32
#undef LG_T64
#undef LG_WGMMA_SHARED
#undef LG_WGMMA_REGISTERS

// ---- products of tiles --------------------------------------------------------------------------------------------------

enum Sum : int { kOverwrite = 0, kAdd = 1 };

// Issues D = A B (or D += A B) over kK summed elements as one committed group. The caller waits.
template <int kN, int kK, class A, class B>
LG_DEVICE void issue_product(float (&d)[kN / 2], const A& a, const B& b, Sum sum) {
    wgmma_begin();
#pragma unroll
    for (int t = 0; t < kK / 16; ++t) {
        wgmma_shared<kN, A::kTransposed, B::kTransposed>(d, a.step(t), b.step(t), t == 0 ? sum : kAdd);
    }
    wgmma_commit();
}

// The same with A in registers, as pack_fragment leaves it.
template <int kN, int kK, class B>
LG_DEVICE void issue_product(float (&d)[kN / 2], const u32 (&a)[kK / 4], const B& b, Sum sum) {
    wgmma_begin();
#pragma unroll
    for (int t = 0; t < kK / 16; ++t) {
        wgmma_registers<kN, B::kTransposed>(d, a[4 * t], a[4 * t + 1], a[4 * t + 2], a[4 * t + 3], b.step(t),
                                            t == 0 ? sum : kAdd);
    }
    wgmma_commit();
}

template <int kCount>
LG_DEVICE void clear(float (&acc)[kCount]) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) acc[i] = 0.0f;
}

// An accumulator of kCount floats to halves, in the order in which it serves as A of the next product.
template <int kCount>
LG_DEVICE void pack_fragment(u32 (&packed)[kCount / 2], const float (&acc)[kCount]) {
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) packed[i] = pack_half2(acc[2 * i], acc[2 * i + 1]);
}

}  // namespace lg
