//! A saved model on given tokens: logits to a file, the loss, and greedy tokens.
//!
//! ```text
//! {"directory": "/tmp/m", "tokens": [1, 2, 3], "output": "/tmp/logits.f32", "greedy_from": 2, "greedy": 10}
//! ```

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use longgen_codegen::pattern::{Clause, Pattern};
use longgen_runtime::generate::{Generation, Sampling, generate};
use longgen_runtime::gpu_model::{GpuDecoder, GpuLlama, GpuPass, GpuUse, load_device_weights};
use longgen_runtime::model::{Batch, Llama, LlamaConfig, Tokenizer};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Failure, Machine};

/// What to run.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parity {
    directory: PathBuf,
    tokens: Vec<u32>,
    output: PathBuf,
    /// Tokens of the prompt that is continued.
    greedy_from: usize,
    /// Tokens to add.
    greedy: usize,
}

/// Runs it. The pattern is what the configuration says.
pub fn run(machine: &Machine, item: &Parity) -> Result<Value, Failure> {
    let mut config = LlamaConfig::read(&item.directory.join("config.json"))?;
    config.end_tokens.clear();
    let mask = match config.window_tokens {
        Some(tokens) => Clause::Window { tokens },
        None => Clause::Full,
    };
    let model = Llama::new(config, &Pattern::builder(mask).build()?)?;
    let on_device = GpuLlama::new(&machine.device, &machine.cache, &machine.blas, &model, GpuUse::Decode)?;
    let weights = load_device_weights(&item.directory, &on_device, &mut |_, _| ())?;
    let batch = Batch::single(item.tokens.clone())?;
    let mut pass = GpuPass::new(&on_device, item.tokens.len(), false)?;
    let logits = pass.logits(&on_device, &weights, &batch)?;
    std::fs::write(&item.output, bytemuck::cast_slice::<f32, u8>(&logits))?;
    let loss = pass.loss(&on_device, &weights, &batch)?;
    let prompt = item.tokens[..item.greedy_from].to_vec();
    let how = Generation {
        new_tokens: item.greedy,
        chunk_tokens: 256,
        max_tokens: item.greedy_from + item.greedy,
        sampling: Sampling::GREEDY,
        seed: 0,
        stop: Vec::new(),
    };
    // No text is made of the tokens: bytes stand in for a tokenizer.
    let stop = AtomicBool::new(false);
    let mut decoder = GpuDecoder::new(&on_device, &weights);
    let generated = generate(&mut decoder, &Tokenizer::Bytes, &[prompt], &how, &stop, |_, _| ())?;
    Ok(json!({ "loss": loss, "greedy": generated[0].tokens, "weights": model.parameters() }))
}
