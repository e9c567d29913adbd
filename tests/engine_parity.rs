//! The engine against transformers: logits, loss, every gradient, one AdamW step and 200 greedily decoded tokens, on
//! the fixtures that tests/engine_fixtures/make.py makes (versions and seed stand in cases.json there).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use longgen_runtime::model::{
    Batch, Chunk, KvCache, Llama, LlamaConfig, Params, Recompute, SHARD_BYTES, load_weights, save_model,
};
use longgen_runtime::problem::DType;
use longgen_runtime::train::{Optimizer, OptimizerConfig};
use safetensors::{Dtype, SafeTensors};

/// Largest relative error in f32, of norms: tensors are compared as vectors.
const TOLERANCE: f64 = 1e-5;

struct Case {
    folder: PathBuf,
    model: Llama,
    weights: Params,
    batch: Batch,
    expected: BTreeMap<String, Vec<f64>>,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/engine_fixtures")
}

fn record() -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(fixtures().join("cases.json")).unwrap()).unwrap()
}

fn expected(folder: &Path) -> BTreeMap<String, Vec<f64>> {
    let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let values = |name: &str| -> Vec<f64> {
        let tensor = file.tensor(name).unwrap();
        match tensor.dtype() {
            Dtype::F32 => tensor.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b).into()).collect(),
            Dtype::I64 => tensor.data().as_chunks().0.iter().map(|&b| i64::from_le_bytes(b) as f64).collect(),
            other => panic!("{name} holds {other:?}"),
        }
    };
    file.names().into_iter().map(|name| (name.to_owned(), values(name))).collect()
}

fn cases() -> Vec<Case> {
    let record = record();
    let cases = record["cases"].as_array().unwrap().iter();
    cases
        .map(|case| {
            let folder = fixtures().join(case["name"].as_str().unwrap());
            let config = LlamaConfig::read(&folder.join("config.json")).unwrap();
            let weights = load_weights(&folder, &config, &mut |_, _| ()).unwrap();
            let model = Llama::new(config, &case["pattern"].as_str().unwrap().parse().unwrap()).unwrap();
            let expected = expected(&folder);
            let documents = case["documents"].as_array().unwrap().iter();
            let tokens = expected["tokens"].iter().map(|&token| token as u32).collect();
            let positions = expected["positions"].iter().map(|&p| p as f32).collect();
            let batch = Batch::packed(tokens, documents.map(|d| d.as_u64().unwrap() as usize).collect())
                .and_then(|batch| batch.with_positions(positions))
                .unwrap();
            let targets = expected["targets"].iter().map(|&t| (t >= 0.0).then_some(t as u32));
            assert_eq!(batch.targets(), targets.collect::<Vec<_>>());
            Case { folder, model, weights, batch, expected }
        })
        .collect()
}

fn relative_error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(expected).map(|(&f, e)| f64::from(f) - e));
    difference / norm(&mut expected.iter().copied()).max(f64::MIN_POSITIVE)
}

#[track_caller]
fn assert_close(what: &str, case: &Case, found: &[f32], expected: &str) {
    let error = relative_error(found, &case.expected[expected]);
    assert!(error < TOLERANCE, "{}: {what}: relative error {error:.2e}", case.folder.display());
}

#[test]
fn the_fixtures_stay_small() {
    let folders = cases().into_iter().map(|case| case.folder).chain([fixtures()]);
    let files = folders.flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let bytes: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes < 10 << 20, "{bytes} bytes");
}

#[test]
fn logits_and_loss() {
    for case in cases() {
        let logits = case.model.logits(&case.weights, &case.batch).unwrap();
        assert_close("logits", &case, &logits, "logits");
        let loss = case.model.loss(&case.weights, &case.batch).unwrap() / case.batch.target_count() as f64;
        assert_close("loss", &case, &[loss as f32], "loss");
    }
}

#[test]
fn every_gradient_and_one_step() {
    let adamw = &record()["adamw"];
    let number = |key: &str| adamw[key].as_f64().unwrap() as f32;
    let betas: Vec<f32> =
        adamw["betas"].as_array().unwrap().iter().map(|b| b.as_f64().unwrap() as f32).collect();
    for mut case in cases() {
        for recompute in [Recompute::Nothing, Recompute::Layers] {
            let mut gradients = Params::zeros(case.weights.table().clone());
            let scale = 1.0 / case.batch.target_count() as f32;
            case.model
                .loss_and_gradients(&case.weights, &case.batch, scale, recompute, &mut gradients)
                .unwrap();
            for entry in gradients.table().entries() {
                let found = gradients.tensor(&entry.name).unwrap();
                assert_close(&entry.name, &case, found, &format!("gradient.{}", entry.name));
            }
            if recompute == Recompute::Layers {
                let config = OptimizerConfig {
                    beta1: betas[0],
                    beta2: betas[1],
                    eps: number("eps"),
                    weight_decay: number("weight_decay"),
                    clip_norm: Some(number("clip")),
                    weights: DType::F32,
                };
                let mut optimizer = Optimizer::new(config, &case.weights);
                optimizer.update(&mut case.weights, &gradients, number("lr")).unwrap();
            }
        }
        for entry in case.weights.table().entries() {
            let found = case.weights.tensor(&entry.name).unwrap();
            assert_close(&entry.name, &case, found, &format!("step.{}", entry.name));
        }
    }
}

#[test]
fn two_hundred_greedy_tokens_through_the_cache() {
    let prompt_tokens = record()["prompt_tokens"].as_u64().unwrap() as usize;
    for case in cases() {
        let position = |t: usize| match case.folder.ends_with("sink_window_stride") {
            true => 0.25 + 0.5 * t as f32,
            false => t as f32,
        };
        let mut cache = KvCache::new(&case.model, prompt_tokens + 200, 3);
        let mut next = case.batch.tokens()[..prompt_tokens].to_vec();
        let mut decoded = Vec::new();
        while decoded.len() < 200 {
            let mut logits = Vec::new();
            for tokens in next.chunks(cache.chunk_tokens()) {
                let positions: Vec<f32> = (0..tokens.len()).map(|t| position(cache.tokens() + t)).collect();
                let chunk = Chunk { tokens, positions: &positions, cache: &mut cache };
                logits = case.model.extend(&case.weights, &mut [chunk]).unwrap().remove(0);
            }
            let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
            decoded.push(best as f64);
            next = vec![best as u32];
        }
        assert_eq!(decoded, case.expected["decoded"], "{}", case.folder.display());
    }
}

#[test]
fn a_saved_model_is_the_same_model() {
    for case in cases() {
        let folder = tempfile::tempdir().unwrap();
        save_model(folder.path(), case.model.config(), &case.weights, DType::F32, SHARD_BYTES).unwrap();
        let config = LlamaConfig::read(&folder.path().join("config.json")).unwrap();
        let weights = load_weights(folder.path(), &config, &mut |_, _| ()).unwrap();
        assert_eq!(weights, case.weights);
        assert_eq!(config.rope, case.model.config().rope);
        assert_eq!(config.window_tokens, case.model.config().window_tokens);
        assert_eq!(config.end_tokens, [2]);
    }
}
