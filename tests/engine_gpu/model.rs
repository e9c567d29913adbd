//! The model on the device against the model on the CPU, with the same weights: losses, logits, gradients, an update, and
//! decoding through the compact cache. The CPU's is in f32, and is itself compared with transformers.

use half::bf16;
use libtest_mimic::Failed;
use longgen_codegen::pattern::Pattern;
use longgen_runtime::generate::{Decoder, Room};
use longgen_runtime::gpu_model::{DeviceParams, GpuDecoder, GpuLlama, GpuPass, GpuTrainState, GpuUse};
use longgen_runtime::model::{Batch, Llama, LlamaConfig, Params, Recompute};
use longgen_runtime::ops::adamw::AdamW;
use longgen_runtime::random::Random;
use rayon::prelude::*;

use crate::{Machine, Test};

/// All tests.
pub const ALL: [(&str, Test); 9] = [
    ("model::loss_and_logits", loss_and_logits),
    ("model::gradients", gradients),
    ("model::updates_lower_the_loss", updates_lower_the_loss),
    ("model::wide_heads", wide_heads),
    ("model::decoding", decoding),
    ("model::long_decoding", long_decoding),
    ("model::batches", batches),
    ("model::many_sequences", many_sequences),
    ("model::out_of_memory", out_of_memory),
];

/// Those of them that take too long where every instruction is interpreted.
pub const LONG_ONES: [&str; 3] =
    ["model::updates_lower_the_loss", "model::long_decoding", "model::many_sequences"];

/// What bf16 may cost, against f32.
const BF16: f64 = 2e-2;

/// Layer plans: all full, a small window with sinks and a stride in two of three layers, and a predicate.
const PATTERNS: [&str; 4] = [
    "full",
    "sink=4, window=40; full layers=1 of=3",
    "sink=3, window=20, stride=4, block=8; full layers=1 of=3",
    "where=q - k < 50 || k % 7 == q % 7",
];

/// Long contexts: a plan, the tokens of the prompt and of its chunks, and the new tokens. Rings that are full just as the prompt
/// ends, that go round ten times in it and three times after it, and beside strided blocks; masks in tokens and in blocks.
const LONG: [(&str, [usize; 3]); 4] = [
    ("sink=4, window=1000; full layers=1 of=3", [990, 256, 1100]),
    ("sink=4, window=300; full layers=1 of=3", [3000, 512, 1000]),
    ("sink=3, window=500, stride=8, block=64; full layers=1 of=3", [4000, 777, 600]),
    ("block=64, sink_blocks=1, window_blocks=8; full layers=1 of=3", [4090, 1024, 700]),
];

/// The plans that a test goes through: on an emulated GPU the one with most in it.
fn patterns(machine: &Machine) -> &'static [&'static str] {
    if machine.gpu.is_emulated() { &PATTERNS[2..3] } else { &PATTERNS }
}

struct Setting {
    model: Llama,
    /// Weights that bf16 holds exactly.
    weights: Params,
}

impl Setting {
    fn new(pattern: &str, tied: bool) -> Result<Setting, Failed> {
        Setting::with_heads(pattern, tied, (8, 2, 64))
    }

    /// Query heads, KV heads, head dimension.
    fn with_heads(
        pattern: &str,
        tied: bool,
        (heads, kv_heads, d): (usize, usize, usize),
    ) -> Result<Setting, Failed> {
        let config = format!(
            r#"{{"model_type": "llama", "hidden_size": 256, "intermediate_size": 520, "num_hidden_layers": 3,
                "num_attention_heads": {heads}, "num_key_value_heads": {kv_heads}, "head_dim": {d}, "vocab_size": 301,
                "initializer_range": 0.06, "rms_norm_eps": 1e-5, "tie_word_embeddings": {tied},
                "max_position_embeddings": 8192}}"#
        );
        let pattern: Pattern = plan(pattern)?;
        let model = Llama::new(LlamaConfig::parse(&config)?, &pattern)?;
        let mut weights = Params::random(model.config(), 11);
        weights.data_mut().iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
        Ok(Setting { model, weights })
    }

    fn gpu(&self, machine: &Machine, used: GpuUse) -> Result<(GpuLlama, DeviceParams<bf16>), Failed> {
        if !machine.gpu.is_emulated() {
            machine.warm.call_once(|| compile_all(machine));
        }
        let model = GpuLlama::new(&machine.device, &machine.cache, &machine.blas, &self.model, used)?;
        let mut weights = DeviceParams::zeros(model.stream(), self.weights.table().clone())?;
        let rounded: Vec<bf16> = self.weights.data().iter().map(|&x| bf16::from_f32(x)).collect();
        weights.write(0, &rounded)?;
        Ok((model, weights))
    }

    fn tokens(&self, count: usize, seed: u64) -> Vec<u32> {
        let mut random = Random::new(seed);
        (0..count).map(|_| random.below(self.model.config().vocabulary) as u32).collect()
    }
}

/// Compiles the kernels of all tests, on all cores; what fails here fails again in its test.
fn compile_all(machine: &Machine) {
    let uses = [GpuUse::Decode, GpuUse::Train];
    let mut all: Vec<_> = PATTERNS.iter().flat_map(|pattern| uses.map(|used| (pattern, used))).collect();
    all.extend(LONG.iter().map(|(pattern, _)| (pattern, GpuUse::Decode)));
    all.par_iter().for_each(|(pattern, used)| {
        let _ = Setting::new(pattern, false).map(|setting| {
            GpuLlama::new(&machine.device, &machine.cache, &machine.blas, &setting.model, *used).is_ok()
        });
    });
}

fn plan(text: &str) -> Result<Pattern, Failed> {
    let (mask, full) = text.split_once(';').map_or((text, false), |(mask, _)| (mask, true));
    let toml = match (mask.strip_prefix("where="), full) {
        (Some(predicate), _) => format!("where = \"{predicate}\""),
        (None, false) if mask == "full" => "full = true".to_owned(),
        (None, false) => mask.replace(", ", "\n"),
        (None, true) => format!("{}\n[layers]\ncount = 3\nfull = [1]", mask.replace(", ", "\n")),
    };
    Ok(Pattern::from_toml_str("test", &toml)?)
}

fn close(name: &str, found: &[f32], expected: &[f32], tolerance: f64) -> Result<(), Failed> {
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let error = norm(&mut found.iter().zip(expected).map(|(&a, &b)| f64::from(a) - f64::from(b)))
        / norm(&mut expected.iter().map(|&x| f64::from(x)));
    eprintln!("{name}: relative error {error:.2e}");
    if found.len() == expected.len() && error < tolerance {
        Ok(())
    } else {
        Err(format!("{name}: relative error {error:e}").into())
    }
}

/// Two documents, fractional positions in one, and tokens without targets.
fn batch(setting: &Setting) -> Result<Batch, Failed> {
    let batch = Batch::packed(setting.tokens(390, 3), vec![0, 257, 390])?;
    let positions = batch.positions().iter().map(|p| p * 0.5 + 3.0).collect();
    Ok(batch.with_positions(positions)?)
}

fn loss_and_logits(machine: &Machine) -> Result<(), Failed> {
    for (pattern, tied) in patterns(machine).iter().zip([false, true, false, false]) {
        let setting = Setting::new(pattern, tied)?;
        let (model, weights) = setting.gpu(machine, GpuUse::Decode)?;
        let batch = batch(&setting)?;
        let mut pass = GpuPass::new(&model, batch.tokens().len(), false)?;
        let (found, expected) =
            (pass.logits(&model, &weights, &batch)?, setting.model.logits(&setting.weights, &batch)?);
        close(&format!("logits, {pattern}"), &found, &expected, BF16)?;
        let (found, expected) =
            (pass.loss(&model, &weights, &batch)?, setting.model.loss(&setting.weights, &batch)?);
        close("loss", &[found as f32], &[expected as f32], BF16)?;
    }
    Ok(())
}

fn gradients(machine: &Machine) -> Result<(), Failed> {
    let plans = patterns(machine).iter().zip([true, false, false, false]);
    plans.into_iter().try_for_each(|(pattern, tied)| check_gradients(machine, &Setting::new(pattern, tied)?))
}

/// Heads of 256, as Gemma's: gradients, and decoding.
fn wide_heads(machine: &Machine) -> Result<(), Failed> {
    let setting = Setting::with_heads(PATTERNS[1], false, (2, 1, 256))?;
    check_gradients(machine, &setting)?;
    check_decoding(machine, &setting, &[[45, 16, 9]])
}

fn check_gradients(machine: &Machine, setting: &Setting) -> Result<(), Failed> {
    let (model, _) = setting.gpu(machine, GpuUse::Train)?;
    let batch = batch(setting)?;
    let mut state = GpuTrainState::new(model, batch.tokens().len())?;
    let zeros = Params::zeros(setting.weights.table().clone());
    state.load(&setting.weights, &zeros, &zeros)?;
    // Twice, so that accumulation shows.
    let loss = state.add_gradients(&batch, 0.002)?;
    state.add_gradients(&batch, 0.002)?;
    let mut expected = zeros;
    let scale = 0.004;
    let expected_loss = setting.model.loss_and_gradients(
        &setting.weights,
        &batch,
        scale,
        Recompute::Layers,
        &mut expected,
    )?;
    close("loss", &[loss as f32], &[expected_loss as f32], BF16)?;
    let found = state.gradients().to_vec()?;
    for entry in expected.table().entries() {
        let at = entry.range();
        // Gradients pass through every rounding of forward and backward.
        close(&entry.name, &found[at.clone()], &expected.data()[at], 2.0 * BF16)?;
    }
    let norm: f64 = found.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    let difference = (state.gradient_norm()? / norm - 1.0).abs();
    if difference > 1e-9 {
        return Err(format!("the norm differs by {difference:e}").into());
    }
    Ok(())
}

/// Repeating one batch must be learned; and what comes back to the host is what the device trains on.
fn updates_lower_the_loss(machine: &Machine) -> Result<(), Failed> {
    let setting = Setting::new(PATTERNS[1], false)?;
    let (model, _) = setting.gpu(machine, GpuUse::Train)?;
    let batch = batch(&setting)?;
    let mut state = GpuTrainState::new(model, batch.tokens().len())?;
    let zeros = Params::zeros(setting.weights.table().clone());
    state.load(&setting.weights, &zeros, &zeros)?;
    let scale = 1.0 / batch.target_count() as f32;
    let mut losses = Vec::new();
    for step in 1..=30 {
        state.clear_gradients()?;
        losses.push(state.add_gradients(&batch, scale)? / batch.target_count() as f64);
        let adam = AdamW {
            learning_rate: 3e-3,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            step,
            gradient_scale: (1.0 / state.gradient_norm()?).min(1.0) as f32,
        };
        state.update(&adam, |entry| entry.shape.len() > 1)?;
    }
    eprintln!("losses {:.3} to {:.3}", losses[0], losses[29]);
    if losses[29] > 0.5 * losses[0] {
        return Err(format!("the loss does not fall: {losses:?}").into());
    }
    let [masters, _, _] = state.to_host()?;
    let host = setting.model.loss(&masters, &batch)? / batch.target_count() as f64;
    state.clear_gradients()?;
    let device = state.add_gradients(&batch, scale)? / batch.target_count() as f64;
    close("loss of the masters", &[device as f32], &[host as f32], 5.0 * BF16)
}

fn decoding(machine: &Machine) -> Result<(), Failed> {
    // Prompts below, at and past the window; chunks of one token, of some, of everything.
    let sizes = [[39, 16, 12], [1, 1, 30], [130, 48, 30], [130, 130, 5]];
    let sizes = if machine.gpu.is_emulated() { &sizes[..1] } else { &sizes[..] };
    patterns(machine).iter().try_for_each(|pattern| decode(machine, pattern, sizes))
}

fn long_decoding(machine: &Machine) -> Result<(), Failed> {
    LONG.iter().try_for_each(|(pattern, sizes)| decode(machine, pattern, &[*sizes]))
}

/// Prompts in chunks, then token by token; the reference computes the whole sequence at once, without a cache.
fn decode(machine: &Machine, pattern: &str, sizes: &[[usize; 3]]) -> Result<(), Failed> {
    check_decoding(machine, &Setting::new(pattern, false)?, sizes)
}

fn check_decoding(machine: &Machine, setting: &Setting, sizes: &[[usize; 3]]) -> Result<(), Failed> {
    let (model, weights) = setting.gpu(machine, GpuUse::Decode)?;
    for &[prompt, chunk, new] in sizes {
        let tokens = setting.tokens(prompt + new, 7);
        let expected = setting.model.logits(&setting.weights, &Batch::single(tokens.clone())?)?;
        let row = |t: usize| &expected[t * 301..][..301];
        let mut decoder = GpuDecoder::new(&model, &weights);
        decoder.open(&[Room { max_tokens: prompt + new, chunk_tokens: chunk }])?;
        let mut logits = Vec::new();
        for part in tokens[..prompt].chunks(chunk) {
            logits = decoder.extend(0, part)?;
        }
        let name = |what: &str| format!("{what}: prompt {prompt}, chunk {chunk}");
        close(&name("prompt"), &logits, row(prompt - 1), BF16)?;
        let mut found = Vec::new();
        for &token in &tokens[prompt..] {
            found.extend(decoder.step(&[Some(token)])?.remove(0));
        }
        close(&name("steps"), &found, &expected[prompt * 301..], BF16)?;
    }
    Ok(())
}

fn batches(machine: &Machine) -> Result<(), Failed> {
    patterns(machine).iter().try_for_each(|pattern| decode_batch(machine, pattern, &[70, 3, 131]))
}

fn many_sequences(machine: &Machine) -> Result<(), Failed> {
    let prompts: Vec<usize> = (1..=11).map(|n| 13 * n).collect();
    PATTERNS[..3].iter().try_for_each(|pattern| decode_batch(machine, pattern, &prompts))
}

/// Sequences of different lengths, one of which ends early.
fn decode_batch(machine: &Machine, pattern: &str, prompts: &[usize]) -> Result<(), Failed> {
    let setting = Setting::new(pattern, false)?;
    let (model, weights) = setting.gpu(machine, GpuUse::Decode)?;
    let new = if machine.gpu.is_emulated() { 9 } else { 20 };
    let sequence = |(s, prompt): (usize, &usize)| setting.tokens(prompt + new, 20 + s as u64);
    let all: Vec<Vec<u32>> = prompts.iter().enumerate().map(sequence).collect();
    let mut decoder = GpuDecoder::new(&model, &weights);
    let room = |&prompt: &usize| Room { max_tokens: prompt + new, chunk_tokens: 32.min(prompt) };
    decoder.open(&prompts.iter().map(room).collect::<Vec<_>>())?;
    for (s, tokens) in all.iter().enumerate() {
        for part in tokens[..prompts[s]].chunks(32) {
            decoder.extend(s, part)?;
        }
    }
    let mut found = vec![Vec::new(); all.len()];
    for step in 0..new {
        let goes = |s: usize| s != 1 || step < 7;
        let tokens: Vec<Option<u32>> =
            (0..all.len()).map(|s| goes(s).then(|| all[s][prompts[s] + step])).collect();
        for (s, logits) in decoder.step(&tokens)?.into_iter().enumerate().filter(|(s, _)| goes(*s)) {
            found[s].extend(logits);
        }
    }
    for (s, found) in found.iter().enumerate() {
        let expected = setting.model.logits(&setting.weights, &Batch::single(all[s].clone())?)?;
        let expected = &expected[prompts[s] * 301..][..found.len()];
        close(&format!("sequence {s}: {pattern}"), found, expected, BF16)?;
    }
    Ok(())
}

/// A cache that no device holds is refused with what would fit.
fn out_of_memory(machine: &Machine) -> Result<(), Failed> {
    let setting = Setting::new("full", false)?;
    let (model, weights) = setting.gpu(machine, GpuUse::Decode)?;
    let mut decoder = GpuDecoder::new(&model, &weights);
    let error = decoder.open(&[Room { max_tokens: 1 << 29, chunk_tokens: 16 }]).expect_err("too much");
    let error = error.to_string();
    eprintln!("{error}");
    let says = ["KV caches", "GiB", "free", "tokens in each sequence would fit"];
    match says.iter().find(|part| !error.contains(**part)) {
        None => Ok(()),
        Some(part) => Err(format!("`{error}` does not say {part}").into()),
    }
}
