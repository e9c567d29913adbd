// Attention backward for Hopper (sm_90a), fused: one pass over the tiles gives dK, dV and dQ. A block works on one unit after
// another: two pieces of 64 keys and the query tiles that see them (tile/sm90_key_unit.cuh).
//
//   S^T = K Q^T     P^T = exp(s - lse)     dP^T = V dO^T     dS^T = P^T (dP^T - delta)  [softcap: times 1 - (s / cap)^2]
//   dV += P^T dO        dK += dS^T Q        dQ_tile = dS K, added to dq_accum        dK and dQ are scaled once, at the end
//
// Warpgroup 0 produces, warpgroups 1, 2 consume. Consumer c owns the 64 keys of piece c: its S^T, dP^T and the accumulators
// dK, dV stay in registers, P^T and dS^T go from registers straight into the next products. Only dS crosses between the consumers,
// through shared memory, because dQ sums over both pieces: consumer c then makes one 64 x 64 piece of dQ (D 128: all 64
// queries, columns 64 c ..; D 64: queries 64 c .., all columns). A consumer whose piece a query tile does not see gives zeros and
// makes its share of dQ. Query heads of a group follow one another inside a near unit, so that dK and dV never leave the registers.
//
//   producer warp                                      consumer
//     for each ticket that holds a unit                  for each unit
//       for each head, each query tile m of the walk       wait K, V; zero rows past the last key
//         wait Q empty;  send (m, kinds, head), load Q     for each message up to the last of the unit
//         wait dO empty; load dO                             wait Q;  issue S^T = K Q^T - lse
//         write -lse and -delta of the rows                  wait dO; issue dP^T = V dO^T - delta
//         after the first: wait K, V empty; load them        wait S^T;  P^T = exp2(unit S^T), masked;  issue dV += P^T dO
//     send "no more units"                                   wait dP^T; dS^T = P^T dP^T
//                                                            dS to shared memory;  meet the other consumer
//   adding warp                                              issue dQ = dS K;  issue dK += dS^T Q
//     for each message                                       wait dV, free dO;  wait dQ, stage it;  wait dK, free Q
//       free it;  claim dQ of the tile, or wait for who did   free K, V;  write dV, dK (or add them to the sums of the sharers)
//       each piece staged: store it in dq_accum, if the claim is ours, else add it
//       the tile before is read: offer its staging area
//
// Products and loads from shared memory pass through one queue in order: a load asked for after a product waits until all of that
// product's operands are read. So S^T and dP^T begin with -lse and -delta in their accumulators, and nothing is loaded between
// the issue of S^T and that of dV.
//
// Shared memory (bytes), D 128, 64 x 128          D 64, 128 x 128
//   K, V      2 D kTileN each     65536              32768
//   Q, dO     2 stages each       65536              65536
//   dS        2 buffers           32768              65536     [key][query]: rows of 64 queries, swizzled like a panel
//   dQ        2 areas of 2 pieces 65536              65536     floats on their way to dq_accum; 64 rows of dK or dV
//   -lse, -delta  2 stages         1024               2048
//   barriers, messages, units       416                416
//   in all                       230816             231840
//
// Synchronisation. Rings as in the forward: `full` of Q has 33 arrivals (the bytes' announcer and 32 lanes that wrote lse and
// delta), of dO one; `empty` has one for each consumer warp, of Q one more for the adding warp, which reads the message. K and
// V are a ring of one stage. dS has two buffers: a consumer writes buffer j mod 2 before the meeting of step j, both read it
// after. Nobody overwrites it before step j + 2, that is after the meeting of step j + 1, which each consumer reaches only
// when its product of step j is complete. A consumer that sees nothing in a step does not wait for dO: the other has before
// they meet. There is a staging area for even messages and one for odd ones, so that the adding warp, which waits for memory, may
// be a tile behind. They change hands by named barriers: the adding warp offers an area when the copy engine has read the tile
// before, and the consumers give each piece back when it is there. After the last message of a unit it says when all is read, and
// dK and dV go by way of the first area. A unit's description is read until its dK is written; meanwhile the producer may have
// sent the next unit and one message of the one after: four descriptions are enough.
//
// (racecheck does not see through "each lane reads, the warp synchronises, one lane arrives" at the `empty` barriers; with an
// arrival of each lane it finds nothing.)
//
// Order. dQ of a query tile is added up by many blocks, in whatever order they come. The first stores its share, so that
// nobody has to clear the sums: dq_turn says whether one has come, and the next wait until it is stored. The claim is made while
// the piece is: those who come meanwhile fall back by a step, and do not add to the same tile all at once. The ordered variant
// (kOrdered) gives the same bits in every run: there dq_turn holds the number (and one) of the key tile that added last to the
// query tile, and the adding warp waits for the next key tile above its own that the query tile sees. Tickets go from the last
// key tile to the first, so a block waits only for tickets below its own, and the walks, which begin at the diagonal, follow
// one another two steps apart.
//
// Tails. Rows of Q and dO past the end of the sequence become zeros in shared memory and get -lse = -inf, so P = 0 there; so do
// rows that saw no key (lse = -inf). Rows of K and V past the end become zeros, and their P is masked: no NaN of a neighbour
// meets a zero weight. dQ rows past the end go to the padding of dq_accum.
//
// Host contract
//   threads   384;  kTileN = 128;  kTileM = 64 for D 128, 128 for D 64;  kConsumers = 2;  shared memory lg::kBackwardSmemBytes
//   grid      any number of blocks in x; work_units(p) tickets. min(tickets, multiprocessors) is the aim.
//   arguments Params p, TensorMap q, TensorMap k, TensorMap v, TensorMap d_o, int* next_ticket (zero before the launch)
//   maps      each [token, head, D], 16-bit, strides from Params; dims {D, heads, tokens}, box {64, 1, rows}, swizzle 128 B,
//             no interleave, out of bounds zero: q, d_o rows = kTileM over (H, total_q); k, v rows = kPieceN over (G, total_k)
//   before    delta filled by attention_backward_delta; dq_turn zero; dq_accum 16-byte aligned. Sizes in tile/dq_sums.cuh
//   far       far_pairs: at least half the far pieces of any KV head of any sequence, or 0 if all have none (kOrdered: always).
//             far_slot[b]: slots of earlier sequences, each with as many as its far pieces, if parts_of(q_len) H / G > 1.
//             dkv_sums [slots G][2][64 D] and dkv_shares [slots G] zero
//   after     attention_backward_convert_dq
#include "sm90/backward_feed.cuh"

namespace lg {

using KeyRows = KMajor<panel_bytes(kTileN)>;       // K or V, summed over D
using QueryRows = KMajor<panel_bytes(kTileM)>;     // Q or dO, summed over D
using QueryColumns = MnMajor<panel_bytes(kTileM)>; // Q or dO, summed over queries
using KeyColumns = MnMajor<panel_bytes(kTileN)>;   // K or dS, summed over keys

struct Consumer {
    static constexpr int kScores = kTileM / 2;     // floats of S^T a thread
    static constexpr int kSums = kHeadDim / 2;     // floats of dK a thread
    // A softcap bends S^T before lse is taken off, and leaves no registers for delta.
    static constexpr bool kAccumulatorsStart = !kSoftcap;
    // The slope of a softcap takes, at D 64, the registers in which P^T is an operand: dV must be done before it.
    static constexpr bool kSlopeNeedsRegisters = kSoftcap && kHeadDim == 64;

    const Params& p;
    const Shared& shared;
    int index;                                     // 0, 1
    int thread;                                    // 0 .. 127
    Ring<kQueryStages> at;
    Ring<1> unit_at;

    LG_DEVICE int column() const { return thread % 4 * 2; }
    LG_DEVICE void sync_warpgroup() const { named_barrier_sync(kWarpgroupOnly + index, kWarpgroup); }
    LG_DEVICE void meet_consumers() const { named_barrier_sync(kMeeting, kConsumers * kWarpgroup); }
    LG_DEVICE void await_staging() const { named_barrier_sync(staging_offered(index, at.stage()), kStagingThreads); }
    LG_DEVICE void fill_staging() const { named_barrier_arrive(staging_filled(index, at.stage()), kStagingThreads); }
    // All that was staged is read.
    LG_DEVICE void await_read() const { named_barrier_sync(kStagingRead + index, kStagingThreads); }
    LG_DEVICE const TileMessage& message() const { return shared.message(at); }
    LG_DEVICE const KeyUnit& unit() const { return shared.unit(Ring<1>{u32(opaque(int(unit_at.count)))}); }

    // A consumer zeroes the rows of its own piece that have no key. The other reads them after the first meeting.
    LG_DEVICE void receive_keys() const {
        shared.kv.wait_full(unit_at);
        const int keys = unit().keys(index);
        if (keys < kPieceN) {
            zero_rows<kTileN>(shared.keys(), index * kPieceN + keys, thread, (index + 1) * kPieceN);
            zero_rows<kTileN>(shared.values(), index * kPieceN + keys, thread, (index + 1) * kPieceN);
            sync_warpgroup();
        }
    }
    LG_DEVICE void zero_query_tail(int rows) const {
        shared.d_o.wait_full(at);
        zero_rows<kTileM>(shared.queries(at.stage()), rows, thread);
        zero_rows<kTileM>(shared.out_grads(at.stage()), rows, thread);
        sync_warpgroup();
    }

    // Each column of an accumulator from the value of its query.
    LG_DEVICE void start_from(float (&acc)[kScores], const float* values) const {
        const u32 mine = shared_address(values + at.stage() * kTileM + column());
#pragma unroll
        for (int e = 0; e < kScores; e += 2) load_shared(acc[e], acc[e + 1], mine + element_column(e) * 4);
    }

    // P^T from S^T - lse, in place. With a softcap from S^T, whose lse is taken off here.
    LG_DEVICE void weigh(float (&s)[kScores], int kind) const {
        const float unit = exponent_unit(p);
        const float* minus_lse = shared.minus_lse + at.stage() * kTileM + column();
        if constexpr (kSoftcap) cap_scores(s, p.scale / p.softcap);
        if (kind != kFull) mask_transposed(s, kind);
#pragma unroll
        for (int e = 0; e < kScores; ++e) {
            if constexpr (kSoftcap) s[e] += minus_lse[element_column(e)];
            s[e] = exp2_approx(s[e] * unit);
        }
    }

    // Scores that do not count become -inf: their exponential is exactly 0. Rows are keys, columns are queries.
    LG_DEVICE void mask_transposed(float (&s)[kScores], int kind) const {
        const KeyUnit& unit = this->unit();
        const int key = unit.first[index] + thread / 32 * 16 + thread % 32 / 4;
        const int query = unit.s.q_offset + message().first + column(), key_len = unit.s.k_len;
        if (kind == kEdge) {
            // key <= query + column offset, and the key exists
            const int first[2] = {key < key_len ? key - query : kNone, key + 8 < key_len ? key + 8 - query : kNone};
#pragma unroll
            for (int e = 0; e < kScores; ++e) {
                if (element_column(e) < first[element_row(e)]) s[e] = -kInf;
            }
        } else {
#pragma unroll
            for (int half = 0; half < kScores / 32; ++half) {
                const u32 bits = visible_bits_transposed(unit.g, query + half * 64, key, key_len);
#pragma unroll
                for (int e = 0; e < 32; ++e) {
                    if (!((bits >> e) & 1u)) s[32 * half + e] = -kInf;
                }
            }
        }
    }

    // dS^T, packed, from P^T and dP^T - delta. With a softcap from dP^T, whose delta is taken off here.
    LG_DEVICE void differentiate(u32 (&ds)[kScores / 2], const float (&s)[kScores], const float (&dp)[kScores]) const {
        const int columns = kSoftcap ? opaque(at.stage()) * kTileM + column() : 0;
#pragma unroll
        for (int e = 0; e < kScores; e += 2) {
            float g[2];
#pragma unroll
            for (int n = 0; n < 2; ++n) {
                if constexpr (kSoftcap) {
                    const int query = columns + element_column(e + n);
                    g[n] = s[e + n] * (dp[e + n] + shared.minus_delta[query]) * cap_slope(s[e + n], shared.minus_lse[query]);
                } else {
                    g[n] = s[e + n] * dp[e + n];
                }
            }
            ds[e / 2] = pack_half2(g[0], g[1]);
        }
    }

    // 1 - (s / cap)^2. The capped score is recovered from its weight, log2 P = unit s / cap - lse, because there are no
    // registers to keep it in; a weight of 0 has no slope, and must not meet its infinite logarithm.
    LG_DEVICE float cap_slope(float weight, float minus_lse) const {
        const float capped = log2_approx(weight) * reciprocal_approx(exponent_unit(p)) - minus_lse;
        return weight > 0.0f ? 1.0f - capped * capped : 0.0f;
    }

    // This consumer's 64 x 64 piece of dS K.
    LG_DEVICE void issue_dq(float (&dq)[32]) const {
        if constexpr (kHeadDim == 128) {
            issue_product<64, kTileN>(dq, KeyColumns(shared.ds(at.stage())), KeyColumns(shared.keys() + index * panel_bytes(kTileN)),
                                      kOverwrite);
        } else {
            issue_product<64, kTileN>(dq, KeyColumns(shared.ds(at.stage()) + index * panel_bytes(kTileN)), KeyColumns(shared.keys()),
                                      kOverwrite);
        }
    }

    // Hands the piece to the adding warp.
    LG_DEVICE void stage_dq(const float (&dq)[32]) const {
        await_staging();
#pragma unroll
        for (int c = 0; c < 8; ++c) {
            const u32 place = shared.staging(index, at.stage()) + (c * kWarpgroup + thread) * 16;
            store_shared(place, dq[4 * c], dq[4 * c + 1], dq[4 * c + 2], dq[4 * c + 3]);
        }
        fence_async_proxy();
        fill_staging();
    }

    LG_DEVICE void share_ds(const u32 (&ds)[kScores / 2]) const {
        store_fragment<kTileM>(shared.ds(at.stage()), panel_bytes(kTileN), index * 64 + thread / 32 * 16, ds);
        fence_async_proxy();
        meet_consumers();
    }

    // The next query tile. True if it is the last of its unit.
    LG_DEVICE bool step(float (&dk)[kSums], float (&dv)[kSums]) {
        shared.q.wait_full(at);
        float s[kScores], dp[kScores];
        if constexpr (kAccumulatorsStart) {
            start_from(s, shared.minus_lse);
            start_from(dp, shared.minus_delta);
        }
        const int kinds = message().kinds, kind = kinds >> (2 * index) & 3;
        const int rows = unit().s.q_len - message().first;
        if (kind == kAbsent) {
            step_unseen();
            return kinds & kLast;
        }
        const u32 my_rows = index * 64 * kPanelRowBytes;
        u32 ds[kScores / 2], weights[kScores / 2];
        if (rows < kTileM) zero_query_tail(rows);
        issue_product<kTileM, kHeadDim>(s, KeyRows(shared.keys() + my_rows), QueryRows(shared.queries(at.stage())),
                                        kAccumulatorsStart ? kAdd : kOverwrite);
        shared.d_o.wait_full(at);
        issue_product<kTileM, kHeadDim>(dp, KeyRows(shared.values() + my_rows), QueryRows(shared.out_grads(at.stage())),
                                        kAccumulatorsStart ? kAdd : kOverwrite);
        wgmma_wait<1>();
        pin(s);
        weigh(s, kind);
        pack_fragment(weights, s);
        // dV is issued before dP^T is waited for: ptxas would move that wait up, before the exponentials.
        issue_product<kHeadDim, kTileM>(dv, weights, QueryColumns(shared.out_grads(at.stage())), kAdd);
        wgmma_wait<kSlopeNeedsRegisters ? 0 : 1>();
        if constexpr (kSlopeNeedsRegisters) {
            pin(dv);
            pin(weights);
        }
        pin(dp);
        differentiate(ds, s, dp);
        share_ds(ds);
        float dq[32];
        issue_dq(dq);
        issue_product<kHeadDim, kTileM>(dk, ds, QueryColumns(shared.queries(at.stage())), kAdd);
        wgmma_wait<2>();
        if constexpr (!kSlopeNeedsRegisters) {
            pin(dv);
            pin(weights);
        }
        shared.d_o.release(at);
        wgmma_wait<1>();
        pin(dq);
        stage_dq(dq);
        wgmma_wait<0>();
        pin(dk);
        pin(ds);
        return kinds & kLast;
    }

    // A step of which the keys of this consumer have no part.
    LG_DEVICE void step_unseen() const {
        const u32 ds[kScores / 2] = {};
        share_ds(ds);
        shared.d_o.release(at);
        float dq[32];
        issue_dq(dq);
        wgmma_wait<0>();
        pin(dq);
        stage_dq(dq);
    }

    // Adds dK and dV to the sums of the units that share these keys. False unless this is the last of them: then they hold the sums.
    LG_DEVICE bool is_last_sharer(float (&dk)[kSums], float (&dv)[kSums], const KeyUnit& unit) const {
        constexpr int kFloats = kPieceN * kHeadDim;
        float* sums = p.dkv_sums + i64(unit.slot + index) * 2 * kFloats + thread * 4;
#pragma unroll
        for (int c = 0; c < kSums / 4; ++c) {
            add_to_global(sums + c * 4 * kWarpgroup, &dk[4 * c]);
            add_to_global(sums + kFloats + c * 4 * kWarpgroup, &dv[4 * c]);
        }
        __threadfence();
        sync_warpgroup();
        if (thread == 0) {
            shared.is_last_sharer[index] = atomicAdd(p.dkv_shares + unit.slot + index, 1) == unit.sharers - 1;
        }
        sync_warpgroup();
        if (!shared.is_last_sharer[index]) return false;
        __threadfence();
#pragma unroll
        for (int c = 0; c < kSums / 4; ++c) {
            load_from_global(&dk[4 * c], sums + c * 4 * kWarpgroup);
            load_from_global(&dv[4 * c], sums + kFloats + c * 4 * kWarpgroup);
        }
        return true;
    }

    // The rows of dK or dV of this consumer's keys, by way of its staging area.
    LG_DEVICE void write(const float (&acc)[kSums], const KeyUnit& unit, void* out, i64 stride_t, i64 stride_h) const {
        u32 packed[kSums / 2];
        pack_fragment(packed, acc);
        sync_warpgroup();
        store_fragment<kHeadDim>(shared.staging(index, 0), panel_bytes(kPieceN), thread / 32 * 16, packed);
        sync_warpgroup();
        Half* rows = static_cast<Half*>(out) + i64(unit.s.k_begin + unit.first[index]) * stride_t + unit.g * stride_h;
        copy_rows_out<kHeadDim>(shared.staging(index, 0), panel_bytes(kPieceN), rows, stride_t, unit.keys(index), opaque(thread));
    }

    LG_DEVICE void finish(float (&dk)[kSums], float (&dv)[kSums], const KeyUnit& unit) const {
        if (unit.keys(index) == 0) return;
        if (unit.sharers > 1 && !is_last_sharer(dk, dv, unit)) return;
        write(dv, unit, p.dv, p.dv_t, p.dv_h);
#pragma unroll
        for (int e = 0; e < kSums; ++e) dk[e] *= p.scale;
        write(dk, unit, p.dk, p.dk_t, p.dk_h);
    }

    // All query tiles of a unit, of which the first message has come.
    LG_DEVICE void walk(float (&dk)[kSums], float (&dv)[kSums]) {
        receive_keys();
        for (bool last = false; !last;) {
            last = step(dk, dv);
            shared.q.release(at);
            at.advance();
        }
        shared.kv.release(unit_at);
    }

    // A unit that no query sees. The consumers meet, so that steps before and after it may use the same buffer of dS.
    LG_DEVICE void pass_over() {
        shared.kv.wait_full(unit_at);
        shared.kv.release(unit_at);
        meet_consumers();
        await_staging();
        fill_staging();
        shared.q.release(at);
        shared.d_o.release(at);
        at.advance();
    }

    LG_DEVICE void run() {
        for (;; unit_at.advance()) {
            shared.q.wait_full(at);
            const int word = message().kinds;
            if (word == kNoMoreUnits) break;
            float dk[kSums], dv[kSums];
            clear(dk);
            clear(dv);
            if (word & kNoTile) {
                pass_over();
            } else {
                walk(dk, dv);
            }
            await_read();
            finish(dk, dv, unit());
        }
        await_staging();  // nobody leaves an offer behind
    }
};

}  // namespace lg

extern "C" __global__ void __launch_bounds__(lg::kThreads, 1)
    attention_backward(const __grid_constant__ lg::Params p, const __grid_constant__ lg::TensorMap q_map,
                       const __grid_constant__ lg::TensorMap k_map, const __grid_constant__ lg::TensorMap v_map,
                       const __grid_constant__ lg::TensorMap do_map, int* next_ticket) {
    using namespace lg;
    extern __shared__ __align__(1024) char raw[];
    const Shared shared(raw);
    if (shared.start % 1024 != 0) __trap();  // swizzled panels count on it
    const int warpgroup = __shfl_sync(kAllLanes, threadIdx.x / kWarpgroup, 0);
    if (threadIdx.x == 0) {
        shared.q.init(1 + kWarpSize, 4 * kConsumers + 1);
        shared.d_o.init(1, 4 * kConsumers);
        shared.kv.init(1, 4 * kConsumers);
        barrier_init_done();
    }
    __syncthreads();
    if (warpgroup == 0) {
        registers_release<kProducerRegisters>();
        const int lane = threadIdx.x % kWarpSize;
        if (threadIdx.x < kWarpSize) {
            Producer producer{p, q_map, k_map, v_map, do_map, shared, lane};
            producer.run(next_ticket);
        } else if (threadIdx.x < 2 * kWarpSize) {
            DqAdder adder{p, shared, lane};
            adder.run();
        }
    } else {
        registers_claim<kConsumerRegisters>();
        Consumer consumer{p, shared, warpgroup - 1, int(threadIdx.x % kWarpgroup)};
        consumer.run();
    }
}
