//! The speed of the Llama engine on a GPU: prefill, decode and a training step, and the memory of the cache as allocated,
//! under a pattern's layer plan and under our own dense plan in the same run. Weights are random and made on the device.
//! One JSON item a line on standard input, one JSON result a line on standard output:
//!
//! ```text
//! {"model": "llama2-7b", "work": "decode", "pattern": "longgen-sink", "tokens": 131072}
//! ```
//! `model` is `llama2-7b` or `llama3-8b`; `work` is `prefill`, `decode`, `train` or `memory`; `batch` (1 sequence), `layers` (all of
//! the model's; a smaller number keeps the share of full layers), `chunk` (8192) and `repeats` may be left out. Times are medians, in
//! milliseconds, after a warm-up, and of a whole batch. FLOPs count visible pairs only. `split` tells attention and dense products apart; the rest is everything else (of decode: of one step that ran
//! without a graph). Items of the other kind, for `benches/parity_engine_gpu.py`, stand in `engine/parity.rs`.

#[path = "engine/parity.rs"]
mod parity;

use std::io::{BufRead, Write};
use std::time::Instant;

use longgen_codegen::analysis::Cost;
use longgen_codegen::cuda::locate::ToolSearch;
use longgen_codegen::pattern::{Clause, Pattern};
use longgen_runtime::blas::BlasSearch;
use longgen_runtime::driver::Device;
use longgen_runtime::generate::{Decoder, Room};
use longgen_runtime::gpu::KernelCache;
use longgen_runtime::gpu_model::{
    GpuCache, GpuDecoder, GpuLlama, GpuTrainState, GpuUse, TimeSplit, random_device_weights,
};
use longgen_runtime::model::{Batch, Llama, LlamaConfig};
use longgen_runtime::ops::adamw::AdamW;
use longgen_runtime::random::Random;
use serde::Deserialize;
use serde_json::{Value, json};

type Failure = Box<dyn std::error::Error>;

/// One line of work.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    model: String,
    work: Work,
    pattern: String,
    tokens: usize,
    #[serde(default = "one")]
    batch: usize,
    layers: Option<usize>,
    #[serde(default = "chunk")]
    chunk: usize,
    repeats: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Work {
    Prefill,
    Decode,
    Train,
    Memory,
}

fn one() -> usize {
    1
}

fn chunk() -> usize {
    8192
}

/// What every item needs.
struct Machine {
    device: Device,
    cache: KernelCache,
    blas: BlasSearch,
}

fn main() {
    // `cargo test --benches` passes no input and has no GPU: then there is nothing to do.
    let device = match Device::open(0) {
        Ok(device) => device,
        Err(error) => return println!("{}", json!({ "skipped": error.to_string() })),
    };
    let path = |name: &str| std::env::var_os(name).map(Into::into);
    let python = Some("python3".to_owned());
    let tools = ToolSearch { variable: path("LONGGEN_NVRTC"), python, ..ToolSearch::default() };
    let blas = BlasSearch { option: None, variable: path("LONGGEN_CUBLASLT"), tools: tools.clone() };
    let machine = Machine { device, cache: KernelCache::in_memory(tools), blas };
    let mut out = std::io::stdout();
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let line = line.trim();
        if line == "quit" {
            break;
        }
        if line.is_empty() {
            continue;
        }
        let run = || -> Result<Value, Failure> {
            match serde_json::from_str::<parity::Parity>(line) {
                Ok(parity) => parity::run(&machine, &parity),
                Err(_) => machine.run(&serde_json::from_str::<Item>(line)?),
            }
        };
        let mut result = run().unwrap_or_else(|error| json!({ "error": error.to_string() }));
        if line.len() < 1000 {
            result["item"] = serde_json::from_str(line).unwrap_or(Value::Null);
        }
        if writeln!(out, "{result}").and_then(|()| out.flush()).is_err() {
            break;
        }
    }
}

impl Machine {
    fn run(&self, item: &Item) -> Result<Value, Failure> {
        let model = Llama::new(item.config()?, &item.pattern()?)?;
        let used = if item.work == Work::Train { GpuUse::Train } else { GpuUse::Decode };
        let on_device = GpuLlama::new(&self.device, &self.cache, &self.blas, &model, used)?;
        match item.work {
            Work::Prefill => prefill(item, &model, &on_device),
            Work::Decode => decode(item, &on_device),
            Work::Train => train(item, &model, on_device),
            Work::Memory => memory(item, &on_device),
        }
    }
}

impl Item {
    fn config(&self) -> Result<LlamaConfig, Failure> {
        let (hidden, kv_heads, vocabulary, base) = match self.model.as_str() {
            "llama2-7b" => (11008, 32, 32000, 10_000.0),
            "llama3-8b" => (14336, 8, 128_256, 500_000.0),
            other => return Err(format!("unknown model `{other}`").into()),
        };
        let config = json!({
            "model_type": "llama", "hidden_size": 4096, "intermediate_size": hidden,
            "num_hidden_layers": self.layers.unwrap_or(32), "num_attention_heads": 32,
            "num_key_value_heads": kv_heads, "head_dim": 128, "vocab_size": vocabulary,
            "max_position_embeddings": 1 << 20, "rms_norm_eps": 1e-5, "rope_theta": base,
        });
        Ok(LlamaConfig::parse(&config.to_string())?)
    }

    /// The layer plan, cut down in proportion where there are fewer layers than it is for.
    fn pattern(&self) -> Result<Pattern, Failure> {
        if self.pattern == "dense" {
            return Ok(Pattern::builder(Clause::Full).build()?);
        }
        let pattern: Pattern = match Pattern::preset(&self.pattern) {
            Ok(preset) => preset,
            Err(_) => self.pattern.parse()?,
        };
        let (Some(layers), Some(count)) = (self.layers, pattern.layers().count) else { return Ok(pattern) };
        let is_full = |layer: &u32| pattern.layers().full.contains(*layer);
        let full = (0..count).filter(is_full).count() * layers / count as usize;
        let first = (layers - full).div_ceil(2);
        let toml = pattern.to_toml();
        let mask = toml.split("[layers]").next().unwrap_or_default();
        let full: Vec<usize> = (first..first + full).collect();
        let text = format!("{mask}\n[layers]\ncount = {layers}\nfull = {full:?}\n");
        Ok(Pattern::from_toml_str("a smaller plan", &text)?)
    }

    fn tokens(&self, count: usize, vocabulary: usize) -> Vec<u32> {
        let mut random = Random::new(5);
        (0..count).map(|_| random.below(vocabulary) as u32).collect()
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// FLOPs of attention, forward, over all layers.
fn attention_flops(model: &Llama, tokens: usize, backward: bool) -> Result<f64, Failure> {
    let config = model.config();
    let (heads, kv_heads, d) = (config.heads as u32, config.kv_heads as u32, config.head_dim as u32);
    let mut sum = 0.0;
    for layer in 0..config.layers {
        let cost = Cost::new(model.attention(layer).ir(), tokens as u32, heads, kv_heads, d)?;
        sum += cost.flops_forward as f64 + if backward { cost.flops_backward as f64 } else { 0.0 };
    }
    Ok(sum)
}

/// Time by operation.
fn split_of(on_device: &GpuLlama) -> Result<Value, Failure> {
    let TimeSplit { attention_ms, products_ms } = on_device.stop_time_split()?;
    Ok(json!({ "attention_ms": attention_ms, "products_ms": products_ms }))
}

/// The prompts of a batch into their caches, one after the other, each in chunks.
fn prefill(item: &Item, model: &Llama, on_device: &GpuLlama) -> Result<Value, Failure> {
    let weights = random_device_weights(on_device, 1)?;
    let mut decoder = GpuDecoder::new(on_device, &weights);
    let tokens = item.tokens(item.tokens, model.config().vocabulary);
    let room = Room { max_tokens: item.tokens, chunk_tokens: item.chunk.min(item.tokens) };
    let mut times = Vec::new();
    // One chunk is enough to warm up.
    let rooms = vec![room; item.batch];
    decoder.open(&rooms)?;
    decoder.extend(0, &tokens[..room.chunk_tokens])?;
    let mut split = Value::Null;
    for repeat in 0..item.repeats.unwrap_or(1) {
        decoder.open(&rooms)?;
        on_device.stream().synchronize()?;
        if repeat == 0 {
            on_device.start_time_split();
        }
        let started = Instant::now();
        for sequence in 0..item.batch {
            for part in tokens.chunks(room.chunk_tokens) {
                decoder.extend(sequence, part)?;
            }
        }
        times.push(started.elapsed().as_secs_f64() * 1e3);
        if repeat == 0 {
            split = split_of(on_device)?;
        }
    }
    let products = 2.0 * (model.product_weights() - model.config().vocabulary * model.config().width) as f64;
    let of_one = products * item.tokens as f64 + attention_flops(model, item.tokens, false)?;
    let flops = item.batch as f64 * of_one;
    let (ms, kv_bytes) = (median(times), decoder.cache().map(GpuCache::bytes));
    Ok(json!({ "ms": ms, "model_tflops": flops / ms / 1e9, "kv_bytes": kv_bytes, "split": split }))
}

/// Tokens one at a time, at the end of a context of so many tokens. The cache is not filled by a prompt: what lies in it does
/// not change the time.
fn decode(item: &Item, on_device: &GpuLlama) -> Result<Value, Failure> {
    let weights = random_device_weights(on_device, 1)?;
    let mut decoder = GpuDecoder::new(on_device, &weights);
    let repeats = item.repeats.unwrap_or(20);
    let room = Room { max_tokens: item.tokens + repeats + 8, chunk_tokens: 1 };
    decoder.open(&vec![room; item.batch])?;
    decoder.assume_tokens(item.tokens)?;
    let next = vec![Some(17); item.batch];
    // The first step runs without a graph, so that it can be split.
    on_device.start_time_split();
    decoder.step(&next)?;
    let split = split_of(on_device)?;
    for _ in 0..4 {
        decoder.step(&next)?;
    }
    let stream = on_device.stream();
    let mut times = Vec::new();
    for _ in 0..repeats {
        let before = stream.record()?;
        decoder.submit_step(&next)?;
        let after = stream.record()?;
        times.push(f64::from(before.elapsed_ms(&after)?));
    }
    let ms = median(times);
    let table = longgen_runtime::model::ParamTable::new(on_device.config());
    let embedding = on_device.config().vocabulary * on_device.config().width;
    let weight_bytes = 2 * (table.len() - embedding);
    let kv_bytes = decoder.cache().map_or(0, GpuCache::bytes);
    let bytes = (weight_bytes + kv_bytes) as f64;
    Ok(json!({ "ms": ms, "weight_bytes": weight_bytes, "kv_bytes": kv_bytes, "tb_per_s": bytes / ms / 1e9,
        "split": split }))
}

/// Forward, backward with recomputation, and the update.
fn train(item: &Item, model: &Llama, on_device: GpuLlama) -> Result<Value, Failure> {
    let tokens = item.tokens(item.tokens * item.batch, model.config().vocabulary);
    let lengths = (0..=item.batch).map(|n| n * item.tokens).collect();
    let batch = Batch::packed(tokens, lengths)?;
    let stream = on_device.stream().clone();
    let mut state = GpuTrainState::new(on_device, batch.tokens().len())?;
    state.randomise(1)?;
    let adam = AdamW {
        learning_rate: 1e-5,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        step: 1,
        gradient_scale: 1.0,
    };
    let scale = 1.0 / batch.target_count() as f32;
    let (mut times, mut updates, mut losses) = (Vec::new(), Vec::new(), Vec::new());
    // A short sequence is enough to warm up.
    let short = Batch::single(batch.tokens()[..item.tokens.min(4096)].to_vec())?;
    state.add_gradients(&short, scale)?;
    let mut split = Value::Null;
    for repeat in 0..item.repeats.unwrap_or(1) {
        if repeat == 0 {
            state.model().start_time_split();
        }
        state.clear_gradients()?;
        stream.synchronize()?;
        let started = Instant::now();
        losses.push(state.add_gradients(&batch, scale)? / batch.target_count() as f64);
        times.push(started.elapsed().as_secs_f64() * 1e3);
        if repeat == 0 {
            split = split_of(state.model())?;
        }
        let started = Instant::now();
        state.gradient_norm()?;
        state.update(&adam, |entry| entry.shape.len() > 1)?;
        stream.synchronize()?;
        updates.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let products = 6.0 * model.product_weights() as f64 * batch.tokens().len() as f64;
    let flops = products + item.batch as f64 * attention_flops(model, item.tokens, true)?;
    let (ms, update_ms) = (median(times), median(updates));
    Ok(json!({ "ms": ms, "update_ms": update_ms, "model_tflops": flops / ms / 1e9, "losses": losses,
        "split": split }))
}

/// The caches, allocated.
fn memory(item: &Item, on_device: &GpuLlama) -> Result<Value, Failure> {
    let cache = GpuCache::new(on_device, &vec![item.tokens; item.batch])?;
    Ok(json!({ "kv_bytes": cache.bytes() }))
}
