"""Attention from a kernel bundle on PyTorch tensors, through the CUDA driver by ctypes: no toolkit, no NVRTC.

    lgc bundle 'sink=4, window=64' -o kernels.lgk
    python3 examples/bundle_python/attention.py kernels.lgk --check     every checksum, and a list; needs no GPU, no PyTorch
    python3 examples/bundle_python/attention.py kernels.lgk             the forward, compared with PyTorch's own attention
"""

import ctypes
import sys

import lgk

PATTERN, SINK, WINDOW = "sink=4, window=64", 4, 64
MAX_DYNAMIC_SHARED_SIZE_BYTES = 8


def check(cuda, status, call):
    if status:
        why = ctypes.c_char_p()
        cuda.cuGetErrorString(status, ctypes.byref(why))
        raise RuntimeError(f"{call}: {(why.value or b'?').decode()}")


def parameter_bytes(layout, values):
    """The parameter struct, laid out as the manifest says. Absent fields are 0."""
    kinds = {"pointer": ctypes.c_uint64, "int64": ctypes.c_int64, "int32": ctypes.c_int32, "float32": ctypes.c_float}
    unknown = set(values) - {field["name"] for field in layout["fields"]}
    assert not unknown, unknown
    struct = ctypes.create_string_buffer(layout["size"])
    for field in layout["fields"]:
        kinds[field["type"]].from_buffer(struct, field["offset"]).value = values.get(field["name"], 0)
    return struct


def tensor_map(cuda, tensor, box):
    """A map for Hopper's bulk copies of a [token, head, D] tensor, aligned to 64 bytes."""
    room = ctypes.create_string_buffer(128 + 64)
    address = (ctypes.addressof(room) + 63) // 64 * 64
    tokens, heads, head_dim = tensor.shape
    bfloat16, fp16, no_interleave, swizzle_128, l2_256, zeros = 9, 6, 0, 3, 3, 0
    kind = bfloat16 if "bfloat16" in str(tensor.dtype) else fp16
    extents = (ctypes.c_uint64 * 3)(head_dim, heads, tokens)
    strides = (ctypes.c_uint64 * 2)(tensor.stride(1) * 2, tensor.stride(0) * 2)
    box, steps = (ctypes.c_uint32 * 3)(*box), (ctypes.c_uint32 * 3)(1, 1, 1)
    pointer = ctypes.c_void_p(tensor.data_ptr())
    status = cuda.cuTensorMapEncodeTiled(
        ctypes.c_void_p(address), kind, 3, pointer, extents, strides, box, steps, no_interleave, swizzle_128, l2_256, zeros
    )
    check(cuda, status, "cuTensorMapEncodeTiled")
    return room, address


def launch(cuda, kernel, values, tensors, work_counter, multiprocessors, stream):
    """Submits one entry point to a stream."""
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    check(cuda, cuda.cuModuleLoadData(ctypes.byref(module), kernel.image), "cuModuleLoadData")
    name = kernel.name.encode()
    check(cuda, cuda.cuModuleGetFunction(ctypes.byref(function), module, name), "cuModuleGetFunction")
    entry, smem = kernel.entry, kernel.entry["dynamic_smem_bytes"]
    check(cuda, cuda.cuFuncSetAttribute(function, MAX_DYNAMIC_SHARED_SIZE_BYTES, smem), "cuFuncSetAttribute")

    params = parameter_bytes(kernel.manifest["params"], values)
    kept, addresses = [params], []
    for argument in entry["arguments"]:
        if argument["type"] == "params":
            addresses.append(ctypes.addressof(params))
        elif argument["type"] == "tensor_map":
            room, address = tensor_map(cuda, tensors[argument["tensor"]], argument["box"])
            kept.append(room)
            addresses.append(address)
        else:
            counter = ctypes.c_uint64(work_counter)
            kept.append(counter)
            addresses.append(ctypes.addressof(counter))
    query_tiles = -(-values["max_q"] // kernel.manifest["tile_m"])
    extents = {
        "query_tiles": query_tiles,
        "key_tiles": -(-values["max_k"] // kernel.manifest["tile_n"]),
        "query_work": min(multiprocessors, query_tiles * values["heads"] * values["batch"]),
        "heads": values["heads"],
        "kv_heads": values["kv_heads"],
        "batch": values["batch"],
        "one": 1,
    }
    grid = [extents[axis] for axis in entry["grid"]]
    pointers = (ctypes.c_void_p * len(addresses))(*addresses)
    block = (entry["block"], 1, 1)
    status = cuda.cuLaunchKernel(function, *grid, *block, smem, ctypes.c_void_p(stream), pointers, None)
    check(cuda, status, "cuLaunchKernel")


def attention(bundle, q, k, v):
    """O of one sequence: q [T, H, D], k and v [T, G, D] on the GPU."""
    import torch

    cuda = ctypes.CDLL("libcuda.so.1")
    device = torch.cuda.get_device_properties(q.device)
    dtype = "bf16" if q.dtype == torch.bfloat16 else "fp16"
    kernels = bundle.find(PATTERN, "forward", q.shape[2], dtype, (device.major, device.minor))
    tokens, heads, head_dim = q.shape
    o, lse = torch.empty_like(q), torch.empty(heads, tokens, device=q.device)
    int32 = dict(dtype=torch.int32, device=q.device)
    begin, offset, counter = torch.tensor([0, tokens], **int32), torch.zeros(1, **int32), torch.zeros(1, **int32)
    tensors = dict(q=q, k=k, v=v, o=o)
    values = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        values |= {f"{name}_t": tensor.stride(0), f"{name}_h": tensor.stride(1)}
    values |= dict(lse=lse.data_ptr(), cu_q=begin.data_ptr(), cu_k=begin.data_ptr(), q_offset=offset.data_ptr())
    values |= dict(batch=1, heads=heads, kv_heads=k.shape[1], max_q=tokens, max_k=tokens)
    values |= dict(total_q=tokens, total_k=tokens, scale=head_dim**-0.5)
    # PyTorch's own stream and context: the kernel takes its turn among PyTorch's.
    stream = torch.cuda.current_stream().cuda_stream
    for kernel in kernels:
        if kernel.entry["needs_sink_logit"] and not kernel.sink_logit:
            continue
        launch(cuda, kernel, values, tensors, counter.data_ptr(), device.multi_processor_count, stream)
    return o, kernels[0]


def compare(bundle):
    try:
        import torch
    except ImportError:
        sys.exit("error: this launches the kernel on PyTorch's tensors, and there is no PyTorch; --check needs none")
    if not torch.cuda.is_available():
        sys.exit("error: PyTorch finds no GPU; --check needs none")

    torch.manual_seed(0)
    tokens, heads, kv_heads, head_dim = 1000, 8, 2, 128
    make = lambda count: torch.randn(tokens, count, head_dim, device="cuda", dtype=torch.bfloat16)
    q, k, v = make(heads), make(kv_heads), make(kv_heads)
    o, kernel = attention(bundle, q, k, v)

    i, j = torch.arange(tokens, device="cuda")[:, None], torch.arange(tokens, device="cuda")[None, :]
    mask = (j <= i) & ((i - j < WINDOW) | (j < SINK))
    heads_first = lambda tensor, dtype: tensor.to(dtype).transpose(0, 1)[None]

    def peer(dtype):
        inputs = [heads_first(tensor, dtype) for tensor in (q, k, v)]
        out = torch.nn.functional.scaled_dot_product_attention(*inputs, attn_mask=mask, enable_gqa=True)
        return out[0].transpose(0, 1).double()

    exact = peer(torch.float64)
    error = lambda found: ((found - exact).norm() / exact.norm()).item()
    ours, theirs = error(o.double()), error(peer(torch.bfloat16))
    device = torch.cuda.get_device_name()
    print(f"{kernel.name} for {kernel.target} on {device}: error {ours:.2e}, PyTorch's attention {theirs:.2e}")
    return ours <= 2 * theirs


def main():
    if len(sys.argv) not in (2, 3) or sys.argv[2:] not in ([], ["--check"]):
        sys.exit("usage: attention.py kernels.lgk [--check]")
    try:
        bundle = lgk.load(sys.argv[1])
    except (OSError, lgk.BundleError) as error:
        sys.exit(f"error: {sys.argv[1]}: {error}")
    if sys.argv[2:]:
        for k in bundle.kernels:
            ptx, smem = " PTX" if k.is_ptx else "", k.entry["dynamic_smem_bytes"]
            print(
                f"{k.pattern} | {k.pass_name} | D {k.head_dim} | {k.dtype} | {k.target}{ptx} | {k.name} | "
                f"{k.entry['block']} threads, {smem} bytes of shared memory"
            )
        return
    sys.exit(0 if compare(bundle) else "error: the kernel errs more than twice as much as PyTorch's attention")


if __name__ == "__main__":
    main()
