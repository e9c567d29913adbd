// Random weights made on the device: normal numbers of a standard deviation around a mean, a function of seed and index alone.
#include "engine/rows.cuh"

namespace lg {

// The finaliser of SplitMix64: neighbouring counters give unrelated bits.
LG_DEVICE u64 scramble(u64 x) {
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

}  // namespace lg

extern "C" __global__ void fill_normal(lg::Half* x, lg::i64 n, lg::u64 seed, float mean, float deviation) {
    using namespace lg;
    const i64 at = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= n) return;
    const u64 bits = scramble(scramble(seed) + u64(at));
    const float u = (float(bits >> 40) + 1.0f) * 0x1p-24f, turn = float(bits & 0xffffff) * 0x1p-24f;
    x[at] = float_to_half(mean + deviation * sqrtf(-2.0f * logf(u)) * cospif(2.0f * turn));
}
