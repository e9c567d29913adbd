// Sharing keys between blocks or warps, and merging their partial attention results by the log-sum-exps (natural base, -inf
// for an empty set).
#pragma once
#include "prelude.cuh"

namespace lg {

// The part [first, first + count) of `total` things that share `index` of `shares` gets; shares differ by at most one.
struct Share {
    int first, count;
    LG_DEVICE Share(int total, int index, int shares) {
        first = int(i64(total) * index / shares);
        count = int(i64(total) * (index + 1) / shares) - first;
    }
};

// Whether this block is the last of `blocks` to arrive at `count`, which it then sets back to zero for the next launch. The
// last one sees what all of them wrote before.
LG_DEVICE bool arrive_last(int* count, int blocks) {
    __syncthreads();
    bool last = false;
    if (threadIdx.x == 0) {
        int before;
        asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], 1;" : "=r"(before) : "l"(count) : "memory");
        last = before == blocks - 1;
        if (last) *count = 0;
    }
    return __syncthreads_or(last);
}

// weights[part] = exp(lse[part] - total) for the parts of one row, by one warp; returns
// total = log(exp(extra) + sum of exp(lse[part])). All weights of a row without keys are 0.
LG_DEVICE float merge_weights(float* weights, const float* lse, int parts, float extra) {
    const int lane = threadIdx.x % kWarpSize;
    float top = extra;
    for (int part = lane; part < parts; part += kWarpSize) {
        weights[part] = lse[part];
        top = fmaxf(top, weights[part]);
    }
    top = warp_max(top);
    const float shift = top == -kInf ? 0.0f : top;
    float sum = 0.0f;
    for (int part = lane; part < parts; part += kWarpSize) {
        weights[part] = exp2_approx((weights[part] - shift) * kLog2e);
        sum += weights[part];
    }
    sum = warp_sum(sum) + exp2_approx((extra - shift) * kLog2e);
    const float scale = sum > 0.0f ? reciprocal_approx(sum) : 0.0f;
    for (int part = lane; part < parts; part += kWarpSize) weights[part] *= scale;
    __syncwarp();
    return sum > 0.0f ? shift + log2_approx(sum) * kLn2 : -kInf;
}

// Merges the parts of one row, by one warp: part n has the log-sum-exp lse[n] and the kColumns outputs from o + n * stride on.
// `weights` is shared memory for one float a part, this warp's own. Calls store(column, value) for every fourth column, with
// four values, and returns the merged log-sum-exp. The outputs are on their way, kAhead parts at a time, while the weights are
// found: where few keys are left to a row, this is the time of two trips to memory against three.
template <int kColumns, int kAhead, class Store>
LG_DEVICE float merge_row(float* weights, const float* lse, const float* o, int stride, int parts, float extra, Store store) {
    float total = 0.0f;
    for (int first = 0; first < kColumns; first += kWarpSize * 4) {
        const int column = first + threadIdx.x % kWarpSize * 4;
        const bool exists = column < kColumns;
        float4 sum = {};
        for (int begin = 0; begin < parts; begin += kAhead) {
            float4 x[kAhead] = {};
#pragma unroll
            for (int n = 0; n < kAhead; ++n) {
                const int part = begin + n;
                if (exists && part < parts) x[n] = *reinterpret_cast<const float4*>(o + part * stride + column);
            }
            if (first == 0 && begin == 0) total = merge_weights(weights, lse, parts, extra);
#pragma unroll
            for (int n = 0; n < kAhead; ++n) {
                const float weight = begin + n < parts ? weights[begin + n] : 0.0f;
                sum = {sum.x + weight * x[n].x, sum.y + weight * x[n].y, sum.z + weight * x[n].z, sum.w + weight * x[n].w};
            }
        }
        if (exists) store(column, sum);
    }
    __syncwarp();  // the weights have been read
    return total;
}

}  // namespace lg
