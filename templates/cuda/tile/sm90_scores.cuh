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

// Which elements of a fragment count in a general tile: one bit each, 32 at a time, in the order of the accumulator. A rolled
// loop: the predicate may be long, and unrolled its comparisons would be hoisted into more registers than there are. The two
// ends of a pair of keys and of a pair of rows are the four bits of a step.

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

// In place of a kind: nothing of these keys was loaded.
constexpr int kAbsent = 3;

// The keys that query i sees among [j0, j1), when they are one run: then [begin, end). False when they are more.
LG_DEVICE bool sees_one_run(int g, int i, int j0, int j1, int& begin, int& end) {
    const Span run = next_keys(g, i, i + 1, j0);
    begin = min_int(run.begin, j1);
    end = min_int(run.end, j1);
    return end == j1 || next_keys(g, i, i + 1, end).begin >= j1;
}

// Sets every score of elements [kFirst, kFirst + 32) that does not count to -inf. Rows are query indices i and i + 8; the
// elements belong to the 64 keys from j0 on, the thread's first column to key j. One comparison an element at the causal
// edge. In a general tile two, if each row of the warp sees one run of keys, as at the far edge of a window; else, and for
// listed patterns, the pattern's own predicate.
template <int kFirst, int kAll>
LG_DEVICE void mask_scores(float (&s)[kAll], int kind, int g, int i, int j, int j0, int key_len) {
    constexpr int kCount = 32;
    if (kind != kGeneral) {
        const int end = kind == kAbsent ? j : key_len;
        const int last[2] = {min_int(i, end - 1) - j, min_int(i + 8, end - 1) - j};
#pragma unroll
        for (int e = 0; e < kCount; ++e) {
            if (element_column(e) > last[element_row(e)]) s[kFirst + e] = -kInf;
        }
        return;
    }
    if constexpr (!kListed) {
        int begin[2], end[2];
        const int j1 = min_int(j0 + 2 * kCount, key_len);
        const bool upper = sees_one_run(g, i, j0, j1, begin[0], end[0]);
        const bool lower = sees_one_run(g, i + 8, j0, j1, begin[1], end[1]);
        if (__all_sync(kAllLanes, upper && lower)) {
#pragma unroll
            for (int e = 0; e < kCount; ++e) {
                const int row = element_row(e);
                if (element_column(e) < begin[row] - j || element_column(e) >= end[row] - j) s[kFirst + e] = -kInf;
            }
            return;
        }
    }
    const u32 keep_bits = visible_bits(g, i, j, key_len);
#pragma unroll
    for (int e = 0; e < kCount; ++e) {
        if (!(keep_bits >> e & 1u)) s[kFirst + e] = -kInf;
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

    // s becomes 2^(unit s - m), m the reference maximum; `factor` is what earlier sums and outputs must be multiplied by.
    // The reference follows the true maximum only when that has grown by more than a factor of 2^kSlack: until then the
    // weights may exceed 1 (by at most 2^kSlack) and the factor is exactly 1, so that the outputs need no pass. A row that
    // has seen no key yet keeps m = -inf and gets zeros: its exponents are taken against 0.
    // Four chains for the maxima and four for the sums: one would wait for its own latency.
    template <int kCount>
    LG_DEVICE void update(float (&s)[kCount], float (&factor)[2], float unit) {
        constexpr float kSlack = 8.0f;
        float top[2][2] = {{s[0], s[1]}, {s[2], s[3]}};
#pragma unroll
        for (int e = 4; e < kCount; ++e) top[element_row(e)][e % 2] = fmaxf(top[element_row(e)][e % 2], s[e]);
        float shift[2];
#pragma unroll
        for (int row = 0; row < 2; ++row) {
            const float tile_top = quad_max(fmaxf(top[row][0], top[row][1]));
            const bool grew = (tile_top - max[row]) * unit > kSlack;
            const float reference = grew ? tile_top : max[row];
            shift[row] = reference == -kInf ? 0.0f : __fmul_rn(reference, unit);
            // Not fused: the old weights were taken against the rounded product, and an error here would add up.
            factor[row] = grew ? exp2_approx(__fmul_rn(max[row], unit) - shift[row]) : 1.0f;
            max[row] = reference;
        }
        float tile_sum[2][2] = {};
#pragma unroll
        for (int e = 0; e < kCount; ++e) {
            s[e] = exp2_approx(s[e] * unit - shift[element_row(e)]);
            tile_sum[element_row(e)][e % 2] += s[e];
        }
#pragma unroll
        for (int row = 0; row < 2; ++row) sum[row] = sum[row] * factor[row] + (tile_sum[row][0] + tile_sum[row][1]);
    }

    // Ends the row: the factor that turns the accumulated output into O, and the log-sum-exp (natural log). The learned sink
    // logit is one more column with value zero. A row with nothing in its denominator gives O = 0 and -inf.
    LG_DEVICE void finish(int row, float unit, float sink_logit, float& output_factor, float& lse) const {
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

// Multiplies the two rows, unless both factors of every lane are 1.
template <int kCount>
LG_DEVICE void rescale_rows(float (&acc)[kCount], const float (&factor)[2]) {
    if (__any_sync(kAllLanes, factor[0] != 1.0f || factor[1] != 1.0f)) {
#pragma unroll
        for (int e = 0; e < kCount; ++e) acc[e] *= factor[element_row(e)];
    }
}

template <int kCount>
LG_DEVICE void scale_rows(float (&acc)[kCount], const float (&factor)[2]) {
#pragma unroll
    for (int e = 0; e < kCount; ++e) acc[e] *= factor[element_row(e)];
}

}  // namespace lg
