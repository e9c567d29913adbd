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
// for MN-major operands wider than a panel only). The upper word is a constant, the lower one holds the address: steps are
// additions to it alone.
constexpr u32 kDescriptorUpper = 1u << 30 | 1024 >> 4;
LG_DEVICE u32 descriptor_origin(u32 address, int panel_stride) { return (u32(panel_stride >> 4) << 16) | (address >> 4); }

// A *stretch* is 64 summed elements, four instructions of 16: within it each begins kStep further in the descriptor.
constexpr int kStretch = 64;

// The summed dimension runs along the rows: 16 columns a step, a stretch is a panel.
template <int kPanelStride>
struct KMajor {
    static constexpr int kTransposed = 0;
    static constexpr int kStep = 32 >> 4;
    u32 origin;
    LG_DEVICE explicit KMajor(u32 address) : origin(descriptor_origin(address, kPanelStride)) {}
    LG_DEVICE u32 stretch(int index) const { return origin + (index * kPanelStride >> 4); }
};

// The summed dimension runs down the rows: 16 rows a step.
template <int kPanelStride>
struct MnMajor {
    static constexpr int kTransposed = 1;
    static constexpr int kStep = 16 * kPanelRowBytes >> 4;
    u32 origin;
    LG_DEVICE explicit MnMajor(u32 address) : origin(descriptor_origin(address, kPanelStride)) {}
    LG_DEVICE u32 stretch(int index) const { return origin + index * 4 * kStep; }
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

// ---- one stretch: four m64 n{64, 128} k16 instructions -----------------------------------------------------------------
//
// One statement for all four, because it is the statements with so many registers that the compiler takes long over.

#define LG_F4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define LG_F16(d, i) LG_F4(d, i), LG_F4(d, i + 4), LG_F4(d, i + 8), LG_F4(d, i + 12)
#define LG_F32(d) LG_F16(d, 0), LG_F16(d, 16)
#define LG_F64(d) LG_F16(d, 0), LG_F16(d, 16), LG_F16(d, 32), LG_F16(d, 48)
#define LG_R4(a, i) "r"(a[i]), "r"(a[i + 1]), "r"(a[i + 2]), "r"(a[i + 3])
#define LG_T32                                                                                                               \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                                \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
#define LG_T64                                                                                                               \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                                \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                                       \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                                       \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"

#define LG_MMA(shape, type) " wgmma.mma_async.sync.aligned.m64" shape "k16.f32." type "." type " "
#define LG_FIRST(add) " setp.ne.b32 add, " add ", 0;\n"
#define LG_LATER " setp.eq.b32 add, 0, 0;\n"

// A and B from shared memory. Operands after the sums: A, B, add?, upper word, step of A, of B, A transposed?, B transposed?
#define LG_SHARED_STEP(mma, sums, upper, ta, tb)                                                                             \
    " mov.b64 da, {a, " upper "};\n mov.b64 db, {b, " upper "};\n" mma sums ", da, db, add, 1, 1, " ta ", " tb ";\n"
#define LG_SHARED_NEXT(step_a, step_b) " add.u32 a, a, " step_a ";\n add.u32 b, b, " step_b ";\n"
#define LG_WGMMA_SHARED(mma, sums, out, a, b, p, upper, step_a, step_b, ta, tb)                                              \
    asm volatile("{\n .reg .pred add;\n .reg .b32 a, b;\n .reg .b64 da, db;\n mov.b32 a, " a ";\n mov.b32 b, " b ";\n"       \
                 LG_FIRST(p) LG_SHARED_STEP(mma, sums, upper, ta, tb) LG_LATER                                               \
                 LG_SHARED_NEXT(step_a, step_b) LG_SHARED_STEP(mma, sums, upper, ta, tb)                                     \
                 LG_SHARED_NEXT(step_a, step_b) LG_SHARED_STEP(mma, sums, upper, ta, tb)                                     \
                 LG_SHARED_NEXT(step_a, step_b) LG_SHARED_STEP(mma, sums, upper, ta, tb) "}"                                 \
                 : out                                                                                                       \
                 : "r"(low_a), "r"(low_b), "r"(add), "n"(kDescriptorUpper), "n"(A::kStep), "n"(B::kStep),                    \
                   "n"(A::kTransposed), "n"(B::kTransposed))

template <int kN, class A, class B>
LG_DEVICE void wgmma_shared(float (&d)[kN / 2], u32 low_a, u32 low_b, int add) {
    static_assert(kN == 64 || kN == 128, "instruction shapes in use");
    if constexpr (kN == 64 && kBf16) {
        LG_WGMMA_SHARED(LG_MMA("n64", "bf16"), LG_T32, LG_F32(d), "%32", "%33", "%34", "%35", "%36", "%37", "%38", "%39");
    } else if constexpr (kN == 64) {
        LG_WGMMA_SHARED(LG_MMA("n64", "f16"), LG_T32, LG_F32(d), "%32", "%33", "%34", "%35", "%36", "%37", "%38", "%39");
    } else if constexpr (kBf16) {
        LG_WGMMA_SHARED(LG_MMA("n128", "bf16"), LG_T64, LG_F64(d), "%64", "%65", "%66", "%67", "%68", "%69", "%70", "%71");
    } else {
        LG_WGMMA_SHARED(LG_MMA("n128", "f16"), LG_T64, LG_F64(d), "%64", "%65", "%66", "%67", "%68", "%69", "%70", "%71");
    }
}

// A from registers (for each instruction four, each two halves: the rows and columns of a 16-column accumulator fragment), B
// from shared memory. Operands after the sums: B, add?, upper word, step of B, B transposed?, the registers of A.
#define LG_REGISTERS_STEP(mma, sums, a, upper, tb)                                                                           \
    " mov.b64 db, {b, " upper "};\n" mma sums ", {" a "}, db, add, 1, 1, " tb ";\n"
#define LG_WGMMA_REGISTERS(mma, sums, out, b, p, upper, step_b, tb, a0, a1, a2, a3)                                          \
    asm volatile("{\n .reg .pred add;\n .reg .b32 b;\n .reg .b64 db;\n mov.b32 b, " b ";\n"                                  \
                 LG_FIRST(p) LG_REGISTERS_STEP(mma, sums, a0, upper, tb) LG_LATER                                            \
                 " add.u32 b, b, " step_b ";\n" LG_REGISTERS_STEP(mma, sums, a1, upper, tb)                                  \
                 " add.u32 b, b, " step_b ";\n" LG_REGISTERS_STEP(mma, sums, a2, upper, tb)                                  \
                 " add.u32 b, b, " step_b ";\n" LG_REGISTERS_STEP(mma, sums, a3, upper, tb) "}"                              \
                 : out                                                                                                       \
                 : "r"(low_b), "r"(add), "n"(kDescriptorUpper), "n"(B::kStep), "n"(B::kTransposed), LG_R4(a, 0),             \
                   LG_R4(a, 4), LG_R4(a, 8), LG_R4(a, 12))
#define LG_WGMMA_REGISTERS_64(type)                                                                                          \
    LG_WGMMA_REGISTERS(LG_MMA("n64", type), LG_T32, LG_F32(d), "%32", "%33", "%34", "%35", "%36", "%37, %38, %39, %40",      \
                       "%41, %42, %43, %44", "%45, %46, %47, %48", "%49, %50, %51, %52")
#define LG_WGMMA_REGISTERS_128(type)                                                                                         \
    LG_WGMMA_REGISTERS(LG_MMA("n128", type), LG_T64, LG_F64(d), "%64", "%65", "%66", "%67", "%68", "%69, %70, %71, %72",     \
                       "%73, %74, %75, %76", "%77, %78, %79, %80", "%81, %82, %83, %84")

template <int kN, class B>
LG_DEVICE void wgmma_registers(float (&d)[kN / 2], const u32* a, u32 low_b, int add) {
    static_assert(kN == 64 || kN == 128, "instruction shapes in use");
    if constexpr (kN == 64 && kBf16) {
        LG_WGMMA_REGISTERS_64("bf16");
    } else if constexpr (kN == 64) {
        LG_WGMMA_REGISTERS_64("f16");
    } else if constexpr (kBf16) {
        LG_WGMMA_REGISTERS_128("bf16");
    } else {
        LG_WGMMA_REGISTERS_128("f16");
    }
}

#undef LG_F4
#undef LG_F16
#undef LG_F32
#undef LG_F64
#undef LG_R4
#undef LG_T32
#undef LG_T64
#undef LG_MMA
#undef LG_FIRST
#undef LG_LATER
#undef LG_SHARED_STEP
#undef LG_SHARED_NEXT
#undef LG_WGMMA_SHARED
#undef LG_REGISTERS_STEP
#undef LG_WGMMA_REGISTERS
#undef LG_WGMMA_REGISTERS_64
#undef LG_WGMMA_REGISTERS_128

// ---- products of tiles --------------------------------------------------------------------------------------------------

enum Sum : int { kOverwrite = 0, kAdd = 1 };

// Issues D = A B (or D += A B) over kK summed elements as one committed group. The caller waits.
template <int kN, int kK, class A, class B>
LG_DEVICE void issue_product(float (&d)[kN / 2], const A& a, const B& b, Sum sum) {
    wgmma_begin();
#pragma unroll
    for (int t = 0; t < kK / kStretch; ++t) {
        wgmma_shared<kN, A, B>(d, a.stretch(t), b.stretch(t), t == 0 ? sum : kAdd);
    }
    wgmma_commit();
}

// The same with A in registers, as pack_fragment leaves it.
template <int kN, int kK, class B>
LG_DEVICE void issue_product(float (&d)[kN / 2], const u32 (&a)[kK / 4], const B& b, Sum sum) {
    wgmma_begin();
#pragma unroll
    for (int t = 0; t < kK / kStretch; ++t) {
        wgmma_registers<kN, B>(d, a + kStretch / 4 * t, b.stretch(t), t == 0 ? sum : kAdd);
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
