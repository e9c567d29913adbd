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

// Which elements of 32 of an accumulator count: one bit each, in the order of `element_bit`. Whatever kind a tile is, its bits are
// found first, by rolled code, and then applied in one way: unrolled, the comparisons of a long predicate would be hoisted into
// more registers than there are, and each copy costs compile time.

// Elements of one row are neighbours.
LG_DEVICE constexpr int element_bit(int e) { return element_row(e) * 16 + e / 4 * 2 + e % 2; }

// Bits of the elements of one row whose columns are below `column`.
LG_DEVICE u32 bits_below(int column) {
    const int inside = max_int(0, min_int(column, 64));
    return (1u << (inside / 8 * 2 + min_int(inside % 8, 2))) - 1;
}

// The same in a general tile by the pattern's predicate: rows are query indices i and i + 8, keys start at j.
LG_DEVICE u32 visible_bits(int g, int i, int j, int key_len) {
    u32 word = 0;
#pragma unroll 1
    for (int c = 0; c < 8; ++c) {
        const int key = j + 8 * c;
        word |= (u32(keep(kGeneral, g, i, key, key_len)) | u32(keep(kGeneral, g, i, key + 1, key_len)) << 1 |
                 u32(keep(kGeneral, g, i + 8, key, key_len)) << 16 | u32(keep(kGeneral, g, i + 8, key + 1, key_len)) << 17)
                << 2 * c;
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

// The bits of 64 keys from j0 on; the thread's first column is key j. Rows are query indices i and i + 8. In a general tile each row
// of the warp may see one run of keys, as at the far edge of a window; else, and for listed patterns, the pattern's own predicate
// is asked.
LG_DEVICE u32 seen_bits(int kind, int g, int i, int j, int j0, int key_len) {
    if (kind == kFull) return ~0u;
    if (kind == kAbsent) return 0;
    if (kind == kEdge) {
        return bits_below(min_int(i + 1, key_len) - j) | bits_below(min_int(i + 9, key_len) - j) << 16;
    }
    if constexpr (!kListed) {
        int begin[2], end[2];
        const int j1 = min_int(j0 + 64, key_len);
        const bool upper = sees_one_run(g, i, j0, j1, begin[0], end[0]);
        const bool lower = sees_one_run(g, i + 8, j0, j1, begin[1], end[1]);
        if (__all_sync(kAllLanes, upper && lower)) {
            return (bits_below(end[0] - j) & ~bits_below(begin[0] - j)) |
                   (bits_below(end[1] - j) & ~bits_below(begin[1] - j)) << 16;
        }
    }
    return visible_bits(g, i, j, key_len);
}

// Sets every score of elements [kFirst, kFirst + 32) that does not count to -inf.
template <int kFirst, int kAll>
LG_DEVICE void mask_scores(float (&s)[kAll], u32 seen) {
#pragma unroll
    for (int e = 0; e < 32; ++e) {
        if (!(seen >> element_bit(e) & 1u)) s[kFirst + e] = -kInf;
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
