// Second kernel of decode: merges the partial results of the splits by their log-sum-exps.
//
//   lse_h = log(sum_x exp(lse_xh) + exp(sink_h))     O_h = sum_x exp(lse_xh - lse_h) O_xh     over the splits x
//
// The learned sink logit enters here, once. A row that sees no key gives O = 0 and, without a sink, lse = -inf.
//
//   grid    x = H; y = 1; z = B                                                              block  kThreads
//   split_o [splits, B, H, D] fp32, split_lse [splits, B, H] -> o [B tokens, H, D], lse [H, total_q]
//
// No shared memory, no synchronisation: a thread owns columns of the row.
#include "params.cuh"
#include "tile/merge.cuh"

extern "C" __global__ void __launch_bounds__(lg::kThreads, 1) attention_decode_combine(const __grid_constant__ lg::Params p) {
    using namespace lg;
    const int h = blockIdx.x, b = blockIdx.z;
    const Sequence seq = load_sequence(p, b);
    if (seq.q_len <= 0) return;
    const i64 rows = i64(p.batch) * p.heads, row = i64(b) * p.heads + h;
    const auto split_lse = [&](int split) { return p.split_lse[split * rows + row]; };
    const float total = merged_lse(p.splits, kSinkLogit ? p.sink_logit[h] : -kInf, split_lse);
    Half* o = static_cast<Half*>(p.o) + seq.q_begin * p.o_t + h * p.o_h;
    for (int column = threadIdx.x; column < kHeadDim; column += kThreads) {
        const auto split_o = [&](int split) { return p.split_o[(split * rows + row) * kHeadDim + column]; };
        o[column] = float_to_half(merged_output(p.splits, total, split_lse, split_o));
    }
    if (threadIdx.x == 0) p.lse[i64(h) * p.total_q + seq.q_begin] = total;
}
