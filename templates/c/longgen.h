// Reads LongGen's kernel bundles (.lgk) and fills in launches: C99 or C++11, little-endian, no library needed.
//
//     const char* error = lgk_check(bytes, size);                  // NULL: every checksum of the file is right
//     uint32_t count;
//     const lgk_kernel* kernels = lgk_find(bytes, "mistral", "forward", 128, "bf16", 9, 0, &count);
//     cuModuleLoadData(&module, lgk_image(bytes, kernels));
//     for (uint32_t i = 0; i < count; ++i) { lgk_grid(&kernels[i], &params, multiprocessors, grid); cuLaunchKernel(...); }
//
// `docs/bundle.md` explains the format, `examples/bundle_c` is a whole program. Shape letters: B sequences, H query heads,
// G KV heads, D head dimension; total_q and total_k are the tokens of all sequences, packed.
#ifndef LONGGEN_H
#define LONGGEN_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

// The first argument of every kernel, by value. Pointers are device addresses, 0 for null; strides count elements; the
// last dimension of a tensor is contiguous and each row 16-byte aligned.
typedef struct lgk_params {
    uint64_t q;                                          // [total_q, H, D] 16-bit
    uint64_t k;                                          // [total_k, G, D] 16-bit
    uint64_t v;                                          // [total_k, G, D] 16-bit
    uint64_t o;                                          // [total_q, H, D] 16-bit
    uint64_t lse;                                        // [H, total_q] float: natural log-sum-exp
    uint64_t d_o;                                        // [total_q, H, D] 16-bit
    uint64_t d_lse;                                      // [H, total_q] float, or null
    uint64_t dq;                                         // [total_q, H, D] 16-bit
    uint64_t dk;                                         // [total_k, G, D] 16-bit
    uint64_t dv;                                         // [total_k, G, D] 16-bit
    uint64_t d_sink;                                     // [H] float
    uint64_t delta;                                      // [H, total_q] float: workspace of the backward
    uint64_t dq_accum;                                   // [H, query tiles, tile_m, D] float: workspace of the fused backward; without maps: zeroed
    uint64_t dq_turn;                                    // [H, query tiles] int: the same, zeroed by the caller
    uint64_t dkv_sums;                                   // fused backward, unless far_pairs is 0: [slots, 2, 64 D] float, zeroed
    uint64_t dkv_shares;                                 // the same: [slots] int, zeroed
    uint64_t far_slot;                                   // the same: [B + 1] int: slots of a KV head in earlier sequences
    uint64_t sink_logit;                                 // [H] float, or null
    uint64_t cu_q;                                       // [B + 1] int: first query row of each sequence
    uint64_t cu_k;                                       // [B + 1] int: first key row of each sequence
    uint64_t q_offset;                                   // [B] int: index of each sequence's first query token
    uint64_t list_row;                                   // listed patterns: [B * G * list_rows + 1] int
    uint64_t list_tile;                                  // listed patterns: tile * 4 + kind, int
    uint64_t split_o;                                    // [B, H, splits, D] float: workspace of decode
    uint64_t split_lse;                                  // [B, H, splits] float: workspace of decode
    uint64_t split_arrivals;                             // [B, head tiles] int: workspace of decode, 0 before the first launch, left 0
    uint64_t slot_key;                                   // [G, total_k] int: key of each cache slot; or null
    int64_t q_t, q_h;                                    // strides of a token and of a head
    int64_t k_t, k_h;
    int64_t v_t, v_h;
    int64_t o_t, o_h;
    int64_t do_t, do_h;
    int64_t dq_t, dq_h;
    int64_t dk_t, dk_h;
    int64_t dv_t, dv_h;
    int32_t batch;                                       // B
    int32_t heads;                                       // H
    int32_t kv_heads;                                    // G, divides H
    int32_t max_q;                                       // query tokens of the longest sequence
    int32_t max_k;                                       // keys of the longest sequence
    int32_t total_q;
    int32_t total_k;
    int32_t splits;                                      // decode: pieces of the keys
    int32_t list_rows;                                   // listed patterns: rows per sequence and KV head
    int32_t far_pairs;                                   // fused backward: pairs of far pieces, or 0: slower where there are any
    float scale;                                         // softmax scale, above 0
    float softcap;                                       // read only by kernels with softcap
} lgk_params;

// Of the declaration above, from its first brace to its last: another version's kernels may take another struct.
#define LGK_PARAMS_CRC 0xa8462712u

// A part of the file.
typedef struct lgk_span {
    uint64_t offset, bytes;
    uint32_t crc;                                        // CRC-32 of zlib, gzip and PNG
    uint32_t zero;
} lgk_span;

typedef struct lgk_header {
    uint8_t magic[8];                                    // 0x89 "LGK" CR LF 0x1a LF
    uint32_t version;                                    // LGK_VERSION
    uint32_t kernel_count;                               // records after this header
    uint64_t file_bytes;
    lgk_span info;                                       // JSON: generator, patterns, what was tuned
    lgk_span c_header;                                   // this file
    uint32_t index_crc;                                  // of all records
    uint32_t params_crc;                                 // LGK_PARAMS_CRC of the header that the kernels go with
    uint32_t zero;
    uint32_t header_crc;                                 // of the 84 bytes before it
} lgk_header;

enum { LGK_VERSION = 1 };
enum { LGK_PARAMS = 0, LGK_TENSOR_MAP = 1, LGK_WORK_COUNTER = 2 };  // kinds of arguments
enum { LGK_Q = 0, LGK_K = 1, LGK_V = 2, LGK_DO = 3 };                // tensors of maps
enum { LGK_ONE = 0, LGK_QUERY_TILES, LGK_KEY_TILES, LGK_QUERY_WORK, LGK_HEADS, LGK_KV_HEADS, LGK_BATCH, LGK_SPLITS,
       LGK_KEY_WORK, LGK_HEAD_TILES };

typedef struct lgk_argument {
    uint32_t kind;
    // LGK_TENSOR_MAP: a CUtensorMap of this tensor, 16-bit elements, dimensions (D, head, token), 128-byte swizzle, no
    // interleave, element strides 1, zeros out of bounds. LGK_WORK_COUNTER: address of an int that is 0 before the launch.
    uint32_t tensor;
    uint32_t box[3];                                     // extent of the map's box along (D, head, token)
} lgk_argument;

// One entry point. Those of one image lie one after the other, in launch order.
typedef struct lgk_kernel {
    char name[64];                                       // of the entry point
    char pattern[64];
    char pass[24];                                       // forward, backward_delta, ..., decode
    char target[16];                                     // sm_90a
    char dtype[8];                                       // bf16 or fp16
    uint32_t major, minor;                               // compute capability
    uint32_t exact;                                      // runs on that capability only
    uint32_t is_ptx;                                     // the image is PTX text: the driver compiles it, for later ones too
    uint32_t head_dim;
    uint32_t softcap;                                    // scores pass through softcap * tanh(s / softcap)
    uint32_t sink_logit;                                 // params.sink_logit is read
    uint32_t listed;                                     // the tiles come from a list that the host makes
    uint32_t step, steps;                                // which entry point of how many
    uint32_t needs_sink_logit;                           // skip the launch without sink logits
    uint32_t tile_m, tile_n, list_n;                     // query rows and keys of a tile; keys of a list's entry
    uint32_t grid[3];                                    // what each axis counts: lgk_grid
    uint32_t threads;                                    // of a block, along x
    uint32_t smem_bytes;                                 // dynamic shared memory
    uint32_t argument_count;
    lgk_argument arguments[6];
    lgk_span image, manifest;
} lgk_kernel;

typedef char lgk_params_has_its_size[sizeof(lgk_params) == 392 ? 1 : -1];
typedef char lgk_header_has_its_size[sizeof(lgk_header) == 88 ? 1 : -1];
typedef char lgk_kernel_has_its_size[sizeof(lgk_kernel) == 424 ? 1 : -1];

// `bytes` is the whole file, at an address that is a multiple of 8 (malloc's are).
static inline const lgk_header* lgk_head(const void* bytes) { return (const lgk_header*)bytes; }
static inline const lgk_kernel* lgk_kernels(const void* bytes) { return (const lgk_kernel*)(lgk_head(bytes) + 1); }
static inline const void* lgk_part(const void* bytes, lgk_span span) { return (const char*)bytes + span.offset; }
static inline const void* lgk_image(const void* bytes, const lgk_kernel* kernel) { return lgk_part(bytes, kernel->image); }

static inline uint32_t lgk_crc32(const void* data, uint64_t size) {
    const unsigned char* byte = (const unsigned char*)data;
    uint32_t table[256], crc = 0xffffffffu;
    for (uint32_t i = 0; i < 256; ++i) {
        table[i] = i;
        for (int bit = 0; bit < 8; ++bit) table[i] = (table[i] >> 1) ^ (table[i] & 1 ? 0xedb88320u : 0);
    }
    for (uint64_t i = 0; i < size; ++i) crc = (crc >> 8) ^ table[(crc ^ byte[i]) & 0xff];
    return ~crc;
}

static inline int lgk_is_whole(const void* bytes, lgk_span span) {
    const uint64_t size = lgk_head(bytes)->file_bytes;
    if (span.offset > size || span.bytes > size - span.offset) return 0;
    return lgk_crc32(lgk_part(bytes, span), span.bytes) == span.crc;
}

// Checks every sum of a file. NULL when all is well, else what is wrong with it.
static inline const char* lgk_check(const void* bytes, size_t size) {
    const lgk_header* head = lgk_head(bytes);
    if (size < 8 || memcmp(head->magic, "\x89LGK\r\n\x1a\n", 8) != 0) return "it is no kernel bundle";
    if (size < sizeof(lgk_header)) return "it was cut short";
    if (head->version != LGK_VERSION) return "it has another version of the format";
    if (lgk_crc32(head, offsetof(lgk_header, header_crc)) != head->header_crc) return "its header is damaged";
    if (head->params_crc != LGK_PARAMS_CRC) return "it goes with another longgen.h: compile with the one inside it";
    if (head->file_bytes != size) return "it was cut short, or added to";
    if (head->kernel_count > (size - sizeof(lgk_header)) / sizeof(lgk_kernel)) return "its index is malformed";
    if (lgk_crc32(head + 1, head->kernel_count * sizeof(lgk_kernel)) != head->index_crc) return "its index is damaged";
    if (!lgk_is_whole(bytes, head->info) || !lgk_is_whole(bytes, head->c_header)) return "its description is damaged";
    for (uint32_t i = 0; i < head->kernel_count; ++i) {
        const lgk_kernel* kernel = lgk_kernels(bytes) + i;
        if (kernel->step >= kernel->steps || kernel->steps - kernel->step > head->kernel_count - i) {
            return "its index is malformed";
        }
        if (kernel->argument_count > 6 || kernel->tile_m == 0 || kernel->tile_n == 0 || kernel->name[63] != 0) {
            return "its index is malformed";
        }
        if (!lgk_is_whole(bytes, kernel->image) || !lgk_is_whole(bytes, kernel->manifest)) return "a kernel is damaged";
    }
    return NULL;
}

// How well an image suits a device: 0 not at all; machine code before PTX, later architectures before earlier ones.
static inline uint32_t lgk_rank(const lgk_kernel* kernel, uint32_t major, uint32_t minor) {
    const uint32_t capability = kernel->major * 100 + kernel->minor, device = major * 100 + minor;
    if (kernel->exact) return capability == device && !kernel->is_ptx ? 1000000 : 0;
    if (capability > device) return 0;
    if (kernel->is_ptx) return capability;
    return kernel->major == major ? 100000 + capability : 0;
}

// The kernels of a pass that suit a device of compute capability major.minor best, in launch order; NULL for none. The
// passes of one computation must be of one target: a backward whose first kernel is of sm_90a needs all of sm_90a.
// Kernels with `listed` are passed over: only the Rust runtime makes their lists.
static inline const lgk_kernel* lgk_find(const void* bytes, const char* pattern, const char* pass, uint32_t head_dim,
                                         const char* dtype, uint32_t major, uint32_t minor, uint32_t* count) {
    const lgk_kernel* best = NULL;
    for (uint32_t i = 0; i < lgk_head(bytes)->kernel_count; ++i) {
        const lgk_kernel* kernel = lgk_kernels(bytes) + i;
        if (kernel->step != 0 || kernel->listed || kernel->head_dim != head_dim || strncmp(kernel->pattern, pattern, 64) != 0) continue;
        if (strncmp(kernel->pass, pass, 24) != 0 || strncmp(kernel->dtype, dtype, 8) != 0) continue;
        const uint32_t rank = lgk_rank(kernel, major, minor);
        if (rank > 0 && (best == NULL || rank > lgk_rank(best, major, minor))) best = kernel;
    }
    *count = best == NULL ? 0 : best->steps;
    return best;
}

// Blocks of a launch along x, y, z. An axis of 0 is no work: do not launch.
static inline void lgk_grid(const lgk_kernel* kernel, const lgk_params* p, uint32_t multiprocessors, uint32_t grid[3]) {
    const uint32_t query_tiles = ((uint32_t)p->max_q + kernel->tile_m - 1) / kernel->tile_m;
    const uint64_t work = (uint64_t)query_tiles * (uint32_t)p->heads * (uint32_t)p->batch;
    const uint32_t key_tiles = ((uint32_t)p->max_k + kernel->tile_n - 1) / kernel->tile_n;
    const uint32_t parts = p->max_q > 0 ? ((uint32_t)p->max_q + 8191) / 8192 : 1;
    const uint64_t far = (uint64_t)p->far_pairs * parts * (uint32_t)(p->heads / p->kv_heads);
    const uint64_t key_work = (far + key_tiles) * (uint32_t)p->kv_heads * (uint32_t)p->batch;
    const uint32_t head_tiles = (uint32_t)(p->kv_heads * ((p->heads / p->kv_heads + 15) / 16));
    for (int axis = 0; axis < 3; ++axis) {
        switch (kernel->grid[axis]) {
            case LGK_QUERY_TILES: grid[axis] = query_tiles; break;
            case LGK_KEY_TILES: grid[axis] = key_tiles; break;
            case LGK_QUERY_WORK: grid[axis] = work < multiprocessors ? (uint32_t)work : multiprocessors; break;
            case LGK_KEY_WORK: grid[axis] = key_work < multiprocessors ? (uint32_t)key_work : multiprocessors; break;
            case LGK_HEADS: grid[axis] = (uint32_t)p->heads; break;
            case LGK_KV_HEADS: grid[axis] = (uint32_t)p->kv_heads; break;
            case LGK_HEAD_TILES: grid[axis] = head_tiles; break;
            case LGK_BATCH: grid[axis] = (uint32_t)p->batch; break;
            case LGK_SPLITS: grid[axis] = (uint32_t)p->splits; break;
            default: grid[axis] = 1;
        }
    }
}

#endif
