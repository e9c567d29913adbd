// An example of the generated region, so that every template compiles alone: the pattern `sink=4 window=4096`, written by
// hand from the definitions. A generated source defines LONGGEN_GENERATED and brings its own. The numbers can be changed
// from the command line (-DLG_SAMPLE_HEAD_DIM=64), which the offline compile checks use.
#pragma once

#ifndef LG_SAMPLE_HEAD_DIM
#define LG_SAMPLE_HEAD_DIM 128
#endif
#ifndef LG_SAMPLE_TILE_M
#define LG_SAMPLE_TILE_M 128
#endif
#ifndef LG_SAMPLE_TILE_N
#define LG_SAMPLE_TILE_N 64
#endif
#ifndef LG_SAMPLE_STAGES
#define LG_SAMPLE_STAGES 2
#endif
#ifndef LG_SAMPLE_THREADS
#define LG_SAMPLE_THREADS 128
#endif
#ifndef LG_SAMPLE_CONSUMERS
#define LG_SAMPLE_CONSUMERS 2
#endif
#ifndef LG_SAMPLE_BF16
#define LG_SAMPLE_BF16 true
#endif
#ifndef LG_SAMPLE_SOFTCAP
#define LG_SAMPLE_SOFTCAP false
#endif
#ifndef LG_SAMPLE_SINK_LOGIT
#define LG_SAMPLE_SINK_LOGIT false
#endif
#ifndef LG_SAMPLE_ORDERED
#define LG_SAMPLE_ORDERED false
#endif
#ifndef LG_SAMPLE_LISTED
#define LG_SAMPLE_LISTED false
#endif

namespace lg {

constexpr int kHeadDim = LG_SAMPLE_HEAD_DIM;
constexpr int kTileM = LG_SAMPLE_TILE_M;            // query rows of a tile
constexpr int kTileN = LG_SAMPLE_TILE_N;            // keys of a tile
constexpr int kStages = LG_SAMPLE_STAGES;           // tiles of keys in flight
constexpr int kThreads = LG_SAMPLE_THREADS;         // threads of a block
constexpr int kConsumers = LG_SAMPLE_CONSUMERS;     // sm_90a: consumer warpgroups
constexpr bool kBf16 = LG_SAMPLE_BF16;              // else fp16
constexpr bool kSoftcap = LG_SAMPLE_SOFTCAP;        // scores pass through cap * tanh(s / cap)
constexpr bool kSinkLogit = LG_SAMPLE_SINK_LOGIT;   // one learned logit per head in the denominator
constexpr bool kListed = LG_SAMPLE_LISTED;          // tiles come from a list, not in closed form
constexpr bool kOrdered = LG_SAMPLE_ORDERED;        // fused backward: dQ is summed in one order

struct Span {
    int begin, end;
};
constexpr int kNone = 0x7fffffff;

// j <= i and (j < 4 or i - j < 4096)
__device__ __forceinline__ bool visible(int g, int i, int j) {
    return (j <= i) & ((j < 4) | (i - j < 4096));
}

// Rows [i0, i1) see the sink [0, 4) and the window [i0 - 4095, i1), both cut by causality.
__device__ __forceinline__ Span next_keys(int g, int i0, int i1, int x) {
    const int sink_end = i1 < 4 ? i1 : 4;
    if (x < sink_end) return {x, sink_end};
    const int window_begin = i0 - 4095;
    const int begin = x > window_begin ? x : window_begin;
    if (begin < i1) return {begin, i1};
    return {kNone, kNone};
}

// Keys [j0, j1): a sink key is seen by every later row, the last window key until row j1 - 1 + 4095.
__device__ __forceinline__ Span next_queries(int g, int j0, int j1, int x) {
    const int begin = x > j0 ? x : j0;
    const int end = j0 < 4 ? kNone : j1 + 4095;
    if (begin < end) return {begin, end};
    return {kNone, kNone};
}

__device__ __forceinline__ bool edge_only(int g, int i0, int i1, int j0, int j1) {
    return j1 <= 4 || i1 - 1 - j0 < 4096;
}

__device__ __forceinline__ bool all_visible(int g, int i0, int i1, int j0, int j1) {
    return j1 - 1 <= i0 && edge_only(g, i0, i1, j0, j1);
}

}  // namespace lg
