// Between the compact cache of a layer and keys in order, for the chunks of a prefill: attention over many queries wants key j in
// row j, the cache keeps it where the layout says.
//
//   cache_unpack    grid x = slots, y = G; ordered[g][slot_key[slot]] = cache[g][slot] where the slot is taken
//   cache_pack      grid x = T, y = G; cache[g][slot[t]] = ordered[g][first + t] where the slot is not -1
//
//   block: 32 threads; rows are D numbers of 16 bit; heads are `cache_head_stride` and `ordered_head_stride` elements apart.
#include "engine/rows.cuh"

namespace lg {

LG_DEVICE void copy_row(const Half* from, Half* to, int head_dim) {
    for (int octet = threadIdx.x; octet < head_dim / kOctet; octet += blockDim.x) {
        reinterpret_cast<uint4*>(to)[octet] = reinterpret_cast<const uint4*>(from)[octet];
    }
}

}  // namespace lg

extern "C" __global__ void cache_unpack(const lg::Half* keys, const lg::Half* values, const int* slot_key, lg::Half* ordered_keys,
                                        lg::Half* ordered_values, int head_dim, int slot_key_stride, lg::i64 cache_head_stride,
                                        lg::i64 ordered_head_stride) {
    using namespace lg;
    const int slot = blockIdx.x, g = blockIdx.y;
    const int key = slot_key[i64(g) * slot_key_stride + slot];
    if (key < 0) return;
    const i64 from = g * cache_head_stride + i64(slot) * head_dim, to = g * ordered_head_stride + i64(key) * head_dim;
    copy_row(keys + from, ordered_keys + to, head_dim);
    copy_row(values + from, ordered_values + to, head_dim);
}

extern "C" __global__ void cache_pack(const lg::Half* ordered_keys, const lg::Half* ordered_values, const int* slots, lg::Half* keys,
                                      lg::Half* values, int head_dim, int first, lg::i64 cache_head_stride,
                                      lg::i64 ordered_head_stride) {
    using namespace lg;
    const int t = blockIdx.x, g = blockIdx.y;
    const int slot = slots[i64(g) * gridDim.x + t];
    if (slot < 0) return;
    const i64 from = g * ordered_head_stride + i64(first + t) * head_dim, to = g * cache_head_stride + i64(slot) * head_dim;
    copy_row(ordered_keys + from, keys + to, head_dim);
    copy_row(ordered_values + from, values + to, head_dim);
}
