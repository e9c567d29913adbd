// Ends a fused backward of either family: dQ = scale * dq_accum, as halves with the caller's strides; 0 where no block came.
//
// A block converts one query tile of one head: two pieces of 64 x 64, four warps each. A warp reads its 16 rows of the piece as
// it holds them after an mma (16 bytes a thread at a time, coalesced), and they go out by way of its shared rows.
//
// Host contract
//   threads   256;  kTileM as in the fused kernel;  static shared memory 16384 bytes
//   grid      x = ceil(max_q / kTileM), y = H, z = batch
//   arguments Params p
#include "tile/copy.cuh"
#include "tile/dq_sums.cuh"

extern "C" __global__ void __launch_bounds__(256) attention_backward_convert_dq(const __grid_constant__ lg::Params p) {
    using namespace lg;
    using Rows = SharedTile<64>;
    __shared__ alignas(128) char staging[2 * 64 * Rows::kRowBytes];
    const Sequence s = load_sequence(p, blockIdx.z);
    // Neighbours in the grid write neighbouring rows of dQ: the heads of a tile.
    const int at = blockIdx.x + gridDim.x * blockIdx.y;
    const int q_tile = at / p.heads, head = at % p.heads, first = q_tile * kTileM;
    if (first >= s.q_len) return;
    const int piece = threadIdx.x / kDqPieceThreads, thread = threadIdx.x % kDqPieceThreads;

    const int tile = dq_tile(p, blockIdx.z, s.q_begin, q_tile, head);
    const bool touched = p.dq_turn[tile] != kUntouched;
    const float4* in = reinterpret_cast<const float4*>(dq_piece(p, tile, piece));
    Accumulator<1, 64> dq;
#pragma unroll
    for (int c = 0; c < 8; ++c) {
        const float4 four = touched ? in[c * kDqPieceThreads + thread] : float4{};
        dq.x[0][c][0] = four.x, dq.x[0][c][1] = four.y, dq.x[0][c][2] = four.z, dq.x[0][c][3] = four.w;
    }
    dq.scale(p.scale);
    const int staged = threadIdx.x / kWarpSize * 16, row = first + (kHeadDim == 128 ? staged % 64 : staged);
    const int column = kHeadDim == 128 ? piece * 64 : 0;
    Half* out = static_cast<Half*>(p.dq) + (s.q_begin + row) * p.dq_t + head * p.dq_h + column;
    store_warp_rows(out, p.dq_t, s.q_len - row, Rows{shared_address(staging)}.rows_from(staged), dq);
}
