// The fused Hopper backward, all but its consumers: how shared memory is laid out, what is said about a query tile, the warp
// that fetches and the warp that adds dQ. See sm90/backward.cu, whose parts these are.
#pragma once
#include "tile/dq_sums.cuh"
#include "tile/sm90_key_unit.cuh"

namespace lg {

static_assert(kConsumers == 2 && kThreads == 3 * kWarpgroup, "one producer and two consumer warpgroups");
static_assert(kTileM * kHeadDim == 64 * 128, "two 64 x 64 pieces of dQ");
static_assert(!(kOrdered && kListed), "a list does not say which key tile comes next");

constexpr int kQueryStages = 2;
constexpr int kMessages = 2 * kQueryStages;
constexpr int kUnitSlots = 4;
constexpr int kStagings = 2;  // of dQ: the adding warp may be one query tile behind
constexpr int kDsBytes = panel_bytes(kTileN) * (kTileM / 64);

// Offsets from the start of shared memory.
constexpr int kKeyAt = 0;
constexpr int kValueAt = kKeyAt + tile_bytes(kTileN);
constexpr int kQueryAt = kValueAt + tile_bytes(kTileN);
constexpr int kOutGradAt = kQueryAt + kQueryStages * tile_bytes(kTileM);
constexpr int kDsAt = kOutGradAt + kQueryStages * tile_bytes(kTileM);
constexpr int kDqAt = kDsAt + 2 * kDsBytes;
constexpr int kMinusLseAt = kDqAt + kStagings * kConsumers * kDqPieceBytes;
constexpr int kMinusDeltaAt = kMinusLseAt + kQueryStages * kTileM * 4;
constexpr int kBarriersAt = kMinusDeltaAt + kQueryStages * kTileM * 4;
constexpr int kUnitsAt = kBarriersAt + 2 * RingBarriers<kQueryStages>::kBytes + RingBarriers<1>::kBytes;
constexpr int kMessagesAt = kUnitsAt + kUnitSlots * int(sizeof(KeyUnit));
constexpr int kBackwardSmemBytes = kMessagesAt + kMessages * 16 + 16;
static_assert(kBackwardSmemBytes <= 232448, "one block's shared memory");

// What the producer tells the others about a query tile.
struct alignas(16) TileMessage {
    int kinds;      // two bits for each piece, and the flags below; or kNoMoreUnits
    int head;
    int first;      // first row, counted in its sequence
    int above;      // kOrdered: the key tile that adds to dQ before this one, and 1; or 0
};
constexpr int kLast = 16;            // of its unit
constexpr int kNoTile = 32;          // the unit has no query tile: nothing was loaded
constexpr int kNoMoreUnits = -1;

struct Shared {
    u32 start;
    float* minus_lse;                // [kQueryStages][kTileM] in base 2, over exponent_unit
    float* minus_delta;              // [kQueryStages][kTileM]
    KeyUnit* units;                  // [kUnitSlots]
    TileMessage* messages;           // [kMessages] in turn: written one tile ahead
    int* is_last_sharer;             // [kConsumers]
    int* ticket;                     // the producer's next
    int* units_sent;
    RingBarriers<kQueryStages> q, d_o;
    RingBarriers<1> kv;

    LG_DEVICE explicit Shared(char* raw) {
        start = shared_address(raw);
        minus_lse = reinterpret_cast<float*>(raw + kMinusLseAt);
        minus_delta = reinterpret_cast<float*>(raw + kMinusDeltaAt);
        units = reinterpret_cast<KeyUnit*>(raw + kUnitsAt);
        messages = reinterpret_cast<TileMessage*>(raw + kMessagesAt);
        is_last_sharer = reinterpret_cast<int*>(messages + kMessages);
        ticket = is_last_sharer + kConsumers;
        units_sent = ticket + 1;
        q.base = start + kBarriersAt;
        d_o.base = q.base + RingBarriers<kQueryStages>::kBytes;
        kv.base = d_o.base + RingBarriers<kQueryStages>::kBytes;
    }
    LG_DEVICE TileMessage& message(const Ring<kQueryStages>& at) const { return messages[at.count % kMessages]; }
    LG_DEVICE KeyUnit& unit(const Ring<1>& at) const { return units[at.count % kUnitSlots]; }
    LG_DEVICE u32 keys() const { return start + kKeyAt; }
    LG_DEVICE u32 values() const { return start + kValueAt; }
    LG_DEVICE u32 queries(int stage) const { return start + kQueryAt + stage * tile_bytes(kTileM); }
    LG_DEVICE u32 out_grads(int stage) const { return start + kOutGradAt + stage * tile_bytes(kTileM); }
    LG_DEVICE u32 staging(int consumer, int buffer) const { return start + kDqAt + (kConsumers * buffer + consumer) * kDqPieceBytes; }
    LG_DEVICE u32 ds(int buffer) const { return start + kDsAt + buffer * kDsBytes; }
};

// Named barriers: by consumer where there are two, by staging area and consumer where there are four.
constexpr int kMeeting = 1, kWarpgroupOnly = 2, kStagingOffered = 4, kStagingFilled = 8, kStagingRead = 12;
constexpr int kStagingThreads = kWarpgroup + kWarpSize;
LG_DEVICE int staging_offered(int consumer, int buffer) { return kStagingOffered + kConsumers * buffer + consumer; }
LG_DEVICE int staging_filled(int consumer, int buffer) { return kStagingFilled + kConsumers * buffer + consumer; }

// ---- producer: one warp -------------------------------------------------------------------------------------------------

// score_unit, which is above 0, but never so small that a log-sum-exp over it overflows.
LG_DEVICE float exponent_unit(const Params& p) { return fmaxf(score_unit(p), 1e-30f); }

// A lane's rows of a query tile: natural log-sum-exp and delta.
struct RowStatistics {
    static constexpr int kRows = kTileM / kWarpSize;
    float lse[kRows], delta[kRows];
};
// Two rows a lane are asked for before the walk goes on; for four there are no registers meanwhile.
constexpr bool kAskEarly = RowStatistics::kRows <= 2;

struct Producer {
    const Params& p;
    const TensorMap& q_map;
    const TensorMap& k_map;
    const TensorMap& v_map;
    const TensorMap& do_map;
    const Shared& shared;
    int lane;
    Ring<kQueryStages> at;

    // Kept in shared memory: there is no register for it.
    LG_DEVICE Ring<1> unit_at() const { return Ring<1>{u32(*shared.units_sent)}; }

    LG_DEVICE void send_keys(const KeyUnit& unit) const {
        if (lane == 0) {
            const u32 full = shared.kv.full(0);
            shared.kv.wait_empty(unit_at());
            const int pieces = (unit.first[0] != kNone) + (unit.first[1] != kNone);
            barrier_arrive_expecting(full, 2 * pieces * tile_bytes(kPieceN));
            for (int piece = 0; piece < kPieces; ++piece) {
                if (unit.first[piece] == kNone) continue;
                const int token = unit.s.k_begin + unit.first[piece];
                tma_load_tile<kTileN>(shared.keys() + piece * panel_bytes(kPieceN), k_map, full, unit.g, token);
                tma_load_tile<kTileN>(shared.values() + piece * panel_bytes(kPieceN), v_map, full, unit.g, token);
            }
        }
    }

    // Asks for the statistics of a query tile's rows. Rows that do not exist count as rows that saw no key.
    LG_DEVICE RowStatistics load_statistics(const KeyUnit& unit, const TileMessage& message) const {
        RowStatistics rows;
        const i64 first = i64(message.head) * p.total_q + unit.s.q_begin + message.first;
#pragma unroll
        for (int n = 0; n < RowStatistics::kRows; ++n) {
            const int row = lane + n * kWarpSize;
            const bool exists = message.first + row < unit.s.q_len;
            rows.lse[n] = exists ? p.lse[first + row] : -kInf;
            rows.delta[n] = exists ? p.delta[first + row] : 0.0f;
        }
        return rows;
    }

    // What S and dP start from. Rows that saw no key: -inf, so P = 0, whatever delta was.
    LG_DEVICE void write_statistics(const RowStatistics& rows) const {
#pragma unroll
        for (int n = 0; n < RowStatistics::kRows; ++n) {
            const int place = at.stage() * kTileM + lane + n * kWarpSize;
            const bool empty = rows.lse[n] == -kInf;
            shared.minus_lse[place] = empty ? -kInf : -rows.lse[n] * kLog2e / exponent_unit(p);
            shared.minus_delta[place] = empty ? 0.0f : -rows.delta[n];
        }
    }

    LG_DEVICE void send_queries(const KeyUnit& unit, const RowStatistics& rows) {
        const TileMessage& message = shared.message(at);
        const int token = unit.s.q_begin + message.first;
        shared.q.wait_empty(at);
        if (lane == 0) {
            barrier_arrive_expecting(shared.q.full(at.stage()), tile_bytes(kTileM));
            tma_load_tile<kTileM>(shared.queries(at.stage()), q_map, shared.q.full(at.stage()), message.head, token);
        }
        shared.d_o.wait_empty(at);
        if (lane == 0) {
            barrier_arrive_expecting(shared.d_o.full(at.stage()), tile_bytes(kTileM));
            tma_load_tile<kTileM>(shared.out_grads(at.stage()), do_map, shared.d_o.full(at.stage()), message.head, token);
        }
        __syncwarp();
        write_statistics(rows);
        barrier_arrive(shared.q.full(at.stage()));
        at.advance();
    }

    // A message without a tile.
    LG_DEVICE void send_word(int word) {
        shared.q.wait_empty(at);
        shared.d_o.wait_empty(at);
        if (lane == 0) {
            shared.message(at).kinds = word;
            barrier_arrive(shared.q.full(at.stage()));
            barrier_arrive(shared.d_o.full(at.stage()));
        }
        __syncwarp();
        barrier_arrive(shared.q.full(at.stage()));
        at.advance();
    }

    // Writes the message about the next query tile of this head, or of those that follow. False after the last.
    LG_DEVICE bool next_tile(UnitWalk& walk, const KeyUnit& unit, int head, TileMessage& message) const {
        int m, kinds;
        while (!walk.next(m, kinds)) {
            if (++head >= unit.head_end) return false;
            walk.restart();
        }
        const int above = kOrdered ? walk.key_tile_above(m) : 0;
        if (lane == 0) message = {kinds, head, m * kTileM, above};
        return true;
    }

    // The walk is one query tile ahead, so that the last one can be told apart, and goes on while the statistics are on their way.
    // K and V come after the first tile, which need not wait for the end of the unit before. Draws the next ticket on the way.
    LG_DEVICE void send_unit(const KeyUnit& unit, int* next_ticket) {
        UnitWalk walk(p, unit);
        bool more = next_tile(walk, unit, unit.head_begin, shared.message(at));
        if (!more) {
            draw(next_ticket);
            send_word(kNoTile | kLast);
            send_keys(unit);
        }
        for (bool started = false; more; started = true) {
            __syncwarp();
            RowStatistics rows;
            if constexpr (kAskEarly) rows = load_statistics(unit, shared.message(at));
            more = next_tile(walk, unit, shared.message(at).head, shared.message(at.next()));
            if (!more) {
                if (lane == 0) shared.message(at).kinds |= kLast;
                draw(next_ticket);
            }
            __syncwarp();
            if constexpr (!kAskEarly) rows = load_statistics(unit, shared.message(at));
            send_queries(unit, rows);
            if (!started) send_keys(unit);
        }
    }

    LG_DEVICE void draw(int* next_ticket) {
        if (lane == 0) *shared.ticket = atomicAdd(next_ticket, 1);
    }

    LG_DEVICE void run(int* next_ticket) {
        if (lane == 0) *shared.units_sent = 0;
        draw(next_ticket);
        for (;;) {
            __syncwarp();
            const u32 ticket = *shared.ticket;
            if (ticket >= work_units(p)) break;
            KeyUnit& unit = shared.unit(unit_at());
            if (describe_unit(p, ticket, unit)) {
                send_unit(unit, next_ticket);
                if (lane == 0) *shared.units_sent += 1;
            } else {
                draw(next_ticket);
            }
        }
        send_word(kNoMoreUnits);
    }
};

// ---- adding warp: dQ --------------------------------------------------------------------------------------------------------

struct DqAdder {
    const Params& p;
    const Shared& shared;
    int lane;
    Ring<kQueryStages> at;
    Ring<1> unit_at;

    LG_DEVICE void offer_staging(int buffer) const {
        for (int consumer = 0; consumer < kConsumers; ++consumer) {
            named_barrier_arrive(staging_offered(consumer, buffer), kStagingThreads);
        }
    }
    // At the end of a unit: all that was staged is read, and dK and dV may go there.
    LG_DEVICE void hand_over_staging() const {
        if (lane == 0) bulk_wait_read<0>();
        __syncwarp();
        for (int consumer = 0; consumer < kConsumers; ++consumer) {
            named_barrier_sync(kStagingRead + consumer, kStagingThreads);
        }
    }

    // Waits until a query tile may be added to. True for the first that comes, which stores: so nobody has to clear the sums.
    LG_DEVICE static bool await_turn(int* turn, const TileMessage& message) {
        if constexpr (kOrdered) {
            while (load_acquire(turn) != message.above) {
            }
            return message.above == 0;
        } else {
            int state = compare_and_swap_acquire(turn, kUntouched, kBeingStored);
            const bool first = state == kUntouched;
            while (state == kBeingStored) state = load_acquire(turn);
            return first;
        }
    }

    // The pieces of a query tile, each as it is staged. The turn is taken while they are made.
    LG_DEVICE void add(const TileMessage& message, const KeyUnit& unit, int buffer) const {
        const int tile = dq_tile(p, unit.sequence, unit.s.q_begin, message.first / kTileM, message.head);
        int* turn = p.dq_turn + tile;
        const bool first = lane == 0 && await_turn(turn, message);
        for (int consumer = 0; consumer < kConsumers; ++consumer) {
            __syncwarp();  // lane 0 was elsewhere, and the barrier is for whole warps
            named_barrier_sync(staging_filled(consumer, buffer), kStagingThreads);
            if (lane == 0) {
                float* piece = dq_piece(p, tile, consumer);
                if (first) {
                    bulk_store(piece, shared.staging(consumer, buffer), kDqPieceBytes);
                } else {
                    bulk_add(piece, shared.staging(consumer, buffer), kDqPieceBytes);
                }
            }
        }
        if (lane == 0 && (kOrdered || first)) {
            bulk_wait();
            store_release(turn, kOrdered ? unit.tile + 1 : kStored);
        }
    }

    LG_DEVICE void run() {
        offer_staging(0);
        for (;;) {
            shared.q.wait_full(at);
            const TileMessage message = shared.message(at);
            shared.q.release(at);
            if (message.kinds == kNoMoreUnits) break;
            if (message.kinds & kNoTile) {
                // Nothing is read: the unit before has handed over.
                for (int consumer = 0; consumer < kConsumers; ++consumer) {
                    named_barrier_sync(staging_filled(consumer, at.stage()), kStagingThreads);
                }
            } else {
                add(message, shared.unit(unit_at), at.stage());
            }
            if (lane == 0) bulk_wait_read<kConsumers>();  // of the tile before
            __syncwarp();
            offer_staging(at.stage() ^ 1);
            if (message.kinds & kLast) {
                hand_over_staging();
                unit_at.advance();
            }
            at.advance();
        }
        if (lane == 0) bulk_wait();
    }
};

}  // namespace lg
