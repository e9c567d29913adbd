"""Makes the fixtures of tests/engine_parity.rs: tiny random models and what transformers computes with them.

    python make.py                  writes every case beside this file
    python make.py --check DIR TEXT loads a checkpoint of `lgc train` and prints what `lgc eval perplexity` should print
    python make.py --saved DIR      loads DIR/CASE, each case as our engine saved it in shards, and compares its logits

Each case is a directory: the model as `save_pretrained` writes it, and expected.safetensors with the tokens, their
positions and targets, logits, loss, every gradient, the weights after one clipped AdamW step, and 200 greedily decoded
tokens, all recomputed without a cache. cases.json records versions, seed and pattern.
"""

import copy
import json
import math
import pathlib
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

HERE = pathlib.Path(__file__).parent
SEED = 20241005
VOCABULARY, TOKENS, DECODED = 96, 40, 200
ADAMW = {"lr": 1e-3, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1, "clip": 1.0}
SHAPE = dict(
    vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, initializer_range=0.2, max_position_embeddings=512, rms_norm_eps=1e-5,
    bos_token_id=1, eos_token_id=2,
)


def causal(i, j):
    return j <= i


def sink_window_stride(i, j):
    return (j < 2) | (i - j < 6) | ((j // 4) % 4 == 0)


# name, model, configuration, pattern, element mask (None: the model's own), position of token t, documents, dtype, shards
CASES = [
    dict(name="dense", model=LlamaForCausalLM, config=LlamaConfig, pattern="full", keys={}),
    dict(
        name="window", model=MistralForCausalLM, config=MistralConfig, pattern="window=8",
        keys=dict(sliding_window=8, tie_word_embeddings=True, num_key_value_heads=1, head_dim=16),
    ),
    dict(
        name="sink_window_stride", model=LlamaForCausalLM, config=LlamaConfig,
        pattern="sink=2, window=6, stride=4, block=4, step=0", mask=sink_window_stride, position=lambda t: 0.25 + 0.5 * t,
        keys=dict(rope_parameters=dict(
            rope_type="yarn", factor=4.0, rope_theta=10000.0, original_max_position_embeddings=64,
        )),
    ),
    dict(
        name="llama3", model=LlamaForCausalLM, config=LlamaConfig, pattern="full",
        keys=dict(tie_word_embeddings=True, rope_parameters=dict(
            rope_type="llama3", factor=8.0, rope_theta=5000.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=64,
        )),
    ),
    dict(
        name="documents", model=LlamaForCausalLM, config=LlamaConfig, pattern="full", documents=[0, 13, 14, 40],
        keys=dict(rope_parameters=dict(rope_type="linear", factor=2.0, rope_theta=10000.0)),
        dtype=torch.bfloat16, max_shard_size="40KB",
    ),
]


def inputs(case, length, documents):
    """Additive mask (1, 1, T, T) or None, and positions (1, T)."""
    starts = torch.zeros(length, dtype=torch.long)
    for start in documents or [0]:
        starts[start:] = start
    t = torch.arange(length)
    positions = (t - starts).float()
    if "position" in case:
        positions = case["position"](positions)
    if documents is None and "mask" not in case:
        return None, positions[None] if "position" in case else t[None]
    i, j = t[:, None], t[None, :]
    seen = causal(i, j) & (starts[:, None] <= j)
    if "mask" in case:
        seen = seen & case["mask"](i, j)
    mask = torch.zeros(length, length).masked_fill(~seen, float("-inf"))
    return mask[None, None], positions[None]


def logits(model, case, tokens, documents=None):
    mask, positions = inputs(case, len(tokens), documents)
    return model(input_ids=tokens[None], attention_mask=mask, position_ids=positions, use_cache=False).logits[0]


def one_step(model):
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": ADAMW["weight_decay"]},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    torch.nn.utils.clip_grad_norm_(model.parameters(), ADAMW["clip"])
    torch.optim.AdamW(groups, lr=ADAMW["lr"], betas=ADAMW["betas"], eps=ADAMW["eps"]).step()


@torch.no_grad()
def decode(model, case, prompt):
    tokens = prompt.clone()
    for _ in range(DECODED):
        tokens = torch.cat([tokens, logits(model, case, tokens)[-1].argmax()[None]])
    return tokens[len(prompt):]


def make(case):
    torch.manual_seed(SEED)
    config = case["config"](**{**SHAPE, **case["keys"]}, attn_implementation="eager")
    model = case["model"](config)
    for parameter in model.parameters():  # norms too, or their gradients would be tested at 1 only
        if parameter.ndim == 1:
            parameter.data += 0.2 * torch.randn_like(parameter)
    dtype = case.get("dtype", torch.float32)
    for parameter in model.parameters():  # not model.to(dtype), which would round the RoPE frequencies as well
        parameter.data = parameter.data.to(dtype).float()
    folder = HERE / case["name"]
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    copy.deepcopy(model).to(dtype).save_pretrained(folder, max_shard_size=case.get("max_shard_size", "5GB"))
    (folder / "generation_config.json").unlink(missing_ok=True)

    documents = case.get("documents")
    tokens = torch.randint(3, VOCABULARY, (TOKENS,))
    targets = torch.cat([tokens[1:], torch.tensor([-100])])
    for start in (documents or [0])[1:]:
        targets[start - 1] = -100
    decoded = decode(model, case, tokens[:8])
    out = logits(model, case, tokens, documents)
    loss = torch.nn.functional.cross_entropy(out, targets, ignore_index=-100)
    loss.backward()
    expected = {"tokens": tokens, "targets": targets, "decoded": decoded, "logits": out.detach(), "loss": loss.detach()[None]}
    expected["positions"] = inputs(case, TOKENS, documents)[1][0].float()
    for name, parameter in model.named_parameters():
        expected[f"gradient.{name}"] = parameter.grad.clone()
    one_step(model)
    for name, parameter in model.named_parameters():
        expected[f"step.{name}"] = parameter.detach().clone()
    save_file({k: v.contiguous() for k, v in expected.items()}, folder / "expected.safetensors")
    print(f"{case['name']}: loss {loss.item():.6f}")
    return {"name": case["name"], "pattern": case["pattern"], "documents": documents or [0, TOKENS]}


def make_tokenizer():
    """A byte-level BPE as Llama 3 has one, with 90 tokens, that puts <s> before a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=90, special_tokens=["<s>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator(["the sink, the window, the stride: what the query sees of the keys"] * 9, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(HERE / "tokenizer.json"))


@torch.no_grad()
def check(folder, text):
    """The loss that `lgc eval perplexity --window 256` prints for a model of bytes with full attention."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").float()
    tokens = torch.tensor([256, *pathlib.Path(text).read_bytes()])
    total, targets = 0.0, 0
    for window in tokens.split(256):
        out = model(input_ids=window[None], use_cache=False).logits[0, :-1]
        total += torch.nn.functional.cross_entropy(out, window[1:], reduction="sum").item()
        targets += len(window) - 1
    print(f"perplexity {math.exp(total / targets):.4f}, loss {total / targets:.6f} nats over {targets} tokens")


@torch.no_grad()
def check_saved(root):
    """Exits with 1 when a saved model is another one to transformers than the model it was made of."""
    same = True
    for case in CASES:
        folder = root / case["name"]
        model, report = AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="eager", dtype=torch.float32, output_loading_info=True)
        expected = load_file(HERE / case["name"] / "expected.safetensors")
        found = logits(model, case, expected["tokens"], case.get("documents"))
        error = ((found - expected["logits"]).norm() / expected["logits"].norm()).item()
        missing = sorted(report["missing_keys"]) + sorted(report["unexpected_keys"])
        shards = len(list(folder.glob("model-*-of-*.safetensors")))
        same &= shards > 1 and error < 1e-6 and not missing
        print(f"{case['name']}: {shards} shards, logits differ by {error:.1e}, missing or unexpected {missing}")
    sys.exit(not same)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    if len(sys.argv) == 4 and sys.argv[1] == "--check":
        check(sys.argv[2], sys.argv[3])
    elif len(sys.argv) == 3 and sys.argv[1] == "--saved":
        check_saved(pathlib.Path(sys.argv[2]))
    else:
        make_tokenizer()
        record = {
            "torch": torch.__version__, "transformers": transformers.__version__, "seed": SEED, "adamw": ADAMW,
            "prompt_tokens": 8, "cases": [make(case) for case in CASES],
        }
        (HERE / "cases.json").write_text(json.dumps(record, indent=1) + "\n")
