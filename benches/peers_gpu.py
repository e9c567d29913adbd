#!/usr/bin/env python3
"""Our GPU kernels beside the peers', taking turns on the same shapes in one run, on one GPU.

    cargo bench --bench gpu --no-run            # builds target/release/deps/gpu-<hash>
    python benches/peers_gpu.py BINARY [--out results.json] [--quick]

Peers: PyTorch's scaled_dot_product_attention through cuDNN and through FlashAttention (dense causal, and the window as cuDNN
cannot), FlexAttention compiled with the same mask, FlashAttention-3 and FlashInfer where they are installed. All on random
bf16 data, CUDA events, medians. TFLOP/s count visible pairs only (4 pairs D forward, 10 backward), for everybody.
Also measured, as ceilings: a large matmul and a large copy.
"""

import argparse
import json
import statistics
import subprocess
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as sdpa


def median_ms(run, repeats=10, warmup=3):
    for _ in range(warmup):
        run()
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def ceilings():
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    matmul = 2 * 8192**3 / median_ms(lambda: a @ b, 20) / 1e9
    source = torch.randn(1 << 30, device="cuda", dtype=torch.float32)
    target = torch.empty_like(source)
    copy = 2 * source.nbytes / median_ms(lambda: target.copy_(source)) / 1e6
    return {"matmul_tflops": matmul, "copy_gbps": copy}


def clock():
    fields = "clocks.sm,power.draw,temperature.gpu"
    text = subprocess.run(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"], capture_output=True, text=True)
    return text.stdout.strip()


class Ours:
    """The bench binary, one item at a time."""

    def __init__(self, binary):
        self.process = subprocess.Popen([binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def time(self, item):
        self.process.stdin.write(json.dumps(item) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.write("quit\n")
        self.process.stdin.close()
        self.process.wait()


def inputs(item, grad):
    def tensor(heads):
        shape = (item.get("batch", 1), heads, item["tokens"], item["head_dim"])
        return torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=grad)

    return tensor(item["heads"]), tensor(item["kv_heads"]), tensor(item["kv_heads"])


def time_pass(forward, qkv, item):
    """Milliseconds of `forward(q, k, v)`, or of its backward alone."""
    if item["pass"] == "forward":
        with torch.no_grad():
            return median_ms(lambda: forward(*qkv))
    o = forward(*qkv)
    d_o = torch.randn_like(o)
    return median_ms(lambda: torch.autograd.grad(o, qkv, d_o, retain_graph=True))


def sdpa_peer(backend):
    def run(item):
        gqa = item["heads"] != item["kv_heads"]

        def forward(q, k, v):
            with sdpa_kernel(backend):
                return sdpa(q, k, v, is_causal=True, enable_gqa=gqa)

        return time_pass(forward, inputs(item, item["pass"] != "forward"), item)

    return run


def flex_peer(item):
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    mask = create_block_mask(FLEX_MASKS[item["pattern"]], None, None, item["tokens"], item["tokens"], _compile=True)
    flex = torch.compile(flex_attention, dynamic=False)
    gqa = item["heads"] != item["kv_heads"]

    def forward(q, k, v):
        return flex(q, k, v, block_mask=mask, enable_gqa=gqa)

    return time_pass(forward, inputs(item, item["pass"] != "forward"), item)


def flash3_peer(item):
    from flash_attn_interface import flash_attn_func

    window = {"window=1024": (1023, 0)}.get(item["pattern"], (-1, -1))

    def forward(q, k, v):
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        return flash_attn_func(q, k, v, causal=True, window_size=window)[0]

    return time_pass(forward, inputs(item, item["pass"] != "forward"), item)


# The masks of the sparse items, as their definitions say.
FLEX_MASKS = {
    "window=1024": lambda b, h, i, j: (i >= j) & (i - j < 1024),
    "sink=4, window=4096": lambda b, h, i, j: (i >= j) & ((j < 4) | (i - j < 4096)),
    "longgen-sink": lambda b, h, i, j: (i >= j) & ((j // 64 < 1) | (i // 64 - j // 64 < 32)),
    "phi3-small": lambda b, h, i, j: (i >= j) & ((i // 64 - j // 64 < 16) | ((j // 64 + h + 1) % 8 == 0)),
}


def peers_of(item):
    if item["pass"].startswith("decode"):
        return {"pytorch": decode_peer} if item["pattern"] == "full" else {}
    peers = {}
    if item["pattern"] == "full":
        peers = {"cudnn": sdpa_peer(SDPBackend.CUDNN_ATTENTION), "flash2": sdpa_peer(SDPBackend.FLASH_ATTENTION)}
    elif item["pattern"] in FLEX_MASKS and item["heads"] == item["kv_heads"]:
        peers = {"flex": flex_peer}
    if item["pattern"] in ("full", "window=1024"):
        peers["flash3"] = flash3_peer
    return peers


def decode_peer(item):
    def tensor(heads, tokens):
        return torch.randn(item["batch"], heads, tokens, item["head_dim"], device="cuda", dtype=torch.bfloat16)

    q = tensor(item["heads"], 1)
    k, v = tensor(item["kv_heads"], item["tokens"]), tensor(item["kv_heads"], item["tokens"])
    gqa = item["heads"] != item["kv_heads"]
    return median_ms(lambda: sdpa(q, k, v, enable_gqa=gqa))


def item(pattern, pass_, tokens, heads=(32, 32), head_dim=128, batch=1):
    return {
        "pattern": pattern,
        "pass": pass_,
        "tokens": tokens,
        "batch": batch,
        "heads": heads[0],
        "kv_heads": heads[1],
        "head_dim": head_dim,
    }


def items(quick):
    k = 1024
    for tokens in (16 * k,) if quick else (16 * k, 32 * k, 64 * k, 128 * k):
        yield item("full", "forward", tokens)
    for tokens in (16 * k,) if quick else (16 * k, 32 * k, 64 * k):
        yield item("full", "backward", tokens)
    yield item("full", "backward_deterministic", 16 * k)
    for pass_ in ("forward", "backward"):
        yield item("full", pass_, 32 * k, heads=(32, 8))
        yield item("full", pass_, 32 * k, head_dim=64)
        yield item("window=1024", pass_, 32 * k)
        for tokens in (64 * k, 128 * k):
            yield item("sink=4, window=4096", pass_, tokens)
        for preset in ("longgen-sink", "longgen-stride", "phi3-small"):
            yield item(preset, pass_, 128 * k)
    for heads in ((32, 32), (32, 8)):
        for batch, tokens in ((1, 4 * k), (1, 32 * k), (1, 128 * k), (8, 4 * k), (8, 32 * k), (32, 4 * k), (32, 16 * k)):
            yield item("full", "decode", tokens, heads, batch=batch)
    for preset in ("longgen-sink", "sink=4, window=4096", "longgen-stride"):
        for batch in (1, 8, 32):
            yield item(preset, "decode_compact", 128 * k, batch=batch)


def describe(it):
    return f"{it['pattern']:<20} {it['pass']:<22} T {it['tokens']:>6} B {it['batch']:>2} H {it['heads']}/{it['kv_heads']} D {it['head_dim']}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--out", default="gpu_bench.json")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()

    gpu = torch.cuda.get_device_name()
    record = {"gpu": gpu, "torch": torch.__version__, "ceilings": ceilings(), "clock_before": clock(), "items": []}
    print(json.dumps(record["ceilings"]), gpu, record["clock_before"], flush=True)
    missing = set()
    ours = Ours(options.binary)
    for it in items(options.quick):
        result = ours.time(it)
        result["peers"] = {}
        for name, run in peers_of(it).items():
            if name in missing:
                continue
            try:
                result["peers"][name] = run(it)
            except ImportError as error:
                missing.add(name)
                print(f"no {name}: {error}", file=sys.stderr)
            except Exception as error:  # a peer that cannot run a shape is a fact of the table, not a failure of ours
                result["peers"][name] = None
                print(f"{name} on {describe(it)}: {str(error).splitlines()[0][:120]}", file=sys.stderr)
            torch.cuda.empty_cache()
        record["items"].append({"wanted": it, **result})
        print_line(it, result, record["ceilings"])
        with open(options.out, "w") as file:
            json.dump(record, file, indent=1)
    ours.close()
    record["clock_after"] = clock()
    with open(options.out, "w") as file:
        json.dump(record, file, indent=1)


def print_line(it, result, limits):
    if "error" in result:
        print(f"{describe(it)}  ERROR {result['error']}", flush=True)
        return
    peers = {name: ms for name, ms in result["peers"].items() if ms}
    best = min(peers.values(), default=None)
    ratio = f"  best peer {best:.3f} ms = x{best / result['ms']:.2f} ({min(peers, key=peers.get)})" if best else ""
    if it["pass"].startswith("decode"):
        share = result["kv_gbps"] / limits["copy_gbps"]
        rate = f"{result['kv_gbps']:7.0f} GB/s {share:5.0%} of copy, {result['kv_bytes'] / 1e6:.0f} MB, splits {result['splits']}"
    else:
        share = result["tflops"] / limits["matmul_tflops"]
        worst = max((e for name, e in (result["check"] or {}).items()), default=0.0)
        rate = f"{result['tflops']:7.0f} TFLOP/s {share:5.0%} of matmul, worst sampled error {worst:.1e}"
    print(f"{describe(it)}  {result['ms']:8.3f} ms  {rate}{ratio}", flush=True)


if __name__ == "__main__":
    main()
