"""The engine on a GPU beside transformers, live: a random bf16 model is made, saved, and run by both on the same tokens.

    cargo build --bench engine
    python3 benches/parity_engine_gpu.py target/debug/deps/engine-XXXX

Compares logits and loss (relative error, against transformers in f32 on the same rounded weights; transformers' own bf16 is shown
beside it), and 200 greedy tokens. Needs torch with a GPU, transformers, numpy.
"""
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
TOKENS, NEW = 2000, 200
LIMIT = 2e-2


def ask(engine, item):
    done = subprocess.run([engine], input=json.dumps(item) + "\n", capture_output=True, text=True)
    if not done.stdout.strip():
        raise RuntimeError(done.stderr)
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer


def relative(found, expected):
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def main():
    engine = sys.argv[1]
    holds = True
    for name, shape in SHAPES.items():
        torch.manual_seed(0)
        windowed = "sliding_window" in shape
        config_class = transformers.MistralConfig if windowed else transformers.LlamaConfig
        config = config_class(max_position_embeddings=8192, initializer_range=0.03, **shape)
        ids = torch.randint(0, shape["vocab_size"], (1, TOKENS), generator=torch.Generator().manual_seed(1))
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
            # Loaded and not converted: a conversion would round the rotary frequencies too.
            load = transformers.AutoModelForCausalLM.from_pretrained
            model = load(folder, dtype=torch.bfloat16, attn_implementation="sdpa").cuda()
            half = model(ids.cuda()).logits[0].float().cpu().numpy()
            greedy = model.generate(ids[:, :500].cuda(), max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=0)
            greedy = greedy[0, 500:].tolist()
            model = load(folder, dtype=torch.float32, attn_implementation="sdpa").cuda()
            full = model(ids.cuda()).logits[0]
            loss = float(torch.nn.functional.cross_entropy(full[:-1], ids[0, 1:].cuda(), reduction="sum"))
            full = full.cpu().numpy()
            out = Path(folder) / "logits.f32"
            item = {"directory": folder, "tokens": ids[0].tolist(), "output": str(out), "greedy_from": 500, "greedy": NEW}
            ours = ask(engine, item)
            logits = np.fromfile(out, dtype=np.float32).reshape(TOKENS, -1)
        error, theirs, loss_error = relative(logits, full), relative(half, full), abs(ours["loss"] / loss - 1)
        same = next((n for n, (a, b) in enumerate(zip(ours["greedy"], greedy)) if a != b), NEW)
        # Rounding adds up over layers: what transformers itself loses in bf16 is no mistake of ours.
        holds = holds and loss_error < LIMIT and error < max(LIMIT, theirs)
        print(json.dumps({"shape": name, "logits": error, "transformers_bf16_logits": theirs, "loss": loss_error,
                          "greedy_tokens_equal_to_transformers_bf16": same, "transformers": transformers.__version__,
                          "torch": torch.__version__}))
    print("parity holds" if holds else "PARITY FAILS")
    sys.exit(0 if holds else 1)


if __name__ == "__main__":
    main()
