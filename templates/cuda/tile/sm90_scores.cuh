// What happens to a fragment of scores between two products of the forward: cap, mask, online softmax. Fragment layout as in
// sm90_wgmma.cuh: a thread holds two rows (row, row + 8), and per 8 columns the pair 2 (lane % 4), + 1.
#pragma once
#include "tile/sm90_wgmma.cuh"
#include "walk.cuh"

namespace lg {

// Column of accumulator element e, relative to the thread's first column; and which of its two rows.
LG_DEVICE constexpr int element_column(int e) { return e / 4 * 8 + e % 2; }
LG_DEVICE constexpr int element_row(int e) { return e % 4 / 2; }

// Scores as the softmax takes them: times `unit` they are in base 2. With a softcap the fragment holds tanh(s / cap).
LG_DEVICE float score_unit(const Params& p) { return (kSoftcap ? p.softcap : p.scale) * kLog2e; }

template <int kCount>
LG_DEVICE void cap_scores(float (&s)[kCount], float scale_over_cap) {
#pragma unroll
    for (int e = 0; e < kCount; ++e) s[e] = tanh_accurate(s[e] * scale_over_cap);
}

// Which elements of a fragment count in a general tile, one bit each, in the order of the accumulator. A rolled loop: the
// predicate may be long, and unrolled its comparisons would be hoisted into more registers than there are. The two ends of a
// pair of keys and of a pair of rows are the four bits of a step.
struct ElementBits {
    u32 low, high;                   // elements 0 .. 31, and 32 .. 63

    LG_DEVICE bool operator[](int e) const { return ((e < 32 ? low : high) >> (e % 32)) & 1u; }
};

// 32 elements of an accumulator of scores: rows are query indices i and i + 8, keys start at j.
LG_DEVICE u32 visible_bits(int g, int i, int j, int key_len) {
    u32 word = 0;
#pragma unroll 1
    for (int e = 0; e < 32; e += 4) {
        const int key = j + element_column(e);
        word |= (u32(keep(kGeneral, g, i, key, key_len)) | u32(keep(kGeneral, g, i, key + 1, key_len)) << 1 |
                 u32(keep(kGeneral, g, i + 8, key, key_len)) << 2 | u32(keep(kGeneral, g, i + 8, key + 1, key_len)) << 3)
                << e;
    }
    return word;
}

// The same for transposed scores: rows are keys j and j + 8, queries start at index i.
LG_DEVICE u32 visible_bits_transposed(int g, int i, int j, int key_len) {
    u32 word = 0;
#pragma unroll 1
    for (int e = 0; e < 32; e += 4) {
        const int query = i + element_column(e);
        word |= (u32(keep(kGeneral, g, query, j, key_len)) | u32(keep(kGeneral, g, query + 1, j, key_len)) << 1 |
                 u32(keep(kGeneral, g, query, j + 8, key_len)) << 2 | u32(keep(kGeneral, g, query + 1, j + 8, key_len)) << 3)
                << e;
    }
    return word;
}

// Sets every score that does not count to -inf. Rows are query indices i and i + 8, `j` is the key of the thread's first
// column. One comparison an element at the causal edge; the pattern's own predicate in a general tile.
template <int kCount>
LG_DEVICE void mask_scores(float (&s)[kCount], int kind, int g, int i, int j, int key_len) {
    if (kind == kEdge) {
        const int last[2] = {min_int(i, key_len - 1) - j, min_int(i + 8, key_len - 1) - j};
#pragma unroll
        for (int e = 0; e < kCount; ++e) {
            if (element_column(e) > last[element_row(e)]) s[e] = -kInf;
        }
    } else {
        static_assert(kCount == 64, "two words of bits");
        const ElementBits keep_bits{visible_bits(g, i, j, key_len), visible_bits(g, i, j + element_column(32), key_len)};
#pragma unroll
        for (int e = 0; e < kCount; ++e) {
            if (!keep_bits[e]) s[e] = -kInf;
        }
    }
}

// Running maximum (of scores, not yet in base 2) and this thread's share of the running sum, for two rows.
struct SoftmaxRows {
    float max[2];
    float sum[2];

    LG_DEVICE void reset() {
        max[0] = max[1] = -kInf;
        sum[0] = sum[1] = 0.0f;
    }

    // s becomes 2^(unit s - m), m the new maximum; `factor` is what earlier sums and outputs must be multiplied by. A row
    // that has seen no key yet keeps m = -inf and gets zeros: its exponents are taken against 0.
    template <int kCount>
    LG_DEVICE void update(float (&s)[kCount], float (&factor)[2], float unit) {
#pragma unroll
        for (int row = 0; row < 2; ++row) {
            float top = max[row];
#pragma unroll
            for (int e = 0; e < kCount; ++e) {
                if (element_row(e) == row) top = fmaxf(top, s[e]);
            }
            top = quad_max(top);
            const float base = top == -kInf ? 0.0f : top;
            const float shift = base * unit;
            // The difference first: while the maximum stays, it is 0 and the factor exactly 1. `max * unit - shift` is one
            // fused operation, which keeps the rounding error of shift and adds it up tile after tile.
            factor[row] = exp2_approx((max[row] - base) * unit);
            max[row] = top;
            float tile_sum = 0.0f;
#pragma unroll
            for (int e = 0; e < kCount; ++e) {
                if (element_row(e) == row) {
                    s[e] = exp2_approx(s[e] * unit - shift);
                    tile_sum += s[e];
                }
            }
            sum[row] = sum[row] * factor[row] + tile_sum;
        }
    }

    // Ends the row: the factor that turns the accumulated output into O, and the log-sum-exp (natural log). The learned sink
    // logit is one more column with value zero. A row with nothing in its denominator gives O = 0 and -inf.
    LG_DEVICE void finish(int row, float unit, float sink_logit, float& output_factor, float& lse) {
        float total = quad_sum(sum[row]);
        float top = max[row] == -kInf ? -kInf : max[row] * unit;
        float rescale = 1.0f;
        if constexpr (kSinkLogit) {
            const float sink = sink_logit * kLog2e;
            const float joint = fmaxf(top, sink);
            if (joint > -kInf) {
                rescale = exp2_approx(top - joint);
                total = total * rescale + exp2_approx(sink - joint);
                top = joint;
            }
        }
        const bool empty = !(total > 0.0f) && total == total;
        output_factor = empty ? 0.0f : rescale / total;
        lse = empty ? -kInf : kLn2 * (top + log2_approx(total));
    }
};

template <int kCount>
LG_DEVICE void scale_rows(float (&acc)[kCount], const float (&factor)[2]) {
#pragma unroll
    for (int e = 0; e < kCount; ++e) acc[e] *= factor[element_row(e)];
}

}  // namespace lg
