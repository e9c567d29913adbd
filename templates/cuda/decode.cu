// Decode attention, one query token per sequence, for sm_80 and later (both families use it). First of two kernels: each block
// takes a share of the keys and writes a partial result; `decode_combine.cu` merges them.
//
//   s_hj = score(q_h . k_j)    O_h = sum_j exp(s_hj - lse_h) v_j    lse_h = log(sum_j exp(s_hj))    over the block's keys j
//
// The query heads of a KV head are the rows of one 16-row mma tile, so K and V are read once for all of them (groups of more
// than 16 heads take another pass). The kernel is bound by memory: a tile of kTileN keys is cut into one slice per warp, and
// each warp copies, waits for and consumes its own slices, kStages - 1 of them in flight, meeting the others only at the end.
//
//   grid    x = p.splits; y = G; z = B                                                       block  kThreads
//   Q       16 x D, shared by the warps        K, V   kSlice = kTileN / warps keys of each tile, per warp and stage
//
// The share. The visible tiles of the row are counted, and split x takes those in [x, x + 1) * count / splits in visible
// order: long gaps cost nothing and the shares are even. Each of 32 lanes counts one part of the key range.
//
// A compact cache (p.slot_key not null): keys are slots in [0, key_len), in any order; slot_key[g * total_k + k_begin + slot] is the
// key's index or -1. Every slot is a candidate.
//
// The mask. All heads of a group share the row's mask, so a slice has one bit per key, tested by one lane each. Keys whose bit
// is 0 are not even read (their rows become zeros).
//
// Shared memory, bytes
//   Q          16 * D * 2
//   rings      warps * kStages * 2 * kSlice * D * 2     K and V slices; at the end the outputs and log-sum-exps of the warps,
//                                                       warps * 16 * (D + 1) * 4, which is less
//
// Synchronisation. Q is the first group of copies, shown to all by a block barrier before the loop. A warp's slot is refilled after __syncwarp, when all its lanes are done with it; cp.async.wait_group and
// __syncwarp show a slice to all lanes of the warp. Beyond that, block barriers
// stand only around the merge of the warps.
#include "params.cuh"
#include "tile/copy.cuh"
#include "tile/merge.cuh"
#include "tile/mma.cuh"
#include "tile/softmax.cuh"
#include "tile/stream.cuh"
#include "walk.cuh"

namespace lg {

constexpr int kRows = 16;  // query heads of a pass
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kSlice = kTileN / kWarps;
static_assert(kTileN == kSlice * kWarps && (kSlice == 16 || kSlice == 32), "a warp's slice is 16 or 32 keys");
static_assert(kStages >= 2, "one slot is computed on while the others fill");

using QueryTile = SharedTile<kHeadDim>;
using SliceRing = SharedRing<kSlice, kHeadDim>;
constexpr int kRingsBytes = kWarps * kStages * 2 * SliceRing::kTileBytes;
constexpr int kDecodeSmemBytes = kRows * QueryTile::kRowBytes + kRingsBytes;
static_assert(kWarps * kRows * (kHeadDim + 1) * 4 <= kRingsBytes, "the merge of the warps fits in their rings");

// Moves `walk` to the first tile of share `split` of `splits` and returns how many tiles the share has. Same in all lanes.
LG_DEVICE int take_share(KeyTileWalk& walk, int split, int splits) {
    if constexpr (kListed) {
        const Share share(walk.run_end - walk.tile, split, splits);
        walk.tile += share.first;
        return share.count;
    } else {
        const int lane = threadIdx.x % kWarpSize;
        const int part = ceil_div(ceil_div(walk.key_end, kTileN), kWarpSize);  // tiles of the key range for each lane
        KeyTileWalk mine = walk;
        mine.restrict_to(lane * part, (lane + 1) * part);
        const int own = mine.skip(part);
        int through = own;  // visible tiles in the parts up to this lane's
        for (int distance = 1; distance < kWarpSize; distance *= 2) {
            const int other = __shfl_up_sync(kAllLanes, through, distance);
            if (lane >= distance) through += other;
        }
        const Share share(__shfl_sync(kAllLanes, through, kWarpSize - 1), split, splits);
        // The last part that starts at or before the first tile of the share holds it.
        const int before = through - own;
        const int holder = 31 - __clz(__ballot_sync(kAllLanes, before <= share.first));
        walk.tile = walk.run_end = holder * part;
        walk.skip(share.first - __shfl_sync(kAllLanes, before, holder));
        return share.count;
    }
}

// The slices of one warp: yields the first key (or slot) of each and, as bits, which of its keys the row sees.
struct SliceWalk {
    KeyTileWalk tiles;
    int remaining;         // tiles of the share not yet yielded
    const int* slot_key;   // of KV head g; null when keys are in order

    LG_DEVICE SliceWalk(const Params& p, int b, int g, const Sequence& seq, int split)
        : tiles(p, b, g, 0, seq.q_offset, seq.q_offset + 1, seq.k_len),
          slot_key(p.slot_key == nullptr ? nullptr : p.slot_key + i64(g) * p.total_k + seq.k_begin) {
        if (slot_key == nullptr) {
            remaining = take_share(tiles, split, p.splits);
        } else {
            const Share share(ceil_div(seq.k_len, kTileN), split, p.splits);
            tiles.tile = share.first;
            remaining = share.count;
        }
    }

    LG_DEVICE bool next(int& first, int& seen) {
        if (remaining <= 0) return false;
        --remaining;
        int n, kind = kGeneral;
        if (slot_key == nullptr) {
            tiles.next(n, kind);
        } else {
            n = tiles.tile++;
        }
        first = n * kTileN + threadIdx.x / kWarpSize * kSlice;
        seen = kind == kFull ? -1 : int(__ballot_sync(kAllLanes, sees(kind, first)));
        return true;
    }

    // Whether the row sees this lane's key of the slice.
    LG_DEVICE bool sees(int kind, int first) const {
        const int lane = threadIdx.x % kWarpSize, j = first + lane;
        if (lane >= kSlice || j >= tiles.key_len) return false;
        if (slot_key == nullptr) return keep(kind, tiles.g, tiles.i0, j, tiles.key_len);
        return slot_key[j] >= 0 && visible(tiles.g, tiles.i0, slot_key[j]);
    }
};

}  // namespace lg

extern "C" __global__ void __launch_bounds__(lg::kThreads, 1) attention_decode(const __grid_constant__ lg::Params p) {
    using namespace lg;
    const int split = blockIdx.x, g = blockIdx.y, b = blockIdx.z;
    const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
    const int group = p.heads / p.kv_heads;
    const Sequence seq = load_sequence(p, b);
    if (seq.q_len <= 0) return;

    const QueryTile q_tile{shared_address(dynamic_shared)};
    const u32 rings = q_tile.rows_from(kRows).base;
    const SliceRing k_ring{rings + warp * kStages * 2 * SliceRing::kTileBytes};
    const SliceRing v_ring{k_ring.base + kStages * SliceRing::kTileBytes};
    const SliceWalk walk(p, b, g, seq, split);
    const ScoreMap score(p);

    for (int head = 0; head < group; head += kRows) {
        copy_tile_async<kRows>(q_tile, query_row(p, seq.q_begin, g * group + head), p.q_h, group - head);
        commit_copies();
        TileStream<SliceWalk, kStages> slices(walk);
        const auto start_copy = [&](int place, int slot) {
            const int first = slices.n[place];
            const u32 seen = slices.kind[place];
            const auto is_seen = [=](int row) { return (seen >> row & 1) != 0; };
            if (first >= 0) {
                copy_rows_async<kSlice, kWarpSize>(k_ring.tile(slot), key_row(p, seq.k_begin + first, g), p.k_t, lane, is_seen);
                copy_rows_async<kSlice, kWarpSize>(v_ring.tile(slot), value_row(p, seq.k_begin + first, g), p.v_t, lane, is_seen);
            }
            commit_copies();
        };
#pragma unroll
        for (int stage = 0; stage < kStages - 1; ++stage) {
            slices.fetch(stage);
            start_copy(stage, stage);
        }

        wait_copies<kStages - 1>();
        __syncthreads();

        OnlineSoftmax<1> softmax;
        Accumulator<1, kHeadDim> output;
        output.clear();

        for (int slot = 0; slices.n[0] >= 0; slot = slot + 1 == kStages ? 0 : slot + 1) {
            wait_copies<kStages - 2>();
            __syncwarp();
            slices.fetch(kStages - 1);
            start_copy(kStages - 1, slot == 0 ? kStages - 1 : slot - 1);

            Accumulator<1, kSlice> scores;
            scores.clear();
            multiply_abt(scores, q_tile, k_ring.tile(slot));
            const u32 seen = slices.kind[0];
            scores.for_each([&](float& x, int, int column) {
                x = (seen >> column & 1) != 0 ? score.bounded(x) : -kInf;
            });
            softmax.update(scores, output, score.factor);

            Fragments<1, kSlice> probabilities;
            to_fragments(probabilities, scores);
            multiply_ab(output, probabilities, v_ring.tile(slot));
            slices.advance();
        }
        wait_copies<0>();
        __syncthreads();  // the rings are free for the merge

        float lse[1][2];
        softmax.finish(output, lse, score.factor, -kInf);
        float* warp_output = reinterpret_cast<float*>(dynamic_shared + kRows * QueryTile::kRowBytes);  // [kWarps, kRows, D]
        float* warp_lse = warp_output + kWarps * kRows * kHeadDim;                                     // [kWarps, kRows]
        output.for_each([&](float& x, int row, int column) {
            warp_output[(warp * kRows + row) * kHeadDim + column] = x;
        });
        for_each_row(lse, [&](float value, int row) { warp_lse[warp * kRows + row] = value; });
        __syncthreads();

        const i64 out = (i64(split) * p.batch + b) * p.heads + g * group + head;  // row in split_o and split_lse
        for (int index = threadIdx.x; index < min_int(kRows, group - head) * kHeadDim; index += kThreads) {
            const int row = index / kHeadDim;
            const auto part_lse = [&](int part) { return warp_lse[part * kRows + row]; };
            const auto part_output = [&](int part) { return warp_output[part * kRows * kHeadDim + index]; };
            const float total = merged_lse(kWarps, -kInf, part_lse);
            p.split_o[out * kHeadDim + index] = merged_output(kWarps, total, part_lse, part_output);
            if (index % kHeadDim == 0) p.split_lse[out + row] = total;
        }
        __syncthreads();  // before the next pass refills Q and the rings
    }
}
