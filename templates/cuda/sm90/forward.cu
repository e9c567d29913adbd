// Attention forward for Hopper (sm_90a): O and log-sum-exp of one query tile at a time.
//
//   S = Q K^T       s = scale S, capped, masked       P = exp(s - m), m the running row maximum       O = P V / rowsum(P)
//
// Warpgroup 0 produces (one thread works), warpgroups 1 .. kConsumers consume; consumer c owns rows [64 c, 64 c + 64) of the
// query tile. Registers of a consumer thread at D = 128, kTileN = 128: S 64, O 64, P 32.
//
//   producer                                  consumer
//     for each query tile                       for each query tile
//       wait Q empty; send tile, load Q           wait Q; S_0 = Q K_0^T; softmax
//       for each key tile n of the walk           for each further key tile n
//         wait K empty; send (n, last?, kind), load my turn: issue S_n = Q K_n^T, issue O += P V_(n-1); pass the turn
//         wait V empty; load                        wait S_n, free K_n (and Q after the last); softmax of S_n
//     send "no more tiles"                          wait O, free V_(n-1); rescale O where a maximum grew; P = S_n
//                                                 O += P V_last; write O and log-sum-exp
//
// A key tile is gathered from kPieces pieces of kPieceN keys, each with its own place, kind and box: with pieces of 64 the
// blocks of a stride fill a tile that is 128 wide. The last tile's second piece may be absent: masked, its V rows zero.
//
// Only the producer evaluates the pattern's bounds: it sends each key tile's number and kind beside the data, so that the
// consumers' hot loop holds no integer code of the pattern, except the predicate itself in tiles of the general kind.
//
// Shared memory (bytes; T = 2 D kTileN):   D 128, 128 x 128, 2 stages      D 64, 192 x 128, 2 stages
//   Q   two stages of 2 D kTileM                 65536                          49152
//   K   kStages T                                65536                          32768
//   V   kStages T                                65536                          32768
//   O   2 D kTileM                               32768                          24576
//   barriers, messages                             240                            240
//   plus 1024 to align the start                230640                         140528
//
// Synchronisation. Each ring stage has a `full` barrier (1 arrival, by the producer, plus the bytes announced) and an `empty`
// barrier (one arrival of each consumer warp). A message is an ordinary store before the producer's arrival on `full`, and is
// read between the wait on `full` and the arrival on `empty`: released and acquired by the barrier. (racecheck does not see
// through "each lane reads, the warp synchronises, one lane arrives"; with an arrival of each lane it finds nothing.)
// The message about a query tile is read until O is written, after Q was released: it has four slots for two stages of Q, and
// the fourth tile after it waits for this consumer to have released the second. O has its own buffer. Consumers take turns by named barriers 1 .. kConsumers (128 that wait + 128 that
// pass): while one runs its softmax the other's products occupy the tensor cores. All consumers see the same messages, hence
// take equally many turns. Barriers 8 .. are each consumer's own.
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
#include "tile/sm90_scores.cuh"

namespace lg {

static_assert(kTileM == 64 * kConsumers, "one consumer warpgroup for 64 query rows");
static_assert(kThreads == kWarpgroup * (1 + kConsumers), "one producer warpgroup");
static_assert(kTileN == 128, "two pieces, and S is one product");

constexpr int kQueryStages = 2;
constexpr int kPieceN = 64;
constexpr int kPieces = kTileN / kPieceN;

// Offsets from the aligned start of shared memory.
constexpr int kQueryAt = 0;
constexpr int kKeyAt = kQueryAt + kQueryStages * tile_bytes(kTileM);
constexpr int kValueAt = kKeyAt + kStages * tile_bytes(kTileN);
constexpr int kOutputAt = kValueAt + kStages * tile_bytes(kTileN);
constexpr int kBarriersAt = kOutputAt + tile_bytes(kTileM);
constexpr int kMessagesAt = kBarriersAt + RingBarriers<kQueryStages>::kBytes + 2 * RingBarriers<kStages>::kBytes;

// A message about a piece of a key tile: number of the piece among the keys * 8 + last * 4 + kind. `last` counts in the first
// piece, for the whole tile.
constexpr int kLast = 4;
constexpr int kTileShift = 3;

LG_DEVICE int first_key(int message) { return (message >> kTileShift) * kPieceN; }

// What the producer tells the consumers about a query tile.
struct TileMessage {
    int valid;      // 0: no more tiles
    int head;
    int g;
    int token;      // first row, in the packed queries
    int rows;       // rows before the end of the sequence, 1 .. kTileM
    int index;      // query index of the first row
    int key_len;
    int any_keys;   // 0: no key tile follows
};
constexpr int kTileMessages = 2 * kQueryStages;

constexpr int kForwardSmemBytes = 1024 + kMessagesAt + kTileMessages * 32 + 8 * kPieces * kStages;
static_assert(kForwardSmemBytes <= 232448, "one block's shared memory");

struct Shared {
    u32 start;
    TileMessage* tiles;              // [kTileMessages] in turn: read until O is written, that is after Q was released
    int* keys;                       // [kStages][kPieces] beside K: the messages
    int* real_keys;                  // [kStages][kPieces] beside V: keys from the piece's first to the end of the sequence
    RingBarriers<kQueryStages> q;
    RingBarriers<kStages> k, v;

    LG_DEVICE explicit Shared(char* raw) {
        char* aligned = raw + ((1024 - (shared_address(raw) & 1023)) & 1023);
        start = shared_address(aligned);
        tiles = reinterpret_cast<TileMessage*>(aligned + kMessagesAt);
        keys = reinterpret_cast<int*>(tiles + kTileMessages);
        real_keys = keys + kPieces * kStages;
        q.base = start + kBarriersAt;
        k.base = q.base + RingBarriers<kQueryStages>::kBytes;
        v.base = k.base + RingBarriers<kStages>::kBytes;
    }
    LG_DEVICE TileMessage& tile_message(const Ring<kQueryStages>& at) const { return tiles[at.count % kTileMessages]; }
    LG_DEVICE u32 query_stage(int stage) const { return start + kQueryAt + stage * tile_bytes(kTileM); }
    LG_DEVICE u32 key_stage(int stage) const { return start + kKeyAt + stage * tile_bytes(kTileN); }
    LG_DEVICE u32 value_stage(int stage) const { return start + kValueAt + stage * tile_bytes(kTileN); }
};

// ---- producer -----------------------------------------------------------------------------------------------------------

LG_DEVICE u32 work_items(const Params& p) { return opaque(ceil_div(p.max_q, kTileM)) * p.heads * p.batch; }

// Work item w: query tiles of a head from the last (longest) to the first, then the next head, then the next sequence. The
// divisors are opaque because their hoisted reciprocals would take registers that the producer does not have.
LG_DEVICE bool describe_tile(const Params& p, u32 w, TileMessage& tile, int& sequence, int& q_tile, int& k_begin) {
    const u32 tiles = opaque(ceil_div(p.max_q, kTileM)), heads = opaque(p.heads);
    const u32 row = w / tiles, head = row % heads;
    sequence = row / heads;
    tile.head = head;
    q_tile = tiles - 1 - (w - row * tiles);
    const Sequence s = load_sequence(p, sequence);
    const int first = q_tile * kTileM;
    tile.valid = 1;
    tile.g = head * p.kv_heads / heads;
    tile.token = s.q_begin + first;
    tile.rows = min_int(kTileM, s.q_len - first);
    tile.index = s.q_offset + first;
    tile.key_len = s.k_len;
    k_begin = s.k_begin;
    return tile.rows > 0;
}

struct Producer {
    const Params& p;
    const TensorMap& q_map;
    const TensorMap& k_map;
    const TensorMap& v_map;
    const Shared& shared;
    Ring<kQueryStages> q_at;
    Ring<kStages> at;                // of K and of V
    int k_begin;                     // first key of the sequence, in the packed keys

    LG_DEVICE void send_queries(const TileMessage& tile) {
        const u32 full = shared.q.full(q_at.stage());
        barrier_arrive_expecting(full, tile_bytes(kTileM));
        tma_load_tile<kTileM>(shared.query_stage(q_at.stage()), q_map, full, tile.head, tile.token);
        q_at.advance();
    }

    LG_DEVICE void send_keys(const int (&messages)[kPieces], int last, int g, int key_len) {
        const u32 k_full = shared.k.full(at.stage()), v_full = shared.v.full(at.stage());
        int bytes = 0;
        shared.k.wait_empty(at);
        for (int piece = 0; piece < kPieces; ++piece) {
            shared.keys[at.stage() * kPieces + piece] = messages[piece] + (piece == 0 ? last : 0);
            if (messages[piece] != kAbsent) bytes += tile_bytes(kPieceN);
        }
        barrier_arrive_expecting(k_full, bytes);
        load_pieces(messages, shared.key_stage(at.stage()), k_map, k_full, g);
        shared.v.wait_empty(at);
        for (int piece = 0; piece < kPieces; ++piece) {
            const bool absent = messages[piece] == kAbsent;
            shared.real_keys[at.stage() * kPieces + piece] = absent ? 0 : key_len - first_key(messages[piece]);
        }
        barrier_arrive_expecting(v_full, bytes);
        load_pieces(messages, shared.value_stage(at.stage()), v_map, v_full, g);
        at.advance();
    }

    LG_DEVICE void load_pieces(const int (&messages)[kPieces], u32 tile, const TensorMap& map, u32 full, int g) const {
        for (int piece = 0; piece < kPieces; ++piece) {
            if (messages[piece] == kAbsent) continue;
            tma_load_tile<kTileN>(tile + piece * panel_bytes(kPieceN), map, full, g, k_begin + first_key(messages[piece]));
        }
    }

    // The messages about the next key tile of the walk, not yet known to be the last. False when there is none. Rolled, and
    // the pieces moved through the array, because the walk is long code and the producer has few registers.
    LG_DEVICE static bool next_tile(KeyWalk<kPieceN>& walk, int (&messages)[kPieces]) {
#pragma unroll 1
        for (int piece = 0; piece < kPieces; ++piece) {
            int n, kind;
            const bool found = walk.next(n, kind);
            messages[0] = messages[kPieces - 1];
            messages[kPieces - 1] = found ? (n << kTileShift) + kind : kAbsent;
        }
        return messages[0] != kAbsent;
    }

    // One key tile late, so that the last one can be told apart.
    LG_DEVICE void send_tile(TileMessage& tile, int sequence, int q_tile) {
        KeyWalk<kPieceN> walk(p, sequence, tile.g, q_tile, tile.index, tile.index + tile.rows, tile.key_len);
        int messages[kPieces], ahead[kPieces] = {};
        bool started = false, more;
        do {
            more = next_tile(walk, ahead);
            if (started) {
                send_keys(messages, more ? 0 : kLast, walk.g, walk.key_len);
            } else {
                tile.any_keys = more;
                send_queries(tile);
            }
            started = true;
            for (int piece = 0; piece < kPieces; ++piece) messages[piece] = ahead[piece];
        } while (more);
    }

    LG_DEVICE void send_end_of_tiles() {
        shared.q.wait_empty(q_at);
        shared.tile_message(q_at).valid = 0;
        barrier_arrive(shared.q.full(q_at.stage()));
    }

    LG_DEVICE void run(int* next_tile) {
        u32 w = blockIdx.x;
        while (w < work_items(p)) {
            // The message is written where the consumers read it: it need not pass through registers.
            shared.q.wait_empty(q_at);
            TileMessage& tile = shared.tile_message(q_at);
            int sequence, q_tile;
            if (describe_tile(p, w, tile, sequence, q_tile, k_begin)) send_tile(tile, sequence, q_tile);
            w = gridDim.x + (next_tile ? atomicAdd(next_tile, 1) : w);
        }
        send_end_of_tiles();
    }
};

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
        mask_piece<0>(s, messages[0], tile);
        mask_piece<1>(s, messages[1], tile);
        rows.update(s, factor, unit);
    }

    template <int kPiece>
    LG_DEVICE void mask_piece(float (&s)[64], int message, const TileMessage& tile) const {
        constexpr int kElements = kPieceN / 2;
        const int kind = message & 3, j0 = first_key(message);
        if (kind == kFull) return;
        mask_scores<kPiece * kElements>(s, kind, tile.g, tile.index + row(), j0 + column(), j0, tile.key_len);
    }

    // Waits for the V stage. At the end of the sequence, and where a piece is absent, its rows without a key become zeros.
    LG_DEVICE void receive_values() const {
        const Ring<kStages> v_at = at.previous();
        shared.v.wait_full(v_at);
#pragma unroll
        for (int piece = 0; piece < kPieces; ++piece) {
            const int keys = shared.real_keys[v_at.stage() * kPieces + piece];
            if (keys < kPieceN) {
                const int first = piece * kPieceN;
                zero_rows<kTileN>(shared.value_stage(v_at.stage()), first + keys, thread, first + kPieceN);
                sync_warpgroup();
            }
        }
    }

    // S of the received key tile is done with K, and with Q if it was the last.
    LG_DEVICE void release_scores_operands(int first_message) const {
        shared.k.release(at);
        if (first_message & kLast) shared.q.release(q_at);
    }

    // All key tiles of the query tile.
    LG_DEVICE void attend(const TileMessage& tile, float (&o)[kHeadDim / 2], SoftmaxRows& rows) {
        if (!tile.any_keys) {
            clear(o);
            shared.q.release(q_at);
            return;
        }
        float s[64];
        u32 weights[kTileN / 4];
        float factor[2];
        int messages[kPieces];
        receive_keys(messages);
        issue_scores(s);
        wgmma_wait<0>();
        pin(s);
        release_scores_operands(messages[0]);
        at.advance();
        softmax(s, messages, tile, rows, factor);
        pack_fragment(weights, s);
        clear(o);

        while (!(messages[0] & kLast)) {
            receive_keys(messages);
            wait_turn();
            issue_scores(s);
            receive_values();
            issue_output(o, weights);
            pass_turn();
            wgmma_wait<1>();
            pin(s);
            release_scores_operands(messages[0]);
            softmax(s, messages, tile, rows, factor);
            wgmma_wait<0>();
            pin(o);
            pin(weights);
            shared.v.release(at.previous());
            at.advance();
            rescale_rows(o, factor);
            pack_fragment(weights, s);
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
        barrier_init_done();
    }
    __syncthreads();
    if (warpgroup == 0) {
        registers_release<kProducerRegisters>();
        if (threadIdx.x == 0) {
            prefetch_map(q_map);
            prefetch_map(k_map);
            prefetch_map(v_map);
            Producer producer{p, q_map, k_map, v_map, shared};
            producer.run(next_tile);
        }
    } else {
        registers_claim<kConsumerRegisters>();
        Consumer consumer{p, shared, warpgroup - 1, int(threadIdx.x % kWarpgroup)};
        consumer.unit = score_unit(p);
        consumer.run();
    }
}
