#!/usr/bin/env python3
"""Our GPU kernels beside the peers', taking turns on the same shapes in one run, on one GPU.

    cargo bench --bench gpu --no-run            # builds target/release/deps/gpu-<hash>
    python benches/peers_gpu.py BINARY [--out results.json] [--peers NAME,NAME] [--seconds 600]

Peers, each where it is installed:
    cudnn, flash2   PyTorch's scaled_dot_product_attention through cuDNN and through FlashAttention-2: dense causal
    flash3          FlashAttention-3: dense causal, windows, decode. Its library is in the package flash_attn_3, and in xformers 0.0.34, which
                    need not be importable (pip install --no-deps xformers==0.0.34 nvidia-cuda-runtime-cu12)
    flash4          FlashAttention-4's Hopper kernels, the package flash-attn-4: dense causal, windows
    flex            FlexAttention compiled with the same mask
    sdpa            decode through the quicker of cuDNN and FlashAttention-2
    flashinfer      decode

All on random bf16 data; CUDA events; ours and each peer in two rounds by turns, the median of all launches. Decode steps are replays
of a captured graph, from caches that do not stay in L2. TFLOP/s count visible pairs only (4 pairs D forward, 10 backward), for
everybody. Also measured, as ceilings: a large matmul and a large copy.

Results are written after every item, the most important ones first, so that a run cut short loses little. Kernels of the two peers
that compile their own are compiled beforehand, in processes of their own, into those peers' caches. FlexAttention's items (six masks
took 178 s on 16 cores) and FlashInfer's come last. With `--peers` only the items that those have a part in run.
"""

import argparse
import ctypes
import functools
import glob
import importlib.metadata
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as sdpa

ROUNDS = 2
STEPS_IN_GRAPH = 20
CACHES_BYTES = 512 << 20
PAGE = 16  # tokens, of FlashInfer's caches
K = 1024

# The masks of the sparse items, as their definitions say. True: depends on the head.
MASKS = {
    "full": (False, lambda b, h, i, j: i >= j),
    "window=1024": (False, lambda b, h, i, j: (i >= j) & (i - j < 1024)),
    "sink=4, window=4096": (False, lambda b, h, i, j: (i >= j) & ((j < 4) | (i - j < 4096))),
    "longgen-sink": (False, lambda b, h, i, j: (i >= j) & ((j // 64 < 1) | (i // 64 - j // 64 < 32))),
    "longgen-stride": (True, lambda b, h, i, j: (i >= j) & ((i // 64 - j // 64 < 2) | ((j // 64 + 2 * h) % 64 == 0))),
    "phi3-small": (True, lambda b, h, i, j: (i >= j) & ((i // 64 - j // 64 < 16) | ((j // 64 + h + 1) % 8 == 0))),
}


def item(pattern, pass_, tokens, heads=(32, 32), head_dim=128, batch=1, target=None):
    return {
        "pattern": pattern,
        "pass": pass_,
        "tokens": tokens,
        "batch": batch,
        "heads": heads[0],
        "kv_heads": heads[1],
        "head_dim": head_dim,
        "target": target,
    }


def items():
    """What to run, the most important first, each with its peers."""
    dense, windows, flex = ("cudnn", "flash3", "flash4"), ("flash3", "flash4"), ("flex",)
    decode = ("sdpa", "flash3", "flashinfer")
    passes = ("forward", "backward")
    for pass_ in passes:
        yield item("full", pass_, 16 * K), (*dense, "flash2")
        yield item("full", pass_, 32 * K), dense
    for batch, tokens in ((1, 4 * K), (1, 128 * K), (8, 32 * K), (32, 4 * K)):
        yield item("full", "decode", tokens, heads=(32, 8), batch=batch), decode
    for batch, tokens in ((1, 4 * K), (1, 32 * K), (8, 4 * K), (8, 16 * K)):
        yield item("full", "decode", tokens, batch=batch), decode
    for pass_ in passes:
        yield item("window=1024", pass_, 32 * K), (*windows, "flex")
        yield item("full", pass_, 64 * K), dense
        yield item("sink=4, window=4096", pass_, 64 * K), flex
    yield item("full", "forward", 128 * K), ("cudnn", "flash3")
    yield item("full", "backward", 128 * K), ()
    for preset in ("longgen-sink", "longgen-stride", "phi3-small"):
        for pass_ in passes:
            yield item(preset, pass_, 128 * K), flex
    for batch in (1, 8, 32):
        yield item("longgen-sink", "decode_compact", 128 * K, batch=batch), ()
    yield item("full", "backward_deterministic", 16 * K), ()
    for pass_ in passes:
        yield item("full", pass_, 32 * K, heads=(32, 8)), dense
        yield item("full", pass_, 16 * K, head_dim=64), dense
        # The plainer family's kernels, which serve every GPU from sm_80 on.
        yield item("full", pass_, 16 * K, target="sm_90"), flex
        yield item("window=1024", pass_, 32 * K, target="sm_90"), flex
    for pass_ in passes:
        yield item("sink=4, window=4096", pass_, 128 * K), ()
        yield item("window=1024", pass_, 32 * K, head_dim=64), windows
    for preset in ("sink=4, window=4096", "longgen-stride"):
        yield item(preset, "decode_compact", 128 * K, batch=8), ()


# ---- measuring -----------------------------------------------------------------------------------------------------------


def launches(once_ms, budget_ms=350):
    """As many as fit in the budget, within reason."""
    return max(3, min(10, int(budget_ms / max(once_ms, 1e-3))))


def times_ms(run, repeats=None):
    """Milliseconds of single launches; two more before them are not counted."""

    def once():
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    once()
    warm = once()
    return [once() for _ in range(repeats or launches(warm))]


def ceilings():
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    matmul = 2 * 8192**3 / statistics.median(times_ms(lambda: a @ b, 20)) / 1e9
    source = torch.randn(1 << 30, device="cuda", dtype=torch.float32)
    target = torch.empty_like(source)
    copy = 2 * source.nbytes / statistics.median(times_ms(lambda: target.copy_(source), 10)) / 1e6
    return {"matmul_tflops": matmul, "copy_gbps": copy}


def smi(fields):
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def versions(packages):
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


class Ours:
    """The bench binary, one item at a time."""

    def __init__(self, binary):
        self.process = subprocess.Popen([binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


# ---- peers ---------------------------------------------------------------------------------------------------------------


def random(item, heads, tokens, grad=False, tokens_first=False):
    shape = (tokens, heads) if tokens_first else (heads, tokens)
    made = torch.randn((item["batch"], *shape, item["head_dim"]), device="cuda", dtype=torch.bfloat16)
    made = made.transpose(1, 2) if tokens_first else made
    return made.requires_grad_(grad)


def sdpa_peer(backend):
    def prepare(item):
        gqa = item["heads"] != item["kv_heads"]

        def forward(q, k, v):
            with sdpa_kernel(backend):
                return sdpa(q, k, v, is_causal=True, enable_gqa=gqa)

        return of_pass(forward, item)

    return prepare


# Keys that a query sees besides itself, for the patterns that are windows.
WINDOWS = {"window=1024": 1023}


def flash4_peer(item):
    from flash_attn.cute import flash_attn_func

    kept = {"causal": True} if item["pattern"] == "full" else {"window_size": (WINDOWS[item["pattern"]], 0)}

    def forward(q, k, v):
        # Its tensors are [batch, tokens, heads, D]; these views cost nothing.
        found = flash_attn_func(*(tensor.transpose(1, 2) for tensor in (q, k, v)), **kept)
        return found[0] if isinstance(found, tuple) else found

    return of_pass(forward, item, tokens_first=True)


def flex_peer(item):
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    by_head, mask = MASKS[item["pattern"]]
    heads = item["heads"] if by_head else None
    blocks = create_block_mask(mask, None, heads, item["tokens"], item["tokens"], _compile=True)
    torch._dynamo.config.recompile_limit = 64  # one for each mask and length
    torch._functorch.config.donated_buffer = False  # or a backward could be run only once
    flex = torch.compile(flex_attention, dynamic=False)
    return of_pass(lambda q, k, v: flex(q, k, v, block_mask=blocks), item)


def of_pass(forward, item, tokens_first=False):
    """The launch to time: `forward(q, k, v)`, or its backward alone. `tokens_first`: a token's heads lie together in memory."""
    tokens = item["tokens"]
    qkv = [random(item, heads, tokens, True, tokens_first) for heads in (item["heads"], item["kv_heads"], item["kv_heads"])]
    if item["pass"] == "forward":
        return lambda: forward(*qkv)
    o = forward(*qkv)
    d_o = torch.randn_like(o)
    return lambda: torch.autograd.grad(o, qkv, d_o, retain_graph=True)


@functools.cache
def flash3_operators():
    """FlashAttention-3's, from the library of either package, neither of which need be importable beside this PyTorch."""
    for runtime in (path for folder in sys.path for path in glob.glob(f"{folder}/nvidia/cuda_runtime/lib/libcudart.so.12")):
        ctypes.CDLL(runtime, ctypes.RTLD_GLOBAL)
    for package, inside in (("flash_attn_3", ""), ("xformers", "flash_attn_3/")):
        spec = importlib.util.find_spec(package)
        for folder in spec.submodule_search_locations if spec else ():
            for library in glob.glob(f"{folder}/{inside}_C*.so"):
                torch.ops.load_library(library)
                return torch.ops.flash_attn_3
    raise RuntimeError("FlashAttention-3 is not installed")


def flash3_peer(item):
    flash3 = flash3_operators()
    if item["pass"] == "decode":
        # Its own choice of splits. Its tensors are [batch, tokens, heads, D].
        return graph_of_steps(item, lambda q, k, v: flash3.fwd(q, k, v, num_splits=0), tokens_first=True)
    window = {} if item["pattern"] == "full" else {"window_size_left": WINDOWS[item["pattern"]], "window_size_right": 0}
    kept = {"is_causal": item["pattern"] == "full", **window}
    heads = (item["heads"], item["kv_heads"], item["kv_heads"])
    q, k, v = (random(item, each, item["tokens"], tokens_first=True).transpose(1, 2) for each in heads)
    if item["pass"] == "forward":
        return lambda: flash3.fwd(q, k, v, **kept)
    o, lse = flash3.fwd(q, k, v, **kept)[:2]
    d_o, gradients = torch.randn_like(o), [torch.empty_like(each) for each in (q, k, v)]
    return lambda: flash3.bwd(d_o, q, k, v, o, lse, *gradients, **kept)


def graph_of_steps(item, attend, tokens_first=False):
    """The replay of a graph of decode steps, each from the next of the caches, which do not all stay in L2."""
    order = (lambda tensor: tensor.transpose(1, 2)) if tokens_first else (lambda tensor: tensor)
    q = order(random(item, item["heads"], 1, tokens_first=tokens_first))
    cache_bytes = 4 * item["batch"] * item["kv_heads"] * item["tokens"] * item["head_dim"]
    count = min(STEPS_IN_GRAPH, -(-CACHES_BYTES // cache_bytes))
    made = lambda: order(random(item, item["kv_heads"], item["tokens"], tokens_first=tokens_first))
    caches = [(made(), made()) for _ in range(count)]

    def steps():
        for step in range(STEPS_IN_GRAPH):
            attend(q, *caches[step % count])

    steps()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        steps()
    return graph.replay


def quickest(replays):
    """Of graphs that are made one after another; those that a peer refuses do not count."""
    best = None
    for make in replays:
        try:
            replay = make()
        except (RuntimeError, ValueError):
            continue
        taken = min(times_ms(replay, 3))
        if best is None or taken < best[0]:
            best = (taken, replay)
    if best is None:
        raise RuntimeError("it has nothing for this shape")
    return best[1]


def sdpa_decode_peer(item):
    """The best of PyTorch's ways with one query token a sequence."""
    gqa = item["heads"] != item["kv_heads"]

    def through(backend):
        def attend(q, k, v):
            with torch.no_grad(), sdpa_kernel(backend):
                sdpa(q, k, v, enable_gqa=gqa)

        return lambda: graph_of_steps(item, attend)

    return quickest(map(through, (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION)))


def flashinfer_peer(item):
    """The better of its decode kernels, without tensor cores and, where query heads share keys, with them. Pages lie in order."""
    import flashinfer

    batch, pages = item["batch"], item["tokens"] // PAGE

    def integers(values):
        return torch.tensor(values, dtype=torch.int32, device="cuda")

    table = [integers(each) for each in ([pages * b for b in range(batch + 1)], range(batch * pages), [PAGE] * batch)]

    def with_tensor_cores(wanted):
        workspace = torch.zeros(256 << 20, dtype=torch.uint8, device="cuda")
        names = ("paged_kv_indptr_buffer", "paged_kv_indices_buffer", "paged_kv_last_page_len_buffer")
        kept = {name: each.clone() for name, each in zip(names, table)}
        wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            workspace, "NHD", use_tensor_cores=wanted, use_cuda_graph=True, **kept
        )
        shape = (item["heads"], item["kv_heads"], item["head_dim"], PAGE)
        wrapper.plan(*table, *shape, q_data_type=torch.bfloat16, kv_data_type=torch.bfloat16)

        def attend(q, k, v):
            wrapper.run(q.squeeze(1), tuple(each.view(batch * pages, PAGE, *each.shape[2:]) for each in (k, v)))

        return lambda: graph_of_steps(item, attend, tokens_first=True)

    shared = item["heads"] > item["kv_heads"]
    return quickest(map(with_tensor_cores, (False, True) if shared else (False,)))


PEERS = {
    "cudnn": sdpa_peer(SDPBackend.CUDNN_ATTENTION),
    "flash2": sdpa_peer(SDPBackend.FLASH_ATTENTION),
    "flash3": flash3_peer,
    "flash4": flash4_peer,
    "flex": flex_peer,
    "flashinfer": flashinfer_peer,
    "sdpa": sdpa_decode_peer,
}


# ---- peers that compile ----------------------------------------------------------------------------------------------------


def compiled_shape(it):
    """What is compiled for an item: forward and backward are one."""
    return {**it, "pass": "backward", "target": None}


def shapes_of(peer):
    shapes = []
    for it, peers in items():
        if peer in peers and compiled_shape(it) not in shapes:
            shapes.append(compiled_shape(it))
    return shapes


def compile_ahead(peer, index):
    """Fills the peer's cache on disk with the kernels of one shape, forward and backward."""
    PEERS[peer](shapes_of(peer)[index])()
    torch.cuda.synchronize()


def compiled_within(peer, seconds):
    """The shapes that a peer has compiled by then, all at once in processes of their own. Nothing compiles while items are timed."""
    deadline = time.monotonic() + seconds
    shapes = shapes_of(peer)
    command = [sys.executable, __file__, "--compile", peer]
    processes = [subprocess.Popen(command + [str(index)], stderr=subprocess.PIPE) for index in range(len(shapes))]
    compiled = []
    for shape, process in zip(shapes, processes):
        try:
            _, log = process.communicate(timeout=max(0.1, deadline - time.monotonic()))
            why = log.decode().strip().splitlines()[-1][:200] if process.returncode else None
        except subprocess.TimeoutExpired:
            process.kill()
            why = f"not compiled within {seconds:.0f} s"
        if why is None:
            compiled.append(shape)
        else:
            print(f"{peer} on {describe(shape)}: {why}", file=sys.stderr, flush=True)
    return compiled


# ---- one item --------------------------------------------------------------------------------------------------------------


def run_item(ours, it, peers):
    wanted = {**it, "repeats": 10 if it["tokens"] <= 32 * K or it["pass"].startswith("decode") else 4}
    result = ours.ask(json.dumps(wanted))
    if "error" in result:
        return result
    rounds = {"ours": [result["ms"]], **{name: [] for name in peers}}
    prepared, failed = {}, {}
    for name in peers:
        try:
            run = PEERS[name](it)
            run()
            prepared[name] = run
        except Exception as error:  # a peer that cannot run a shape is a fact of the table, not a failure of ours
            failed[name] = str(error).strip().splitlines()[0][:200]
    torch.cuda.synchronize()  # or what a peer prepares would run beside us
    for round_ in range(ROUNDS):
        if round_ > 0:
            result = ours.ask("again")
            rounds["ours"].append(result["ms"])
        for name, run in prepared.items():
            steps = STEPS_IN_GRAPH if it["pass"] == "decode" else 1
            rounds[name].append(statistics.median(times_ms(run)) / steps)
    result["clock_after"] = smi("clocks.sm,power.draw")
    prepared.clear()
    torch.cuda.empty_cache()
    ms = {name: statistics.mean(each) for name, each in rounds.items() if each}
    result["tflops"] *= result["ms"] / ms["ours"]
    result["kv_gbps"] *= result["ms"] / ms["ours"]
    return {**result, "ms": ms["ours"], "rounds": rounds, "peers": ms, "failed": failed}


def describe(it):
    shape = f"{it['heads']}/{it['kv_heads']} heads, D {it['head_dim']}, batch {it['batch']}, {it['tokens'] // K} K"
    return f"{it['pattern']}, {it['pass']}, {shape}" + (f", {it['target']}" if it["target"] else "")


def dense_twin(it):
    """What key the own dense rate of a sparse item is kept under."""
    return (it["pass"], it["tokens"], it["head_dim"], it["target"])


def row(it, result, limits, dense):
    """One line of the table."""
    if "error" in result:
        return f"| {describe(it)} | {result['error']} |"
    peers = {name: ms for name, ms in result["peers"].items() if name != "ours"}
    best = min(peers, key=peers.get, default=None)
    ratio = f"{peers[best] / result['ms']:.2f} ({best} {peers[best]:.3f} ms)" if best else "–"
    error = max((float("inf") if e is None else e for e in result["check"].values()), default=0.0)
    if it["pass"].startswith("decode"):
        size = result["kv_bytes"] / 1e6
        share = result["kv_gbps"] / limits["copy_gbps"]
        rate = f"{result['kv_gbps']:.0f} GB/s | {share:.0%} of copy, {size:.0f} MB"
        kept = "–"
    else:
        rate = f"{result['tflops']:.0f} TFLOP/s | {result['tflops'] / limits['matmul_tflops']:.0%} of matmul"
        own = dense.get(dense_twin(it))
        kept = f"{result['tflops'] / own:.0%}" if own and it["pattern"] != "full" else "–"
    build = f"{result['build_ms']:.0f} / {result['disk_ms']:.1f}"
    return f"| {describe(it)} | {result['ms']:.4f} | {rate} | {ratio} | {kept} | {build} | {error:.0e} |"


def peers_named(text):
    names = text.split(",")
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {', '.join(PEERS)}")
    return names


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", nargs="?")
    parser.add_argument("--out", default="gpu_bench.json")
    parser.add_argument("--seconds", type=float, default=600, help="start no further item after this long")
    parser.add_argument("--compile-seconds", type=float, default=300, help="wait this long for a peer that compiles its kernels")
    parser.add_argument("--peers", type=peers_named, default=list(PEERS), help="which take part, and in which items; with commas, by default all")
    parser.add_argument("--compile", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    # Read by flash-attn-4 when it is imported.
    os.environ["FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED"] = "1"
    if options.compile is not None:
        return compile_ahead(options.compile[0], int(options.compile[1]))
    if options.binary is None:
        parser.error("BINARY is missing: the program that `cargo bench --bench gpu --no-run` builds")

    began = time.monotonic()
    record = {
        "gpu": torch.cuda.get_device_name(),
        "driver": smi("driver_version"),
        "torch": torch.__version__,
        "versions": versions(("xformers", "flash-attn-3", "flash-attn-4", "flashinfer-python")),
        "clock_before": smi("clocks.sm,power.draw,temperature.gpu"),
        "ceilings": ceilings(),
        "items": [],
    }
    torch.cuda.empty_cache()
    print(json.dumps(record), flush=True)
    print("| work | ms | rate | share | peer / ours | kept | built, from disk, ms | error |\n|---|---|---|---|---|---|---|---|")
    ours, dense = Ours(options.binary), {}

    def measure(it, peers):
        if time.monotonic() - began > options.seconds:
            record["items"].append({"wanted": it, "skipped": True})
            return
        try:
            result = run_item(ours, it, peers)
        except RuntimeError as error:
            result = {"error": str(error).strip().splitlines()[0][:200]}
        if it["pattern"] == "full" and "tflops" in result and it["heads"] == it["kv_heads"]:
            dense.setdefault(dense_twin(it), result["tflops"])
        record["items"].append({"wanted": it, "at_s": time.monotonic() - began, **result})
        print(row(it, result, record["ceilings"], dense), flush=True)
        for name, why in result.get("failed", {}).items():
            print(f"{name} on {describe(it)}: {why}", file=sys.stderr, flush=True)
        with open(options.out, "w") as file:
            json.dump(record, file, indent=1)

    def compiled(peer):
        return compiled_within(peer, options.compile_seconds) if peer in options.peers else []

    early = [name for name in options.peers if name not in ("flash4", "flex", "flashinfer")]
    flash4 = compiled("flash4")
    for it, peers in items():
        chosen = [name for name in peers if name in early or (name == "flash4" and compiled_shape(it) in flash4)]
        # All of the table, or what the chosen peers have a part in.
        if chosen or options.peers == list(PEERS):
            measure(it, chosen)
    flex = compiled("flex")
    for it, peers in items():
        if "flex" in peers and compiled_shape(it) in flex:
            measure(it, ["flex"])
    # A kernel of a peer that faults takes the process with it: what did so once comes last.
    for it, peers in items():
        if "flashinfer" in peers and "flashinfer" in options.peers:
            measure(it, ["flashinfer"])
    ours.close()
    record["clock_after"] = smi("clocks.sm,power.draw,temperature.gpu")
    with open(options.out, "w") as file:
        json.dump(record, file, indent=1)


if __name__ == "__main__":
    main()
