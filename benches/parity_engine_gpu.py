"""The engine on a GPU beside transformers, live: random bf16 models are made, saved, and run by both on the same tokens.

    cargo build --bench engine
    python3 benches/parity_engine_gpu.py target/debug/deps/engine-XXXX [--initializer-range 0.03]

Compares logits and loss (relative error, against transformers in f32 on the same rounded weights; transformers' own bf16 is shown
beside it), and 200 greedy tokens. Needs torch with a GPU, transformers, numpy.

0.02 is the `initializer_range` of transformers' configurations, so that of the random models people make; there everything must
lie under 2e-2. The wider the weights, the more of bf16's rounding reaches the logits: in wider models transformers' own bf16
exceeds that too, and ours may be as far off as it is.
"""
import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

SHAPES = {
    "gqa": dict(hidden_size=1024, intermediate_size=2816, num_hidden_layers=8, num_attention_heads=16, num_key_value_heads=4,
                vocab_size=8000),
    "mha-d128": dict(hidden_size=2048, intermediate_size=5504, num_hidden_layers=6, num_attention_heads=16,
                     num_key_value_heads=16, vocab_size=32000),
    "window": dict(hidden_size=1024, intermediate_size=2816, num_hidden_layers=4, num_attention_heads=16, num_key_value_heads=4,
                   vocab_size=8000, sliding_window=512),
}
TOKENS, PROMPT, NEW = 2000, 500, 200
USUAL_RANGE = 0.02
LIMIT = 2e-2


def ask(engine, item):
    engine.stdin.write(json.dumps(item) + "\n")
    engine.stdin.flush()
    line = engine.stdout.readline()
    if not line:
        raise RuntimeError(f"{engine.args[0]} ended with code {engine.wait()}")
    answer = json.loads(line)
    if "loss" not in answer:
        raise RuntimeError(line)
    return answer


def relative(found, expected):
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def run_transformers(folder, ids):
    """Logits in bf16, logits and mean loss in f32, and greedy tokens in bf16, of the model saved there."""
    # Loaded and not converted: a conversion would round the rotary frequencies too.
    load = transformers.AutoModelForCausalLM.from_pretrained
    model = load(folder, dtype=torch.bfloat16, attn_implementation="sdpa").cuda()
    half = model(ids).logits[0].float().cpu().numpy()
    greedy = model.generate(ids[:, :PROMPT], max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=0)
    model = load(folder, dtype=torch.float32, attn_implementation="sdpa").cuda()
    full = model(ids).logits[0]
    loss = float(torch.nn.functional.cross_entropy(full[:-1], ids[0, 1:], reduction="sum"))
    return half, full.cpu().numpy(), loss, greedy[0, PROMPT:].tolist()


def compare(engine, shape, initializer_range):
    torch.manual_seed(0)
    config_class = transformers.MistralConfig if "sliding_window" in shape else transformers.LlamaConfig
    config = config_class(max_position_embeddings=8192, initializer_range=initializer_range, **shape)
    ids = torch.randint(0, shape["vocab_size"], (1, TOKENS), generator=torch.Generator().manual_seed(1))
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
        half, full, loss, greedy = run_transformers(folder, ids.cuda())
        out = Path(folder) / "logits.f32"
        item = {"directory": folder, "tokens": ids[0].tolist(), "output": str(out), "greedy_from": PROMPT, "greedy": NEW}
        ours = ask(engine, item)
        logits = np.fromfile(out, dtype=np.float32).reshape(TOKENS, -1)
    same = next((n for n, (a, b) in enumerate(zip(ours["greedy"], greedy)) if a != b), NEW)
    return {"logits": relative(logits, full), "transformers_bf16_logits": relative(half, full),
            "loss": abs(ours["loss"] / loss - 1), "greedy_tokens_equal_to_transformers_bf16": same}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("engine")
    parser.add_argument("--initializer-range", type=float, default=USUAL_RANGE)
    arguments = parser.parse_args()
    wider = arguments.initializer_range > USUAL_RANGE
    engine = subprocess.Popen([arguments.engine], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    holds = True
    for name, shape in SHAPES.items():
        found = compare(engine, shape, arguments.initializer_range)
        limit = max(LIMIT, found["transformers_bf16_logits"]) if wider else LIMIT
        holds = holds and found["loss"] < LIMIT and found["logits"] < limit
        print(json.dumps({"shape": name, "initializer_range": arguments.initializer_range, **found, "limit": limit,
                          "transformers": transformers.__version__, "torch": torch.__version__}), flush=True)
    engine.stdin.close()
    print("parity holds" if holds else "PARITY FAILS")
    sys.exit(0 if holds else 1)


if __name__ == "__main__":
    main()
