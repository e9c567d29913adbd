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
    float max[kBlocks][2];  // of bounded scores so far, up to the slack of `raise`; -inf while nothing was visible
    float sum[kBlocks][2];  // this lane's part of sum of exp2(factor * (score - max))

    LG_DEVICE OnlineSoftmax() {
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) {
            max[block][0] = max[block][1] = -kInf;
            sum[block][0] = sum[block][1] = 0.0f;
        }
    }

    // A row without a visible key so far has no finite maximum: any other will do, all exponentials are 0.
    LG_DEVICE float base(int block, int half) const { return max[block][half] == -kInf ? 0.0f : max[block][half]; }

    // Takes the maximum of further bounded scores (-inf where masked) into the running one, and rescales to it what has been
    // collected so far. All of it waits until a row of the warp has a score more than `slack` powers of two above its running
    // maximum: a lower maximum serves as well, with probabilities up to 2^slack, and then most tiles cost no more than a vote.
    template <int kN, int kD>
    LG_DEVICE void raise(const Accumulator<kBlocks, kN>& scores, Accumulator<kBlocks, kD>& output, float factor,
                         float slack = 0.0f) {
        float top[kBlocks][2];  // of this lane's scores
        bool outgrown = false;
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float& row_top = top[block][half] = -kInf;
#pragma unroll
                for (int piece = 0; piece < kN / 8; ++piece) {
                    const float(&x)[4] = scores.x[block][piece];
                    row_top = fmaxf(row_top, fmaxf(x[half * 2], x[half * 2 + 1]));
                }
                outgrown |= (row_top - max[block][half]) * factor > slack;  // false for -inf over -inf
            }
        }
        if (!__any_sync(kAllLanes, outgrown)) return;
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const float before = max[block][half];
                max[block][half] = quad_max(fmaxf(before, top[block][half]));
                // The difference first: where the maximum stays, it is 0. `max * factor - shift` is one fused operation, which
                // keeps the rounding error of shift and adds it up tile after tile.
                const float rescale = exp2_approx((before - base(block, half)) * factor);
                sum[block][half] *= rescale;
#pragma unroll
                for (int piece = 0; piece < kD / 8; ++piece) {
                    output.x[block][piece][half * 2] *= rescale;
                    output.x[block][piece][half * 2 + 1] *= rescale;
                }
            }
        }
    }

    // The probabilities, relative to the running maximum, of the columns [16 depth, 16 depth + 16) of scores that `raise` has
    // seen: the left operand of the product with 16 values.
    template <int kN>
    LG_DEVICE void take(Fragments<kBlocks, 16>& probabilities, const Accumulator<kBlocks, kN>& scores, int depth, float factor) {
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const float shift = base(block, half) * factor;
#pragma unroll
                for (int piece = 0; piece < 2; ++piece) {
                    const float(&x)[4] = scores.x[block][depth * 2 + piece];
                    const float left = exp2_approx(x[half * 2] * factor - shift);
                    const float right = exp2_approx(x[half * 2 + 1] * factor - shift);
                    sum[block][half] += left + right;
                    probabilities.x[block][0][piece * 2 + half] = pack_half2(left, right);
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
