// The walk of a tile of keys over its queries, head by head.
#pragma once
#include "walk.cuh"

namespace lg {

// Every query tile that sees the keys, for each head of the group in turn.
struct HeadedWalk {
    QueryTileWalk queries;
    int first_head;
    int group;
    int passed = 0;  // heads of the group that the tile has been yielded for
    int tile = -1;
    int tile_kind = kFull;

    // Yields a tile; `kind` holds the head too, so that a stream need not keep a third number.
    LG_DEVICE bool next(int& n, int& kind) {
        if (passed == group || tile < 0) {
            if (!queries.next(tile, tile_kind)) return false;
            passed = 0;
        }
        n = tile;
        kind = (first_head + passed++) * 4 + tile_kind;
        return true;
    }
    LG_DEVICE static int head_of(int kind) { return kind >> 2; }
    LG_DEVICE static int kind_of(int kind) { return kind & 3; }
};

}  // namespace lg
