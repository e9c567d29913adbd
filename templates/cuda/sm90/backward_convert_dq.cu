// Ends the fused Hopper backward: dQ = scale * dq_accum, as halves with the caller's strides.
//
// A thread converts 8 neighbouring numbers of one row: 32 bytes in, 16 bytes out.
//
// Host contract
//   threads   kThreads;  grid x = ceil(total_q H D / 8 / kThreads);  no dynamic shared memory
//   arguments Params p
#include "params.cuh"

extern "C" __global__ void __launch_bounds__(lg::kThreads) attention_backward_convert_dq(const __grid_constant__ lg::Params p) {
    using namespace lg;
    constexpr int kGroups = kHeadDim / 8;
    const i64 item = i64(blockIdx.x) * kThreads + threadIdx.x;
    const i64 row = item / kGroups;  // token * H + head
    const i64 token = row / p.heads;
    if (token >= p.total_q) return;
    const int head = int(row - token * p.heads), column = int(item % kGroups) * 8;
    const float4* in = reinterpret_cast<const float4*>(p.dq_accum + row * kHeadDim + column);
    const float4 a = in[0], b = in[1];
    uint4 out;
    out.x = pack_half2(p.scale * a.x, p.scale * a.y);
    out.y = pack_half2(p.scale * a.z, p.scale * a.w);
    out.z = pack_half2(p.scale * b.x, p.scale * b.y);
    out.w = pack_half2(p.scale * b.z, p.scale * b.w);
    *reinterpret_cast<uint4*>(static_cast<Half*>(p.dq) + token * p.dq_t + head * p.dq_h + column) = out;
}
