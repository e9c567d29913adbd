// What the warps of the Hopper forward share: the layout of shared memory, the messages from walker to loader and from loader to
// consumers, the barriers. The protocol is at the head of `forward.cu`.
#pragma once
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
};
constexpr int kTileMessages = 2 * kQueryStages;

// What the walker tells the loader about a key tile.
struct Step {
    int messages[kPieces];
    int starts;         // 1: the first of a query tile. Only then there are:
    int k_begin;        // first key of the sequence, in the packed keys
    TileMessage tile;   // which may be no tile at all
};
constexpr int kSteps = 8;

constexpr int kForwardSmemBytes = 1024 + kMessagesAt + RingBarriers<kSteps>::kBytes + kSteps * int(sizeof(Step)) +
                                  kTileMessages * int(sizeof(TileMessage)) + 8 * kPieces * kStages;
static_assert(kForwardSmemBytes <= 232448, "one block's shared memory");

struct Shared {
    u32 start;
    Step* steps;                     // [kSteps]
    TileMessage* tiles;              // [kTileMessages] in turn: read until O is written, that is after Q was released
    int* keys;                       // [kStages][kPieces] beside K: the messages
    int* real_keys;                  // [kStages][kPieces] beside V: keys from the piece's first to the end of the sequence
    RingBarriers<kQueryStages> q;
    RingBarriers<kStages> k, v;
    RingBarriers<kSteps> step;

    LG_DEVICE explicit Shared(char* raw) {
        char* aligned = raw + ((1024 - (shared_address(raw) & 1023)) & 1023);
        start = shared_address(aligned);
        steps = reinterpret_cast<Step*>(aligned + kMessagesAt + RingBarriers<kSteps>::kBytes);
        tiles = reinterpret_cast<TileMessage*>(steps + kSteps);
        keys = reinterpret_cast<int*>(tiles + kTileMessages);
        real_keys = keys + kPieces * kStages;
        q.base = start + kBarriersAt;
        k.base = q.base + RingBarriers<kQueryStages>::kBytes;
        v.base = k.base + RingBarriers<kStages>::kBytes;
        step.base = v.base + RingBarriers<kStages>::kBytes;
    }
    LG_DEVICE TileMessage& tile_message(const Ring<kQueryStages>& at) const { return tiles[at.count % kTileMessages]; }
    LG_DEVICE u32 query_stage(int stage) const { return start + kQueryAt + stage * tile_bytes(kTileM); }
    LG_DEVICE u32 key_stage(int stage) const { return start + kKeyAt + stage * tile_bytes(kTileN); }
    LG_DEVICE u32 value_stage(int stage) const { return start + kValueAt + stage * tile_bytes(kTileN); }
};

}  // namespace lg
