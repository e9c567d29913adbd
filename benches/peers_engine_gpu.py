"""transformers with PyTorch's attention on the shape of Llama-2-7B, random bf16 weights: what `benches/engine.rs` is compared with.

    python3 benches/peers_engine_gpu.py 32768

Prints prefill (logits of the last token only) and decode per token, batch 1, in milliseconds, medians of CUDA events.
"""
import json
import statistics
import sys

import torch
import transformers


def timed(work, repeats):
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def main():
    tokens = int(sys.argv[1])
    config = transformers.LlamaConfig(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
                                      vocab_size=32000, max_position_embeddings=1 << 20)
    config._attn_implementation = "sdpa"
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    model = model.to_empty(device="cuda")
    with torch.device("cuda"):
        model.model.rotary_emb = type(model.model.rotary_emb)(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02) if parameter.dim() > 1 else torch.nn.init.ones_(parameter)
    model.eval()
    ids = torch.randint(0, 32000, (1, tokens), device="cuda")
    with torch.inference_mode():
        model(ids[:, :2048], logits_to_keep=1)
        prefill = timed(lambda: model(ids, use_cache=True, logits_to_keep=1), 2)
        cache = model(ids, use_cache=True, logits_to_keep=1).past_key_values
        one = ids[:, :1]
        for _ in range(3):
            model(one, past_key_values=cache, use_cache=True)
        decode = timed(lambda: model(one, past_key_values=cache, use_cache=True), 10)
    print(json.dumps({"peer": "transformers sdpa", "tokens": tokens, "prefill_ms": prefill, "decode_ms": decode,
                      "torch": torch.__version__, "transformers": transformers.__version__}))


if __name__ == "__main__":
    main()
