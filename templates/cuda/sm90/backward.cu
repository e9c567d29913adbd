// Attention backward for Hopper (sm_90a), fused: one pass over the tiles gives dK, dV and dQ. A block owns one key tile.
//
//   S^T = K Q^T     P^T = exp(s - lse)     dP^T = V dO^T     dS^T = P^T (dP^T - delta)  [softcap: times 1 - (s / cap)^2]
//   dV += P^T dO        dK += dS^T Q        dQ_tile = dS K, added to dq_accum        dK and dQ are scaled once, at the end
//
// Warpgroup 0 produces (one warp works), warpgroups 1, 2 consume. Consumer c owns keys [64 c, 64 c + 64) of the tile: its
// S^T, dP^T and the accumulators dK, dV stay in registers, P^T and dS^T go from registers straight into the next products.
// Only dS crosses between the consumers, through shared memory, because dQ sums over all keys of the tile: consumer c then
// makes one 64 x 64 piece of dQ (D 128: all 64 queries, columns 64 c ..; D 64: queries 64 c .., all columns).
// Query heads of a group follow one another inside the block, so that dK and dV never leave the registers.
//
//   producer warp                                      consumer
//     load K, V                                          wait K, V; zero rows past the last key
//     for each query head of the group                   for each message but the last
//       for each query tile m of the walk                  wait Q;  issue S^T = K Q^T
//         wait Q empty;  send (m, kind, head), load Q      wait dO; issue dP^T = V dO^T
//         wait dO empty; load dO                           wait S^T;  P^T = exp2(unit S^T - lse), masked
//         write lse (base 2) and delta of the rows         wait dP^T; dS^T = P^T (dP^T - delta)
//     send "no more tiles"                                 issue dV += P^T dO;  dS to shared memory;  meet the other consumer
//                                                          issue dQ = dS K;  issue dK += dS^T Q
//                                                          wait dV, free dO;  wait dQ, add it to dq_accum;  wait dK, free Q
//                                                        write dV, dK
//
// Shared memory (bytes), D 128, 64 x 128          D 64, 128 x 128
//   K, V      2 D kTileN each     65536              32768
//   Q, dO     2 stages each       65536              65536
//   dS        2 buffers           32768              65536     [key][query]: rows of 64 queries, swizzled like a panel
//   dQ        2 pieces            32768              32768     floats on their way to dq_accum
//   lse, delta  2 stages           1024               2048
//   barriers, messages              112                112
//   plus 1024 to align the start 198768             199792
//
// Synchronisation. Rings as in the forward: `full` of Q has 33 arrivals (the bytes' announcer and 32 lanes that wrote lse and
// delta), of dO one; `empty` has one for each consumer warp. dS has two buffers: a consumer writes buffer j mod 2 before the
// meeting of step j, both read it after. Nobody overwrites it before step j + 2, that is after the meeting of step j + 1,
// which each consumer reaches only when its product of step j is complete. A consumer's dQ staging area is written after the
// meeting of a step, before which the issuing thread has waited for the copy engine to read the previous piece.
//
// Tails. Rows of Q and dO past the end of the sequence become zeros in shared memory and get lse = +inf, so P = 0 there; so do
// rows that saw no key (lse = -inf). Rows of K and V past the end become zeros, and their P is masked: no NaN of a neighbour
// meets a zero weight. dQ rows past the end go to the padding of dq_accum.
//
// Host contract
//   threads   384;  kTileN = 128;  kTileM = 64 for D 128, 128 for D 64;  kConsumers = 2;  shared memory lg::kBackwardSmemBytes
//   grid      x = ceil(max_k / kTileN), y = kv_heads, z = batch
//   arguments Params p, TensorMap q, TensorMap k, TensorMap v, TensorMap d_o
//   maps      each [token, head, D], 16-bit, strides from Params; dims {D, heads, tokens}, box {64, 1, rows}, swizzle 128 B,
//             no interleave, out of bounds zero: q, d_o rows = kTileM over (H, total_q); k, v rows = kTileN over (G, total_k)
//   before    delta filled by attention_backward_delta; dq_accum zero, 16-byte aligned, its size in tile/sm90_dq.cuh
//   after     attention_backward_convert_dq
#include "tile/sm90_dq.cuh"
#include "tile/sm90_scores.cuh"

namespace lg {

static_assert(kConsumers == 2 && kThreads == 3 * kWarpgroup, "one producer and two consumer warpgroups");
static_assert(kTileN == 128, "64 keys for each consumer");
static_assert(kTileM * kHeadDim == 64 * 128, "two 64 x 64 pieces of dQ");

constexpr int kQueryStages = 2;
constexpr int kDsBytes = panel_bytes(kTileN) * (kTileM / 64);

// Offsets from the aligned start of shared memory.
constexpr int kKeyAt = 0;
constexpr int kValueAt = kKeyAt + tile_bytes(kTileN);
constexpr int kQueryAt = kValueAt + tile_bytes(kTileN);
constexpr int kOutGradAt = kQueryAt + kQueryStages * tile_bytes(kTileM);
constexpr int kDsAt = kOutGradAt + kQueryStages * tile_bytes(kTileM);
constexpr int kDqAt = kDsAt + 2 * kDsBytes;
constexpr int kLseAt = kDqAt + 2 * kDqPieceBytes;
constexpr int kDeltaAt = kLseAt + kQueryStages * kTileM * 4;
constexpr int kBarriersAt = kDeltaAt + kQueryStages * kTileM * 4;
constexpr int kMessagesAt = kBarriersAt + 2 * RingBarriers<kQueryStages>::kBytes + 16;
constexpr int kBackwardSmemBytes = 1024 + kMessagesAt + kQueryStages * 16;
static_assert(kBackwardSmemBytes <= 232448, "one block's shared memory");

// What the producer tells the consumers about a query tile.
struct alignas(16) TileMessage {
    int kind;       // TileKind, or -1: no more tiles
    int head;
    int first;      // first row, counted in its sequence
    int unused;
};

struct Shared {
    u32 start;
    float* lse;                      // [kQueryStages][kTileM] base 2
    float* delta;                    // [kQueryStages][kTileM]
    TileMessage* messages;           // [kQueryStages]
    u32 kv_full;
    RingBarriers<kQueryStages> q, d_o;

    LG_DEVICE explicit Shared(char* raw) {
        char* aligned = raw + ((1024 - (shared_address(raw) & 1023)) & 1023);
        start = shared_address(aligned);
        lse = reinterpret_cast<float*>(aligned + kLseAt);
        delta = reinterpret_cast<float*>(aligned + kDeltaAt);
        messages = reinterpret_cast<TileMessage*>(aligned + kMessagesAt);
        q.base = start + kBarriersAt;
        d_o.base = q.base + RingBarriers<kQueryStages>::kBytes;
        kv_full = d_o.base + RingBarriers<kQueryStages>::kBytes;
    }
    LG_DEVICE u32 keys() const { return start + kKeyAt; }
    LG_DEVICE u32 values() const { return start + kValueAt; }
    LG_DEVICE u32 queries(int stage) const { return start + kQueryAt + stage * tile_bytes(kTileM); }
    LG_DEVICE u32 out_grads(int stage) const { return start + kOutGradAt + stage * tile_bytes(kTileM); }
    LG_DEVICE u32 dq_staging(int consumer) const { return start + kDqAt + consumer * kDqPieceBytes; }
    LG_DEVICE u32 ds(int buffer) const { return start + kDsAt + buffer * kDsBytes; }
};

// The key tile of this block.
struct KeyTile {
    int sequence, g, tile;
    int first;                       // first key, counted in the sequence
    int keys;                        // real keys, at most kTileN; the block has no work when it is not positive
    Sequence s;

    LG_DEVICE explicit KeyTile(const Params& p)
        : sequence(blockIdx.z), g(blockIdx.y), tile(blockIdx.x), first(blockIdx.x * kTileN), s(load_sequence(p, blockIdx.z)) {
        keys = min_int(kTileN, s.k_len - first);
    }
};

// ---- producer: one warp -------------------------------------------------------------------------------------------------

struct Producer {
    const Params& p;
    const TensorMap& q_map;
    const TensorMap& k_map;
    const TensorMap& v_map;
    const TensorMap& do_map;
    const Shared& shared;
    const KeyTile& tile;
    int lane;
    Ring<kQueryStages> at;

    LG_DEVICE void send_keys() const {
        if (lane != 0) return;
        barrier_arrive_expecting(shared.kv_full, 2 * tile_bytes(kTileN));
        tma_load_tile<kTileN>(shared.keys(), k_map, shared.kv_full, tile.g, tile.s.k_begin + tile.first);
        tma_load_tile<kTileN>(shared.values(), v_map, shared.kv_full, tile.g, tile.s.k_begin + tile.first);
    }

    // lse in base 2, and delta, of the rows of a query tile. Rows that do not exist or saw no key: lse = +inf, so P = 0.
    LG_DEVICE void write_row_statistics(int head, int first) const {
        for (int row = lane; row < kTileM; row += kWarpSize) {
            float lse = kInf, delta = 0.0f;
            if (first + row < tile.s.q_len) {
                const i64 at_row = i64(head) * p.total_q + tile.s.q_begin + first + row;
                const float natural = p.lse[at_row];
                if (natural != -kInf) {
                    lse = natural * kLog2e;
                    delta = p.delta[at_row];
                }
            }
            shared.lse[at.stage() * kTileM + row] = lse;
            shared.delta[at.stage() * kTileM + row] = delta;
        }
    }

    LG_DEVICE void send_queries(int head, int m, int kind) {
        const int first = m * kTileM, token = tile.s.q_begin + first;
        shared.q.wait_empty(at);
        if (lane == 0) {
            shared.messages[at.stage()] = {kind, head, first, 0};
            barrier_arrive_expecting(shared.q.full(at.stage()), tile_bytes(kTileM));
            tma_load_tile<kTileM>(shared.queries(at.stage()), q_map, shared.q.full(at.stage()), head, token);
        }
        shared.d_o.wait_empty(at);
        if (lane == 0) {
            barrier_arrive_expecting(shared.d_o.full(at.stage()), tile_bytes(kTileM));
            tma_load_tile<kTileM>(shared.out_grads(at.stage()), do_map, shared.d_o.full(at.stage()), head, token);
        }
        __syncwarp();
        write_row_statistics(head, first);
        barrier_arrive(shared.q.full(at.stage()));
        at.advance();
    }

    LG_DEVICE void send_end() const {
        shared.q.wait_empty(at);
        if (lane == 0) {
            shared.messages[at.stage()] = {-1, 0, 0, 0};
            barrier_arrive(shared.q.full(at.stage()));
        }
        barrier_arrive(shared.q.full(at.stage()));
    }

    LG_DEVICE void run() {
        send_keys();
        const int group = p.heads / p.kv_heads;
        for (int head = tile.g * group; head < (tile.g + 1) * group; ++head) {
            QueryTileWalk walk(p, tile.sequence, tile.g, tile.tile, tile.s);
            int m, kind;
            while (walk.next(m, kind)) send_queries(head, m, kind);
        }
        send_end();
    }
};

// ---- consumer -----------------------------------------------------------------------------------------------------------

using KeyRows = KMajor<panel_bytes(kTileN)>;       // K or V, summed over D
using QueryRows = KMajor<panel_bytes(kTileM)>;     // Q or dO, summed over D
using QueryColumns = MnMajor<panel_bytes(kTileM)>; // Q or dO, summed over queries
using KeyColumns = MnMajor<panel_bytes(kTileN)>;   // K or dS, summed over keys

struct Consumer {
    static constexpr int kScores = kTileM / 2;     // floats of S^T a thread
    static constexpr int kPieces = kHeadDim / 2;   // floats of dK a thread

    const Params& p;
    const Shared& shared;
    const KeyTile& tile;
    int index;                                     // 0, 1
    int thread;                                    // 0 .. 127
    Ring<kQueryStages> at;

    LG_DEVICE int key_row() const { return index * 64 + thread / 32 * 16 + thread % 32 / 4; }
    LG_DEVICE int column() const { return thread % 4 * 2; }
    LG_DEVICE void sync_warpgroup() const { named_barrier_sync(2 + index, kWarpgroup); }
    LG_DEVICE void meet_consumers() const { named_barrier_sync(1, 2 * kWarpgroup); }

    // Consumers zero the rows that TMA brought from behind the end of the sequence.
    LG_DEVICE void receive_keys() const {
        barrier_wait(shared.kv_full, 0);
        if (tile.keys < kTileN) {
            zero_rows<kTileN>(shared.keys(), tile.keys, thread);
            zero_rows<kTileN>(shared.values(), tile.keys, thread);
            sync_warpgroup();
        }
    }
    LG_DEVICE void zero_query_tail(int rows) const {
        shared.d_o.wait_full(at);
        zero_rows<kTileM>(shared.queries(at.stage()), rows, thread);
        zero_rows<kTileM>(shared.out_grads(at.stage()), rows, thread);
        sync_warpgroup();
    }

    // P^T from S^T, in place.
    LG_DEVICE void weigh(float (&s)[kScores], const TileMessage& message) const {
        const float* lse = shared.lse + at.stage() * kTileM + column();
        const float unit = score_unit(p);
        const bool masked = message.kind != kFull;
        if constexpr (kSoftcap) cap_scores(s, p.scale / p.softcap);
        if (masked) mask_transposed(s, message);
#pragma unroll
        for (int c = 0; c < kScores / 4; ++c) {
            const float2 l = *reinterpret_cast<const float2*>(lse + 8 * c);
#pragma unroll
            for (int e = 0; e < 4; ++e) s[4 * c + e] = exp2_approx(s[4 * c + e] * unit - (e % 2 ? l.y : l.x));
        }
    }

    // Scores that do not count become -inf: their exponential is exactly 0. Rows are keys, columns are queries.
    LG_DEVICE void mask_transposed(float (&s)[kScores], const TileMessage& message) const {
        const int key = tile.first + key_row(), query = tile.s.q_offset + message.first + column();
        if (message.kind == kEdge) {
            // key <= query + column offset, and the key exists
            const int first[2] = {key < tile.s.k_len ? key - query : kNone, key + 8 < tile.s.k_len ? key + 8 - query : kNone};
#pragma unroll
            for (int e = 0; e < kScores; ++e) {
                if (element_column(e) < first[element_row(e)]) s[e] = -kInf;
            }
        } else {
#pragma unroll
            for (int half = 0; half < kScores / 32; ++half) {
                const u32 bits = visible_bits_transposed(tile.g, query + half * 64, key, tile.s.k_len);
#pragma unroll
                for (int e = 0; e < 32; ++e) {
                    if (!((bits >> e) & 1u)) s[32 * half + e] = -kInf;
                }
            }
        }
    }

    // P^T and dS^T, packed, from P^T and dP^T.
    LG_DEVICE void differentiate(u32 (&weights)[kScores / 2], u32 (&ds)[kScores / 2], const float (&s)[kScores],
                                 const float (&dp)[kScores]) const {
        const float* lse = shared.lse + at.stage() * kTileM + column();
        const float* delta = shared.delta + at.stage() * kTileM + column();
#pragma unroll
        for (int c = 0; c < kScores / 4; ++c) {
            const float2 d = *reinterpret_cast<const float2*>(delta + 8 * c);
            float g[4];
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                g[e] = s[4 * c + e] * (dp[4 * c + e] - (e % 2 ? d.y : d.x));
                if constexpr (kSoftcap) g[e] *= cap_slope(s[4 * c + e], lse[8 * c + e % 2]);
            }
            weights[2 * c] = pack_half2(s[4 * c], s[4 * c + 1]);
            weights[2 * c + 1] = pack_half2(s[4 * c + 2], s[4 * c + 3]);
            ds[2 * c] = pack_half2(g[0], g[1]);
            ds[2 * c + 1] = pack_half2(g[2], g[3]);
        }
    }

    // 1 - (s / cap)^2. The capped score is recovered from its weight, log2 P = unit s / cap - lse, because there are no
    // registers to keep it in; a weight of 0 has no slope, and must not meet its infinite logarithm.
    LG_DEVICE float cap_slope(float weight, float lse) const {
        const float capped = (log2_approx(weight) + lse) / score_unit(p);
        return weight > 0.0f ? 1.0f - capped * capped : 0.0f;
    }

    // This consumer's 64 x 64 piece of dS K.
    LG_DEVICE void issue_dq(float (&dq)[32], int buffer) const {
        if constexpr (kHeadDim == 128) {
            issue_product<64, kTileN>(dq, KeyColumns(shared.ds(buffer)), KeyColumns(shared.keys() + index * panel_bytes(kTileN)),
                                      kOverwrite);
        } else {
            issue_product<64, kTileN>(dq, KeyColumns(shared.ds(buffer) + index * panel_bytes(kTileN)), KeyColumns(shared.keys()),
                                      kOverwrite);
        }
    }

    // Hands the piece to the copy engine, which adds it to dq_accum. The staging area is free: see `step`.
    LG_DEVICE void add_dq(const float (&dq)[32], const TileMessage& message) const {
        const u32 staging = shared.dq_staging(index);
#pragma unroll
        for (int c = 0; c < 8; ++c) {
            store_shared(staging + (c * kWarpgroup + thread) * 16, dq[4 * c], dq[4 * c + 1], dq[4 * c + 2], dq[4 * c + 3]);
        }
        fence_async_proxy();
        sync_warpgroup();
        if (thread == 0) {
            float* target = dq_piece(p, tile.sequence, tile.s.q_begin, message.first / kTileM, message.head, index);
            bulk_add(target, staging, kDqPieceBytes);
        }
    }

    LG_DEVICE void step(float (&dk)[kPieces], float (&dv)[kPieces], const TileMessage& message, int buffer) {
        if (message.first + kTileM > tile.s.q_len) zero_query_tail(tile.s.q_len - message.first);
        const u32 my_rows = index * 64 * kPanelRowBytes;
        u32 ds[kScores / 2], weights[kScores / 2];
        {
            float s[kScores], dp[kScores];
            issue_product<kTileM, kHeadDim>(s, KeyRows(shared.keys() + my_rows), QueryRows(shared.queries(at.stage())), kOverwrite);
            shared.d_o.wait_full(at);
            issue_product<kTileM, kHeadDim>(dp, KeyRows(shared.values() + my_rows), QueryRows(shared.out_grads(at.stage())),
                                            kOverwrite);
            wgmma_wait<1>();
            pin(s);
            weigh(s, message);
            wgmma_wait<0>();
            pin(dp);
            differentiate(weights, ds, s, dp);
        }
        issue_product<kHeadDim, kTileM>(dv, weights, QueryColumns(shared.out_grads(at.stage())), kAdd);
        store_fragment<kTileM>(shared.ds(buffer), panel_bytes(kTileN), index * 64 + thread / 32 * 16, ds);
        fence_async_proxy();
        if (thread == 0) bulk_wait_read();  // the previous dQ has left the staging area
        meet_consumers();
        float dq[32];
        issue_dq(dq, buffer);
        issue_product<kHeadDim, kTileM>(dk, ds, QueryColumns(shared.queries(at.stage())), kAdd);
        wgmma_wait<2>();
        pin(dv);
        pin(weights);
        shared.d_o.release(at);
        wgmma_wait<1>();
        pin(dq);
        add_dq(dq, message);
        wgmma_wait<0>();
        pin(dk);
        pin(ds);
        shared.q.release(at);
        at.advance();
    }

    // 64 rows of dK or dV, by way of this consumer's own rows of V.
    LG_DEVICE void write(const float (&acc)[kPieces], void* out, i64 stride_t, i64 stride_h) const {
        u32 packed[kPieces / 2];
        pack_fragment(packed, acc);
        const u32 slice = shared.values() + index * 64 * kPanelRowBytes;
        sync_warpgroup();
        store_fragment<kHeadDim>(slice, panel_bytes(kTileN), thread / 32 * 16, packed);
        sync_warpgroup();
        Half* rows = static_cast<Half*>(out) + i64(tile.s.k_begin + tile.first + index * 64) * stride_t + tile.g * stride_h;
        copy_rows_out<kHeadDim>(slice, panel_bytes(kTileN), rows, stride_t, tile.keys - index * 64, thread);
    }

    LG_DEVICE void run() {
        float dk[kPieces], dv[kPieces];
        clear(dk);
        clear(dv);
        receive_keys();
        for (int buffer = 0;; buffer ^= 1) {
            shared.q.wait_full(at);
            const TileMessage& message = shared.messages[at.stage()];
            if (message.kind < 0) break;
            step(dk, dv, message, buffer);
        }
        if (thread == 0) bulk_wait();
        write(dv, p.dv, p.dv_t, p.dv_h);
#pragma unroll
        for (int e = 0; e < kPieces; ++e) dk[e] *= p.scale;
        write(dk, p.dk, p.dk_t, p.dk_h);
    }
};

}  // namespace lg

extern "C" __global__ void __launch_bounds__(lg::kThreads, 1)
    attention_backward(const __grid_constant__ lg::Params p, const __grid_constant__ lg::TensorMap q_map,
                       const __grid_constant__ lg::TensorMap k_map, const __grid_constant__ lg::TensorMap v_map,
                       const __grid_constant__ lg::TensorMap do_map) {
    using namespace lg;
    extern __shared__ char raw[];
    const Shared shared(raw);
    const KeyTile tile(p);
    if (tile.keys <= 0) return;
    const int warpgroup = __shfl_sync(kAllLanes, threadIdx.x / kWarpgroup, 0);
    if (threadIdx.x == 0) {
        shared.q.init(1 + kWarpSize, 4 * kConsumers);
        shared.d_o.init(1, 4 * kConsumers);
        barrier_init(shared.kv_full, 1);
        barrier_init_done();
    }
    __syncthreads();
    if (warpgroup == 0) {
        registers_release<kProducerRegisters>();
        if (threadIdx.x < kWarpSize) {
            Producer producer{p, q_map, k_map, v_map, do_map, shared, tile, int(threadIdx.x)};
            producer.run();
        }
    } else {
        registers_claim<kConsumerRegisters>();
        Consumer consumer{p, shared, tile, warpgroup - 1, int(threadIdx.x % kWarpgroup)};
        consumer.run();
    }
}
