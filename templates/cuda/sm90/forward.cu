// Attention forward for Hopper (sm_90a): O and log-sum-exp of one query tile at a time.
//
//   S = Q K^T       s = scale S, capped, masked       P = exp(s - m), m the running row maximum       O = P V / rowsum(P)
//
// Warpgroup 0 produces: one thread of its first warp loads, one of its second walks ahead and tells the loader what. Warpgroups
// 1 .. kConsumers consume; consumer c owns rows [64 c, 64 c + 64) of the query tile. Registers of a consumer thread at D = 128,
// kTileN = 128: S 64, O 64, P 32.
//
//   walker                     loader                                  consumer
//     for each query tile        for each step                           for each query tile
//       for each key tile          if it starts a query tile:              wait Q; S_0 = Q K_0^T
//         wait step empty            wait Q empty; send tile, load Q       for each key tile n
//         send step                wait K empty; send (n, last?), load       free K_n (and Q after the last); softmax of S_n
//     send "no more tiles"         wait V empty; load                        wait O, free V_(n-1); rescale O where a maximum grew; P = S_n
//                                                                            unless it is the last:
//                                                                              my turn: issue S_(n+1) = Q K_(n+1)^T, O += P V_n; pass it
//                                                                              wait S_(n+1)
//                                                                          O += P V_last; write O and log-sum-exp
//
// A key tile is gathered from kPieces pieces of kPieceN keys, each with its own place, kind and box: with pieces of 64 the
// blocks of a stride fill a tile that is 128 wide. The last tile's second piece may be absent: masked, its V rows zero. A query
// tile that sees no key gets one key tile of which both are.
//
// Only the walker evaluates the pattern's bounds: each key tile's number and kind travel beside the data, so that the
// consumers' hot loop holds no integer code of the pattern, except the predicate itself in tiles of the general kind. The walk is
// a long chain of integer code, as long as a step of the consumers where each piece is a run of its own, and longer where a query
// tile begins: so it runs up to kSteps key tiles ahead.
//
// Shared memory (bytes; T = 2 D kTileN):   D 128, 128 x 128, 2 stages      D 64, 192 x 128, 2 stages
//   Q   two stages of 2 D kTileM                 65536                          49152
//   K   kStages T                                65536                          32768
//   V   kStages T                                65536                          32768
//   O   2 D kTileM                               32768                          24576
//   barriers, messages                             720                            720
//   plus 1024 to align the start                231120                         141008
//
// Synchronisation. Each ring stage has a `full` barrier (1 arrival, by the producer, plus the bytes announced) and an `empty`
// barrier (one arrival of each consumer warp). A message is an ordinary store before the producer's arrival on `full`, and is
// read between the wait on `full` and the arrival on `empty`: released and acquired by the barrier. (racecheck does not see
// through "each lane reads, the warp synchronises, one lane arrives"; with an arrival of each lane it finds nothing.)
// The message about a query tile is read until O is written, after Q was released: it has four slots for two stages of Q, and
// the fourth tile after it waits for this consumer to have released the second. O has its own buffer. Consumers take turns by
// named barriers 1 .. kConsumers (128 that wait + 128 that pass): while one runs its softmax the other's products occupy the
// tensor cores. All consumers see the same messages, hence take equally many turns. Barriers 8 .. are each consumer's own.
//
// Tails. Query rows past the end of the sequence are computed from whatever the box brought, and never stored: rows do not
// mix. Keys past the end are masked, and their V rows zeroed in shared memory (0 x NaN is NaN); masking replaces the score, so
// K needs no zeroing.
//
// Host contract
//   threads   128 (1 + kConsumers);  kTileM = 64 kConsumers;  kTileN = 128;  kStages a power of two;  dynamic shared memory lg::kForwardSmemBytes
//   grid      any number of blocks in x; the work is ceil(max_q / kTileM) H B tiles. min(tiles, multiprocessors) is the aim.
//   arguments Params p, TensorMap q, TensorMap k, TensorMap v, int* next_tile
//   maps      each [token, head, D], 16-bit, strides from Params; dims {D, heads, tokens}, box {64, 1, rows}, swizzle 128 B,
//             no interleave, out of bounds zero: q rows = kTileM over (H, total_q); k, v rows = kPieceN over (G, total_k)
//   next_tile one int, zero before the launch: tiles are then handed out as blocks finish; or null: every gridDim.x-th tile
#include "sm90/forward_producer.cuh"

namespace lg {

// ---- consumer -----------------------------------------------------------------------------------------------------------

using QueryOperand = KMajor<panel_bytes(kTileM)>;
using KeyOperand = KMajor<panel_bytes(kTileN)>;
using ValueOperand = MnMajor<panel_bytes(kTileN)>;

struct Consumer {
    const Params& p;
    const Shared& shared;
    int index;                       // 0 .. kConsumers - 1
    int thread;                      // 0 .. 127
    Ring<kQueryStages> q_at;
    Ring<kStages> at;                // of K; V is one stage behind
    float unit;                      // scores times this are in base 2

    LG_DEVICE int row() const { return index * 64 + thread / 32 * 16 + thread % 32 / 4; }
    LG_DEVICE int column() const { return thread % 4 * 2; }

    LG_DEVICE void wait_turn() const { named_barrier_sync(1 + index, 2 * kWarpgroup); }
    LG_DEVICE void pass_turn() const { named_barrier_arrive(1 + (index + 1) % kConsumers, 2 * kWarpgroup); }
    LG_DEVICE void sync_warpgroup() const { named_barrier_sync(8 + index, kWarpgroup); }

    // Next key tile: its messages. The K stage stays ours until released.
    LG_DEVICE void receive_keys(int (&messages)[kPieces]) const {
        shared.k.wait_full(at);
#pragma unroll
        for (int piece = 0; piece < kPieces; ++piece) messages[piece] = shared.keys[at.stage() * kPieces + piece];
    }

    LG_DEVICE QueryOperand queries() const { return QueryOperand(shared.query_stage(q_at.stage()) + index * 64 * kPanelRowBytes); }

    LG_DEVICE void issue_scores(float (&s)[64]) const {
        issue_product<kTileN, kHeadDim>(s, queries(), KeyOperand(shared.key_stage(at.stage())), kOverwrite);
    }
    LG_DEVICE void issue_output(float (&o)[kHeadDim / 2], const u32 (&weights)[kTileN / 4]) const {
        issue_product<kHeadDim, kTileN>(o, weights, ValueOperand(shared.value_stage(at.previous().stage())), kAdd);
    }

    LG_DEVICE void softmax(float (&s)[64], const int (&messages)[kPieces], const TileMessage& tile, SoftmaxRows& rows,
                           float (&factor)[2]) const {
        if constexpr (kSoftcap) cap_scores(s, p.scale / p.softcap);
        if ((messages[0] | messages[1]) & 3) mask(s, messages, tile);
        rows.update(s, factor, unit);
    }

    LG_DEVICE void mask(float (&s)[64], const int (&messages)[kPieces], const TileMessage& tile) const {
        u32 seen[kPieces] = {};
#pragma unroll 1
        for (int piece = 0; piece < kPieces; ++piece) {
            const int message = piece == 0 ? messages[0] : messages[1], j0 = first_key(message);
            seen[0] = seen[1];
            seen[1] = seen_bits(message & 3, tile.g, tile.index + row(), j0 + column(), j0, tile.key_len);
        }
        mask_scores<0>(s, seen[0]);
        mask_scores<32>(s, seen[1]);
    }

    // Waits for the V stage. At the end of the sequence, and where a piece is absent, its rows without a key become zeros.
    LG_DEVICE void receive_values() const {
        const Ring<kStages> v_at = at.previous();
        shared.v.wait_full(v_at);
        const int* keys = shared.real_keys + v_at.stage() * kPieces;
        if (min_int(keys[0], keys[1]) >= kPieceN) return;
#pragma unroll 1
        for (int piece = 0; piece < kPieces; ++piece) {
            const int first = piece * kPieceN;
            zero_rows<kTileN>(shared.value_stage(v_at.stage()), first + keys[piece], thread, first + kPieceN);
        }
        sync_warpgroup();
    }

    // S of the received key tile is done with K, and with Q if it was the last.
    LG_DEVICE void release_scores_operands(int first_message) const {
        shared.k.release(at);
        if (first_message & kLast) shared.q.release(q_at);
    }

    // All key tiles of the query tile.
    LG_DEVICE void attend(const TileMessage& tile, float (&o)[kHeadDim / 2], SoftmaxRows& rows) {
        float s[64];
        u32 weights[kTileN / 4];
        float factor[2];
        int messages[kPieces];
        receive_keys(messages);
        issue_scores(s);
        wgmma_wait<0>();
        pin(s);
        clear(o);
        for (bool first = true;; first = false) {
            release_scores_operands(messages[0]);
            softmax(s, messages, tile, rows, factor);
            if (!first) {
                // Inside the branch ptxas cannot move this wait up before the softmax.
                wgmma_wait<0>();
                pin(o);
                pin(weights);
                shared.v.release(at.previous());
                rescale_rows(o, factor);
            }
            at.advance();
            pack_fragment(weights, s);
            if (messages[0] & kLast) break;
            receive_keys(messages);
            wait_turn();
            issue_scores(s);
            receive_values();
            issue_output(o, weights);
            pass_turn();
            wgmma_wait<1>();
            pin(s);
        }
        receive_values();
        issue_output(o, weights);
        wgmma_wait<0>();
        pin(o);
        shared.v.release(at.previous());
    }

    // Writes this consumer's 64 rows.
    LG_DEVICE void write(const TileMessage& tile, float (&o)[kHeadDim / 2], SoftmaxRows& rows) const {
        const int head = tile.head, token = tile.token, tile_rows = tile.rows;
        const float sink = kSinkLogit ? p.sink_logit[head] : 0.0f;
        float factor[2], lse[2];
        for (int r = 0; r < 2; ++r) rows.finish(r, unit, sink, factor[r], lse[r]);
        if (thread % 4 == 0) {
            float* out = p.lse + i64(head) * p.total_q + token + row();
            if (row() < tile_rows) out[0] = lse[0];
            if (row() + 8 < tile_rows) out[8] = lse[1];
        }
        scale_rows(o, factor);
        u32 packed[kHeadDim / 4];
        pack_fragment(packed, o);
        const u32 slice = shared.start + kOutputAt + index * 64 * kPanelRowBytes;
        sync_warpgroup();  // the previous tile's output has been read
        store_fragment<kHeadDim>(slice, panel_bytes(kTileM), thread / 32 * 16, packed);
        sync_warpgroup();
        Half* out = static_cast<Half*>(p.o) + i64(token + index * 64) * p.o_t + head * p.o_h;
        copy_rows_out<kHeadDim>(slice, panel_bytes(kTileM), out, p.o_t, tile_rows - index * 64, thread);
    }

    LG_DEVICE void run() {
        if (index == kConsumers - 1) pass_turn();  // consumer 0 goes first
        for (;;) {
            shared.q.wait_full(q_at);
            // Read where it lies, which keeps it out of the registers.
            const TileMessage& tile = shared.tile_message(q_at);
            if (!tile.valid) return;
            float o[kHeadDim / 2];
            SoftmaxRows rows;
            rows.reset();
            attend(tile, o, rows);
            write(tile, o, rows);
            q_at.advance();
        }
    }
};

}  // namespace lg

extern "C" __global__ void __launch_bounds__(lg::kThreads, 1)
    attention_forward(const __grid_constant__ lg::Params p, const __grid_constant__ lg::TensorMap q_map,
                      const __grid_constant__ lg::TensorMap k_map, const __grid_constant__ lg::TensorMap v_map, int* next_tile) {
    using namespace lg;
    extern __shared__ char raw[];
    const Shared shared(raw);
    const int warpgroup = __shfl_sync(kAllLanes, threadIdx.x / kWarpgroup, 0);
    if (threadIdx.x == 0) {
        shared.q.init(1, 4 * kConsumers);
        shared.k.init(1, 4 * kConsumers);
        shared.v.init(1, 4 * kConsumers);
        shared.step.init(1, 1);
        barrier_init_done();
    }
    __syncthreads();
    if (warpgroup == 0) {
        registers_release<kProducerRegisters>();
        if (threadIdx.x == 0) {
            prefetch_map(q_map);
            prefetch_map(k_map);
            prefetch_map(v_map);
            Loader loader{p, q_map, k_map, v_map, shared};
            loader.run();
        } else if (threadIdx.x == kWarpSize) {
            Walker walker{p, shared};
            walker.run(next_tile);
        }
    } else {
        registers_claim<kConsumerRegisters>();
        Consumer consumer{p, shared, warpgroup - 1, int(threadIdx.x % kWarpgroup)};
        consumer.unit = score_unit(p);
        consumer.run();
    }
}
