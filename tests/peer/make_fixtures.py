#!/usr/bin/env python3
"""Outputs and gradients of a dozen sparse patterns, computed by PyTorch.

A peer's numbers, not ours: masks are dense boolean tensors written here from the definitions (the local-stride one
from dkernel's formula), attention is torch's scaled_dot_product_attention in float64, gradients are autograd's.
Softcap and the learned sink logit, which that function lacks, are written out as softmax and matmul.

    python tests/peer/make_fixtures.py

rewrites inputs.safetensors, one NAME.safetensors a case, and cases.json beside this file (versions, seed, and the error
of PyTorch's own float32 run against its float64 one, which is the yardstick for ours).
Needs torch, numpy and safetensors. Shapes: q [T, H, D], k and v [S, G, D], lse [H, T].
"""

import json
import pathlib

import numpy
import safetensors
import torch
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
SEED = 2410_01485
TOKENS, HEADS, KV_HEADS, DIM = 200, 4, 2, 32
SCALE = DIM**-0.5


def dkernel_local_stride(block, local_blocks, vert_stride, step, offset):
    """dkernel's layout: block k is seen from block q of head h when it is local, or on the head's vertical stride."""

    def visible(head, i, j):
        q, k = i // block, j // block
        local = (q - k) < local_blocks
        vertical = (k + head * step + offset) % vert_stride == 0
        return local | vertical

    return visible


def same_group(i, j, size, shift):
    return (i + shift) // size == (j + shift) // size


# name -> (pattern as lgc reads it, the same mask from its definition, extras)
CASES = {
    "causal": ("full", lambda h, i, j: i >= j, {}),
    "window": ("window=50", lambda h, i, j: i - j < 50, {}),
    "sink-window": ("sink=4, window=50", lambda h, i, j: (j < 4) | (i - j < 50), {}),
    "sink-window-stride": (
        "sink=4, window=24, stride=3, block=16",
        lambda h, i, j: (j < 4) | (i - j < 24) | ((j // 16 + h) % 3 == 0),
        {},
    ),
    "longgen-sink": (
        "sink_blocks=1, window_blocks=3, block=16",
        lambda h, i, j: (j // 16 < 1) | (i // 16 - j // 16 < 3),
        {},
    ),
    "dkernel": (
        "window_blocks=2, stride=4, block=16",
        dkernel_local_stride(16, 2, 4, step=1, offset=0),
        {},
    ),
    "phi3-small": (
        "window_blocks=3, stride=8, offset=1, block=8",
        dkernel_local_stride(8, 3, 8, step=1, offset=1),
        {},
    ),
    "stride-only": (
        "stride=5, block=8, offset=2",
        lambda h, i, j: (j // 8 + h + 2) % 5 == 0,
        {},
    ),
    "longlora": (
        "group=64; heads [1]: group=64, shifted",
        lambda h, i, j: same_group(i, j, 64, 32 if h == 1 else 0),
        {},
    ),
    "duo": (
        "sink=8, window=32; heads [0]: full",
        lambda h, i, j: (j < 8) | (i - j < 32) | torch.tensor(h == 0),
        {},
    ),
    "band": (
        "(window=90) - (window=30) | sink=2",
        lambda h, i, j: ((i - j < 90) & (i - j >= 30)) | (j < 2),
        {},
    ),
    "predicate": (
        "where(q - k < 20 || k % 7 == head)",
        lambda h, i, j: (i - j < 20) | (j % 7 == h),
        {},
    ),
    "gpt-oss": ("window=40; sink_logit", lambda h, i, j: i - j < 40, {"sink_logit": True}),
    "softcap": ("window=64; softcap=5.0", lambda h, i, j: i - j < 64, {"softcap": 5.0}),
    "documents": (
        "sink=4, window=24",
        lambda h, i, j: (j < 4) | (i - j < 24),
        {"cu_seqlens": [0, 7, 7, 90, 200]},
    ),
    "chunk": ("sink=4, window=50", lambda h, i, j: (j < 4) | (i - j < 50), {"queries": 61}),
}


def attend(q, k, v, mask, sink_logit=None, softcap=None):
    """o [T, H, D] and lse [H, T] of one sequence; mask [H, T, S]. A row that sees nothing is 0, with lse -inf."""
    group = q.shape[1] // k.shape[1]
    q, k, v = q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1)
    k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    scores = q @ k.transpose(1, 2) * SCALE
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~mask, -torch.inf)
    empty = ~mask.any(-1, keepdim=True)
    if sink_logit is None and softcap is None:
        safe = mask | empty
        o = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=safe, scale=SCALE)
        o = o.masked_fill(empty, 0.0)
    else:
        logits = scores
        if sink_logit is not None:
            column = sink_logit[:, None, None].expand(-1, scores.shape[1], 1)
            logits = torch.cat([scores, column], dim=-1)
        o = torch.softmax(logits, dim=-1)[..., : scores.shape[2]] @ v
        scores = logits
    with torch.no_grad():
        lse = torch.logsumexp(scores, dim=-1)
    return o.transpose(0, 1), lse


def masks(visible, queries, keys):
    i = torch.arange(keys - queries, keys)[:, None]
    j = torch.arange(keys)[None, :]
    heads = [visible(h // (HEADS // KV_HEADS), i, j) & (j <= i) for h in range(HEADS)]
    return torch.stack([m.expand(queries, keys) for m in heads])


def run_case(inputs, visible, extras, dtype):
    queries = extras.get("queries", TOKENS)
    leaves = {name: inputs[name].to(dtype).clone().requires_grad_() for name in ("k", "v")}
    leaves["q"] = inputs["q"][:queries].to(dtype).clone().requires_grad_()
    sink = inputs["sink_logit"].to(dtype).clone().requires_grad_() if extras.get("sink_logit") else None
    cuts = extras.get("cu_seqlens", [0, TOKENS])
    outputs, lses = [], []
    for start, end in zip(cuts, cuts[1:]):
        rows = slice(start, min(end, queries)) if queries == TOKENS else slice(0, queries)
        keys = slice(start, end)
        mask = masks(visible, len(range(*rows.indices(queries))), end - start)
        o, lse = attend(leaves["q"][rows], leaves["k"][keys], leaves["v"][keys], mask, sink, extras.get("softcap"))
        outputs.append(o)
        lses.append(lse)
    o, lse = torch.cat(outputs), torch.cat(lses, dim=1)
    o.backward(inputs["do"][:queries].to(dtype))
    result = {"o": o, "lse": lse, "dq": leaves["q"].grad, "dk": leaves["k"].grad, "dv": leaves["v"].grad}
    if sink is not None:
        result["dsink_logit"] = sink.grad
    return {name: tensor.detach().contiguous() for name, tensor in result.items()}


def relative_error(found, exact):
    """Norm of the difference over the norm, where both are finite."""
    finite = exact.isfinite()
    difference = (found.double() - exact)[finite].norm()
    return (difference / exact[finite].norm()).item()


def main():
    generator = torch.Generator().manual_seed(SEED)
    shapes = {"q": (TOKENS, HEADS, DIM), "k": (TOKENS, KV_HEADS, DIM), "v": (TOKENS, KV_HEADS, DIM)}
    shapes |= {"do": (TOKENS, HEADS, DIM), "sink_logit": (HEADS,)}
    inputs = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_file(inputs, HERE / "inputs.safetensors")
    cases = {}
    for name, (pattern, visible, extras) in CASES.items():
        exact = run_case(inputs, visible, extras, torch.float64)
        rough = run_case(inputs, visible, extras, torch.float32)
        errors = {output: relative_error(rough[output], exact[output]) for output in exact}
        save_file({output: tensor.float() for output, tensor in exact.items()}, HERE / f"{name}.safetensors")
        cases[name] = {"pattern": pattern, **extras, "torch_float32_error": errors}
    record = {
        "seed": SEED,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "safetensors": safetensors.__version__,
        "cases": cases,
    }
    (HERE / "cases.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
