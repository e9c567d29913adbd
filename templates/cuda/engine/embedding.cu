// Token embedding: rows of a table [V, C].
//
//   embedding_forward     grid x = T; x[t] = table[tokens[t]]
//   embedding_backward    grid x = distinct tokens, y = groups of columns; d_table[token] += its rows of d_x, in token order:
//                         run r is order[run[r] .. run[r + 1]), all of one token. The host sorts, so that sums repeat to the bit.
#include "engine/rows.cuh"

extern "C" __global__ void embedding_forward(const lg::Half* table, const int* tokens, lg::Half* x, int width) {
    using namespace lg;
    const Half* row = table + i64(tokens[blockIdx.x]) * width;
    for (int octet = threadIdx.x; octet < width / kOctet; octet += blockDim.x) {
        reinterpret_cast<uint4*>(x + i64(blockIdx.x) * width)[octet] = reinterpret_cast<const uint4*>(row)[octet];
    }
}

extern "C" __global__ void embedding_backward(const lg::Half* d_x, const int* tokens, const int* order, const int* run,
                                              float* d_table, int width) {
    using namespace lg;
    const int octet = blockIdx.y * blockDim.x + threadIdx.x;
    if (octet >= width / kOctet) return;
    const int first = run[blockIdx.x], end = run[blockIdx.x + 1];
    Octet sum = {};
    for (int at = first; at < end; ++at) {
        const Octet d = load_octet(d_x + i64(order[at]) * width, octet);
#pragma unroll
        for (int n = 0; n < kOctet; ++n) sum.x[n] += d.x[n];
    }
    add_octet(d_table + i64(tokens[order[first]]) * width, octet, sum);
}
