// The walk of a tile of keys over its queries, head by head.
#pragma once
#include "walk.cuh"

namespace lg {

// Every query tile that sees the keys, for each head of the group in turn.
struct HeadedWalk {
    QueryTileWalk queries;
    int group;
    int tile = -1;  // as yielded last, and its kind and head
    int last = 0;

    // Yields a tile; `kind` holds the head too, so that a stream need not keep a third number.
    LG_DEVICE bool next(int& n, int& kind) {
        const int first_head = queries.g * group;
        if (tile < 0 || head_of(last) + 1 == first_head + group) {
            if (!queries.next(tile, last)) {
                tile = -1;
                return false;
            }
            last += first_head * 4;
        } else {
            last += 4;
        }
        n = tile;
        kind = last;
        return true;
    }
    LG_DEVICE static int head_of(int kind) { return kind >> 2; }
    LG_DEVICE static int kind_of(int kind) { return kind & 3; }
};

}  // namespace lg
