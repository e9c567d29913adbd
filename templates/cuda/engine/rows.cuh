// What the engine's element-wise kernels share: 16 bytes of a bf16 row at a time, and sums over a block.
#pragma once
#include "prelude.cuh"

namespace lg {

constexpr int kOctet = 8;  // 16-bit numbers that one thread loads at once

// Eight numbers of a row, widened.
struct Octet {
    float x[kOctet];
};

LG_DEVICE Octet unpack(uint4 raw) {
    return {{low_half(raw.x), high_half(raw.x), low_half(raw.y), high_half(raw.y), low_half(raw.z), high_half(raw.z),
             low_half(raw.w), high_half(raw.w)}};
}

LG_DEVICE Octet load_octet(const Half* row, i64 octet) { return unpack(reinterpret_cast<const uint4*>(row)[octet]); }

LG_DEVICE void store_octet(Half* row, i64 octet, const Octet& o) {
    reinterpret_cast<uint4*>(row)[octet] = {pack_half2(o.x[0], o.x[1]), pack_half2(o.x[2], o.x[3]),
                                            pack_half2(o.x[4], o.x[5]), pack_half2(o.x[6], o.x[7])};
}

// Eight numbers of a row of f32.
LG_DEVICE void store_octet(float* row, i64 octet, const Octet& o) {
    float4* to = reinterpret_cast<float4*>(row) + 2 * octet;
    to[0] = {o.x[0], o.x[1], o.x[2], o.x[3]};
    to[1] = {o.x[4], o.x[5], o.x[6], o.x[7]};
}

LG_DEVICE void add_octet(float* row, i64 octet, const Octet& o) {
    const float4* old = reinterpret_cast<const float4*>(row) + 2 * octet;
    const float4 a = old[0], b = old[1];
    store_octet(row, octet, {{a.x + o.x[0], a.y + o.x[1], a.z + o.x[2], a.w + o.x[3], b.x + o.x[4], b.y + o.x[5],
                              b.z + o.x[6], b.w + o.x[7]}});
}

// Weights that are read once should not push activations out of the first-level cache.
LG_DEVICE uint4 load_once(const Half* row, i64 octet) {
    uint4 raw;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(raw.x), "=r"(raw.y), "=r"(raw.z), "=r"(raw.w)
                 : "l"(reinterpret_cast<const uint4*>(row) + octet));
    return raw;
}

// The sum over all threads of a block of whole warps, known to all of them; in a fixed order. May be called repeatedly.
LG_DEVICE float block_sum(float x) {
    __shared__ float parts[kWarpSize];
    const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
    x = warp_sum(x);
    __syncthreads();  // the parts of the call before have been read
    if (lane == 0) parts[warp] = x;
    __syncthreads();
    return warp_sum(lane < blockDim.x / kWarpSize ? parts[lane] : 0.0f);
}

LG_DEVICE float block_max(float x) {
    __shared__ float parts[kWarpSize];
    const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
    for (int bit = kWarpSize / 2; bit > 0; bit /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, bit));
    __syncthreads();
    if (lane == 0) parts[warp] = x;
    __syncthreads();
    x = lane < blockDim.x / kWarpSize ? parts[lane] : -kInf;
    for (int bit = kWarpSize / 2; bit > 0; bit /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, bit));
    return x;
}

LG_DEVICE float sigmoid(float x) { return 1.0f / (1.0f + __expf(-x)); }

}  // namespace lg
