#!/usr/bin/env python3
"""PyTorch's CPU attention beside ours, on the same shapes, in one run.

    python3 benches/peer_cpu.py [--tokens N] [--heads H] [--head-dim D] [--threads T] [--repeat R] [--bench PATH]
                                [--cpu-time] [--no-flex]

Needs PyTorch (any build; CUDA is not used) and, for flex_attention, a C++ compiler. Dense causal attention is timed as
scaled_dot_product_attention, sparse patterns as compiled flex_attention with the same mask. Ours is the program that
`cargo build --release --bench cpu` leaves in target/release/deps (found there unless --bench names it). Times are the best
of R runs after a warm-up; a ratio above 1 means that ours is faster. With --cpu-time, processor time over the number of
threads, for machines that are busy otherwise (say --threads 1 with it: waiting threads of PyTorch's pool spin).
"""

import argparse
import glob
import os
import subprocess
import time


def options():
    parser = argparse.ArgumentParser(description="PyTorch's CPU attention beside ours")
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--bench", help="our benchmark program")
    parser.add_argument("--cpu-time", action="store_true", help="processor time in place of wall time")
    parser.add_argument("--no-flex", action="store_true", help="leave flex_attention out")
    return parser.parse_args()


def ours(args):
    """Milliseconds of our forward by pattern name."""
    program = args.bench
    if not program:
        found = [p for p in glob.glob("target/release/deps/cpu-*") if not p.endswith(".d")]
        if not found:
            raise SystemExit("no benchmark program: run `cargo build --release --bench cpu` first")
        program = max(found, key=os.path.getmtime)
    command = [program, "--tokens", args.tokens, "--heads", args.heads, "--kv-heads", args.heads]
    command += ["--head-dim", args.head_dim, "--repeat", args.repeat]
    if args.cpu_time:
        command.append("--cpu-time")
    environment = dict(os.environ, RAYON_NUM_THREADS=str(args.threads))
    text = subprocess.run([str(x) for x in command], env=environment, check=True, capture_output=True, text=True).stdout
    times = {}
    for line in text.splitlines()[2:]:
        name, rest = line[:34].strip(), line[34:].split()
        times[name] = float(rest[1])
    return times


def best(run, args):
    """Milliseconds of the fastest run."""
    clock, share = (time.process_time, args.threads) if args.cpu_time else (time.perf_counter, 1)
    run()
    times = []
    for _ in range(args.repeat):
        start = clock()
        run()
        times.append(clock() - start)
    return 1e3 * min(times) / share


def masks():
    """The benchmark's sparse patterns, as flex_attention mask functions."""

    def band(sink, window):
        return lambda b, h, q, k: (q >= k) & ((k < sink) | (q - k < window))

    def strided(sink, window, every, block):
        def mask(b, h, q, k):
            seen = (k < sink) | (q - k < window) | ((k // block + h) % every == 0)
            return (q >= k) & seen

        return mask

    def blocks(q, k, recent):
        return q // 64 - k // 64 < recent

    return {
        "sink=4, window=2000": band(4, 2000),
        "window=512": band(0, 512),
        "window=1024, stride=8": strided(0, 1024, 8, 64),
        "sink=4, window=1024, stride=8": strided(4, 1024, 8, 64),
        "longgen-sink": lambda b, h, q, k: (q >= k) & ((k < 64) | blocks(q, k, 32)),
        "longgen-stride": lambda b, h, q, k: (q >= k) & (blocks(q, k, 2) | ((k // 64 + 2 * h) % 64 == 0)),
    }


def peer(args):
    """Milliseconds of PyTorch's forward by pattern name."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    shape = (1, args.heads, args.tokens, args.head_dim)
    q, k, v = (torch.rand(shape) * 2 - 1 for _ in range(3))
    times = {}
    with torch.no_grad():
        sdpa = torch.nn.functional.scaled_dot_product_attention
        times["full"] = best(lambda: sdpa(q, k, v, is_causal=True), args)
        if args.no_flex:
            return torch.__version__, times
        flex = torch.compile(flex_attention)
        for name, mask in masks().items():
            try:
                block_mask = create_block_mask(mask, 1, args.heads, args.tokens, args.tokens, device="cpu")
                times[name] = best(lambda: flex(q, k, v, block_mask=block_mask), args)
            except Exception as error:  # A peer that cannot run a pattern is a result too.
                print(f"flex_attention does not run `{name}`: {type(error).__name__}: {str(error)[:200]}")
    return torch.__version__, times


def main():
    args = options()
    version, theirs = peer(args)
    mine = ours(args)
    print(f"PyTorch {version}, {args.tokens} tokens, {args.heads} heads, D {args.head_dim}, f32, {args.threads} threads")
    print(f"{'pattern':<34} {'PyTorch ms':>11} {'ours ms':>9} {'ratio':>7}   peer")
    for name, time_ms in theirs.items():
        what = "scaled_dot_product_attention" if name == "full" else "flex_attention (compiled)"
        print(f"{name:<34} {time_ms:>11.1f} {mine[name]:>9.1f} {time_ms / mine[name]:>6.2f}x   {what}")
    dense = theirs["full"]
    print("against PyTorch's dense causal attention:")
    for name, time_ms in mine.items():
        print(f"{name:<34} {dense:>11.1f} {time_ms:>9.1f} {dense / time_ms:>6.2f}x")


if __name__ == "__main__":
    main()
