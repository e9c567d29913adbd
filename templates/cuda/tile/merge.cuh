// Merging partial attention results over disjoint sets of keys by their log-sum-exps (natural base, -inf for an empty set).
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

// log(exp(extra) + sum of exp(lse(part))), -inf when all are -inf.
template <class Lse>
LG_DEVICE float merged_lse(int parts, float extra, Lse lse) {
    float top = extra;
    for (int part = 0; part < parts; ++part) top = fmaxf(top, lse(part));
    if (top == -kInf) return -kInf;
    float sum = exp2_approx((extra - top) * kLog2e);
    for (int part = 0; part < parts; ++part) sum += exp2_approx((lse(part) - top) * kLog2e);
    return top + log2_approx(sum) * kLn2;
}

// sum of exp(lse(part) - total) * output(part): the output over all keys, where `total` is their merged log-sum-exp.
template <class Lse, class Output>
LG_DEVICE float merged_output(int parts, float total, Lse lse, Output output) {
    if (total == -kInf) return 0.0f;
    float sum = 0.0f;
    for (int part = 0; part < parts; ++part) sum += exp2_approx((lse(part) - total) * kLog2e) * output(part);
    return sum;
}

}  // namespace lg
