// All gradients in one walk for sm_80 and later: each block owns a tile of keys and adds its part of dQ to sums in global memory,
// in whatever order blocks come.
//
//   P_ij = exp(s_ij - lse_i)     dV_j = sum_i P_ij dO_i
//   dP_ij = dO_i . v_j           dS_ij = P_ij (dP_ij - delta_i) s'(q_i . k_j)     dK_j = scale * sum_i dS_ij q_i
//                                                                                dQ_i = scale * sum_j dS_ij k_j
//
// summed over the queries i that see j and over the query heads of the KV head; s' is 1 without a softcap. Scores are taken
// transposed (rows are keys), as in backward_dkv.cu. Shared memory is what limits the kernel, so each warp's share of a product
// is as near to a square as registers let it be. A pair of warps owns 32 keys, and of a step
//
//   S^T, dP^T   32 keys x 32 queries        each warp of the pair half of the queries, "its own"
//   dV, dK      32 keys x 64 columns        each half of D, held in registers; of P^T and dS^T its own queries are left operands
//                                           where they come out, the other's come through shared memory
//   dQ          32 queries x 32 columns     its own queries, the pair's columns; sums over all keys
//
// A warp reads 68 KB a step for its products (16 + 16 + 10 + 10 + 16) and writes 4. With 16 keys of its own, all queries and all
// of D it would read 100.
//
//   grid    x = ceil(max_k / kTileN); y = G; z = B                                           block  kThreads
//   K, V    kTileN x D        Q, dO   kTileM x D, each kStages deep        S^T, dP^T   kTileN x kTileM in registers
//   before  delta filled by attention_backward_delta; dq_accum and dq_turn zero (tile/dq_sums.cuh)
//   after   attention_backward_convert_dq
//
// Shared memory, bytes
//   K          kTileN * D * 2                   at the end, with V, the staging area of dK and dV
//   V          kTileN * D * 2
//   Q ring     kStages * kTileM * D * 2
//   dO ring    kStages * kTileM * D * 2
//   P^T        kTileN * kTileM * 2
//   dS^T       kTileN * kTileM * 2
//   lse ring   kStages * kTileM * 4
//   delta ring kStages * kTileM * 4
//   walk       64 + kStages * 8
//
// Synchronisation. Step t uses slot t mod kStages, whose copies are one group. The wait leaves the newest kStages - 2 groups
// unfinished, that is, step t's is done; the barrier behind it shows the data to all warps and says that all are done with
// step t - 1: its slot takes the copies of step t + kStages - 1, P^T and dS^T are written anew. K and V come with the first group.
// The barrier in the middle of a step shows P^T and dS^T to all. Behind it thread 0 writes step t + kStages into the walk, which
// is read behind the next barrier.
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
static_assert(kTileM == 64 && kTileN == 128 && kHeadDim == 128 && kWarps == 8, "four pairs of warps share each product");
static_assert(kStages >= 2, "one slot is computed on while the others fill");

using KeyTile = SharedTile<kHeadDim>;
using QueryRing = SharedRing<kTileM, kHeadDim>;
using ScoreTile = SharedTile<kTileM>;
constexpr int kPart = 32;  // keys of a pair, queries of a warp's scores, rows and columns of its dQ
constexpr int kScoreBytes = kTileN * ScoreTile::kRowBytes;
constexpr int kStatsBytes = kTileM * 4;
constexpr int kWalkPlace =
    2 * kTileN * KeyTile::kRowBytes + kStages * (2 * QueryRing::kTileBytes + 2 * kStatsBytes) + 2 * kScoreBytes;

// What lies where in shared memory.
struct Tiles {
    KeyTile k, v;
    QueryRing q, d_o;
    ScoreTile p, ds;
    u32 lse, delta;

    LG_DEVICE explicit Tiles(u32 base) {
        k = {base};
        v = k.rows_from(kTileN);
        q = {v.rows_from(kTileN).base};
        d_o = {q.base + kStages * QueryRing::kTileBytes};
        p = {d_o.base + kStages * QueryRing::kTileBytes};
        ds = p.rows_from(kTileN);
        lse = ds.base + kScoreBytes;
        delta = lse + kStages * kStatsBytes;
    }
};

// Where the block is in its walk, in shared memory: in registers it would be in the way of the products.
struct BlockWalk {
    HeadedWalk walk;
    struct Step {
        int n, kind;
    } steps[kStages];  // the ring's: query tile, or -1 behind the last, and its kind and head

    LG_DEVICE void fetch(int slot) {
        if (!walk.next(steps[slot].n, steps[slot].kind)) steps[slot].n = -1;
    }
};
static_assert(sizeof(BlockWalk) <= 64 + kStages * 8);
constexpr int kBackwardSmemBytes = kWalkPlace + 64 + kStages * 8;

// 0, which the compiler does not know: an address that it is added to is made in each step. Kept across the loop it would spill.
LG_DEVICE u32 nothing(int slot) { return u32(opaque(slot)) / kStages; }

// What this warp works on, made anew where it is used.
LG_DEVICE int warp_number() { return u32(opaque(int(threadIdx.x))) / kWarpSize; }
LG_DEVICE int pair_keys() { return warp_number() / 2 * kPart; }
LG_DEVICE int own_queries() { return warp_number() % 2 * kPart; }
LG_DEVICE int other_queries() { return kPart - own_queries(); }
LG_DEVICE int own_columns() { return warp_number() % 2 * (kHeadDim / 2); }

using KeyGradient = Accumulator<2, kHeadDim / 2>;  // keys of the pair, own columns
using Scores = Accumulator<2, kPart>;              // keys of the pair, own queries

// -inf where the pattern hides a pair. A pattern's test may need many registers, so only 8 scores of a lane are tested at a time:
// always the first ones of the array, which then become the last.
LG_DEVICE void mask_scores(const BlockWalk& block, int slot, Scores& scores) {
    const BlockWalk::Step step = block.steps[slot];
    mask_tile(HeadedWalk::kind_of(step.kind), [&](int kind) {
        const QueryTileWalk& walk = block.walk.queries;
        const int i0 = walk.tile_begin(step.n) + own_queries(), j0 = walk.j0 + pair_keys(), g = walk.g, key_len = walk.key_len;
#pragma unroll 1
        for (int quarter = 0; quarter < 4; ++quarter) {
            const int i = i0 + quarter % 2 * 16, j = j0 + quarter / 2 * 16;
            Accumulator<1, 16> tested;
#pragma unroll
            for (int e = 0; e < 8; ++e) tested.x[0][e / 4][e % 4] = scores.x[0][e / 4][e % 4];
            tested.for_each([&](float& x, int row, int column) {
                if (!keep(kind, g, i + column, j + row, key_len)) x = -kInf;
            });
#pragma unroll
            for (int e = 0; e < 24; ++e) scores.x[e / 16][e / 4 % 4][e % 4] = scores.x[(e + 8) / 16][(e + 8) / 4 % 4][e % 4];
#pragma unroll
            for (int e = 0; e < 8; ++e) scores.x[1][2 + e / 4][e % 4] = tested.x[0][e / 4][e % 4];
        }
    });
}

// Scores, P and dS of the pair's keys and the warp's own queries: into shared memory, and their products with Q and dO.
LG_DEVICE void own_products(const Params& p, const BlockWalk& block, const Tiles& tiles, int slot, KeyGradient& dk, KeyGradient& dv) {
    const KeyTile queries = tiles.q.tile(slot).rows_from(own_queries()), out_grads = tiles.d_o.tile(slot).rows_from(own_queries());
    Scores scores;  // S^T, then P^T s'
    scores.clear();
    multiply_abt(scores, tiles.k.rows_from(pair_keys()), queries);
    if constexpr (kSoftcap) scores.for_each([score = ScoreMap(p)](float& x, int, int) { x = score.bounded(x); });
    mask_scores(block, slot, scores);

    Scores dp;  // dP^T, then dS^T
    dp.clear();
    multiply_abt(dp, tiles.v.rows_from(pair_keys()), out_grads);

    const u32 stats = slot * kStatsBytes + own_queries() * 4, lane = (threadIdx.x + nothing(slot)) % kWarpSize;
    Fragments<2, kPart> left;  // P^T, then dS^T
    column_probabilities(scores, left, tiles.lse + stats, ScoreMap(p), lane);
    store_fragments(tiles.p.rows_from(pair_keys()), own_queries(), left, lane);
    multiply_ab(dv, left, out_grads, own_columns());
    column_score_gradients(dp, scores, tiles.delta + stats, lane);
    to_fragments(left, dp);
    store_fragments(tiles.ds.rows_from(pair_keys()), own_queries(), left, lane);
    multiply_ab(dk, left, queries, own_columns());
}

// The same products with the queries of the other warp of the pair.
LG_DEVICE void other_products(const Tiles& tiles, int slot, KeyGradient& dk, KeyGradient& dv) {
    Fragments<2, kPart> left;
    load_fragments(left, tiles.p.rows_from(pair_keys()), other_queries());
    multiply_ab(dv, left, tiles.d_o.tile(slot).rows_from(other_queries()), own_columns());
    load_fragments(left, tiles.ds.rows_from(pair_keys()), other_queries());
    multiply_ab(dk, left, tiles.q.tile(slot).rows_from(other_queries()), own_columns());
}

// Adds this warp's part of dS K to the sums of a query tile and head.
LG_DEVICE void add_dq(const Params& p, const Tiles& tiles, int tile) {
    Accumulator<2, kPart> dq;  // own queries, as many columns as the pair has keys
    dq.clear();
    multiply_atb<kTileN>(dq, tiles.ds, own_queries(), tiles.k, pair_keys());
    const int piece = pair_keys() / 64, column_group = pair_keys() % 64 / 8;
    const int thread = own_queries() / 16 * kWarpSize + threadIdx.x % kWarpSize;
    float* target = dq_piece(p, tile, piece) + (column_group * kDqPieceThreads + thread) * 4;
#pragma unroll
    for (int block = 0; block < 2; ++block) {
#pragma unroll
        for (int c = 0; c < 4; ++c) add_to_global(target + (c * kDqPieceThreads + block * kWarpSize) * 4, dq.x[block][c]);
    }
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

    BlockWalk& block = *reinterpret_cast<BlockWalk*>(dynamic_shared + kWalkPlace);
    if (threadIdx.x == 0) {
        block.walk = {{p, b, g, n, seq}, group};
        for (int slot = 0; slot < kStages; ++slot) block.fetch(slot);
    }
    const auto start_copy = [&](const Tiles& tiles, int slot) {
        const BlockWalk::Step& step = block.steps[slot];
        if (step.n >= 0) {
            const Sequence seq = load_sequence(p, opaque(b));  // read again: fewer registers in the loop
            const int t = step.n * kTileM, h = HeadedWalk::head_of(step.kind);
            const int token = seq.q_begin + t, rows = seq.q_len - t;
            copy_tile_async<kTileM>(tiles.q.tile(slot), query_row(p, token, h), p.q_t, rows);
            copy_tile_async<kTileM>(tiles.d_o.tile(slot), output_gradient_row(p, token, h), p.do_t, rows);
            copy_floats_async<kTileM>(tiles.lse + slot * kStatsBytes, p.lse + stats_index(p, token, h), rows);
            copy_floats_async<kTileM>(tiles.delta + slot * kStatsBytes, p.delta + stats_index(p, token, h), rows);
        }
        commit_copies();
    };

    const u32 shared = shared_address(dynamic_shared);
    const Tiles start(shared);
    copy_tile_async<kTileN>(start.k, key_row(p, first_key, g), p.k_t, keys);
    copy_tile_async<kTileN>(start.v, value_row(p, first_key, g), p.v_t, keys);
    __syncthreads();  // the first steps
    for (int slot = 0; slot < kStages - 1; ++slot) start_copy(start, slot);

    KeyGradient dk, dv;
    dk.clear();
    dv.clear();

    for (int slot = 0;; slot = slot + 1 == kStages ? 0 : slot + 1) {
        wait_copies<kStages - 2>();
        __syncthreads();
        const auto tiles = [=] { return Tiles(shared + nothing(slot)); };  // made anew in each part of a step
        start_copy(tiles(), slot == 0 ? kStages - 1 : slot - 1);
        if (block.steps[slot].n < 0) break;
        own_products(p, block, tiles(), slot, dk, dv);
        const int tile = dq_tile(p, b, p.cu_q[opaque(b)], block.steps[slot].n, HeadedWalk::head_of(block.steps[slot].kind));
        __syncthreads();
        if (threadIdx.x == 0) block.fetch(slot);
        __syncwarp();  // whole warps load matrices
        add_dq(p, tiles(), tile);
        other_products(tiles(), slot, dk, dv);
    }

    dk.scale(p.scale);
    const QueryTileWalk& walk = block.walk.queries;
    const int token = p.cu_k[opaque(b)] + walk.j0 + pair_keys(), rows = walk.j1 - walk.j0 - pair_keys();
    // Rows that this warp alone uses: all reads of keys and values lie before the loop's last barrier.
    const SharedTile<kHeadDim / 2> staging = SharedTile<kHeadDim / 2>{start.k.base}.rows_from(warp_number() * 2 * kPart);
    Half* dk_rows = row_of(static_cast<Half*>(p.dk), token, p.dk_t, walk.g, p.dk_h) + own_columns();
    Half* dv_rows = row_of(static_cast<Half*>(p.dv), token, p.dv_t, walk.g, p.dv_h) + own_columns();
    store_warp_rows(dk_rows, p.dk_t, rows, staging, dk);
    store_warp_rows(dv_rows, p.dv_t, rows, staging.rows_from(kPart), dv);
}
