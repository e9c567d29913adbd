// From bounded scores to probabilities and score gradients in a backward pass, where the log-sum-exp of each row is known:
//
//   P = exp2(factor * score - shift)     dS = P s' (dP - delta)
//
// Twice: with the queries in the rows of a warp's result (dQ), and transposed with the queries in its columns (dK, dV).
// Masked scores are -inf and come out as exact zeros.
#pragma once
#include "tile/copy.cuh"
#include "tile/softmax.cuh"

namespace lg {

// The log-sum-exp of a row as it is subtracted, in base 2. A row that sees nothing has -inf; +inf makes each of its
// probabilities exp2(-inf) = 0.
LG_DEVICE float backward_shift(float lse) { return lse == -kInf ? kInf : lse * kLog2e; }

// ---- queries in rows: values of the rows block * 16 + lane / 4 and the one 8 further down are in registers ----------

// scores -> P s'
template <int kBlocks, int kN>
LG_DEVICE void row_probabilities(Accumulator<kBlocks, kN>& scores, const float (&shift)[kBlocks][2], const ScoreMap& map) {
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
        for (int piece = 0; piece < kN / 8; ++piece) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                float& x = scores.x[block][piece][e];
                x = exp2_approx(x * map.factor - shift[block][e / 2]) * map.slope(x);
            }
        }
    }
}

// dP -> dS
template <int kBlocks, int kN>
LG_DEVICE void row_score_gradients(Accumulator<kBlocks, kN>& dp, const Accumulator<kBlocks, kN>& weights,
                                   const float (&delta)[kBlocks][2]) {
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
        for (int piece = 0; piece < kN / 8; ++piece) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                float& x = dp.x[block][piece][e];
                x = weights.x[block][piece][e] * (x - delta[block][e / 2]);
            }
        }
    }
}

// ---- queries in columns: values of the tile's queries are floats in shared memory; `lane` is the calling lane's number ----

// scores -> P s', and P as the left operand of the product with dO
template <int kBlocks, int kM>
LG_DEVICE void column_probabilities(Accumulator<kBlocks, kM>& scores, Fragments<kBlocks, kM>& probabilities, u32 lse,
                                    const ScoreMap& map, u32 lane = threadIdx.x % kWarpSize) {
    const u32 lane_column = lane % 4 * 2;
#pragma unroll
    for (int piece = 0; piece < kM / 8; ++piece) {
        const float2 pair = load_shared_float2(lse + (piece * 8 + lane_column) * 4);
        const float shift[2] = {backward_shift(pair.x), backward_shift(pair.y)};
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) {
            float(&x)[4] = scores.x[block][piece];
            float probability[4];
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                probability[e] = exp2_approx(x[e] * map.factor - shift[e % 2]);
                x[e] = probability[e] * map.slope(x[e]);
            }
            u32(&operand)[4] = probabilities.x[block][piece / 2];
            operand[piece % 2 * 2 + 0] = pack_half2(probability[0], probability[1]);
            operand[piece % 2 * 2 + 1] = pack_half2(probability[2], probability[3]);
        }
    }
}

// dP -> dS
template <int kBlocks, int kM>
LG_DEVICE void column_score_gradients(Accumulator<kBlocks, kM>& dp, const Accumulator<kBlocks, kM>& weights, u32 delta,
                                      u32 lane = threadIdx.x % kWarpSize) {
    const u32 lane_column = lane % 4 * 2;
#pragma unroll
    for (int piece = 0; piece < kM / 8; ++piece) {
        const float2 pair = load_shared_float2(delta + (piece * 8 + lane_column) * 4);
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                float& x = dp.x[block][piece][e];
                x = weights.x[block][piece][e] * (x - (e % 2 == 0 ? pair.x : pair.y));
            }
        }
    }
}

}  // namespace lg
