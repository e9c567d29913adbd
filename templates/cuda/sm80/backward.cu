// All gradients in one walk for sm_80 and later: each block owns a tile of keys and adds its part of dQ to sums in global memory,
// in whatever order blocks come.
//
//   P_ij = exp(s_ij - lse_i)     dV_j = sum_i P_ij dO_i
//   dP_ij = dO_i . v_j           dS_ij = P_ij (dP_ij - delta_i) s'(q_i . k_j)     dK_j = scale * sum_i dS_ij q_i
//                                                                                dQ_i = scale * sum_j dS_ij k_j
//
// summed over the queries i that see j and over the query heads of the KV head; s' is 1 without a softcap. Scores are taken
// transposed (rows are keys), as in backward_dkv.cu: a warp owns 16 keys with their dK and dV in registers, and P^T and dS^T are
// left operands where they come out. dQ sums over the keys of all warps, so dS^T also goes through shared memory; there each warp
// owns 16 rows by 64 columns of dQ.
//
//   grid    x = ceil(max_k / kTileN); y = G; z = B                                           block  kThreads
//   K, V    kTileN x D        Q, dO   kTileM x D, each kStages deep        S^T, dP^T   kTileN x kTileM in registers
//   before  delta filled by attention_backward_delta; dq_accum and dq_turn zero (tile/dq_sums.cuh)
//   after   attention_backward_convert_dq
//
// Shared memory, bytes
//   K          kTileN * D * 2                   at the end the staging area of dK
//   V          kTileN * D * 2                   at the end the staging area of dV
//   Q ring     kStages * kTileM * D * 2
//   dO ring    kStages * kTileM * D * 2
//   dS^T ring  kStages * kTileN * kTileM * 2
//   lse ring   kStages * kTileM * 4
//   delta ring kStages * kTileM * 4
//
// Synchronisation. Step t uses slot t mod kStages, whose copies are one group. The wait leaves the newest kStages - 2 groups
// unfinished, that is, step t's is done; the barrier behind it shows the data to all warps and says that all are done with
// step t - 1, whose slot takes the copies of step t + kStages - 1. K and V come with the first group. The same barrier shows
// all of dS^T of step t - 1: its product with K is part of step t, so that one barrier a step is enough. Its slot is written
// again in step t - 1 + kStages, behind a later barrier.
//
// Query rows past the end of the sequence are zeros in Q and dO: whatever their P, they add nothing to dK and dV, and what they
// add to dQ is not read.
#include "params.cuh"
#include "tile/copy.cuh"
#include "tile/dq_sums.cuh"
#include "tile/gradient.cuh"
#include "tile/headed_walk.cuh"
#include "tile/mma.cuh"
#include "tile/stream.cuh"

namespace lg {

constexpr int kWarps = kThreads / kWarpSize;
static_assert(kTileN == 16 * kWarps, "a warp owns 16 keys");
static_assert(kThreads == 2 * kDqPieceThreads && kHeadDim == 128, "dQ of a tile is two pieces side by side, four warps each");
static_assert(kStages >= 2, "one slot is computed on while the others fill");

using KeyTile = SharedTile<kHeadDim>;
using QueryRing = SharedRing<kTileM, kHeadDim>;
using ScoreTile = SharedTile<kTileM>;
using ScoreRing = SharedRing<kTileN, kTileM>;
constexpr int kStatsBytes = kTileM * 4;
constexpr int kChunk = 32;  // queries whose scores a warp holds at a time: more do not fit beside dK and dV
constexpr int kBackwardSmemBytes =
    2 * kTileN * KeyTile::kRowBytes + kStages * (2 * QueryRing::kTileBytes + ScoreRing::kTileBytes + 2 * kStatsBytes);

// Adds this warp's part of dS K to the sums of a query tile and head.
LG_DEVICE void add_dq(const Params& p, int tile, ScoreTile ds, KeyTile keys) {
    const int warp = threadIdx.x / kWarpSize, piece = warp / 4;
    Accumulator<1, 64> dq;
    dq.clear();
    multiply_atb<kTileN>(dq, ds, warp % 4 * 16, keys, piece * 64);
    float* target = dq_piece(p, tile, piece) + threadIdx.x % kDqPieceThreads * 4;
#pragma unroll
    for (int c = 0; c < 8; ++c) add_to_global(target + c * kDqPieceThreads * 4, dq.x[0][c]);
    if (threadIdx.x == 0) p.dq_turn[tile] = kStored;
}

}  // namespace lg

extern "C" __global__ void __launch_bounds__(lg::kThreads, 1) attention_backward(const __grid_constant__ lg::Params p) {
    using namespace lg;
    // The first keys of every head come first: where they are sinks, theirs is the longest walk.
    const int order = blockIdx.x + gridDim.x * blockIdx.y - p.kv_heads, others = gridDim.x - 1;
    const int n = order < 0 ? 0 : 1 + order % others, g = order < 0 ? order + p.kv_heads : order / others, b = blockIdx.z;
    const int group = p.heads / p.kv_heads;
    const Sequence seq = load_sequence(p, b);
    const int keys = min_int(kTileN, seq.k_len - n * kTileN);
    if (keys <= 0) return;
    const int first_key = seq.k_begin + n * kTileN;
    const int warp_key = threadIdx.x / kWarpSize * 16;

    const KeyTile k_tile{shared_address(dynamic_shared)}, v_tile = k_tile.rows_from(kTileN);
    const QueryRing q_ring{v_tile.rows_from(kTileN).base};
    const QueryRing do_ring{q_ring.base + kStages * QueryRing::kTileBytes};
    const ScoreRing ds_ring{do_ring.base + kStages * QueryRing::kTileBytes};
    const u32 lse_ring = ds_ring.base + kStages * ScoreRing::kTileBytes;
    const u32 delta_ring = lse_ring + kStages * kStatsBytes;
    TileStream<HeadedWalk, kStages> tiles({{p, b, g, n, seq}, g * group, group});
    const auto start_copy = [&](int place, int slot) {
        if (tiles.n[place] >= 0) {
            const Sequence seq = load_sequence(p, opaque(b));  // read again: fewer registers in the loop
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

    Accumulator<1, kHeadDim> dk, dv;
    dk.clear();
    dv.clear();

    int before = -1;  // query tile and head of the step before this one, whose dQ is still to be added
    for (int slot = 0;; slot = slot + 1 == kStages ? 0 : slot + 1) {
        wait_copies<kStages - 2>();
        __syncthreads();
        const int slot_before = slot == 0 ? kStages - 1 : slot - 1;
        tiles.fetch(kStages - 1);
        start_copy(kStages - 1, slot_before);
        if (before >= 0) add_dq(p, before, ds_ring.tile(slot_before), k_tile);
        if (tiles.n[0] < 0) break;
        const KeyTile q_tile = q_ring.tile(slot), do_tile = do_ring.tile(slot);

#pragma unroll 1
        for (int first = 0; first < kTileM; first += kChunk) {
            const KeyTile queries = q_tile.rows_from(first);
            const u32 stats = slot * kStatsBytes + first * 4;
            const ScoreMap score(p);
            Accumulator<1, kChunk> scores;  // S^T, then P^T s'
            scores.clear();
            multiply_abt(scores, k_tile.rows_from(warp_key), queries);
            if constexpr (kSoftcap) scores.for_each([&](float& x, int, int) { x = score.bounded(x); });
            const int i0 = p.q_offset[opaque(b)] + tiles.n[0] * kTileM + first, j0 = tiles.walk.queries.j0 + warp_key;
            mask_tile(HeadedWalk::kind_of(tiles.kind[0]), [&](int kind) {
                scores.for_each([&](float& x, int row, int column) {
                    if (!keep(kind, tiles.walk.queries.g, i0 + column, j0 + row, tiles.walk.queries.key_len)) x = -kInf;
                });
            });

            Fragments<1, kChunk> left;  // P^T, then dS^T
            const KeyTile out_grads = do_tile.rows_from(opaque(first));
            column_probabilities(scores, left, lse_ring + stats, score);
            multiply_ab(dv, left, out_grads);

            Accumulator<1, kChunk> dp;  // dP^T, then dS^T
            dp.clear();
            multiply_abt(dp, v_tile.rows_from(warp_key), out_grads);
            column_score_gradients(dp, scores, delta_ring + stats);
            to_fragments(left, dp);
            store_fragments(ds_ring.tile(slot).rows_from(warp_key), first, left);
            multiply_ab(dk, left, queries);
        }
        before = dq_tile(p, b, p.cu_q[opaque(b)], tiles.n[0], HeadedWalk::head_of(tiles.kind[0]));
        tiles.advance();
    }

    dk.scale(p.scale);
    const QueryTileWalk& walk = tiles.walk.queries;  // what it knows anyway takes no further registers in the loop
    const int token = p.cu_k[opaque(b)] + walk.j0 + warp_key, rows = walk.j1 - walk.j0 - warp_key;
    __syncthreads();  // other warps may still read the keys
    store_warp_rows(row_of(static_cast<Half*>(p.dk), token, p.dk_t, walk.g, p.dk_h), p.dk_t, rows, k_tile.rows_from(warp_key), dk);
    store_warp_rows(row_of(static_cast<Half*>(p.dv), token, p.dv_t, walk.g, p.dv_h), p.dv_t, rows, v_tile.rows_from(warp_key), dv);
}
