// Forward attention for sm_80 and later: mma.sync, ldmatrix, cp.async.
//
//   s_ij = score(q_i . k_j)    O_i = sum_j exp(s_ij - lse_i) v_j    lse_i = log(sum_j exp(s_ij) + exp(sink_h))
//
// over the keys j that row i sees. One block has kTileM query rows of one head; each warp owns kBlocks x 16 of them with
// their scores, maximum, sum and output in registers, and all warps share the tiles of keys. Tiles come from KeyTileWalk.
//
//   grid    x = ceil(max_q / kTileM), the last (longest) tile first; y = H; z = B           block  kThreads
//   Q       kTileM x D        K, V   kTileN x D, each kStages deep         S   kTileM x kTileN in registers
//
// Overlap. As few as two warps share a scheduler and its tensor core, so other work must stand beside products of its own warp:
// in one basic block with them and independent of them. Therefore the last kLate keys of a tile wait with their product for the
// scores of the next tile, whose maxima are searched beside it:
//
//   of step t   products                                        beside them
//               S = Q K_t^T                                     the copies of step t + kStages - 1 start
//               O += P V of the late keys of tile t - 1         the maxima of S
//               O += P V of the other keys of t, 16 by 16       P of the 16 after them; addresses of the next copies
//
// Shared memory, bytes
//   Q          kTileM * D * 2                   at the end the staging area of O
//   K ring     kStages * kTileN * D * 2
//   V ring     kStages * kTileN * D * 2         a slot: the kLate last keys of tile t - 1, then the first of tile t
//
// Synchronisation. Step t uses slot t mod kStages, whose copies are one group. The wait leaves the newest kStages - 2 groups
// unfinished, that is, step t's is done; the barrier behind it shows the data to all warps and says that all are done with
// step t - 1, whose slot takes the copies of step t + kStages - 1. Behind the last tile comes one more group, for its late keys.
// Q comes with the first group; its rows are read and overwritten by their own warp only.
#include "params.cuh"
#include "tile/copy.cuh"
#include "tile/mma.cuh"
#include "tile/softmax.cuh"
#include "tile/stream.cuh"
#include "walk.cuh"

namespace lg {

constexpr int kWarps = kThreads / kWarpSize;
constexpr int kBlocks = kTileM / (16 * kWarps);
static_assert(kTileM == kBlocks * 16 * kWarps, "a warp owns a whole number of 16-row blocks");
static_assert(kTileN % 16 == 0 && kHeadDim % 16 == 0, "tiles are multiples of the mma shape");
static_assert(kStages >= 2, "one slot is computed on while the others fill");

// The keys of a tile whose probabilities are multiplied by V one step late: one piece of an mma, for more there are no registers.
// None where rows are short: a further product behind each walk and copies in smaller parts then cost more than it gives.
constexpr int kLate = kHeadDim < 128 ? 0 : 16;
constexpr int kPrompt = kTileN - kLate;

// Powers of two by which a score may exceed the running maximum: probabilities up to 256, which fp16 holds as well.
constexpr float kSlack = 8.0f;

using QueryTile = SharedTile<kHeadDim>;
using KeyRing = SharedRing<kTileN, kHeadDim>;
constexpr int kForwardSmemBytes = kTileM * QueryTile::kRowBytes + 2 * kStages * KeyRing::kTileBytes;

// The copies of a step, addresses first and apart: they are known a step before the slot is free. `tile` is the one whose scores
// the step makes, `before` the one of the step before it; -1 for none, whose rows become zeros.
struct StepCopies {
    const Half *k, *v_late, *v_prompt;  // this thread's first chunk of each
    int keys, late_keys;                // real ones, from the first copied on; may be more than are copied

    LG_DEVICE void aim(const Params& p, const KeyTileWalk& walk, int b, int before, int tile) {
        const CopyShare<kThreads, kHeadDim> share(threadIdx.x);
        const int late = before * kTileN + kPrompt, prompt = tile * kTileN;
        const int row = p.cu_k[opaque(b)] + share.first_row, column = share.c * kChunkHalves;
        k = key_row(p, row + prompt, opaque(walk.g)) + column;
        v_late = value_row(p, row + late, opaque(walk.g)) + column;
        v_prompt = value_row(p, row + prompt, opaque(walk.g)) + column;
        keys = tile < 0 ? 0 : walk.key_len - prompt;
        late_keys = before < 0 ? 0 : walk.key_len - late;
    }

    LG_DEVICE void start(const Params& p, SharedTile<kHeadDim> k_tile, SharedTile<kHeadDim> v_tile) const {
        const CopyShare<kThreads, kHeadDim> share(threadIdx.x);
        const int own_keys = keys - share.first_row, own_late_keys = late_keys - share.first_row;
        const auto is_real = [=](int pass) { return pass < own_keys; };
        share.template start<kTileN>(k_tile, k, p.k_t, is_real);
        share.template start<kLate>(v_tile, v_late, p.v_t, [=](int pass) { return pass < own_late_keys; });
        share.template start<kPrompt>(v_tile.rows_from(kLate), v_prompt, p.v_t, is_real);
        commit_copies();
    }
};

}  // namespace lg

extern "C" __global__ void __launch_bounds__(lg::kThreads, 1) attention_forward(const __grid_constant__ lg::Params p) {
    using namespace lg;
    const int m = gridDim.x - 1 - blockIdx.x, h = blockIdx.y, b = blockIdx.z;
    const int g = h / (p.heads / p.kv_heads);
    const Sequence seq = load_sequence(p, b);
    const int rows = min_int(kTileM, seq.q_len - m * kTileM);
    if (rows <= 0) return;
    const int first_token = seq.q_begin + m * kTileM;
    const int i0 = seq.q_offset + m * kTileM;
    const int warp_row = threadIdx.x / kWarpSize * kBlocks * 16;

    const QueryTile q_tile{shared_address(dynamic_shared)};
    const KeyRing k_ring{q_tile.base + kTileM * QueryTile::kRowBytes};
    const KeyRing v_ring{k_ring.base + kStages * KeyRing::kTileBytes};
    // The last place is the tile whose copies are aimed at, but not started.
    TileStream<KeyTileWalk, kStages + 1> tiles({p, b, g, m, i0, i0 + rows, seq.k_len});
    StepCopies copies;

    copy_tile_async<kTileM>(q_tile, query_row(p, first_token, h), p.q_t, rows);
#pragma unroll
    for (int stage = 0; stage < kStages; ++stage) {
        if (stage > 0) copies.start(p, k_ring.tile(stage - 1), v_ring.tile(stage - 1));
        tiles.fetch(stage);
        copies.aim(p, tiles.walk, b, stage > 0 ? tiles.n[stage - 1] : -1, tiles.n[stage]);
    }

    OnlineSoftmax<kBlocks> softmax;
    Accumulator<kBlocks, kHeadDim> output;
    output.clear();
    Fragments<kBlocks, 16> late = {};  // probabilities

    int slot = 0;
    for (; tiles.n[0] >= 0; slot = slot + 1 == kStages ? 0 : slot + 1) {
        wait_copies<kStages - 2>();
        __syncthreads();
        const ScoreMap score(p);
        Accumulator<kBlocks, kTileN> scores;
        scores.clear();
        multiply_abt(scores, q_tile.rows_from(warp_row), k_ring.tile(slot), [&] {
            const int free_slot = slot == 0 ? kStages - 1 : slot - 1;
            copies.start(p, k_ring.tile(free_slot), v_ring.tile(free_slot));
        });

        if constexpr (kSoftcap) scores.for_each([&](float& x, int, int) { x = score.bounded(x); });
        mask_tile(tiles.kind[0], [&](int kind) {
            const KeyTileWalk& walk = tiles.walk;
            scores.for_each([&](float& x, int row, int column) {
                if (!keep(kind, walk.g, walk.i0 + warp_row + row, tiles.n[0] * kTileN + column, walk.key_len)) x = -kInf;
            });
        });

        if constexpr (kLate > 0) multiply_ab(output, late, v_ring.tile(slot));
        softmax.raise(scores, output, score.factor, kSlack);
        tiles.fetch(kStages);  // not before: it would take registers beside all scores
#pragma unroll
        for (int depth = 0; depth < kPrompt / 16; ++depth) {
            Fragments<kBlocks, 16> probabilities;
            softmax.take(probabilities, scores, depth, score.factor);
            multiply_ab(output, probabilities, v_ring.tile(slot).rows_from(kLate + depth * 16));
        }
        if constexpr (kLate > 0) softmax.take(late, scores, kPrompt / 16, score.factor);
        copies.aim(p, tiles.walk, b, tiles.n[kStages - 1], tiles.n[kStages]);
        tiles.advance();
    }
    wait_copies<0>();

    __syncthreads();  // shows the late keys; without a tile to visit, none has yet followed the copy of Q into the staging rows
    if constexpr (kLate > 0) multiply_ab(output, late, v_ring.tile(slot));

    float lse[kBlocks][2];
    softmax.finish(output, lse, ScoreMap(p).factor, kSinkLogit ? p.sink_logit[h] : -kInf);
    const int token = load_sequence(p, b).q_begin + m * kTileM + warp_row;  // read again: one register less in the loop
    store_warp_rows(row_of(static_cast<Half*>(p.o), token, p.o_t, h, p.o_h), p.o_t, rows - warp_row,
                    q_tile.rows_from(warp_row), output);
    for_each_row(lse, [&](float value, int row) {
        if (warp_row + row < rows) p.lse[stats_index(p, token, h) + row] = value;
    });
}
