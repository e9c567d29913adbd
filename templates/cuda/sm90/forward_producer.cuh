// The producer warpgroup of the Hopper forward: the walker decides which key tiles come next, the loader brings them. The
// protocol is at the head of `forward.cu`.
#pragma once
#include "sm90/forward_shared.cuh"

namespace lg {

// ---- walker -------------------------------------------------------------------------------------------------------------

LG_DEVICE u32 work_items(const Params& p) { return opaque(ceil_div(p.max_q, kTileM)) * p.heads * p.batch; }

// Work item w: query tiles of a head from the last (longest) to the first, then the next head, then the next sequence. The
// divisors are opaque because their hoisted reciprocals would take registers that the walker does not have.
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

struct Walker {
    const Params& p;
    const Shared& shared;
    Ring<kSteps> at;

    // The step that comes next, free to be written.
    LG_DEVICE Step& begin_step() {
        shared.step.wait_empty(at);
        return shared.steps[at.stage()];
    }

    LG_DEVICE void send_step() {
        barrier_arrive(shared.step.full(at.stage()));
        at.advance();
    }

    // The messages about the next key tile of the walk, not yet known to be the last. False when there is none. Rolled, and
    // the pieces moved through the array, because the walk is long code and the walker has few registers.
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

    // All steps of a query tile, which `step`, the next one, describes already: one key tile late, so that the last one can be
    // told apart.
    LG_DEVICE void walk_tile(Step& first, int sequence, int q_tile) {
        const TileMessage& tile = first.tile;
        KeyWalk<kPieceN> walk(p, sequence, tile.g, q_tile, tile.index, tile.index + tile.rows, tile.key_len);
        int messages[kPieces] = {};
        next_tile(walk, messages);
        first.starts = 1;
        Step* step = &first;
        for (;;) {
            for (int piece = 0; piece < kPieces; ++piece) step->messages[piece] = messages[piece];
            const bool more = next_tile(walk, messages);
            if (!more) step->messages[0] += kLast;
            send_step();
            if (!more) return;
            step = &begin_step();
            step->starts = 0;
        }
    }

    LG_DEVICE void run(int* next_item) {
        u32 w = blockIdx.x;
        while (w < work_items(p)) {
            Step& first = begin_step();
            int sequence, q_tile;
            if (describe_tile(p, w, first.tile, sequence, q_tile, first.k_begin)) walk_tile(first, sequence, q_tile);
            w = gridDim.x + (next_item ? atomicAdd(next_item, 1) : w);
        }
        Step& end = begin_step();
        end.starts = 1;
        end.tile.valid = 0;
        send_step();
    }
};

// ---- loader -------------------------------------------------------------------------------------------------------------

struct Loader {
    const Params& p;
    const TensorMap& q_map;
    const TensorMap& k_map;
    const TensorMap& v_map;
    const Shared& shared;
    Ring<kSteps> step_at;
    Ring<kQueryStages> q_at;
    Ring<kStages> at;                // of K and of V
    int g, k_begin, key_len;         // of the query tile

    LG_DEVICE void load_queries(const TileMessage& tile) {
        const u32 full = shared.q.full(q_at.stage());
        shared.q.wait_empty(q_at);
        shared.tile_message(q_at) = tile;
        g = tile.g;
        key_len = tile.key_len;
        if (tile.valid) {
            barrier_arrive_expecting(full, tile_bytes(kTileM));
            tma_load_tile<kTileM>(shared.query_stage(q_at.stage()), q_map, full, tile.head, tile.token);
        } else {
            barrier_arrive(full);
        }
        q_at.advance();
    }

    LG_DEVICE void load_keys(const int (&messages)[kPieces]) {
        const u32 k_full = shared.k.full(at.stage()), v_full = shared.v.full(at.stage());
        int bytes = 0;
        shared.k.wait_empty(at);
        for (int piece = 0; piece < kPieces; ++piece) {
            shared.keys[at.stage() * kPieces + piece] = messages[piece];
            if (messages[piece] != kAbsent) bytes += tile_bytes(kPieceN);
        }
        barrier_arrive_expecting(k_full, bytes);
        load_pieces(messages, shared.key_stage(at.stage()), k_map, k_full);
        shared.v.wait_empty(at);
        for (int piece = 0; piece < kPieces; ++piece) {
            const bool absent = messages[piece] == kAbsent;
            shared.real_keys[at.stage() * kPieces + piece] = absent ? 0 : key_len - first_key(messages[piece]);
        }
        barrier_arrive_expecting(v_full, bytes);
        load_pieces(messages, shared.value_stage(at.stage()), v_map, v_full);
        at.advance();
    }

    LG_DEVICE void load_pieces(const int (&messages)[kPieces], u32 tile, const TensorMap& map, u32 full) const {
        for (int piece = 0; piece < kPieces; ++piece) {
            if (messages[piece] == kAbsent) continue;
            tma_load_tile<kTileN>(tile + piece * panel_bytes(kPieceN), map, full, g, k_begin + first_key(messages[piece]));
        }
    }

    LG_DEVICE void run() {
        bool valid = true;
        while (valid) {
            shared.step.wait_full(step_at);
            const Step& step = shared.steps[step_at.stage()];
            int messages[kPieces];
            for (int piece = 0; piece < kPieces; ++piece) messages[piece] = step.messages[piece];
            if (step.starts) {
                valid = step.tile.valid;
                k_begin = step.k_begin;
                load_queries(step.tile);
            }
            barrier_arrive(shared.step.empty(step_at.stage()));
            step_at.advance();
            if (valid) load_keys(messages);
        }
    }
};

}  // namespace lg
