// Decode attention, one query token per sequence, for sm_80 and later (both families use it). Each block takes a share of the
// keys; the last block of a (sequence, head tile) to finish merges the partial results of all.
//
//   s_hj = score(q_h . k_j)    O_h = sum_j exp(s_hj - lse_h) v_j    lse_h = log(exp(sink_h) + sum_j exp(s_hj))
//
// A head tile is up to 16 query heads of one KV head: the rows of one mma tile, so K and V are read once for all of them (a
// group of more than 16 heads is several head tiles, of which all but the first find K and V in L2). The kernel is bound by
// memory, and at few keys by latency: a tile of kTileN keys is cut into one slice per warp, and each warp copies, waits for
// and consumes its own slices, kStages - 1 of them in flight, meeting the others only at the end.
//
//   grid    x = p.splits, the most shares that a row is cut into; y = head tiles, G ceil(H / G / 16); z = B     block  kThreads
//   Q       16 x D, shared by the warps        K, V   kSlice = kTileN / warps keys of each tile, per warp and stage
//   split_o [B, H, splits, D], split_lse [B, H, splits], split_arrivals [B, head tiles] (0 before the launch, 0 after it)
//
// The share. The visible tiles of the row are counted, and share x of `shares` takes those in [x, x + 1) * count / shares in
// visible order: long gaps cost nothing and the shares are even. Each of 32 lanes counts one part of the key range. A row with
// fewer tiles than splits has as many shares as tiles; the blocks beyond return. All of this follows from what device memory
// says at launch (lengths, query offset), so a captured launch serves while the query moves through the cache.
//
// Between small kernels the start of one costs about as much as its work: this one starts early, and lets the next one.
//
// A compact cache (p.slot_key not null): keys are slots in [0, key_len), in any order; slot_key[g * total_k + k_begin + slot] is
// the key's index or -1. Every slot is a candidate.
//
// The mask. All heads of a group share the row's mask, so a slice has one bit per key, tested by one lane each. Keys whose bit
// is 0 are not even read (their rows become zeros).
//
// Shared memory, bytes
//   Q          16 * D * 2
//   rings      warps * kStages * 2 * kSlice * D * 2     K and V slices; at the end what the merges need (MergeSpace), which
//                                                       is less
//
// Synchronisation. Q is the first group of copies, shown to all by a block barrier before the loop. A warp's slot is refilled
// after __syncwarp, when all its lanes are done with it; cp.async.wait_group and __syncwarp show a slice to all lanes of the
// warp. Beyond that, block barriers stand only around the merge of the warps, and around the one atomic addition by which a
// block learns that it is the last.
#include "params.cuh"
#include "tile/copy.cuh"
#include "tile/merge.cuh"
#include "tile/mma.cuh"
#include "tile/softmax.cuh"
#include "tile/stream.cuh"
#include "walk.cuh"

namespace lg {

constexpr int kRows = 16;  // query heads of a head tile
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kSlice = kTileN / kWarps;
static_assert(kTileN == kSlice * kWarps && (kSlice == 16 || kSlice == 32), "a warp's slice is 16 or 32 keys");
static_assert(kStages >= 2, "one slot is computed on while the others fill");

using QueryTile = SharedTile<kHeadDim>;
using SliceRing = SharedRing<kSlice, kHeadDim>;
constexpr int kRingsBytes = kWarps * kStages * 2 * SliceRing::kTileBytes;
constexpr int kDecodeSmemBytes = kRows * QueryTile::kRowBytes + kRingsBytes;
constexpr int kMostShares = 128;  // more cost more to merge than they gain

// What is in the rings' place once the keys are done: results of the warps, and the weights that a merging warp needs.
struct MergeSpace {
    static constexpr int kRowFloats = kHeadDim + 8;  // two rows apart by a quarter of the banks
    float output[kWarps][kRows][kRowFloats];
    float lse[kRows][kWarps];
    float weights[kWarps][kMostShares];

    // Row `row` of the warps' results, merged by this warp as `merge_row` does.
    template <class Store>
    LG_DEVICE float merge_warps(int row, float extra, Store store) {
        float* own = weights[threadIdx.x / kWarpSize];
        return merge_row<kHeadDim, kWarps>(own, lse[row], output[0][row], kRows * kRowFloats, kWarps, extra, store);
    }
};
static_assert(sizeof(MergeSpace) <= kRingsBytes && kWarps <= kMostShares, "the merges fit in the rings");

LG_DEVICE int share_count(const Params& p, int tiles) {
    return max_int(1, min_int(tiles, min_int(p.splits, kMostShares)));
}

// Moves `walk` to the first tile of the share `split` and returns how many tiles the share has; `shares` becomes the number of
// shares. Same in all lanes.
LG_DEVICE int take_share(const Params& p, KeyTileWalk& walk, int split, int& shares) {
    if constexpr (kListed) {
        const int tiles = walk.run_end - walk.tile;
        shares = share_count(p, tiles);
        const Share share(tiles, split, shares);
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
        const int tiles = __shfl_sync(kAllLanes, through, kWarpSize - 1);
        shares = share_count(p, tiles);
        const Share share(tiles, split, shares);
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
    int shares;            // of the row's tiles; a block whose split is not below has nothing to do
    int remaining;         // tiles of the share not yet yielded
    const int* slot_key;   // of this KV head and sequence; null when keys are in order
    int ahead[2];          // this lane's entry of slot_key in the next two slices, loaded while earlier ones are computed

    LG_DEVICE SliceWalk(const Params& p, int b, int g, const Sequence& seq, int split)
        : tiles(p, b, g, 0, seq.q_offset, seq.q_offset + 1, seq.k_len), slot_key(p.slot_key), ahead{-1, -1} {
        if (slot_key == nullptr) {
            remaining = take_share(p, tiles, split, shares);
        } else {
            slot_key += i64(g) * p.total_k + seq.k_begin;
            const int candidates = ceil_div(seq.k_len, kTileN);
            shares = share_count(p, candidates);
            const Share share(candidates, split, shares);
            tiles.tile = share.first;
            remaining = share.count;
            ahead[0] = load_slot_key(tiles.tile);
            ahead[1] = load_slot_key(tiles.tile + 1);
        }
    }

    LG_DEVICE int first_of(int tile) const { return tile * kTileN + threadIdx.x / kWarpSize * kSlice; }

    // The index of this lane's key in the slice of `tile`, -1 for an empty slot or none.
    LG_DEVICE int load_slot_key(int tile) const {
        const int lane = threadIdx.x % kWarpSize, slot = first_of(tile) + lane;
        return lane < kSlice && slot < tiles.key_len ? slot_key[slot] : -1;
    }

    LG_DEVICE bool next(int& first, int& seen) {
        if (remaining <= 0) return false;
        --remaining;
        if (slot_key == nullptr) {
            int n, kind;
            tiles.next(n, kind);
            first = first_of(n);
            seen = kind == kFull ? -1 : int(__ballot_sync(kAllLanes, sees_key(kind, first)));
        } else {
            first = first_of(tiles.tile++);
            const int key = ahead[0];
            ahead[0] = ahead[1];
            ahead[1] = load_slot_key(tiles.tile + 1);
            seen = int(__ballot_sync(kAllLanes, key >= 0 && visible(tiles.g, tiles.i0, key)));
        }
        return true;
    }

    // Whether the row sees this lane's key of the slice.
    LG_DEVICE bool sees_key(int kind, int first) const {
        const int lane = threadIdx.x % kWarpSize, j = first + lane;
        return lane < kSlice && j < tiles.key_len && keep(kind, tiles.g, tiles.i0, j, tiles.key_len);
    }
};

// What this warp's keys give, into the rows that exist of its part of the merge space. `lse` is per row.
LG_DEVICE void store_part(MergeSpace& space, Accumulator<1, kHeadDim>& output, const float (&lse)[1][2], int rows) {
    const int warp = threadIdx.x / kWarpSize;
    output.for_each([&](float& x, int row, int column) {
        if (row < rows) space.output[warp][row][column] = x;
    });
    for_each_row(lse, [&](float value, int row) {
        if (row < rows) space.lse[row][warp] = value;
    });
}

// Where the row of query head h goes, once: rounded output and log-sum-exp. Merging is `merge_row`.
struct FinalRow {
    Half* o;
    float* lse;
    float sink;  // the learned logit, which enters the last merge of a row

    LG_DEVICE FinalRow(const Params& p, const Sequence& seq, int h)
        : o(static_cast<Half*>(p.o) + seq.q_begin * p.o_t + h * p.o_h), lse(p.lse + i64(h) * p.total_q + seq.q_begin),
          sink(kSinkLogit ? p.sink_logit[h] : -kInf) {}

    LG_DEVICE void store(int column, float4 x) const {
        *reinterpret_cast<uint2*>(o + column) = {pack_half2(x.x, x.y), pack_half2(x.z, x.w)};
    }
};

// Merges what the warps have of row `row`, query head h, by this warp: into O when this block has all keys of the
// row, else into the workspace.
LG_DEVICE void finish_row(const Params& p, MergeSpace& space, const Sequence& seq, int b, int h, int row, int split, bool whole) {
    const FinalRow out(p, seq, h);
    const i64 part = (i64(b) * p.heads + h) * p.splits + split;
    float* part_o = p.split_o + part * kHeadDim;
    const float total = space.merge_warps(row, whole ? out.sink : -kInf, [&](int column, float4 x) {
        if (whole) {
            out.store(column, x);
        } else {
            *reinterpret_cast<float4*>(part_o + column) = x;
        }
    });
    if (threadIdx.x % kWarpSize == 0) *(whole ? out.lse : p.split_lse + part) = total;
}

// Merges the shares of query head h, by this warp.
LG_DEVICE void merge_shares(const Params& p, MergeSpace& space, const Sequence& seq, int b, int h, int shares) {
    const i64 first = (i64(b) * p.heads + h) * p.splits;
    const FinalRow out(p, seq, h);
    float* own = space.weights[threadIdx.x / kWarpSize];
    const float total = merge_row<kHeadDim, 16>(own, p.split_lse + first, p.split_o + first * kHeadDim, kHeadDim, shares, out.sink,
                                                [&](int column, float4 x) { out.store(column, x); });
    if (threadIdx.x % kWarpSize == 0) *out.lse = total;
}

}  // namespace lg

extern "C" __global__ void __launch_bounds__(lg::kThreads, 1) attention_decode(const __grid_constant__ lg::Params p) {
    using namespace lg;
    let_successor_start();
    wait_for_predecessor();
    const int split = blockIdx.x, b = blockIdx.z;
    const int group = p.heads / p.kv_heads, tiles_of_group = ceil_div(group, kRows);
    const int g = blockIdx.y / tiles_of_group, past = blockIdx.y % tiles_of_group * kRows;
    const int first_head = g * group + past, rows = min_int(kRows, group - past);
    const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
    const Sequence seq = load_sequence(p, b);
    if (seq.q_len <= 0) return;

    const QueryTile q_tile{shared_address(dynamic_shared)};
    const u32 rings = q_tile.rows_from(kRows).base;
    const SliceRing k_ring{rings + warp * kStages * 2 * SliceRing::kTileBytes};
    const SliceRing v_ring{k_ring.base + kStages * SliceRing::kTileBytes};
    MergeSpace& merge = *reinterpret_cast<MergeSpace*>(dynamic_shared + kRows * QueryTile::kRowBytes);
    const SliceWalk walk(p, b, g, seq, split);
    if (split >= walk.shares) return;
    const ScoreMap score(p);

    copy_tile_async<kRows>(q_tile, query_row(p, seq.q_begin, first_head), p.q_h, rows);
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
        softmax.raise(scores, output, score.factor);
#pragma unroll
        for (int depth = 0; depth < kSlice / 16; ++depth) {
            Fragments<1, 16> probabilities;
            softmax.take(probabilities, scores, depth, score.factor);
            multiply_ab(output, probabilities, v_ring.tile(slot).rows_from(depth * 16));
        }
        slices.advance();
    }
    wait_copies<0>();
    __syncthreads();  // the rings are free for the merge

    float lse[1][2];
    softmax.finish(output, lse, score.factor, -kInf);
    store_part(merge, output, lse, rows);
    __syncthreads();
    for (int row = warp; row < rows; row += kWarps) {
        finish_row(p, merge, seq, b, first_head + row, row, split, walk.shares == 1);
    }
    if (walk.shares > 1 && arrive_last(p.split_arrivals + b * gridDim.y + blockIdx.y, walk.shares)) {
        for (int row = warp; row < rows; row += kWarps) merge_shares(p, merge, seq, b, first_head + row, walk.shares);
    }
}
