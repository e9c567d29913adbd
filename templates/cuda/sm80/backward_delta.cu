// What the backward passes need of each row before they start, and the gradient of the learned sink logits.
//
//   delta_i = dO_i . O_i - dLSE_i                 (dLSE = 0 when p.d_lse is null)
//   d_sink_h = - sum_i exp(sink_h - lse_i) delta_i
//
// attention_backward_delta     grid  x = ceil(max_q / kTileM); y = H; z = B      block  kThreads, one warp per row in turn
// attention_backward_d_sink    grid  x = H, launched after it                    block  kThreads
//
// The second kernel adds in a fixed order, so that d_sink is the same in every run. Shared memory: static, kThreads / 8 bytes.
#include "params.cuh"

namespace lg {

constexpr int kWarps = kThreads / kWarpSize;

// Dot product of two rows of kHeadDim halves, the same in every lane.
LG_DEVICE float warp_dot(const Half* a, const Half* b) {
    const u32* a_pairs = reinterpret_cast<const u32*>(a);
    const u32* b_pairs = reinterpret_cast<const u32*>(b);
    float sum = 0.0f;
#pragma unroll
    for (int pair = threadIdx.x % kWarpSize; pair < kHeadDim / 2; pair += kWarpSize) {
        const u32 x = a_pairs[pair], y = b_pairs[pair];
        sum = fmaf(low_half(x), low_half(y), sum);
        sum = fmaf(high_half(x), high_half(y), sum);
    }
    return warp_sum(sum);
}

}  // namespace lg

extern "C" __global__ void __launch_bounds__(lg::kThreads, 1) attention_backward_delta(const __grid_constant__ lg::Params p) {
    using namespace lg;
    const int h = blockIdx.y;
    const Sequence seq = load_sequence(p, blockIdx.z);
    const int end = min_int(seq.q_len, (blockIdx.x + 1) * kTileM);
    const Half* o = static_cast<const Half*>(p.o);
#pragma unroll 4
    for (int t = blockIdx.x * kTileM + threadIdx.x / kWarpSize; t < end; t += kWarps) {
        const int token = seq.q_begin + t;
        const float dot = warp_dot(row_of(o, token, p.o_t, h, p.o_h), output_gradient_row(p, token, h));
        if (threadIdx.x % kWarpSize == 0) {
            const i64 at = stats_index(p, token, h);
            p.delta[at] = dot - (p.d_lse != nullptr ? p.d_lse[at] : 0.0f);
        }
    }
}

extern "C" __global__ void __launch_bounds__(lg::kThreads, 1) attention_backward_d_sink(const __grid_constant__ lg::Params p) {
    using namespace lg;
    __shared__ float of_warp[kWarps];
    const int h = blockIdx.x;
    const int rows = p.cu_q[p.batch];
    const float* lse = p.lse + i64(h) * p.total_q;
    const float* delta = p.delta + i64(h) * p.total_q;
    const float sink = p.sink_logit[h];
    float sum = 0.0f;
    for (int row = threadIdx.x; row < rows; row += kThreads) {
        // lse >= sink, so the exponential is at most 1; both are -inf when the head has no sink and the row sees nothing.
        if (lse[row] != -kInf) sum -= exp2_approx((sink - lse[row]) * kLog2e) * delta[row];
    }
    sum = warp_sum(sum);
    if (threadIdx.x % kWarpSize == 0) of_warp[threadIdx.x / kWarpSize] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        float total = 0.0f;
        for (int warp = 0; warp < kWarps; ++warp) total += of_warp[warp];
        p.d_sink[h] = total;
    }
}
