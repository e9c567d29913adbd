//! Where must the full layers stand? The mechanism behind LongGen (arXiv 2410.01485) on a task that trains in minutes.
//!
//! ```text
//! cargo run --release --example mechanism -- [SEEDS] [SHORT_STEPS] [LONG_STEPS]
//! ```
//!
//! Recall: records, each a key and a value in one token, lie scattered in filler; at the end the keys come as questions, and
//! the model must name the record of each. For every seed a dense model learns it on short sequences. Then each plan goes on
//! from those weights on sequences four times as long, and is tested on these and on still longer ones. The sparse layers see
//! two sinks and a window that six layers together cannot stretch over the sequence.

use longgen_codegen::analysis::{Cost, Liveness};
use longgen_codegen::pattern::Pattern;
use longgen_runtime::model::{Batch, Llama, LlamaConfig, ModelError, Params, Recompute};
use longgen_runtime::random::Random;
use longgen_runtime::train::{Optimizer, OptimizerConfig, TrainSettings};

const SHORT: usize = 64;
const LONG: usize = 256;
const LONGER: usize = 384;
const KEYS: u32 = 32;
const VALUES: u32 = 4;
/// A record and a question for every so many tokens, so that long sequences teach as much as short ones.
const TOKENS_PER_RECORD: usize = 10;
/// Tokens of a training step.
const TOKENS: usize = 1536;
const SPARSE: &str = "sink=2, window=16";
const LAYERS: u32 = 6;

/// Name of a plan and its full layers.
const PLANS: [(&str, &[u32]); 6] = [
    ("all full", &[0, 1, 2, 3, 4, 5]),
    ("middle (sparse / full / sparse)", &[2, 3]),
    ("bottom", &[0, 1]),
    ("top", &[4, 5]),
    ("interleaved", &[1, 4]),
    ("all sparse", &[]),
];

fn config() -> Result<LlamaConfig, ModelError> {
    // Tokens: 32 questions, 128 records, 8 of filler.
    let text = r#"{"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 6, "num_attention_heads": 3,
        "vocab_size": 168, "initializer_range": 0.1, "max_position_embeddings": 512}"#;
    LlamaConfig::parse(text).map_err(|problem| ModelError::Config { path: "mechanism".into(), problem })
}

fn model(full: &[u32]) -> Result<Llama, Box<dyn std::error::Error>> {
    let pattern: Pattern = SPARSE.parse()?;
    let layers = longgen_codegen::pattern::IndexSet::of(full.iter().copied());
    let pattern = Pattern::builder(pattern.mask().clone()).layers(LAYERS).full_layers(layers).build()?;
    Ok(Llama::new(config()?, &pattern)?)
}

/// One sequence: its tokens, and the record that each question asks for.
fn sequence(random: &mut Random, length: usize) -> (Vec<u32>, Vec<Option<u32>>) {
    let filler = KEYS * (1 + VALUES);
    let mut tokens: Vec<u32> = (0..length).map(|_| filler + random.below(8) as u32).collect();
    let mut targets = vec![None; length];
    let records = (length / TOKENS_PER_RECORD).min(KEYS as usize);
    let (mut keys, body) = ((0..KEYS).collect::<Vec<u32>>(), length - records);
    let mut places: Vec<usize> = (0..body).collect();
    random.shuffle(&mut keys);
    random.shuffle(&mut places);
    for (n, (key, place)) in keys.into_iter().zip(places).take(records).enumerate() {
        let record = KEYS + key * VALUES + random.below(VALUES as usize) as u32;
        tokens[place] = record;
        (tokens[body + n], targets[body + n]) = (key, Some(record));
    }
    (tokens, targets)
}

fn batch(random: &mut Random, length: usize, sequences: usize) -> Result<Batch, ModelError> {
    let (mut tokens, mut targets) = (Vec::new(), Vec::new());
    for _ in 0..sequences {
        let (more_tokens, more_targets) = sequence(random, length);
        tokens.extend(more_tokens);
        targets.extend(more_targets);
    }
    Batch::packed(tokens, (0..=sequences).map(|n| n * length).collect())?.with_targets(targets)
}

/// Trains on fresh sequences; returns the loss of the last step.
fn train(
    model: &Llama,
    weights: &mut Params,
    seed: u64,
    length: usize,
    steps: u64,
    rate: f32,
) -> Result<f64, Box<dyn std::error::Error>> {
    let settings = TrainSettings {
        steps,
        warmup_steps: steps / 20,
        learning_rate: rate,
        min_learning_rate: rate / 10.0,
        ..TrainSettings::default()
    };
    let mut optimizer = Optimizer::new(OptimizerConfig::default(), weights);
    let mut gradients = Params::zeros(weights.table().clone());
    let mut random = Random::new(seed);
    let mut loss = 0.0;
    for step in 1..=steps {
        let batch = batch(&mut random, length, TOKENS / length)?;
        let targets = batch.target_count();
        gradients.clear();
        let scale = 1.0 / targets as f32;
        loss = model.loss_and_gradients(weights, &batch, scale, Recompute::Nothing, &mut gradients)?;
        loss /= targets as f64;
        optimizer.update(weights, &gradients, settings.learning_rate_at(step))?;
    }
    Ok(loss)
}

/// Share of questions whose record is the most likely token.
fn recall(model: &Llama, weights: &Params, length: usize) -> Result<f64, ModelError> {
    let vocabulary = model.config().vocabulary;
    let (mut right, mut all) = (0, 0);
    for seed in 0..8 {
        let batch = batch(&mut Random::new(1_000_000 + seed), length, 8)?;
        let logits = model.logits(weights, &batch)?;
        for (row, target) in logits.chunks_exact(vocabulary).zip(batch.targets()) {
            let Some(target) = target else { continue };
            let best = (0..vocabulary).max_by(|&a, &b| row[a].total_cmp(&row[b]));
            right += usize::from(best == Some(*target as usize));
            all += 1;
        }
    }
    Ok(right as f64 / f64::from(all))
}

/// Visible pairs and kept keys at the long length, against full attention.
fn cost(model: &Llama) -> Result<(f64, f64), Box<dyn std::error::Error>> {
    let config = model.config();
    let (heads, kv_heads, d) = (config.heads as u32, config.kv_heads as u32, config.head_dim as u32);
    let (mut visible, mut dense, mut kept) = (0, 0, 0);
    for layer in 0..config.layers {
        let ir = model.attention(layer).ir();
        let cost = Cost::new(ir, LONG as u32, heads, kv_heads, d)?;
        (visible, dense) = (visible + cost.visible_pairs, dense + cost.dense_pairs);
        kept += Liveness::new(ir, 0).kept_keys(LONG as u32);
    }
    Ok((visible as f64 / dense as f64, kept as f64 / (config.layers * LONG) as f64))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut numbers = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let mut next = |default: u64| numbers.next().unwrap_or(Ok(default));
    let (seeds, short_steps, long_steps) = (next(3)?, next(300)?, next(300)?);
    let mut scores = vec![Vec::new(); PLANS.len()];
    for seed in 0..seeds {
        let dense = model(PLANS[0].1)?;
        let mut base = Params::random(&config()?, seed);
        let loss = train(&dense, &mut base, seed, SHORT, short_steps, 3e-3)?;
        let short = recall(&dense, &base, SHORT)?;
        println!("seed {seed}: dense on {SHORT} tokens, loss {loss:.3}, recall {:.0} %", 100.0 * short);
        for ((name, full), scores) in PLANS.iter().zip(&mut scores) {
            let model = model(full)?;
            let mut weights = base.clone();
            let before = recall(&model, &weights, LONG)?;
            train(&model, &mut weights, seed + 100, LONG, long_steps, 3e-3)?;
            let after = (recall(&model, &weights, LONG)?, recall(&model, &weights, LONGER)?);
            println!("  {name}: {:.0} % before, {:.0} % after", 100.0 * before, 100.0 * after.0);
            scores.push((before, after.0, after.1));
        }
    }
    println!(
        "\nRecall at {LONG} tokens before and after {long_steps} steps there, and at {LONGER} (mean, least, most)"
    );
    println!(
        "{:<32} {:>7} {:>18} {:>18} {:>7} {:>7}",
        "full layers", "before", "after", "longer", "pairs", "keys"
    );
    for ((name, full), scores) in PLANS.iter().zip(&scores) {
        let spread = |of: fn(&(f64, f64, f64)) -> f64| {
            let values: Vec<f64> = scores.iter().map(|score| 100.0 * of(score)).collect();
            let (least, most) = values.iter().fold((100.0f64, 0.0f64), |(l, m), v| (l.min(*v), m.max(*v)));
            (values.iter().sum::<f64>() / values.len() as f64, least, most)
        };
        let (before, after, longer) = (spread(|s| s.0), spread(|s| s.1), spread(|s| s.2));
        let three = |(mean, least, most): (f64, f64, f64)| format!("{mean:.0} ({least:.0} to {most:.0}) %");
        let (pairs, keys) = cost(&model(full)?)?;
        println!(
            "{name:<32} {:>5.0} % {:>18} {:>18} {:>5.0} % {:>5.0} %",
            before.0,
            three(after),
            three(longer),
            100.0 * pairs,
            100.0 * keys
        );
    }
    Ok(())
}
