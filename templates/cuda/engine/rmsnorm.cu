// RMSNorm over rows of width C (a multiple of 8):  y = w * x * r,  r = 1 / sqrt(mean(x^2) + eps).
//
//   rmsnorm_forward            grid x = T rows; the row's r is kept for the backward pass
//   rmsnorm_backward           grid x = T rows; d_x += r * (w * dy - x * r^2 * mean(w * dy * x))
//   rmsnorm_weight_gradient    grid x = column groups, y = strips of rows; partial sums of dy * x * r, in row order
//   add_strips                 grid x = column groups; d_w += the partial sums, in strip order
//
// A block of kThreads threads takes a row; the second reading of a row comes from a cache.
#include "engine/rows.cuh"

extern "C" __global__ void rmsnorm_forward(const lg::Half* x, const lg::Half* w, lg::Half* y, float* scales, int width, float eps) {
    using namespace lg;
    x += i64(blockIdx.x) * width;
    y += i64(blockIdx.x) * width;
    float squares = 0.0f;
    for (int octet = threadIdx.x; octet < width / kOctet; octet += blockDim.x) {
        const Octet a = load_octet(x, octet);
#pragma unroll
        for (int n = 0; n < kOctet; ++n) squares += a.x[n] * a.x[n];
    }
    const float scale = rsqrtf(block_sum(squares) / width + eps);
    if (threadIdx.x == 0) scales[blockIdx.x] = scale;
    for (int octet = threadIdx.x; octet < width / kOctet; octet += blockDim.x) {
        Octet a = load_octet(x, octet);
        const Octet weight = load_octet(w, octet);
#pragma unroll
        for (int n = 0; n < kOctet; ++n) a.x[n] *= scale * weight.x[n];
        store_octet(y, octet, a);
    }
}

extern "C" __global__ void rmsnorm_backward(const lg::Half* x, const lg::Half* w, const float* scales, const lg::Half* d_y,
                                            lg::Half* d_x, int width) {
    using namespace lg;
    const i64 row = i64(blockIdx.x) * width;
    const float scale = scales[blockIdx.x];
    float product = 0.0f;
    for (int octet = threadIdx.x; octet < width / kOctet; octet += blockDim.x) {
        const Octet a = load_octet(x + row, octet), weight = load_octet(w, octet), d = load_octet(d_y + row, octet);
#pragma unroll
        for (int n = 0; n < kOctet; ++n) product += a.x[n] * weight.x[n] * d.x[n];
    }
    const float mean = block_sum(product) * scale * scale / width;
    for (int octet = threadIdx.x; octet < width / kOctet; octet += blockDim.x) {
        const Octet a = load_octet(x + row, octet), weight = load_octet(w, octet), d = load_octet(d_y + row, octet);
        Octet sum = load_octet(d_x + row, octet);
#pragma unroll
        for (int n = 0; n < kOctet; ++n) sum.x[n] += scale * (weight.x[n] * d.x[n] - a.x[n] * mean);
        store_octet(d_x + row, octet, sum);
    }
}

// A thread owns eight columns of a strip of rows. partial [strips, C].
extern "C" __global__ void rmsnorm_weight_gradient(const lg::Half* x, const float* scales, const lg::Half* d_y, float* partial,
                                                   int rows, int width) {
    using namespace lg;
    const int octet = blockIdx.x * blockDim.x + threadIdx.x;
    if (octet >= width / kOctet) return;
    const int strip = ceil_div(rows, gridDim.y), first = blockIdx.y * strip, last = min_int(first + strip, rows);
    Octet sum = {};
    for (int row = first; row < last; ++row) {
        const Octet a = load_octet(x + i64(row) * width, octet), d = load_octet(d_y + i64(row) * width, octet);
        const float scale = scales[row];
#pragma unroll
        for (int n = 0; n < kOctet; ++n) sum.x[n] += d.x[n] * a.x[n] * scale;
    }
    store_octet(partial + i64(blockIdx.y) * width, octet, sum);
}

extern "C" __global__ void add_strips(const float* partial, float* d_w, int strips, int width) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= width) return;
    float sum = 0.0f;
    for (int strip = 0; strip < strips; ++strip) sum += partial[lg::i64(strip) * width + column];
    d_w[column] += sum;
}
