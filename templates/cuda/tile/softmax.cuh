// From raw dot products to probabilities: the score map (scale, softcap), the running softmax of a
// forward pass. All exponentials are base 2; the softmax scale must be positive.
#pragma once
#include "params.cuh"
#include "tile/layout.cuh"

namespace lg {

// score * log2(e) = factor * bounded(dot), with
//   no softcap   bounded(dot) = dot                        factor = scale * log2(e)
//   softcap c    bounded(dot) = tanh(dot * scale / c)      factor = c * log2(e)
//
// Made anew where it is used (the parameters are at hand in constant memory) rather than kept across a loop in registers.
struct ScoreMap {
    float factor;
    float inner;  // scale / softcap

    LG_DEVICE explicit ScoreMap(const Params& p) {
        factor = opaque(kSoftcap ? p.softcap : p.scale) * kLog2e;
        inner = kSoftcap ? p.scale * reciprocal_approx(opaque(p.softcap)) : 1.0f;
    }

    LG_DEVICE float bounded(float dot) const {
        if constexpr (kSoftcap) return tanh_accurate(dot * inner);
        return dot;
    }

    // The derivative of the capped score by the uncapped one; 0 for a masked score, which is -inf.
    LG_DEVICE float slope(float bounded_dot) const {
        if constexpr (!kSoftcap) return 1.0f;
        const float tanh = fmaxf(bounded_dot, -1.0f);
        return 1.0f - tanh * tanh;
    }
};

// Running maximum and sum of the rows of a warp: rows block * 16 + lane / 4 and the one 8 further down.
template <int kBlocks>
struct OnlineSoftmax {
    float max[kBlocks][2];  // of bounded scores so far; -inf while nothing was visible
    float sum[kBlocks][2];  // this lane's part of sum of exp2(factor * (score - max))

    LG_DEVICE OnlineSoftmax() {
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) {
            max[block][0] = max[block][1] = -kInf;
            sum[block][0] = sum[block][1] = 0.0f;
        }
    }

    // Replaces bounded scores (-inf where masked) by probabilities relative to the running maximum, and rescales the
    // output collected so far to that maximum.
    template <int kN, int kD>
    LG_DEVICE void update(Accumulator<kBlocks, kN>& scores, Accumulator<kBlocks, kD>& output, float factor) {
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float row_max = max[block][half];
#pragma unroll
                for (int piece = 0; piece < kN / 8; ++piece) {
                    const float(&x)[4] = scores.x[block][piece];
                    row_max = fmaxf(row_max, fmaxf(x[half * 2], x[half * 2 + 1]));
                }
                row_max = quad_max(row_max);
                // A row without a visible key so far has no finite maximum: any other will do, all exponentials are 0.
                const float base = row_max == -kInf ? 0.0f : row_max;
                const float shift = base * factor;
                // The difference first: while the maximum stays, it is 0 and the factor exactly 1. `max * factor - shift`
                // is one fused operation, which keeps the rounding error of shift and adds it up tile after tile.
                const float rescale = exp2_approx((max[block][half] - base) * factor);
                max[block][half] = row_max;
                float row_sum = sum[block][half] * rescale;
#pragma unroll
                for (int piece = 0; piece < kN / 8; ++piece) {
                    float(&x)[4] = scores.x[block][piece];
                    x[half * 2] = exp2_approx(x[half * 2] * factor - shift);
                    x[half * 2 + 1] = exp2_approx(x[half * 2 + 1] * factor - shift);
                    row_sum += x[half * 2] + x[half * 2 + 1];
                }
                sum[block][half] = row_sum;
#pragma unroll
                for (int piece = 0; piece < kD / 8; ++piece) {
                    output.x[block][piece][half * 2] *= rescale;
                    output.x[block][piece][half * 2 + 1] *= rescale;
                }
            }
        }
    }

    // Divides the output by its sum and returns the natural log-sum-exp of each row in `lse`. `sink` is one more logit,
    // in natural base, that takes part in the sum alone; -inf for none. Rows with nothing in the sum give 0 and -inf.
    template <int kD>
    LG_DEVICE void finish(Accumulator<kBlocks, kD>& output, float (&lse)[kBlocks][2], float factor, float sink) {
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const float score_max = max[block][half] * factor;
                const float top = fmaxf(score_max, sink * kLog2e);
                const float shift = top == -kInf ? 0.0f : top;
                const float weight = exp2_approx(score_max - shift);
                const float total = quad_sum(sum[block][half]) * weight + exp2_approx(sink * kLog2e - shift);
                const float scale = total > 0.0f ? weight * reciprocal_approx(total) : 0.0f;
                lse[block][half] = total > 0.0f ? (shift + log2_approx(total)) * kLn2 : -kInf;
#pragma unroll
                for (int piece = 0; piece < kD / 8; ++piece) {
                    output.x[block][piece][half * 2] *= scale;
                    output.x[block][piece][half * 2 + 1] *= scale;
                }
            }
        }
    }
};

}  // namespace lg
