// Ends the fused Hopper backward: dQ = scale * dq_accum, as halves with the caller's strides; 0 where no block came.
//
// A block converts one query tile of one head: two warpgroups, a piece of 64 x 64 each. A thread reads its fragment of the
// piece (16 bytes at a time, coalesced), packs it to halves, and the rows go out 16 bytes a thread by way of shared memory.
//
// Host contract
//   threads   256;  kTileM as in attention_backward;  static shared memory 16384 bytes
//   grid      x = ceil(max_q / kTileM), y = H, z = batch
//   arguments Params p
#include "tile/sm90_dq.cuh"
#include "tile/sm90_wgmma.cuh"

extern "C" __global__ void __launch_bounds__(256) attention_backward_convert_dq(const __grid_constant__ lg::Params p) {
    using namespace lg;
    __shared__ alignas(1024) char panels[2][panel_bytes(64)];
    const Sequence s = load_sequence(p, blockIdx.z);
    // Neighbours in the grid are neighbours in memory: the heads of a tile.
    const int at = blockIdx.x + gridDim.x * blockIdx.y;
    const int q_tile = at / p.heads, head = at % p.heads, first = q_tile * kTileM;
    if (first >= s.q_len) return;
    const int piece = threadIdx.x / kWarpgroup, thread = threadIdx.x % kWarpgroup;

    const int tile = dq_tile(p, blockIdx.z, s.q_begin, q_tile, head);
    const bool touched = p.dq_turn[tile] != kUntouched;
    const float4* in = reinterpret_cast<const float4*>(dq_piece(p, tile, piece));
    u32 packed[16];
#pragma unroll
    for (int c = 0; c < 8; ++c) {
        const float4 four = touched ? in[c * kWarpgroup + thread] : float4{};
        packed[2 * c] = pack_half2(p.scale * four.x, p.scale * four.y);
        packed[2 * c + 1] = pack_half2(p.scale * four.z, p.scale * four.w);
    }
    const u32 panel = shared_address(panels[piece]);
    store_fragment<64>(panel, 0, thread / 32 * 16, packed);
    __syncthreads();
    const int row_offset = kHeadDim == 128 ? 0 : piece * 64, column = kHeadDim == 128 ? piece * 64 : 0;
    Half* out = static_cast<Half*>(p.dq) + (s.q_begin + first + row_offset) * p.dq_t + head * p.dq_h + column;
    copy_rows_out<64>(panel, 0, out, p.dq_t, s.q_len - first - row_offset, thread);
}
