// Gradient of queries for sm_80 and later, deterministic: each block owns a tile of queries and nothing else adds to it.
//
//   P_ij = exp(s_ij - lse_i)     dP_ij = dO_i . v_j
//   dS_ij = P_ij (dP_ij - delta_i) s'(q_i . k_j)     dQ_i = scale * sum_j dS_ij k_j
//
// over the keys j that row i sees; s' is 1 without a softcap. The tiles of keys are those of the forward pass. Each warp owns
// kBlocks x 16 query rows with their log-sum-exp, delta and dQ in registers.
//
//   grid    x = ceil(max_q / kTileM), the last (longest) tile first; y = H; z = B           block  kThreads
//   Q, dO   kTileM x D        K, V   kTileN x D, each kStages deep         S, dP   kTileM x kTileN in registers
//
// Shared memory, bytes
//   Q          kTileM * D * 2                   at the end the staging area of dQ
//   dO         kTileM * D * 2
//   K ring     kStages * kTileN * D * 2
//   V ring     kStages * kTileN * D * 2
//
// Synchronisation. Step t uses slot t mod kStages, whose copies are one group. The wait leaves the newest kStages - 2 groups
// unfinished, that is, step t's is done; the barrier behind it shows the data to all warps and says that all are done with
// step t - 1, whose slot takes the copies of step t + kStages - 1. Q and dO come with the first group. Rows of Q are read and
// overwritten by their own warp only.
#include "params.cuh"
#include "tile/copy.cuh"
#include "tile/gradient.cuh"
#include "tile/mma.cuh"
#include "tile/stream.cuh"
#include "walk.cuh"

namespace lg {

constexpr int kWarps = kThreads / kWarpSize;
constexpr int kBlocks = kTileM / (16 * kWarps);
static_assert(kTileM == kBlocks * 16 * kWarps, "a warp owns a whole number of 16-row blocks");
static_assert(kTileN % 16 == 0 && kHeadDim % 16 == 0, "tiles are multiples of the mma shape");
static_assert(kStages >= 2, "one slot is computed on while the others fill");

using QueryTile = SharedTile<kHeadDim>;
using KeyRing = SharedRing<kTileN, kHeadDim>;
constexpr int kBackwardDqSmemBytes = 2 * kTileM * QueryTile::kRowBytes + 2 * kStages * KeyRing::kTileBytes;

}  // namespace lg

extern "C" __global__ void __launch_bounds__(lg::kThreads, 1) attention_backward_dq(const __grid_constant__ lg::Params p) {
    using namespace lg;
    const int m = gridDim.x - 1 - blockIdx.x, h = blockIdx.y, b = blockIdx.z;
    const int g = h / (p.heads / p.kv_heads);
    const Sequence seq = load_sequence(p, b);
    const int rows = min_int(kTileM, seq.q_len - m * kTileM);
    if (rows <= 0) return;
    const int first_token = seq.q_begin + m * kTileM;
    const int i0 = seq.q_offset + m * kTileM;
    const int warp_row = threadIdx.x / kWarpSize * kBlocks * 16;

    const QueryTile q_tile{shared_address(dynamic_shared)}, do_tile = q_tile.rows_from(kTileM);
    const KeyRing k_ring{do_tile.rows_from(kTileM).base};
    const KeyRing v_ring{k_ring.base + kStages * KeyRing::kTileBytes};
    const auto start_copy = [&](int n, int slot) {
        if (n >= 0) {
            const int j = n * kTileN, keys = seq.k_len - j;
            copy_tile_async<kTileN>(k_ring.tile(slot), key_row(p, seq.k_begin + j, g), p.k_t, keys);
            copy_tile_async<kTileN>(v_ring.tile(slot), value_row(p, seq.k_begin + j, g), p.v_t, keys);
        }
        commit_copies();
    };

    TileStream<KeyTileWalk, kStages> tiles({p, b, g, m, i0, i0 + rows, seq.k_len});
    copy_tile_async<kTileM>(q_tile, query_row(p, first_token, h), p.q_t, rows);
    copy_tile_async<kTileM>(do_tile, output_gradient_row(p, first_token, h), p.do_t, rows);
#pragma unroll
    for (int stage = 0; stage < kStages - 1; ++stage) {
        tiles.fetch(stage);
        start_copy(tiles.n[stage], stage);
    }

    // Rows past the end of the sequence get probability 0.
    const i64 stats = stats_index(p, first_token, h);
    float shift[kBlocks][2], delta[kBlocks][2];
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = warp_row + block * 16 + threadIdx.x % kWarpSize / 4 + half * 8;
            shift[block][half] = row < rows ? backward_shift(p.lse[stats + row]) : kInf;
            delta[block][half] = row < rows ? p.delta[stats + row] : 0.0f;
        }
    }

    Accumulator<kBlocks, kHeadDim> dq;
    dq.clear();

    for (int slot = 0; tiles.n[0] >= 0; slot = slot + 1 == kStages ? 0 : slot + 1) {
        wait_copies<kStages - 2>();
        __syncthreads();
        tiles.fetch(kStages - 1);
        start_copy(tiles.n[kStages - 1], slot == 0 ? kStages - 1 : slot - 1);

        const ScoreMap score(p);
        Accumulator<kBlocks, kTileN> scores;  // S, then P s'
        scores.clear();
        multiply_abt(scores, q_tile.rows_from(warp_row), k_ring.tile(slot));
        if constexpr (kSoftcap) scores.for_each([&](float& x, int, int) { x = score.bounded(x); });
        mask_tile(tiles.kind[0], [&](int kind) {
            scores.for_each([&](float& x, int row, int column) {
                if (!keep(kind, g, i0 + warp_row + row, tiles.n[0] * kTileN + column, seq.k_len)) x = -kInf;
            });
        });
        row_probabilities(scores, shift, score);

        Accumulator<kBlocks, kTileN> dp;  // dP, then dS
        dp.clear();
        multiply_abt(dp, do_tile.rows_from(warp_row), v_ring.tile(slot));
        row_score_gradients(dp, scores, delta);

        Fragments<kBlocks, kTileN> left;
        to_fragments(left, dp);
        multiply_ab(dq, left, k_ring.tile(slot));
        tiles.advance();
    }
    wait_copies<0>();
    __syncthreads();  // without a tile to visit, no barrier has yet followed the copy of Q into the staging rows

    dq.scale(p.scale);
    const int token = load_sequence(p, b).q_begin + m * kTileM + warp_row;  // read again: one register less in the loop
    store_warp_rows(row_of(static_cast<Half*>(p.dq), token, p.dq_t, h, p.dq_h), p.dq_t, rows - warp_row,
                    q_tile.rows_from(warp_row), dq);
}
