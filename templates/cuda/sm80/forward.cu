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
// Shared memory, bytes
//   Q          kTileM * D * 2                   at the end the staging area of O
//   K ring     kStages * kTileN * D * 2
//   V ring     kStages * kTileN * D * 2
//
// Synchronisation. Step t uses slot t mod kStages, whose copies are one group. The wait leaves the newest kStages - 2 groups
// unfinished, that is, step t's is done; the barrier behind it shows the data to all warps and says that all are done with
// step t - 1, whose slot takes the copies of step t + kStages - 1. Q comes with the first group; its rows are read and
// overwritten by their own warp only.
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

using QueryTile = SharedTile<kHeadDim>;
using KeyRing = SharedRing<kTileN, kHeadDim>;
constexpr int kForwardSmemBytes = kTileM * QueryTile::kRowBytes + 2 * kStages * KeyRing::kTileBytes;

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
    TileStream<KeyTileWalk, kStages> tiles({p, b, g, m, i0, i0 + rows, seq.k_len});
    const auto start_copy = [&](int place, int slot) {
        if (tiles.n[place] >= 0) {
            // Read and computed again: fewer registers in the loop.
            const int j = tiles.n[place] * kTileN, token = p.cu_k[opaque(b)] + j, keys = tiles.walk.key_len - j;
            copy_tile_async<kTileN>(k_ring.tile(slot), key_row(p, token, opaque(tiles.walk.g)), p.k_t, keys);
            copy_tile_async<kTileN>(v_ring.tile(slot), value_row(p, token, opaque(tiles.walk.g)), p.v_t, keys);
        }
        commit_copies();
    };

    copy_tile_async<kTileM>(q_tile, query_row(p, first_token, h), p.q_t, rows);
#pragma unroll
    for (int stage = 0; stage < kStages - 1; ++stage) {
        tiles.fetch(stage);
        start_copy(stage, stage);
    }

    OnlineSoftmax<kBlocks> softmax;
    Accumulator<kBlocks, kHeadDim> output;
    output.clear();

    for (int slot = 0; tiles.n[0] >= 0; slot = slot + 1 == kStages ? 0 : slot + 1) {
        wait_copies<kStages - 2>();
        __syncthreads();
        const ScoreMap score(p);
        Accumulator<kBlocks, kTileN> scores;
        scores.clear();
        multiply_abt(scores, q_tile.rows_from(warp_row), k_ring.tile(slot));

        // Behind the first product: before it, ptxas runs out of registers.
        tiles.fetch(kStages - 1);
        start_copy(kStages - 1, slot == 0 ? kStages - 1 : slot - 1);

        if constexpr (kSoftcap) scores.for_each([&](float& x, int, int) { x = score.bounded(x); });
        mask_tile(tiles.kind[0], [&](int kind) {
            const KeyTileWalk& walk = tiles.walk;
            scores.for_each([&](float& x, int row, int column) {
                if (!keep(kind, walk.g, walk.i0 + warp_row + row, tiles.n[0] * kTileN + column, walk.key_len)) x = -kInf;
            });
        });
        softmax.raise(scores, output, score.factor);
#pragma unroll
        for (int depth = 0; depth < kTileN / 16; ++depth) {
            Fragments<kBlocks, 16> probabilities;
            softmax.take(probabilities, scores, depth, score.factor);
            multiply_ab(output, probabilities, v_ring.tile(slot).rows_from(depth * 16));
        }
        tiles.advance();
    }
    wait_copies<0>();

    __syncthreads();  // without a tile to visit, no barrier has yet followed the copy of Q into the staging rows

    float lse[kBlocks][2];
    softmax.finish(output, lse, ScoreMap(p).factor, kSinkLogit ? p.sink_logit[h] : -kInf);
    const int token = load_sequence(p, b).q_begin + m * kTileM + warp_row;  // read again: one register less in the loop
    store_warp_rows(row_of(static_cast<Half*>(p.o), token, p.o_t, h, p.o_h), p.o_t, rows - warp_row,
                    q_tile.rows_from(warp_row), output);
    for_each_row(lse, [&](float value, int row) {
        if (warp_row + row < rows) p.lse[stats_index(p, token, h) + row] = value;
    });
}
