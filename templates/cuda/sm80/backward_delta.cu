// What the backward passes need of each row before they start, and the gradient of the learned sink logits.
//
//   delta_i = dO_i . O_i - dLSE_i                 (dLSE = 0 when p.d_lse is null)
//   d_sink_h = - sum_i exp(sink_h - lse_i) delta_i
//
// attention_backward_delta     grid  x = ceil(max_q / kTileM); y = H; z = B      block  kThreads, some lanes of a warp for each row
// attention_backward_d_sink    grid  x = H, launched after it                    block  kThreads
//
// The second kernel adds in a fixed order, so that d_sink is the same in every run. Shared memory: static, kThreads / 8 bytes.
#include "params.cuh"

namespace lg {

constexpr int kWarps = kThreads / kWarpSize;

// A row is read by as many lanes as it has 16-byte chunks, rounded up to a power of two: several rows a warp.
LG_DEVICE constexpr int lanes_of_row() {
    int lanes = 1;
    while (lanes < kHeadDim / 8) lanes *= 2;
    return lanes;
}
constexpr int kRowLanes = lanes_of_row();
constexpr int kRowsAtOnce = kThreads / kRowLanes;

// Dot product of two rows of kHeadDim halves, the same in every lane of the row.
LG_DEVICE float row_dot(const Half* a, const Half* b) {
    const int chunk = threadIdx.x % kRowLanes;
    float sum = 0.0f;
    if (chunk < kHeadDim / 8) {
        const uint4 x = reinterpret_cast<const uint4*>(a)[chunk], y = reinterpret_cast<const uint4*>(b)[chunk];
        const u32 xs[4] = {x.x, x.y, x.z, x.w}, ys[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
        for (int pair = 0; pair < 4; ++pair) {
            sum = fmaf(low_half(xs[pair]), low_half(ys[pair]), sum);
            sum = fmaf(high_half(xs[pair]), high_half(ys[pair]), sum);
        }
    }
#pragma unroll
    for (int bit = kRowLanes / 2; bit > 0; bit /= 2) sum += __shfl_xor_sync(kAllLanes, sum, bit);
    return sum;
}

}  // namespace lg

extern "C" __global__ void __launch_bounds__(lg::kThreads, 1) attention_backward_delta(const __grid_constant__ lg::Params p) {
    using namespace lg;
    // Neighbours in the grid are neighbours in memory: the heads of a tile.
    const int place = blockIdx.x + gridDim.x * blockIdx.y, h = place % p.heads;
    const int first = place / p.heads * kTileM + threadIdx.x / kRowLanes;
    const Sequence seq = load_sequence(p, blockIdx.z);
    if (place / p.heads * kTileM >= seq.q_len) return;
    const Half* o = static_cast<const Half*>(p.o);
#pragma unroll
    for (int row = 0; row < kTileM; row += kRowsAtOnce) {
        // Lanes past the end read the last row again, so that all take part in the sums.
        const int t = first + row, token = seq.q_begin + min_int(t, seq.q_len - 1);
        const float dot = row_dot(row_of(o, token, p.o_t, h, p.o_h), output_gradient_row(p, token, h));
        if (threadIdx.x % kRowLanes == 0 && t < seq.q_len) {
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
