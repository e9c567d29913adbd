// What a block of the fused Hopper backward works on at a time. A *unit* is two pieces of 64 keys of one KV head, one for
// each consumer, and some query heads and query tiles that they are walked over.
//
//   near   a tile of 128 keys, over all query tiles of all query heads of the group: nobody else has a part in its dK, dV
//   far    two *far* pieces: pieces that a query at any distance still sees, as sinks and strides leave them between pieces that
//          only near queries see. Far pieces are paired by their rank among themselves, so that both halves of a pair are seen
//          by nearly the same queries. Their walks are as long as the sequence: they are cut into parts of kPartQueries queries
//          of one query head. Parts keep the multiprocessors equally busy, and the pairs that walk the same part at
//          the same time find its Q, dO and dQ in L2.
//
// Far units, which are long and bound by arithmetic, run beside near units, which under a short window are bound by memory: K,
// V, dK, dV and dQ move for a few steps. The far ones are some rows (KV heads) ahead, so that short units end the kernel. A
// head whose keys are all far (a dense one) has near units only: tiles of 128 keys, the longest first. Blocks that begin with
// neighbours then end together and stay together, and find each other's Q, dO and dQ in L2. The ordered variant, too, has near
// units only; there dQ tiles pass from one key tile to the next below, so the tiles come from the last to the first.
#pragma once
#include "tile/sm90_scores.cuh"

namespace lg {

constexpr int kPieceN = 64;
constexpr int kPieces = 2;
constexpr int kPartQueries = 8192;
constexpr int kPartTiles = kPartQueries / kTileM;
static_assert(kTileN == kPieces * kPieceN, "a key tile is two pieces");

// Written by the producer warp in shared memory, and read there.
struct KeyUnit {
    Sequence s;
    int sequence, g;
    int tile;                        // near: number of the key tile
    int first[kPieces];              // first key of each piece, counted in the sequence; kNone: there is no such piece
    int head_begin, head_end;        // query heads
    int tile_begin, tile_end;        // query tiles
    int sharers;                     // units that have a part in dK and dV of these keys; 1: this one alone
    int slot;                        // where their sums are, when there are more: of the first piece, the second follows

    LG_DEVICE int keys(int piece) const { return first[piece] == kNone ? 0 : min_int(kPieceN, s.k_len - first[piece]); }
};
static_assert(sizeof(KeyUnit) == 64, "the host counts on it");

// ---- far pieces ---------------------------------------------------------------------------------------------------------

// A query further from every key than any key is from another.
constexpr int kFarQuery = 1 << 30;

// Which pieces of a sequence are far, under KV head g. None when all of them are, or when the host has made no room for them.
struct FarPieces {
    int g, key_len;
    bool mixed;

    LG_DEVICE FarPieces(const Params& p, int g, int key_len) : g(g), key_len(key_len), mixed(false) {
        if (!kListed && !kOrdered && p.far_pairs > 0) {
            const Span run = next_keys(g, kFarQuery, kFarQuery + 1, 0);
            mixed = run.begin > 0 || run.end < key_len;
        }
    }

    LG_DEVICE bool holds(int piece) const {
        if constexpr (kListed || kOrdered) return false;
        const int j0 = piece * kPieceN;
        if (!mixed || j0 >= key_len) return false;
        return next_keys(g, kFarQuery, kFarQuery + 1, j0).begin < min_int(j0 + kPieceN, key_len);
    }

    // The first key of the far piece of this rank among those from piece `from`, kNone when there are fewer. By a whole warp, 32
    // pieces at a time.
    LG_DEVICE int first_key_of_rank(int rank, int from = 0) const {
        const int lane = threadIdx.x % kWarpSize;
        for (int base = from, before = 0; base * kPieceN < key_len; base += kWarpSize) {
            const u32 far = __ballot_sync(kAllLanes, holds(base + lane));
            const bool mine = (far >> lane & 1u) && before + __popc(far & ((1u << lane) - 1)) == rank;
            const u32 found = __ballot_sync(kAllLanes, mine);
            if (found) return (base + __ffs(found) - 1) * kPieceN;
            before += __popc(far);
        }
        return kNone;
    }
};

// ---- from tickets to units ----------------------------------------------------------------------------------------------

LG_DEVICE int parts_of(int queries) { return max_int(1, ceil_div(queries, kPartQueries)); }

// Divisors are opaque because their hoisted reciprocals would take registers that the producer does not have.
// Units of one KV head of one sequence.
LG_DEVICE int most_parts(const Params& p) { return parts_of(opaque(p.max_q)); }
LG_DEVICE u32 rows_of_units(const Params& p) { return opaque(p.kv_heads) * p.batch; }
LG_DEVICE int group_of(const Params& p) { return opaque(p.heads) / p.kv_heads; }
LG_DEVICE u32 far_units(const Params& p) { return opaque(p.far_pairs) * most_parts(p) * group_of(p); }
LG_DEVICE u32 near_units(const Params& p) { return ceil_div(opaque(p.max_k), kTileN); }

// Tickets, of which some may hold no unit.
LG_DEVICE u32 work_units(const Params& p) { return (far_units(p) + near_units(p)) * rows_of_units(p); }

// A part of a pair of far pieces. Parts before the first query that may see a key by causality do not take part.
LG_DEVICE bool describe_far_unit(const Params& p, int at, KeyUnit& unit) {
    const int group = group_of(p);
    const int pairs = opaque(p.far_pairs), parts_each = most_parts(p);
    const int rank = at % pairs, walk = at / pairs;
    const int part = walk % parts_each, head = walk / parts_each;
    const Sequence s = unit.s;
    const int parts = parts_of(s.q_len);
    const FarPieces far(p, unit.g, s.k_len);
    if (part >= parts || !far.mixed) return false;
    const int first = far.first_key_of_rank(kPieces * rank);
    if (first == kNone) return false;
    const int first_part = min_int(max_int(first - s.q_offset, 0) / kPartQueries, parts - 1);
    if (part < first_part) return false;
    const int second = far.first_key_of_rank(0, first / kPieceN + 1);
    if (threadIdx.x % kWarpSize == 0) {
        unit.first[0] = first;
        unit.first[1] = second;
        unit.head_begin = unit.g * group + head;
        unit.head_end = unit.head_begin + 1;
        unit.tile_begin = part * kPartTiles;
        unit.tile_end = min_int(unit.tile_begin + kPartTiles, ceil_div(s.q_len, kTileM));
        unit.sharers = group * (parts - first_part);
        const int slots = p.far_slot[unit.sequence + 1] - p.far_slot[unit.sequence];
        unit.slot = p.far_slot[unit.sequence] * p.kv_heads + unit.g * slots + kPieces * rank;
    }
    return true;
}

// A tile of 128 keys, less its far pieces.
LG_DEVICE bool describe_near_unit(const Params& p, int at, KeyUnit& unit) {
    const int tile = kOrdered ? int(near_units(p)) - 1 - at : at;
    const int lane = threadIdx.x % kWarpSize, piece = tile * kPieces + lane;
    const FarPieces far(p, unit.g, unit.s.k_len);
    const bool mine = lane < kPieces && piece * kPieceN < unit.s.k_len && !far.holds(piece);
    if (lane < kPieces) unit.first[lane] = mine ? piece * kPieceN : kNone;
    if (lane == 0) {
        unit.tile = tile;
        unit.head_begin = unit.g * group_of(p);
        unit.head_end = unit.head_begin + group_of(p);
        unit.tile_begin = 0;
        unit.tile_end = ceil_div(unit.s.q_len, kTileM);
        unit.sharers = 1;
    }
    return __any_sync(kAllLanes, mine);
}

// What a ticket stands for: one of the far or of the near units of a KV head of a sequence.
struct Ticket {
    bool far;
    u32 row, at;
};

// The far units of a quarter of the rows; then, row by row, the far units of one and the near units of that a quarter before it;
// then the near units that are left.
LG_DEVICE Ticket read_ticket(const Params& p, u32 ticket) {
    const u32 far = far_units(p), near = near_units(p), rows = rows_of_units(p);
    const u32 lead = ceil_div(rows, 4);
    if (ticket < lead * far) return {true, ticket / far, ticket % far};
    ticket -= lead * far;
    const u32 mixed = (rows - lead) * (far + near);
    if (ticket >= mixed) {
        ticket -= mixed;
        return {false, rows - lead + ticket / near, ticket % near};
    }
    const u32 row = ticket / (far + near), at = ticket - row * (far + near);
    if (at < far) return {true, row + lead, at};
    return {false, row, at - far};
}

// The unit of a ticket, by a whole warp. False when it holds none.
LG_DEVICE bool describe_unit(const Params& p, u32 number, KeyUnit& unit) {
    const Ticket ticket = read_ticket(p, number);
    if (threadIdx.x % kWarpSize == 0) {
        const u32 kv_heads = opaque(p.kv_heads);
        unit.sequence = ticket.row / kv_heads;
        unit.g = ticket.row % kv_heads;
        unit.s = load_sequence(p, ticket.row / kv_heads);
    }
    __syncwarp();
    const bool found = ticket.far ? describe_far_unit(p, ticket.at, unit) : describe_near_unit(p, ticket.at, unit);
    __syncwarp();
    return found;
}

// ---- the walk of a unit -------------------------------------------------------------------------------------------------

// The query tiles of a unit that see a key of either piece, ascending, none twice, with the kind of each piece: kAbsent for a piece
// that the tile does not see. By a whole warp: even lanes ask about the first piece, odd lanes about the second.
struct UnitWalk {
    const Params& p;
    const KeyUnit& unit;
    int j0, j1;      // keys of this lane's piece; kNone where there is none
    int tile;        // closed form: next query tile to look at.   listed: position in list_tile
    int hull_end;    // closed form: tiles [tile, hull_end) may see a key.   listed: end of the row

    LG_DEVICE UnitWalk(const Params& p, const KeyUnit& unit) : p(p), unit(unit) {
        j0 = unit.first[threadIdx.x % kPieces];
        j1 = j0 == kNone ? kNone : min_int(j0 + kPieceN, unit.s.k_len);
        restart();
    }

    LG_DEVICE void restart() {
        if constexpr (kListed) {
            const int row = list_row_of(p, unit.sequence, unit.g, unit.tile);
            tile = p.list_row[row];
            hull_end = p.list_row[row + 1];
        } else {
            tile = hull_end = unit.tile_begin;
        }
    }

    // Query indices of tile m: [index_begin(m), index_end(m)).
    LG_DEVICE int index_begin(int m) const { return unit.s.q_offset + m * kTileM; }
    LG_DEVICE int index_end(int m) const { return unit.s.q_offset + min_int((m + 1) * kTileM, unit.s.q_len); }

    // Of two lanes' values, the other's.
    LG_DEVICE static int other(int mine) { return __shfl_xor_sync(kAllLanes, mine, 1); }

    // Makes [tile, hull_end) the next run of tiles of which some may see a key. False when there is none.
    LG_DEVICE bool seek_hull() {
        if (tile < hull_end) return true;
        if (tile >= unit.tile_end) return false;
        Span hull = {kNone, kNone};
        if (j0 != kNone) hull = next_queries(unit.g, j0, j1, index_begin(tile));
        const Span second = {other(hull.begin), other(hull.end)};
        const int begin = min_int(hull.begin, second.begin);
        const int past = max_int(hull.begin == begin ? hull.end : 0, second.begin == begin ? second.end : 0);
        const int last = unit.s.q_offset + unit.s.q_len;
        tile = begin < last ? (begin - unit.s.q_offset) / kTileM : unit.tile_end;
        hull_end = min_int(unit.tile_end, ceil_div(min_int(past, last) - unit.s.q_offset, kTileM));
        return tile < hull_end;
    }

    LG_DEVICE int kind_of_piece(int m) const {
        const int i0 = index_begin(m), i1 = index_end(m);
        if (j0 == kNone || next_keys(unit.g, i0, i1, j0).begin >= j1) return kAbsent;
        return classify_tile(unit.g, i0, i1, j0, kPieceN, unit.s.k_len);
    }

    LG_DEVICE int kind_in_list(int entry) const {
        if (j0 == kNone) return kAbsent;
        return entry == kFull && j1 - j0 < kPieceN ? kEdge : entry;
    }

    // Yields the next query tile; `kinds` holds two bits for each piece.
    LG_DEVICE bool next(int& m, int& kinds) {
        while (kListed ? tile < hull_end : seek_hull()) {
            int kind;
            if constexpr (kListed) {
                const int entry = p.list_tile[tile++];
                m = entry >> 2;
                kind = kind_in_list(entry & 3);
            } else {
                m = tile++;
                kind = kind_of_piece(m);
            }
            const int second = other(kind);
            kinds = threadIdx.x % kPieces == 0 ? kind + 4 * second : second + 4 * kind;
            if (kinds != kAbsent + 4 * kAbsent) return true;
        }
        return false;
    }

    // One more than the number of the next key tile above this one that query tile m sees; 0 when there is none.
    LG_DEVICE int key_tile_above(int m) const {
        const int after = (unit.tile + 1) * kTileN;
        if (after >= unit.s.k_len) return 0;
        const Span run = next_keys(unit.g, index_begin(m), index_end(m), after);
        return run.begin < unit.s.k_len ? run.begin / kTileN + 1 : 0;
    }
};

}  // namespace lg
