// Gradients of keys and values for sm_80 and later, deterministic: each block owns a tile of keys and nothing else adds to it.
//
//   P_ij = exp(s_ij - lse_i)     dV_j = sum_i P_ij dO_i
//   dP_ij = dO_i . v_j           dS_ij = P_ij (dP_ij - delta_i) s'(q_i . k_j)     dK_j = scale * sum_i dS_ij q_i
//
// summed over the queries i that see j and over the query heads of the KV head; s' is 1 without a softcap. All products are
// taken transposed (rows are keys): P^T and dS^T come out of one mma in the registers where the next wants its left operand,
// so neither passes through shared memory. Each warp owns kBlocks x 16 keys with their dK and dV in registers. Where D is too wide
// for that, kParts warps own the same keys: each makes their scores and dP for itself, and keeps its part of the columns.
//
//   grid    x = ceil(max_k / kTileN); y = G; z = B                                           block  kThreads
//   K, V    kTileN x D        Q, dO   kTileM x D, each kStages deep        S^T, dP^T   kTileN x kTileM in registers
//
// Shared memory, bytes
//   K          kTileN * D * 2                   at the end the staging area of dK
//   V          kTileN * D * 2                   at the end the staging area of dV
//   Q ring     kStages * kTileM * D * 2
//   dO ring    kStages * kTileM * D * 2
//   lse ring   kStages * kTileM * 4
//   delta ring kStages * kTileM * 4
//
// Synchronisation. Step t uses slot t mod kStages, whose copies are one group. The wait leaves the newest kStages - 2 groups
// unfinished, that is, step t's is done; the barrier behind it shows the data to all warps and says that all are done with
// step t - 1, whose slot takes the copies of step t + kStages - 1. K and V come with the first group. They are overwritten behind
// the last barrier, each warp's rows of the staging area by itself alone.
//
// Query rows past the end of the sequence are zeros in Q and dO: whatever their P, they add nothing.
#include "params.cuh"
#include "tile/copy.cuh"
#include "tile/gradient.cuh"
#include "tile/headed_walk.cuh"
#include "tile/mma.cuh"
#include "tile/stream.cuh"

namespace lg {

constexpr int kParts = kHeadDim == 256 ? 2 : kHeadDim == 192 ? 3 : 1;
constexpr int kColumns = kHeadDim / kParts;  // of dK and dV that a warp keeps
static_assert(kParts == 1 || (kColumns & (kColumns - 1)) == 0, "products begin at multiples of a power of two");
constexpr int kKeyWarps = kThreads / kWarpSize / kParts;
constexpr int kBlocks = kTileN / (16 * kKeyWarps);
static_assert(kTileN == kBlocks * 16 * kKeyWarps, "a warp owns a whole number of 16-key blocks");
static_assert(kThreads == kKeyWarps * kParts * kWarpSize, "every key has a warp for each part");
static_assert(kTileM % 16 == 0 && kHeadDim % 16 == 0, "tiles are multiples of the mma shape");
static_assert(kStages >= 2, "one slot is computed on while the others fill");

using KeyTile = SharedTile<kHeadDim>;
using QueryRing = SharedRing<kTileM, kHeadDim>;
constexpr int kStatsBytes = kTileM * 4;
constexpr int kBackwardDkvSmemBytes =
    2 * kTileN * KeyTile::kRowBytes + 2 * kStages * (QueryRing::kTileBytes + kStatsBytes);

}  // namespace lg

extern "C" __global__ void __launch_bounds__(lg::kThreads, 1) attention_backward_dkv(const __grid_constant__ lg::Params p) {
    using namespace lg;
    const int n = blockIdx.x, g = blockIdx.y, b = blockIdx.z;
    const int group = p.heads / p.kv_heads;
    const Sequence seq = load_sequence(p, b);
    const int keys = min_int(kTileN, seq.k_len - n * kTileN);
    if (keys <= 0) return;
    const int first_key = seq.k_begin + n * kTileN;
    const int warp = threadIdx.x / kWarpSize, warp_key = warp / kParts * kBlocks * 16, first_column = warp % kParts * kColumns;

    const KeyTile k_tile{shared_address(dynamic_shared)}, v_tile = k_tile.rows_from(kTileN);
    const QueryRing q_ring{v_tile.rows_from(kTileN).base};
    const QueryRing do_ring{q_ring.base + kStages * QueryRing::kTileBytes};
    const u32 lse_ring = do_ring.base + kStages * QueryRing::kTileBytes;
    const u32 delta_ring = lse_ring + kStages * kStatsBytes;
    TileStream<HeadedWalk, kStages> tiles({{p, b, g, n, seq}, group});
    const auto start_copy = [&](int place, int slot) {
        if (tiles.n[place] >= 0) {
            const int t = tiles.n[place] * kTileM, h = HeadedWalk::head_of(tiles.kind[place]);
            const int token = seq.q_begin + t, rows = seq.q_len - t;
            copy_tile_async<kTileM>(q_ring.tile(slot), query_row(p, token, h), p.q_t, rows);
            copy_tile_async<kTileM>(do_ring.tile(slot), output_gradient_row(p, token, h), p.do_t, rows);
            copy_floats_async<kTileM>(lse_ring + slot * kStatsBytes, p.lse + stats_index(p, token, h), rows);
            copy_floats_async<kTileM>(delta_ring + slot * kStatsBytes, p.delta + stats_index(p, token, h), rows);
        }
        commit_copies();
    };

    copy_tile_async<kTileN>(k_tile, key_row(p, first_key, g), p.k_t, keys);
    copy_tile_async<kTileN>(v_tile, value_row(p, first_key, g), p.v_t, keys);
#pragma unroll
    for (int stage = 0; stage < kStages - 1; ++stage) {
        tiles.fetch(stage);
        start_copy(stage, stage);
    }

    Accumulator<kBlocks, kColumns> dk, dv;
    dk.clear();
    dv.clear();

    for (int slot = 0; tiles.n[0] >= 0; slot = slot + 1 == kStages ? 0 : slot + 1) {
        wait_copies<kStages - 2>();
        __syncthreads();
        tiles.fetch(kStages - 1);
        start_copy(kStages - 1, slot == 0 ? kStages - 1 : slot - 1);
        const KeyTile q_tile = q_ring.tile(slot), do_tile = do_ring.tile(slot);

        const ScoreMap score(p);
        Accumulator<kBlocks, kTileM> scores;  // S^T, then P^T s'
        scores.clear();
        multiply_abt(scores, k_tile.rows_from(warp_key), q_tile);
        if constexpr (kSoftcap) scores.for_each([&](float& x, int, int) { x = score.bounded(x); });
        const int i0 = seq.q_offset + tiles.n[0] * kTileM, j0 = n * kTileN + warp_key;
        mask_tile(HeadedWalk::kind_of(tiles.kind[0]), [&](int kind) {
            scores.for_each([&](float& x, int row, int column) {
                if (!keep(kind, g, i0 + column, j0 + row, seq.k_len)) x = -kInf;
            });
        });

        Fragments<kBlocks, kTileM> left;  // P^T, then dS^T
        column_probabilities(scores, left, lse_ring + slot * kStatsBytes, score);
        multiply_ab(dv, left, do_tile, first_column);

        Accumulator<kBlocks, kTileM> dp;  // dP^T, then dS^T
        dp.clear();
        multiply_abt(dp, v_tile.rows_from(warp_key), do_tile);
        column_score_gradients(dp, scores, delta_ring + slot * kStatsBytes);
        to_fragments(left, dp);
        multiply_ab(dk, left, q_tile, first_column);
        tiles.advance();
    }
    wait_copies<0>();
    __syncthreads();  // without a tile to visit, no barrier has yet followed the copies into the staging rows

    dk.scale(p.scale);
    const int token = load_sequence(p, b).k_begin + n * kTileN + warp_key;  // read again: one register less in the loop
    const SharedTile<kColumns> dk_staging{k_tile.base}, dv_staging{v_tile.base};
    store_warp_rows(row_of(static_cast<Half*>(p.dk), token, p.dk_t, g, p.dk_h) + first_column, p.dk_t, keys - warp_key,
                    dk_staging.rows_from(warp * kBlocks * 16), dk);
    store_warp_rows(row_of(static_cast<Half*>(p.dv), token, p.dv_t, g, p.dv_h) + first_column, p.dv_t, keys - warp_key,
                    dv_staging.rows_from(warp * kBlocks * 16), dv);
}
