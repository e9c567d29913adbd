// Which tiles a kernel visits, and which elements of a visited tile count. Everything here follows from five generated
// pattern functions (closed form), or from a compact list of tiles when the pattern has no closed form (kListed).
//
//   KeyTileWalk     the key tiles of one tile of queries   (forward, dQ, decode)
//   QueryTileWalk   the query tiles of one tile of keys    (dK, dV)
//
// Both yield every tile with at least one visible pair, in ascending order, none twice. All threads of a warp must make the
// same calls. The cost is one `next_keys` per contiguous run of keys, not per tile: inside a run a step is an addition.
#pragma once
#include "params.cuh"

namespace lg {

// How much mask code a tile needs. The numbers are those of list entries.
enum TileKind : int {
    kFull = 0,     // every pair is visible
    kEdge = 1,     // visible(g, i, j) == (j <= i): only the causal edge and the end of the keys
    kGeneral = 2,  // ask `visible` for each pair
};

// The element test of a tile. `key_len` cuts keys past the end of the sequence, which no kind but kFull may assume away.
// Written, like `visible` should be, without short-circuit operators: a test must not become a branch per element.
LG_DEVICE bool keep(int kind, int g, int i, int j, int key_len) {
    if (kind == kFull) return true;
    if (kind == kEdge) return j <= min_int(i, key_len - 1);
    return (j < key_len) & visible(g, i, j);
}

// The kind of the box of query indices [i0, i1) and keys [j0, j0 + width). A tile that crosses key_len is never kFull: when
// all its real keys are visible it becomes kEdge, whose test is exact there.
LG_DEVICE int classify_tile(int g, int i0, int i1, int j0, int width, int key_len) {
    const int j1 = min_int(j0 + width, key_len);
    if (all_visible(g, i0, i1, j0, j1)) return j1 == j0 + width ? kFull : kEdge;
    return edge_only(g, i0, i1, j0, j1) ? kEdge : kGeneral;
}

// Row of the tile list for (sequence b, KV head g, tile).
LG_DEVICE int list_row_of(const Params& p, int b, int g, int tile) { return (b * p.kv_heads + g) * p.list_rows + tile; }

// ---- key tiles of a tile of queries ---------------------------------------------------------------------------------

// Tiles of kWidth keys: a kernel may gather its tiles from narrower pieces.
template <int kWidth>
struct KeyWalk {
    int g;
    int i0, i1;      // query indices [i0, i1), i1 > i0
    int key_len;     // keys of the sequence
    int key_end;     // no visible key at or past it: min(key_len, i1) by causality
    int tile;        // closed form: first tile not yet yielded.   listed: position in list_tile
    int run_end;     // closed form: tiles [tile, run_end) are in the current run.   listed: end of the row
    const int* list; // listed: the entries; else unused

    // `q_tile` is the number of the query tile inside its sequence; only the list needs it.
    LG_DEVICE KeyWalk(const Params& p, int b, int g, int q_tile, int i0, int i1, int key_len)
        : g(g), i0(i0), i1(i1), key_len(key_len), key_end(min_int(key_len, i1)), tile(0), run_end(0), list(p.list_tile) {
        if constexpr (kListed) {
            const int row = list_row_of(p, b, g, q_tile);
            tile = p.list_row[row];
            run_end = p.list_row[row + 1];
        }
    }

    // Makes [tile, run_end) the next non-empty piece of the walk. False when there is none.
    LG_DEVICE bool seek_run() {
        if (tile < run_end) return true;
        if constexpr (kListed) {
            return false;
        } else {
            if (tile * kWidth >= key_end) return false;
            const Span run = next_keys(g, i0, i1, tile * kWidth);
            if (run.begin >= key_end) return false;
            tile = run.begin / kWidth;
            run_end = ceil_div(min_int(run.end, key_end), kWidth);
            return true;
        }
    }

    // Yields the next tile: keys [n * kWidth, (n + 1) * kWidth) cut at key_len. False at the end.
    LG_DEVICE bool next(int& n, int& kind) {
        if (!seek_run()) return false;
        if constexpr (kListed) {
            const int entry = list[tile++];
            n = entry >> 2;
            kind = entry & 3;
            if (kind == kFull && (n + 1) * kWidth > key_len) kind = kEdge;
        } else {
            n = tile++;
            kind = classify_tile(g, i0, i1, n * kWidth, kWidth, key_len);
        }
        return true;
    }

    // Starts over, on the tiles [first, last) only. Closed form only.
    LG_DEVICE void restrict_to(int first, int last) {
        tile = first;
        run_end = first;
        key_end = min_int(key_end, last * kWidth);
    }

    // Passes over up to `count` tiles without yielding them, run by run; returns how many it passed.
    LG_DEVICE int skip(int count) {
        int passed = 0;
        while (passed < count && seek_run()) {
            const int step = min_int(count - passed, run_end - tile);
            tile += step;
            passed += step;
        }
        return passed;
    }
};

using KeyTileWalk = KeyWalk<kTileN>;

// ---- query tiles of a tile of keys ----------------------------------------------------------------------------------

struct QueryTileWalk {
    int g;
    int j0, j1;      // keys [j0, j1) of the tile, cut at key_len
    int key_len;
    int i_first;     // index of the sequence's first query token
    int i_end;       // one past the index of its last
    int tile;        // closed form: next query tile to look at.   listed: position in list_tile
    int hull_end;    // closed form: tiles [tile, hull_end) may see a key.   listed: end of the row
    const int* list;

    LG_DEVICE QueryTileWalk(const Params& p, int b, int g, int k_tile, const Sequence& s)
        : g(g), j0(k_tile * kTileN), j1(min_int(j0 + kTileN, s.k_len)), key_len(s.k_len), i_first(s.q_offset),
          i_end(s.q_offset + s.q_len), tile(0), hull_end(0), list(p.list_tile) {
        if constexpr (kListed) {
            const int row = list_row_of(p, b, g, k_tile);
            tile = p.list_row[row];
            hull_end = p.list_row[row + 1];
        }
    }

    // Query tile m holds the indices [tile_begin(m), tile_end(m)).
    LG_DEVICE int tile_begin(int m) const { return i_first + m * kTileM; }
    LG_DEVICE int tile_end(int m) const { return min_int(i_first + (m + 1) * kTileM, i_end); }

    // Makes [tile, hull_end) the next non-empty hull of query tiles. False when there is none.
    LG_DEVICE bool seek_hull() {
        if (tile < hull_end) return true;
        if constexpr (kListed) {
            return false;
        } else {
            if (tile_begin(tile) >= i_end) return false;
            const Span hull = next_queries(g, j0, j1, tile_begin(tile));
            if (hull.begin >= i_end) return false;
            tile = (hull.begin - i_first) / kTileM;
            hull_end = ceil_div(min_int(hull.end, i_end) - i_first, kTileM);
            return true;
        }
    }

    // Yields the next query tile. A hull is conservative, so each tile in it is confirmed by its first visible key.
    LG_DEVICE bool next(int& m, int& kind) {
        while (seek_hull()) {
            if constexpr (kListed) {
                const int entry = list[tile++];
                m = entry >> 2;
                kind = entry & 3;
                if (kind == kFull && j0 + kTileN > key_len) kind = kEdge;
                return true;
            } else {
                m = tile++;
                const int i0 = tile_begin(m), i1 = tile_end(m);
                if (next_keys(g, i0, i1, j0).begin >= j1) continue;
                kind = classify_tile(g, i0, i1, j0, kTileN, key_len);
                return true;
            }
        }
        return false;
    }
};

}  // namespace lg
