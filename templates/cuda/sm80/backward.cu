// All gradients in one walk for sm_80 and later: each block owns a tile of keys and adds its part of dQ to sums in global memory,
// in whatever order blocks come.
//
//   P_ij = exp(s_ij - lse_i)     dV_j = sum_i P_ij dO_i
//   dP_ij = dO_i . v_j           dS_ij = P_ij (dP_ij - delta_i) s'(q_i . k_j)     dK_j = scale * sum_i dS_ij q_i
//                                                                                dQ_i = scale * sum_j dS_ij k_j
//
// summed over the queries i that see j and over the query heads of the KV head; s' is 1 without a softcap. Scores are taken
// transposed (rows are keys), as in backward_dkv.cu. Shared memory is what limits the kernel, so each warp's share of a product
// is as near to a square as registers let it be. A pair of warps owns 32 keys:
//
//   score warp      S^T    32 keys x 64 queries    P^T     dV   32 keys x D, in registers
//   gradient warp   dP^T   32 keys x 64 queries    dS^T    dK   32 keys x D, in registers
//
// P^T and dS^T are left operands where they come out. What the gradient warp needs of P, P s' as fp16, comes through shared memory.
// All warps make dQ, each 32 queries x 32 columns, sums over all keys, from the dS^T of all gradient warps.
//
// A score warp reads 56 KB of shared memory a step and writes 4, a gradient warp 60 and 4. With half the queries for both scores
// and gradients, and half of D for both dV and dK, a warp would read 68; with 16 keys of its own, all queries and all of D, 100.
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
//   dS^T ring  2 * kTileN * kTileM * 2          before dS, what its rows need of P lies in their place
//   lse ring   kStages * kTileM * 4
//   delta ring kStages * kTileM * 4
//   walk       64 + (kStages + 2) * 8
//
// Synchronisation. One barrier of the block a step. In the interval t between two of them, score warps work on step t and then make
// dQ of step t - 1, gradient warps make dQ of step t - 1 and then work on step t: where one warp of a scheduler has exponentials or
// waits for P, the other has products. Step t uses slot t mod kStages of Q, dO and their statistics, in interval t alone, and slot
// t mod 2 of dS: written in interval t, read in the next, so free in the one behind that.
//   Copies of step t + kStages - 1 are started in interval t, into the slot of step t - 1, and are one group of each thread. Before
// the barrier each thread waits for all but its newest kStages - 2 groups: then step t + 1 is there. K and V come with the first.
//   A pair has a barrier of its own: the score warp arrives when its part of P is written and goes on, the gradient warp waits.
// The score warp comes there again only behind the block's barrier.
//   In interval t thread 0 writes step t + kStages into the walk, which is read from the next interval on, and at last when dQ is
// made, in interval t + kStages + 1.
//
// Query rows past the end of the sequence are zeros in Q and dO: whatever their P, they add nothing to dK and dV, and what they
// add to dQ is not read.
#include "params.cuh"
#include "tile/copy.cuh"
#include "tile/dq_sums.cuh"
#include "tile/gradient.cuh"
#include "tile/headed_walk.cuh"
#include "tile/mma.cuh"

namespace lg {

constexpr int kWarps = kThreads / kWarpSize;
static_assert(kTileM == 64 && kTileN == 128 && kHeadDim == 128 && kWarps == 8, "four pairs of warps share each product");
static_assert(kStages >= 2, "one slot is computed on while the others fill");

using KeyTile = SharedTile<kHeadDim>;
using QueryRing = SharedRing<kTileM, kHeadDim>;
using ScoreTile = SharedTile<kTileM>;
using ScoreRing = SharedRing<kTileN, kTileM>;
constexpr int kPart = 32;  // keys of a pair; rows and columns of a warp's dQ
constexpr int kPairBarrier = 1, kBlockBarrier = kPairBarrier + kWarps / 2;
constexpr int kStatsBytes = kTileM * 4;
constexpr int kQueriesPlace = 2 * kTileN * KeyTile::kRowBytes;
constexpr int kScoresPlace = kQueriesPlace + 2 * kStages * QueryRing::kTileBytes;
constexpr int kStatsPlace = kScoresPlace + 2 * ScoreRing::kTileBytes;
constexpr int kWalkPlace = kStatsPlace + 2 * kStages * kStatsBytes;

// 0, which the compiler does not know: what it is added to is made in each step. Kept across the loop it would spill.
LG_DEVICE u32 nothing(int t) { return u32(opaque(t)) >> 31; }

// What this warp works on, made anew where it is used.
LG_DEVICE int warp_number() { return u32(opaque(int(threadIdx.x))) / kWarpSize; }
LG_DEVICE u32 lane_number() { return u32(opaque(int(threadIdx.x))) % kWarpSize; }
LG_DEVICE int pair_number() { return warp_number() % (kWarps / 2); }
LG_DEVICE int dq_queries() { return warp_number() % 2 * kPart; }
LG_DEVICE int dq_columns() { return warp_number() / 2 * kPart; }
LG_DEVICE bool makes_scores() { return threadIdx.x < kThreads / 2; }

// What a step works on in shared memory.
struct Tiles {
    KeyTile keys_values;    // K, and V behind it
    KeyTile first, second;  // Q and dO for a score warp, dO and Q for a gradient warp
    ScoreTile ds;
    u32 stats;              // log-sum-exp for a score warp, delta for a gradient warp

    LG_DEVICE explicit Tiles(int t) {
        const u32 base = opaque(int(shared_address(dynamic_shared) + nothing(t)));
        const u32 slot = t % kStages, role = warp_number() / (kWarps / 2);
        const KeyTile queries = QueryRing{base + kQueriesPlace}.tile(slot);
        keys_values = {base};
        first = queries.rows_from(role * kStages * kTileM);
        second = queries.rows_from((1 - role) * kStages * kTileM);
        ds = {ScoreRing{base + kScoresPlace}.tile(t % 2).base};
        stats = base + kStatsPlace + (role * kStages + slot) * kStatsBytes;
    }

    // 32 keys for a score warp, and for a gradient warp their values.
    LG_DEVICE KeyTile own_rows() const { return keys_values.rows_from(warp_number() * kPart); }
    LG_DEVICE ScoreTile pair_ds() const { return ds.rows_from(pair_number() * kPart); }
};

// Where the block is in its walk, in shared memory: in registers it would be in the way of the products.
struct BlockWalk {
    HeadedWalk walk;
    int q_begin;
    struct Step {
        int n, kind;  // query tile, or -1 behind the last; its kind and head
    } steps[kStages + 2];

    LG_DEVICE void fetch(int t) {
        HeadedWalk moved = walk;  // all of it read at once: the block waits for this thread
        Step step;
        if (!moved.next(step.n, step.kind)) step.n = -1;
        steps[t % (kStages + 2)] = step;
        walk = moved;
    }
    LG_DEVICE const Step& step(int t) const { return steps[t % (kStages + 2)]; }
};
constexpr int kWalkBytes = 64 + 8 * (kStages + 2);
static_assert(sizeof(BlockWalk) <= kWalkBytes);
constexpr int kBackwardSmemBytes = kWalkPlace + kWalkBytes;

using KeyGradient = Accumulator<2, kHeadDim>;  // keys of the pair: dV of a score warp, dK of a gradient warp
using Scores = Accumulator<2, kTileM>;         // keys of the pair, all queries
using ScoreOperand = Fragments<2, kTileM>;

// Which of a lane's scores of 16 keys and all queries the pattern shows, a bit each in the order of an Accumulator; the first is
// that of query i and key j. By rolled code: a pattern's test may need many registers.
LG_DEVICE u32 visible_bits(int g, int i, int j, int key_len) {
    u32 bits = 0;
#pragma unroll 1
    for (int first = 0; first < 32; first += 8) {
#pragma unroll
        for (int e = 0; e < 8; ++e) {
            const int query = i + first * 2 + e / 4 * 8 + e % 2, key = j + e % 4 / 2 * 8;
            bits |= u32(keep(kGeneral, g, query, key, key_len)) << e << first;
        }
    }
    return bits;
}

// -inf where the pattern hides a pair.
LG_DEVICE void mask_scores(const BlockWalk& block, int t, Scores& scores) {
    const BlockWalk::Step step = block.step(t);
    const int kind = HeadedWalk::kind_of(step.kind);
    if (kind == kFull) return;
    const QueryTileWalk& walk = block.walk.queries;
    const int i0 = walk.tile_begin(step.n), j0 = walk.j0 + pair_number() * kPart, g = walk.g, key_len = walk.key_len;
    if (kind == kEdge) {
        scores.for_each([=](float& x, int row, int column) {
            if (!keep(kEdge, g, i0 + column, j0 + row, key_len)) x = -kInf;
        });
        return;
    }
    const int lane = lane_number();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const u32 bits = visible_bits(g, i0 + lane % 4 * 2, j0 + half * 16 + lane / 4, key_len);
#pragma unroll
        for (int e = 0; e < 32; ++e) {
            if (!(bits >> e & 1)) scores.x[half][e / 4][e % 4] = -kInf;
        }
    }
}

// P is made in units of 2^-15: as fp16, what a gradient warp gets of it, its weights, then keeps its digits however many keys share
// a query.
constexpr float kWeightLog2 = 15.0f, kWeightUnit = 1.0f / 32768;

// Where a lane of a score warp leaves 8 weights, those of 16 x 16 scores, for the same lane of the gradient warp.
LG_DEVICE u32 weights_place(const Tiles& tiles, int half, int piece, u32 lane) {
    return tiles.pair_ds().base + (half * (kTileM / 16) + piece) * 512 + lane * 16;
}

// S^T -> P^T, as operand, and P^T s' for the gradient warp.
LG_DEVICE void make_probabilities(const Params& p, const Tiles& tiles, const Scores& scores, ScoreOperand& operand, u32 lane) {
    const ScoreMap map(p);
#pragma unroll
    for (int piece = 0; piece < kTileM / 16; ++piece) {
        u32 weights[2][4];
#pragma unroll
        for (int side = 0; side < 2; ++side) {
            const float2 lse = load_shared_float2(tiles.stats + (piece * 16 + side * 8 + lane % 4 * 2) * 4);
            const float shift[2] = {backward_shift(lse.x) - kWeightLog2, backward_shift(lse.y) - kWeightLog2};
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const float(&x)[4] = scores.x[half][piece * 2 + side];
                float probability[4], weight[4];
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    probability[e] = exp2_approx(x[e] * map.factor - shift[e % 2]);
                    weight[e] = probability[e] * map.slope(x[e]);
                }
#pragma unroll
                for (int row = 0; row < 2; ++row) {
                    operand.x[half][piece][side * 2 + row] = pack_half2(probability[row * 2], probability[row * 2 + 1]);
                    weights[half][side * 2 + row] = pack_fp16(weight[row * 2], weight[row * 2 + 1]);
                }
            }
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) store_shared_words(weights_place(tiles, half, piece, lane), weights[half]);
    }
}

// dP^T -> dS^T, as operand.
LG_DEVICE void make_score_gradients(const Tiles& tiles, const Scores& dp, ScoreOperand& operand, u32 lane) {
#pragma unroll
    for (int piece = 0; piece < kTileM / 16; ++piece) {
        u32 weights[2][4];
#pragma unroll
        for (int half = 0; half < 2; ++half) load_shared_words(weights[half], weights_place(tiles, half, piece, lane));
#pragma unroll
        for (int side = 0; side < 2; ++side) {
            const float2 delta = load_shared_float2(tiles.stats + (piece * 16 + side * 8 + lane % 4 * 2) * 4);
            const float left = delta.x * kWeightUnit, right = delta.y * kWeightUnit;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const float(&x)[4] = dp.x[half][piece * 2 + side];
#pragma unroll
                for (int row = 0; row < 2; ++row) {
                    const float2 weight = unpack_fp16(weights[half][side * 2 + row]);
                    operand.x[half][piece][side * 2 + row] =
                        pack_half2(weight.x * (x[row * 2] * kWeightUnit - left), weight.y * (x[row * 2 + 1] * kWeightUnit - right));
                }
            }
        }
    }
}

// Scores, P and dV of a score warp; dP, dS and dK of a gradient warp.
LG_DEVICE void own_products(const Params& p, const BlockWalk& block, int t, KeyGradient& sums) {
    const Tiles tiles(t);
    Scores scores;  // S^T, or dP^T
    scores.clear();
    multiply_abt(scores, tiles.own_rows(), tiles.first);
    const u32 lane = lane_number();
    const int barrier = kPairBarrier + pair_number();
    ScoreOperand operand;
    if (makes_scores()) {
        if constexpr (kSoftcap) scores.for_each([score = ScoreMap(p)](float& x, int, int) { x = score.bounded(x); });
        mask_scores(block, t, scores);
        make_probabilities(p, tiles, scores, operand, lane);
        named_barrier_arrive(barrier, 2 * kWarpSize);
    } else {
        named_barrier_sync(barrier, 2 * kWarpSize);
        make_score_gradients(tiles, scores, operand, lane);
        __syncwarp();  // all lanes have their weights: dS takes their place
        store_fragments(tiles.pair_ds(), 0, operand, lane);
    }
    multiply_ab(sums, operand, tiles.second);
}

// Adds this warp's part of dS K to the sums of a query tile and head.
LG_DEVICE void add_dq(const Params& p, const BlockWalk& block, int t) {
    const Tiles tiles(t);
    Accumulator<2, kPart> dq;
    dq.clear();
    multiply_atb<kTileN>(dq, tiles.ds, dq_queries(), tiles.keys_values, dq_columns());
    const BlockWalk::Step step = block.step(t);
    const int tile = dq_tile(p, blockIdx.z, block.q_begin, step.n, HeadedWalk::head_of(step.kind));
    const int piece = dq_columns() / 64, column_group = dq_columns() % 64 / 8;
    const int thread = dq_queries() / 16 * kWarpSize + lane_number();
    float* target = dq_piece(p, tile, piece) + (column_group * kDqPieceThreads + thread) * 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int c = 0; c < 4; ++c) add_to_global(target + (c * kDqPieceThreads + half * kWarpSize) * 4, dq.x[half][c]);
    }
    if (threadIdx.x == 0) p.dq_turn[tile] = kStored;
}

// Starts the copies of step t: score warps bring Q and the log-sum-exps, gradient warps dO and delta.
LG_DEVICE void start_copies(const Params& p, const BlockWalk& block, int t) {
    const BlockWalk::Step step = block.step(t);
    if (step.n >= 0) {
        const Tiles tiles(t);
        const QueryTileWalk& walk = block.walk.queries;
        const int worker = opaque(int(threadIdx.x)) % (kThreads / 2), h = HeadedWalk::head_of(step.kind);
        const int token = block.q_begin + step.n * kTileM, rows = walk.i_end - walk.tile_begin(step.n);
        const Half* from = makes_scores() ? query_row(p, token, h) : output_gradient_row(p, token, h);
        const float* stats = (makes_scores() ? p.lse : p.delta) + stats_index(p, token, h);
        copy_rows_async<kTileM, kThreads / 2>(tiles.first, from, makes_scores() ? p.q_t : p.do_t, worker,
                                              [=](int row) { return row < rows; });
        copy_floats_async<kTileM>(tiles.stats, stats, rows, worker);
    }
    commit_copies();
}

// The end of an interval: all warps are done with their part, and the next step's copies are there. A barrier with a number, as
// the two kinds of warps come to it at different places.
LG_DEVICE void meet() {
    wait_copies<kStages - 2>();
    named_barrier_sync(kBlockBarrier, kThreads);
}

}  // namespace lg

extern "C" __global__ void __launch_bounds__(lg::kThreads, 1) attention_backward(const __grid_constant__ lg::Params p) {
    using namespace lg;
    // The first keys of every head come first: where they are sinks, theirs is the longest walk.
    const int order = blockIdx.x + gridDim.x * blockIdx.y - p.kv_heads, others = gridDim.x - 1;
    const int n = order < 0 ? 0 : 1 + order % others, g = order < 0 ? order + p.kv_heads : order / others, b = blockIdx.z;
    const int group = p.heads / p.kv_heads;
    const Sequence seq = load_sequence(p, b);
    const int key_count = min_int(kTileN, seq.k_len - n * kTileN);
    if (key_count <= 0) return;
    const int first_key = seq.k_begin + n * kTileN;

    BlockWalk& block = *reinterpret_cast<BlockWalk*>(dynamic_shared + kWalkPlace);
    if (threadIdx.x == 0) {
        block.walk = {{p, b, g, n, seq}, group};
        block.q_begin = seq.q_begin;
        for (int t = 0; t < kStages; ++t) block.fetch(t);
    }
    const KeyTile keys{shared_address(dynamic_shared)};
    copy_tile_async<kTileN>(keys, key_row(p, first_key, g), p.k_t, key_count);
    copy_tile_async<kTileN>(keys.rows_from(kTileN), value_row(p, first_key, g), p.v_t, key_count);
    __syncthreads();  // the first steps
    for (int t = 0; t < kStages - 1; ++t) start_copies(p, block, t);
    meet();

    KeyGradient sums;
    sums.clear();

    // A score warp makes dQ of the step before behind its own products and before the barrier, a gradient warp behind the barrier.
    for (int t = 0;; ++t) {
        const auto ended = [&] { return block.step(t).n < 0; };  // read again where it is asked: one register less
        if (!ended()) {
            start_copies(p, block, t + kStages - 1);
            own_products(p, block, t, sums);
            if (threadIdx.x == 0) block.fetch(t + kStages);
        }
        if (!makes_scores()) {
            if (ended()) break;
            meet();
        }
        __syncwarp();  // whole warps load matrices
        const int made = t - makes_scores();
        if (made >= 0) add_dq(p, block, made);
        if (makes_scores()) {
            if (ended()) break;
            meet();
        }
    }
    __syncthreads();  // all have read the keys

    sums.scale(makes_scores() ? kWeightUnit : p.scale);
    const QueryTileWalk& walk = block.walk.queries;
    const int first_row = pair_number() * kPart, token = p.cu_k[opaque(b)] + walk.j0 + first_row;
    Half* to = makes_scores() ? row_of(static_cast<Half*>(p.dv), token, p.dv_t, walk.g, p.dv_h)
                              : row_of(static_cast<Half*>(p.dk), token, p.dk_t, walk.g, p.dk_h);
    const KeyTile staging = keys.rows_from(warp_number() * kPart);
    store_warp_rows(to, makes_scores() ? p.dv_t : p.dk_t, walk.j1 - walk.j0 - first_row, staging, sums);
}
