// Products of a decode step of one sequence: x [K] times weights W [N, K]. Bound by reading W, which happens once.
//
//   matvec    y[n] = sum_k x[k] W[n, k]      grid x covers pairs of weight rows, one pair a warp
//
// Launched early: the first weights are on their way before the kernel that makes x is done.
//
// With `norm` [K] (else null) x is normed on the way: y[n] = r * sum_k x[k] norm[k] W[n, k], where every warp finds
// r = 1 / sqrt(mean(x^2) + eps) for itself while it reads x anyway.
//
// What becomes of a pair of sums, `kind`:
//   kStore    y [N] bf16                                               rows 2 p and 2 p + 1
//   kAdd      y [N] bf16 is added to (the residual stream)             rows 2 p and 2 p + 1
//   kSwiglu   y [N / 2] bf16 = silu(first) * second                    rows p and N / 2 + p, gate and up
//   kFloat    y [N] float                                              rows 2 p and 2 p + 1
#include "engine/rows.cuh"

namespace lg {

enum Kind { kStore, kAdd, kSwiglu, kFloat };
constexpr int kUnroll = 4;  // octets of each row in flight per lane

// Sums of two rows with x, and of the squares of x.
struct Sums {
    float first = 0.0f, second = 0.0f, squares = 0.0f;

    LG_DEVICE void add(const uint4& w0, const uint4& w1, const Half* x, const Half* norm, int octet) {
        const Octet a = unpack(w0), b = unpack(w1), v = load_octet(x, octet);
        Octet weight;
        if (norm != nullptr) weight = load_octet(norm, octet);
#pragma unroll
        for (int n = 0; n < kOctet; ++n) {
            float value = v.x[n];
            if (norm != nullptr) {
                squares += value * value;
                value *= weight.x[n];
            }
            first += value * a.x[n];
            second += value * b.x[n];
        }
    }
};

LG_DEVICE void finish(int kind, void* y, int pair, int outputs, float first, float second) {
    Half* half = static_cast<Half*>(y);
    if (kind == kSwiglu) {
        half[pair] = float_to_half(first * sigmoid(first) * second);
        return;
    }
    const int at = 2 * pair;
    if (kind == kFloat) {
        static_cast<float*>(y)[at] = first;
        if (at + 1 < outputs) static_cast<float*>(y)[at + 1] = second;
        return;
    }
    if (kind == kAdd) {
        first += half_to_float(half[at]);
        second += half_to_float(half[at + 1]);
    }
    half[at] = float_to_half(first);
    half[at + 1] = float_to_half(second);
}

// The octets of a pair of rows that a lane has in flight: `first`, and every warp's width after it.
struct Flight {
    uint4 a[kUnroll], b[kUnroll];

    LG_DEVICE void load(const Half* w0, const Half* w1, int first, int octets) {
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
            const int octet = first + u * kWarpSize;
            if (octet >= octets) break;
            a[u] = load_once(w0, octet);
            b[u] = load_once(w1, octet);
        }
    }
};

}  // namespace lg

extern "C" __global__ void __launch_bounds__(256) matvec(const lg::Half* x, const lg::Half* weights, const lg::Half* norm, void* y,
                                                         int inputs, int outputs, int kind, float eps) {
    using namespace lg;
    let_successor_start();
    const int lane = threadIdx.x % kWarpSize;
    const int pair = blockIdx.x * (blockDim.x / kWarpSize) + threadIdx.x / kWarpSize;
    if (pair >= ceil_div(outputs, 2)) return;
    const int first = kind == kSwiglu ? pair : 2 * pair;
    const int second = kind == kSwiglu ? outputs / 2 + pair : min_int(first + 1, outputs - 1);
    const Half* w0 = weights + i64(first) * inputs;
    const Half* w1 = weights + i64(second) * inputs;
    const int octets = inputs / kOctet;
    Flight flight;
    flight.load(w0, w1, lane, octets);
    wait_for_predecessor();  // x comes from there, and y may still be read there; weights do not change
    Sums sums;
    for (int octet = lane; octet < octets; octet += kUnroll * kWarpSize) {
        if (octet != lane) flight.load(w0, w1, octet, octets);
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
            if (octet + u * kWarpSize >= octets) break;
            sums.add(flight.a[u], flight.b[u], x, norm, octet + u * kWarpSize);
        }
    }
    float one = warp_sum(sums.first), two = warp_sum(sums.second);
    if (norm != nullptr) {
        const float scale = rsqrtf(warp_sum(sums.squares) / inputs + eps);
        one *= scale;
        two *= scale;
    }
    if (lane == 0) finish(kind, y, pair, outputs, one, two);
}
