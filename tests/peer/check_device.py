#!/usr/bin/env python3
"""`lgc run` on a device of choice against PyTorch, live, in 16 bits.

    python tests/peer/check_device.py target/release/lgc --device cuda

The cases of make_fixtures.py, on its inputs rounded to bf16 and to fp16. PyTorch's float64 run on the rounded numbers is
the truth; an output may err by twice what PyTorch's own 16-bit run errs. GPU kernels take no float32, so the committed
fixtures cannot speak for them. Prints a line an output and exits with 1 when one is out of bounds.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file

import make_fixtures as peer

FACTOR = 2.0
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def lgc_run(lgc, device, pattern, tensors):
    with tempfile.TemporaryDirectory() as scratch:
        files = [str(pathlib.Path(scratch) / name) for name in ("in.safetensors", "out.safetensors")]
        save_file(tensors, files[0])
        command = [lgc, "run", pattern, "--device", device, "--backward", "--input", files[0], "--output", files[1]]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return load_file(files[1])


def check(name, options):
    """Each output's (name, error of ours, limit)."""
    pattern, visible, extras = peer.CASES[name]
    dtype = TYPES[options.dtype]
    shared = load_file(peer.HERE / "inputs.safetensors")
    rounded = {key: tensor if key == "sink_logit" else tensor.to(dtype) for key, tensor in shared.items()}
    exact = peer.run_case(rounded, visible, extras, torch.float64)
    rough = peer.run_case(rounded, visible, extras, dtype)
    queries = extras.get("queries", peer.TOKENS)
    tensors = {key: tensor[:queries].clone() if key in ("q", "do") else tensor for key, tensor in rounded.items()}
    if not extras.get("sink_logit"):
        del tensors["sink_logit"]
    if "cu_seqlens" in extras:
        tensors["cu_seqlens"] = torch.tensor(extras["cu_seqlens"])
    found = lgc_run(options.lgc, options.device, pattern, tensors)
    return [
        (output, peer.relative_error(found[output], exact[output]), FACTOR * peer.relative_error(rough[output], exact[output]))
        for output in exact
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lgc", help="the lgc to run")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    options = parser.parse_args()
    failures = 0
    for options.dtype in TYPES:
        for name in peer.CASES:
            for output, error, limit in check(name, options):
                failed = not error <= limit
                failures += failed
                print(f"{name:<20} {options.dtype} {output:<12} {error:.2e} of {limit:.2e}{'  OUT OF BOUNDS' if failed else ''}")
    print(f"{failures} out of bounds")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
