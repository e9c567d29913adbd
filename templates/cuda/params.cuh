// The one parameter struct of every attention kernel, passed by value. The host mirror (`codegen/src/cuda/abi.rs`) has the
// same fields in the same order: change both together. Shape letters: B batch, T query tokens, S key tokens (both packed
// over the batch), H query heads, G KV heads, D head dimension.
#pragma once
#include "prelude.cuh"

namespace lg {

struct Params {
    // Forward                                              shape, type
    const void* q;                                       // [total_q, H, D] half
    const void* k;                                       // [total_k, G, D] half
    const void* v;                                       // [total_k, G, D] half
    void* o;                                             // [total_q, H, D] half
    float* lse;                                          // [H, total_q]
    // Backward
    const void* d_o;                                     // [total_q, H, D] half
    const float* d_lse;                                  // [H, total_q] or null
    void* dq;                                            // [total_q, H, D] half
    void* dk;                                            // [total_k, G, D] half
    void* dv;                                            // [total_k, G, D] half
    float* d_sink;                                       // [H]
    float* delta;                                        // [H, total_q]      workspace
    float* dq_accum;                                     // [H, query tiles, tile_m, D]  workspace of the fused variants
    int* dq_turn;                                        // [H, query tiles]  workspace of the fused variants
    float* dkv_sums;                                     // [slots, 2, 64 D]  workspace of the fused variant, as is:
    int* dkv_shares;                                     // [slots]
    const int* far_slot;                                 // [B + 1]
    const float* sink_logit;                             // [H] or null
    // Sequences: tokens of sequence b are [cu[b], cu[b+1])
    const int* cu_q;                                     // [B + 1]
    const int* cu_k;                                     // [B + 1]
    const int* q_offset;                                 // [B] index of the first query token
    // Listed patterns: compressed rows of tiles, row = (b * G + g) * list_rows + tile, entry = tile * 4 + kind
    const int* list_row;                                 // [B * G * list_rows + 1]
    const int* list_tile;                                // [list_row[last]]
    // Decode
    float* split_o;                                      // [B, H, splits, D] workspace
    float* split_lse;                                    // [B, H, splits]    workspace
    int* split_arrivals;                                 // [B, head tiles]   workspace, zero between launches
    const int* slot_key;                                 // [G, total_k] key index of each slot, -1 empty; or null
    // Element strides of the token and of the head; the last dimension is contiguous, every row 16-byte aligned
    i64 q_t, q_h;
    i64 k_t, k_h;
    i64 v_t, v_h;
    i64 o_t, o_h;
    i64 do_t, do_h;
    i64 dq_t, dq_h;
    i64 dk_t, dk_h;
    i64 dv_t, dv_h;
    int batch;
    int heads;
    int kv_heads;
    int max_q;
    int max_k;
    int total_q;
    int total_k;
    int splits;
    int list_rows;
    int far_pairs;
    float scale;                                         // softmax scale, natural base
    float softcap;                                       // read only when kSoftcap
};
static_assert(sizeof(Params) == 27 * 8 + 16 * 8 + 12 * 4, "the host mirror counts on this layout");

// One sequence of the batch. A query token t of it (0 <= t < q_len) has the index q_offset + t among the keys.
struct Sequence {
    int q_begin;                                         // first row in the packed queries
    int q_len;
    int k_begin;                                         // first row in the packed keys
    int k_len;
    int q_offset;
};

LG_DEVICE Sequence load_sequence(const Params& p, int b) {
    Sequence s;
    s.q_begin = p.cu_q[b];
    s.q_len = p.cu_q[b + 1] - s.q_begin;
    s.k_begin = p.cu_k[b];
    s.k_len = p.cu_k[b + 1] - s.k_begin;
    s.q_offset = p.q_offset[b];
    return s;
}

// The row of one token and head in a [token, head, D] array. `token` is made opaque: the address belongs to the place where it
// is used, and must not be split into parts that live in registers across a loop.
template <class T>
LG_DEVICE T* row_of(T* array, int token, i64 token_stride, int head, i64 head_stride) {
    return array + opaque(token) * token_stride + head * head_stride;
}

LG_DEVICE const Half* query_row(const Params& p, int token, int head) {
    return row_of(static_cast<const Half*>(p.q), token, p.q_t, head, p.q_h);
}
LG_DEVICE const Half* key_row(const Params& p, int token, int head) {
    return row_of(static_cast<const Half*>(p.k), token, p.k_t, head, p.k_h);
}
LG_DEVICE const Half* value_row(const Params& p, int token, int head) {
    return row_of(static_cast<const Half*>(p.v), token, p.v_t, head, p.v_h);
}
LG_DEVICE const Half* output_gradient_row(const Params& p, int token, int head) {
    return row_of(static_cast<const Half*>(p.d_o), token, p.do_t, head, p.do_h);
}

// Where the log-sum-exp (and delta, and the gradient of the log-sum-exp) of one token and head lies.
LG_DEVICE i64 stats_index(const Params& p, int token, int head) { return i64(head) * p.total_q + opaque(token); }

}  // namespace lg
