// The loss of a chunk of tokens, from their logits [chunk, V] in float:  loss = log(sum exp(z)) - z[target].
//
//   cross_entropy    grid x = tokens of the chunk. A target of -1 counts nothing. With d_logits (else null) also
//                    d_logits = scale * (softmax(z) - onehot(target)), in bf16, zeros where there is no target.
//
// One pass keeps a running maximum and sum per thread; a second one writes.
#include "engine/rows.cuh"

extern "C" __global__ void cross_entropy(const float* logits, const int* targets, float* loss, lg::Half* d_logits, int vocabulary,
                                         float scale) {
    using namespace lg;
    const float* z = logits + i64(blockIdx.x) * vocabulary;
    const int target = targets[blockIdx.x];
    float largest = -kInf, sum = 0.0f;
    if (target >= 0) {
        for (int n = threadIdx.x; n < vocabulary; n += blockDim.x) {
            const float x = z[n], next = fmaxf(largest, x);
            sum = sum * __expf(largest - next) + __expf(x - next);
            largest = next;
        }
    }
    const float top = block_max(largest);
    // A thread without a logit holds -inf and no sum.
    const float total = block_sum(sum == 0.0f ? 0.0f : sum * __expf(largest - top));
    if (threadIdx.x == 0) loss[blockIdx.x] = target < 0 ? 0.0f : logf(total) + top - z[target];
    if (d_logits == nullptr) return;
    Half* d = d_logits + i64(blockIdx.x) * vocabulary;
    const float inverse = scale / total;
    for (int n = threadIdx.x; n < vocabulary; n += blockDim.x) {
        float gradient = 0.0f;
        if (target >= 0) gradient = __expf(z[n] - top) * inverse - (n == target ? scale : 0.0f);
        d[n] = float_to_half(gradient);
    }
}
