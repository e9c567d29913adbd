// What NVRTC does not give without headers: short integer names, constants, 16-bit floats as raw bits, and the few
// machine operations that every kernel uses. Owns no memory layout and no algorithm.
#pragma once

// The generated region (constants and pattern functions) comes before this file in a spliced source. A template that is
// compiled alone gets a hand-written example of it.
#ifndef LONGGEN_GENERATED
#include "sample_config.cuh"
#endif

#define LG_DEVICE __device__ __forceinline__

namespace lg {

using i32 = int;
using i64 = long long;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;

// One bf16 or fp16 number (kBf16 says which), as bits. Arithmetic happens in float or in the tensor cores only.
using Half = u16;

constexpr float kLog2e = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;
constexpr float kInf = __builtin_bit_cast(float, 0x7f800000);

LG_DEVICE constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }
LG_DEVICE constexpr int min_int(int a, int b) { return a < b ? a : b; }
LG_DEVICE constexpr int max_int(int a, int b) { return a > b ? a : b; }

// ---- 16-bit floats --------------------------------------------------------------------------------------------------

// Two floats to one register of two halves, `lo` in the low half, round to nearest even.
LG_DEVICE u32 pack_half2(float lo, float hi) {
    u32 packed;
    if constexpr (kBf16) {
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(hi), "f"(lo));
    } else {
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(hi), "f"(lo));
    }
    return packed;
}

LG_DEVICE float half_to_float(Half bits) {
    if constexpr (kBf16) {
        return __uint_as_float(u32(bits) << 16);
    } else {
        float value;
        asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
        return value;
    }
}

LG_DEVICE Half float_to_half(float value) { return Half(pack_half2(value, 0.0f) & 0xffffu); }

// Two floats to one register of two fp16 numbers, whatever Half is, and back.
LG_DEVICE u32 pack_fp16(float lo, float hi) {
    u32 packed;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(hi), "f"(lo));
    return packed;
}
LG_DEVICE float2 unpack_fp16(u32 packed) {
    float2 pair;
    asm("cvt.f32.f16 %0, %1;" : "=f"(pair.x) : "h"(u16(packed)));
    asm("cvt.f32.f16 %0, %1;" : "=f"(pair.y) : "h"(u16(packed >> 16)));
    return pair;
}

LG_DEVICE float low_half(u32 packed) { return half_to_float(Half(packed & 0xffffu)); }
LG_DEVICE float high_half(u32 packed) { return half_to_float(Half(packed >> 16)); }

// ---- floats ---------------------------------------------------------------------------------------------------------

// 2^x, about 2 ulp; exp2(-inf) = 0 exactly.
LG_DEVICE float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// log2(x), about 1 ulp for x away from 1; log2(0) = -inf.
LG_DEVICE float log2_approx(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

LG_DEVICE float reciprocal_approx(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// tanh(x) = 1 - 2 / (1 + e^2x). The absolute error is about 2e-7, which is what a softcap needs (score = cap * tanh);
// tanh.approx has 5e-4, too coarse once it is multiplied by the cap. Saturates cleanly at both ends.
LG_DEVICE float tanh_accurate(float x) {
    return 1.0f - 2.0f * reciprocal_approx(1.0f + exp2_approx(x * (2.0f * kLog2e)));
}

// ---- machine --------------------------------------------------------------------------------------------------------

constexpr int kWarpSize = 32;
constexpr u32 kAllLanes = 0xffffffffu;

// The same value, of which the compiler knows nothing. What is computed from it inside a loop stays there: hoisted address
// arithmetic would hold registers that the accumulators need.
LG_DEVICE int opaque(int x) {
    asm volatile("" : "+r"(x));
    return x;
}
LG_DEVICE float opaque(float x) {
    asm volatile("" : "+f"(x));
    return x;
}

// Some warps of a block meet at a barrier of their own (1 to 15; 0 is __syncthreads): who arrives goes on, who syncs waits until
// `threads` have come.
LG_DEVICE void named_barrier_sync(int id, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
LG_DEVICE void named_barrier_arrive(int id, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Address in the shared window, for instructions that take 32-bit shared addresses.
LG_DEVICE u32 shared_address(const void* pointer) { return u32(__cvta_generic_to_shared(pointer)); }

// Over the four lanes that hold one row of an mma fragment.
LG_DEVICE float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 1));
    return fmaxf(x, __shfl_xor_sync(kAllLanes, x, 2));
}
LG_DEVICE float quad_sum(float x) {
    x += __shfl_xor_sync(kAllLanes, x, 1);
    return x + __shfl_xor_sync(kAllLanes, x, 2);
}

LG_DEVICE float warp_max(float x) {
    for (int lane_bit = kWarpSize / 2; lane_bit > 0; lane_bit /= 2) {
        x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, lane_bit));
    }
    return x;
}

LG_DEVICE float warp_sum(float x) {
    for (int lane_bit = kWarpSize / 2; lane_bit > 0; lane_bit /= 2) {
        x += __shfl_xor_sync(kAllLanes, x, lane_bit);
    }
    return x;
}

// ---- neighbours in a stream (compute capability 9.0) -----------------------------------------------------------------
//
// A kernel launched early starts while the one before it still runs, once all blocks of that one have said so. What it does
// before it waits overlaps with the end of that one.

LG_DEVICE void let_successor_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// Returns when everything before this kernel in the stream is done and visible.
LG_DEVICE void wait_for_predecessor() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

}  // namespace lg
