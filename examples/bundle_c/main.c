// Attention from a kernel bundle in C: no CUDA toolkit, no NVRTC, only the driver's libcuda.so, opened when the program runs.
//
//     lgc bundle 'sink=4, window=64' -o kernels.lgk --header longgen.h
//     cc -O2 -I. examples/bundle_c/main.c -ldl -lm -o attention
//     ./attention kernels.lgk --check           every checksum, and a list of the kernels; needs no GPU
//     ./attention kernels.lgk                   the forward on random numbers, compared with a plain loop
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "longgen.h"

// The pattern of the bundle that is launched, and its mask: query i sees the first 4 keys and the 64 up to its own.
#define PATTERN "sink=4, window=64"
static int sees(int i, int j) { return j <= i && (i - j < 64 || j < 4); }

// Two sequences, 4 query heads on 2 KV heads.
enum { SEQUENCES = 2, HEADS = 4, KV_HEADS = 2, D = 128, FIRST = 300, SECOND = 77, TOKENS = FIRST + SECOND };

static void fail(const char* what, const char* why) {
    fprintf(stderr, "error: %s: %s\n", what, why);
    exit(1);
}

static void* read_file(const char* path, size_t* size) {
    FILE* file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0) fail(path, "cannot be read");
    const long end = ftell(file);
    if (end < 0 || fseek(file, 0, SEEK_SET) != 0) fail(path, "cannot be read");
    *size = (size_t)end;
    void* bytes = malloc(*size + 1);
    if (bytes == NULL || fread(bytes, 1, *size, file) != *size) fail(path, "cannot be read");
    fclose(file);
    return bytes;
}

static void list(const void* bundle) {
    for (uint32_t i = 0; i < lgk_head(bundle)->kernel_count; ++i) {
        const lgk_kernel* kernel = lgk_kernels(bundle) + i;
        printf("%s | %s | D %u | %s | %s%s | %s | %u threads, %u bytes of shared memory\n", kernel->pattern, kernel->pass,
               kernel->head_dim, kernel->dtype, kernel->target, kernel->is_ptx ? " PTX" : "", kernel->name,
               kernel->threads, kernel->smem_bytes);
    }
}

// The part of the driver's interface that is used here, by the names in libcuda.so.
typedef int (*function_t)();
static void* libcuda;
static function_t driver_function(const char* name) {
    void* symbol = dlsym(libcuda, name);
    if (symbol == NULL) fail("libcuda.so.1 has no", name);
    function_t function;
    memcpy(&function, &symbol, sizeof function);
    return function;
}
static void check(int status, const char* what) {
    if (status == 0) return;
    const char* why = "the driver does not say why";
    int (*describe)(int, const char**) = (int (*)(int, const char**))driver_function("cuGetErrorString");
    describe(status, &why);
    fail(what, why);
}
#define CALL(name, types, ...) check(((int(*) types)driver_function(#name)) (__VA_ARGS__), #name)

typedef uint64_t address_t;
static address_t upload(const void* data, size_t bytes) {
    address_t address = 0;
    CALL(cuMemAlloc_v2, (address_t*, size_t), &address, bytes);
    CALL(cuMemcpyHtoD_v2, (address_t, const void*, size_t), address, data, bytes);
    return address;
}

static uint16_t to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
static float from_bf16(uint16_t half) {
    const uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
static uint16_t* random_tensor(int heads, uint32_t seed) {
    uint16_t* tensor = malloc(sizeof(uint16_t) * TOKENS * heads * D);
    if (tensor == NULL) fail("a tensor", "out of memory");
    for (int i = 0; i < TOKENS * heads * D; ++i) {
        seed = seed * 1664525u + 1013904223u;
        tensor[i] = to_bf16((float)(seed >> 8) / (1 << 23) - 1.0f);
    }
    return tensor;
}

// A map for Hopper's bulk copies of a [token, head, D] tensor.
static void encode_map(void* map, const lgk_argument* argument, address_t tensor, uint32_t heads) {
    const uint64_t extents[3] = {D, heads, TOKENS}, strides[2] = {D * 2, (uint64_t)heads * D * 2};
    const uint32_t steps[3] = {1, 1, 1};
    enum { BFLOAT16 = 9, NO_INTERLEAVE = 0, SWIZZLE_128B = 3, L2_256B = 3, ZEROS = 0 };
    CALL(cuTensorMapEncodeTiled,
         (void*, int, uint32_t, address_t, const uint64_t*, const uint64_t*, const uint32_t*, const uint32_t*, int, int, int, int),
         map, BFLOAT16, 3, tensor, extents, strides, argument->box, steps, NO_INTERLEAVE, SWIZZLE_128B, L2_256B, ZEROS);
}

static void launch(const void* bundle, const lgk_kernel* kernel, lgk_params* params, uint32_t multiprocessors) {
    void *module = NULL, *function = NULL;
    CALL(cuModuleLoadData, (void**, const void*), &module, lgk_image(bundle, kernel));
    CALL(cuModuleGetFunction, (void**, void*, const char*), &function, module, kernel->name);
    enum { MAX_DYNAMIC_SHARED_SIZE_BYTES = 8 };
    CALL(cuFuncSetAttribute, (void*, int, int), function, MAX_DYNAMIC_SHARED_SIZE_BYTES, (int)kernel->smem_bytes);

    const int zero = 0;
    address_t work_counter = upload(&zero, sizeof zero);
    _Alignas(64) unsigned char maps[6][128];
    void* arguments[6];
    for (uint32_t i = 0; i < kernel->argument_count; ++i) {
        const lgk_argument* argument = &kernel->arguments[i];
        const address_t tensors[4] = {params->q, params->k, params->v, params->d_o};
        switch (argument->kind) {
            case LGK_PARAMS: arguments[i] = params; break;
            case LGK_WORK_COUNTER: arguments[i] = &work_counter; break;
            default:
                if (argument->tensor > LGK_DO) fail(kernel->name, "has a map of an unknown tensor");
                const int of_queries = argument->tensor == LGK_Q || argument->tensor == LGK_DO;
                encode_map(maps[i], argument, tensors[argument->tensor], of_queries ? HEADS : KV_HEADS);
                arguments[i] = maps[i];
        }
    }
    uint32_t grid[3];
    lgk_grid(kernel, params, multiprocessors, grid);
    typedef unsigned int u;
    CALL(cuLaunchKernel, (void*, u, u, u, u, u, u, u, void*, void**, void**), function, grid[0], grid[1], grid[2],
         kernel->threads, 1, 1, kernel->smem_bytes, NULL, arguments, NULL);
}

// Softmax attention by its definition. Returns the norm of the difference over the norm of the result.
static double compare(const uint16_t* q, const uint16_t* k, const uint16_t* v, const uint16_t* o, const int* begin) {
    double difference = 0, norm = 0, scores[TOKENS], exact[D];
    for (int s = 0; s < SEQUENCES; ++s) {
        for (int i = 0; i < begin[s + 1] - begin[s]; ++i) {
            for (int h = 0; h < HEADS; ++h) {
                const int g = h / (HEADS / KV_HEADS);
                const size_t row = ((size_t)(begin[s] + i) * HEADS + h) * D;
                double largest = -INFINITY, sum = 0;
                for (int j = 0; j <= i; ++j) {
                    const size_t key = ((size_t)(begin[s] + j) * KV_HEADS + g) * D;
                    scores[j] = sees(i, j) ? 0 : -INFINITY;
                    for (int d = 0; d < D; ++d) scores[j] += from_bf16(q[row + d]) * from_bf16(k[key + d]) / sqrt(D);
                    if (scores[j] > largest) largest = scores[j];
                }
                memset(exact, 0, sizeof exact);
                for (int j = 0; j <= i; ++j) {
                    const double weight = exp(scores[j] - largest);
                    sum += weight;
                    for (int d = 0; d < D; ++d) exact[d] += weight * from_bf16(v[((size_t)(begin[s] + j) * KV_HEADS + g) * D + d]);
                }
                for (int d = 0; d < D; ++d) {
                    const double error = from_bf16(o[row + d]) - exact[d] / sum;
                    difference += error * error;
                    norm += exact[d] / sum * (exact[d] / sum);
                }
            }
        }
    }
    return sqrt(difference / norm);
}

int main(int count, char** words) {
    if (count < 2 || count > 3 || (count == 3 && strcmp(words[2], "--check") != 0)) {
        fprintf(stderr, "usage: %s kernels.lgk [--check]\n", words[0]);
        return 2;
    }
    size_t size;
    void* bundle = read_file(words[1], &size);
    const char* error = lgk_check(bundle, size);
    if (error != NULL) fail(words[1], error);
    if (count == 3) {
        list(bundle);
        return 0;
    }

    libcuda = dlopen("libcuda.so.1", RTLD_NOW);
    if (libcuda == NULL) fail("no NVIDIA driver", dlerror());
    void* context = NULL;
    int device = 0, major = 0, minor = 0, multiprocessors = 0;
    enum { MULTIPROCESSOR_COUNT = 16, MAJOR = 75, MINOR = 76 };
    CALL(cuInit, (unsigned), 0);
    CALL(cuDeviceGet, (int*, int), &device, 0);
    CALL(cuDevicePrimaryCtxRetain, (void**, int), &context, device);
    CALL(cuCtxSetCurrent, (void*), context);
    CALL(cuDeviceGetAttribute, (int*, int, int), &major, MAJOR, device);
    CALL(cuDeviceGetAttribute, (int*, int, int), &minor, MINOR, device);
    CALL(cuDeviceGetAttribute, (int*, int, int), &multiprocessors, MULTIPROCESSOR_COUNT, device);

    uint32_t steps = 0;
    const lgk_kernel* kernels = lgk_find(bundle, PATTERN, "forward", D, "bf16", (uint32_t)major, (uint32_t)minor, &steps);
    if (kernels == NULL) fail(words[1], "holds no forward kernel of '" PATTERN "' with D 128 in bf16 for this device");

    uint16_t *q = random_tensor(HEADS, 1), *k = random_tensor(KV_HEADS, 2), *v = random_tensor(KV_HEADS, 3);
    uint16_t* o = random_tensor(HEADS, 4);
    const size_t q_bytes = sizeof(uint16_t) * TOKENS * HEADS * D, k_bytes = sizeof(uint16_t) * TOKENS * KV_HEADS * D;
    const int begin[SEQUENCES + 1] = {0, FIRST, TOKENS}, offsets[SEQUENCES] = {0, 0};
    static const float lse[HEADS * TOKENS];
    lgk_params params;
    memset(&params, 0, sizeof params);
    params.q = upload(q, q_bytes);
    params.k = upload(k, k_bytes);
    params.v = upload(v, k_bytes);
    params.o = upload(o, q_bytes);
    params.lse = upload(lse, sizeof lse);
    params.cu_q = params.cu_k = upload(begin, sizeof begin);
    params.q_offset = upload(offsets, sizeof offsets);
    params.q_t = params.o_t = HEADS * D;
    params.k_t = params.v_t = KV_HEADS * D;
    params.q_h = params.k_h = params.v_h = params.o_h = D;
    params.batch = SEQUENCES;
    params.heads = HEADS;
    params.kv_heads = KV_HEADS;
    params.max_q = params.max_k = FIRST;
    params.total_q = params.total_k = TOKENS;
    params.scale = 1.0f / sqrtf(D);
    for (uint32_t step = 0; step < steps; ++step) launch(bundle, &kernels[step], &params, (uint32_t)multiprocessors);
    CALL(cuCtxSynchronize, (void), );
    CALL(cuMemcpyDtoH_v2, (void*, address_t, size_t), o, params.o, q_bytes);

    const double found = compare(q, k, v, o, begin);
    // Weights and outputs are rounded to 8 bits: half a unit in the last place is 2^-9, and a few of them add up.
    const double limit = 4.0 / 512;
    printf("%s from %s%s, compute capability %d.%d: relative error %.1e, limit %.1e\n", kernels->name, kernels->target,
           kernels->is_ptx ? " PTX" : "", major, minor, found, limit);
    return found <= limit ? 0 : 1;
}
