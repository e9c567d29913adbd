// Rotary embedding of the rows that the fused QKV product writes, [T, H + 2 G, D]: query heads, key heads, value heads. The pair
// (x[d], x[d + D/2]) turns by position * frequency[d].
//
//   rope_angles      cos and sin [T, D/2], times the factor that YaRN puts on the scores; positions may be fractional
//   rope_forward     turns queries and keys where they are
//   rope_store       turns queries where they are; keys, turned, and values go to rows of a cache; launched early
//   rope_backward    d_qkv from dq, dk, dv: the transposed rotation, and the three parts side by side
//
//   grid of the last three: x = T, y = heads; block D / 2 threads, each a pair.
//
// Cache rows. slot[g * slot_stride + t] is where the key of token t goes in the part of KV head g, or -1 for nowhere; heads of
// the cache are `cache_head_stride` elements apart, rows D. With `slot_key`, the key's index is written down there too.
#include "engine/rows.cuh"

extern "C" __global__ void rope_angles(const float* positions, const float* frequencies, float* cosines, float* sines, int half,
                                       float factor) {
    const int d = threadIdx.x;
    const float angle = positions[blockIdx.x] * frequencies[d];
    float sine, cosine;
    sincosf(angle, &sine, &cosine);
    cosines[lg::i64(blockIdx.x) * half + d] = cosine * factor;
    sines[lg::i64(blockIdx.x) * half + d] = sine * factor;
}

namespace lg {

// The pair of this thread in a row, turned by its angle (sign 1) or back (sign -1).
LG_DEVICE void turn(const Half* from, Half* to, float cosine, float sine) {
    const int d = threadIdx.x, half = blockDim.x;
    const float low = half_to_float(from[d]), high = half_to_float(from[d + half]);
    to[d] = float_to_half(low * cosine - high * sine);
    to[d + half] = float_to_half(high * cosine + low * sine);
}

LG_DEVICE void copy_pair(const Half* from, Half* to) {
    const int d = threadIdx.x, half = blockDim.x;
    to[d] = from[d];
    to[d + half] = from[d + half];
}

}  // namespace lg

extern "C" __global__ void rope_forward(lg::Half* qkv, const float* cosines, const float* sines, int all_heads) {
    using namespace lg;
    const i64 angle = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    Half* row = qkv + (i64(blockIdx.x) * all_heads + blockIdx.y) * 2 * blockDim.x;
    turn(row, row, cosines[angle], sines[angle]);
}

extern "C" __global__ void rope_store(lg::Half* qkv, const float* cosines, const float* sines, lg::Half* keys, lg::Half* values,
                                      const int* slot, const int* key_index, int* slot_key, int heads, int kv_heads,
                                      int slot_stride, int slot_key_stride, lg::i64 cache_head_stride) {
    using namespace lg;
    const int t = blockIdx.x, head = blockIdx.y, all_heads = heads + 2 * kv_heads, head_dim = 2 * blockDim.x;
    wait_for_predecessor();
    const i64 angle = i64(t) * blockDim.x + threadIdx.x;
    Half* row = qkv + (i64(t) * all_heads + head) * head_dim;
    if (head < heads) return turn(row, row, cosines[angle], sines[angle]);
    const bool is_key = head < heads + kv_heads;
    const int g = head - heads - (is_key ? 0 : kv_heads);
    const int place = slot[i64(g) * slot_stride + t];
    if (place < 0) return;
    const i64 cached = g * cache_head_stride + i64(place) * head_dim;
    if (!is_key) return copy_pair(row, values + cached);
    turn(row, keys + cached, cosines[angle], sines[angle]);
    if (slot_key != nullptr && threadIdx.x == 0) slot_key[i64(g) * slot_key_stride + place] = key_index[t];
}

extern "C" __global__ void rope_backward(const lg::Half* dq, const lg::Half* dk, const lg::Half* dv, const float* cosines,
                                         const float* sines, lg::Half* d_qkv, int heads, int kv_heads) {
    using namespace lg;
    const int head = blockIdx.y, all_heads = heads + 2 * kv_heads, head_dim = 2 * blockDim.x;
    const i64 t = blockIdx.x, angle = t * blockDim.x + threadIdx.x;
    Half* to = d_qkv + (t * all_heads + head) * head_dim;
    const float cosine = cosines[angle], sine = -sines[angle];
    if (head < heads) return turn(dq + (t * heads + head) * head_dim, to, cosine, sine);
    const int g = head - heads;
    if (g < kv_heads) return turn(dk + (t * kv_heads + g) * head_dim, to, cosine, sine);
    copy_pair(dv + (t * kv_heads + g - kv_heads) * head_dim, to);
}
