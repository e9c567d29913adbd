// AdamW with decoupled weight decay on fp32 masters, and the global norm of the gradients.
//
//   adamw           grid x covers n elements, one a thread; the bf16 weights become the rounded masters
//   squared_norm    grid x = partial sums in double, each over an equal share of n elements in a fixed order
//   round_weights   bf16 weights from fp32 masters
//   widen_weights   fp32 masters from bf16 weights
#include "engine/rows.cuh"

extern "C" __global__ void adamw(float* master, lg::Half* weight, const float* gradient, float* mean, float* square, lg::i64 n,
                                 float step_size, float root_correction, float keep, float beta1, float beta2, float eps,
                                 float gradient_scale) {
    using namespace lg;
    const i64 at = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= n) return;
    const float g = gradient[at] * gradient_scale;
    const float m = mean[at] + (1.0f - beta1) * (g - mean[at]);
    const float v = beta2 * square[at] + (1.0f - beta2) * g * g;
    const float w = master[at] * keep - step_size * m / (sqrtf(v) / root_correction + eps);
    mean[at] = m;
    square[at] = v;
    master[at] = w;
    weight[at] = float_to_half(w);
}

extern "C" __global__ void squared_norm(const float* x, double* partial, lg::i64 n) {
    using namespace lg;
    const i64 share = (n + gridDim.x - 1) / gridDim.x, first = share * blockIdx.x;
    const i64 end = first + share < n ? first + share : n;
    double sum = 0.0;
    for (i64 at = first + threadIdx.x; at < end; at += blockDim.x) sum += double(x[at]) * x[at];
    __shared__ double parts[1024];
    parts[threadIdx.x] = sum;
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
    }
    if (threadIdx.x == 0) partial[blockIdx.x] = parts[0];
}

extern "C" __global__ void round_weights(const float* master, lg::Half* weight, lg::i64 n) {
    const lg::i64 at = lg::i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at < n) weight[at] = lg::float_to_half(master[at]);
}

extern "C" __global__ void widen_weights(const lg::Half* weight, float* master, lg::i64 n) {
    const lg::i64 at = lg::i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at < n) master[at] = lg::half_to_float(weight[at]);
}
