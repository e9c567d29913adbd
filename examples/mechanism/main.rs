//! Where must the full layers stand? The mechanism behind LongGen (arXiv 2410.01485) on a task that trains in minutes.
//!
//! ```text
//! cargo run --release --example mechanism -- [SEEDS] [SHORT_STEPS] [LONG_STEPS] [--hops 2] [--device cuda]
//! ```
//!
//! For every seed a dense model learns to recall records (`task.rs`) on short sequences. Then each plan goes on from its weights
//! on sequences four times as long, and is tested on these and on still longer ones. The sparse layers see two sinks and a
//! window that six layers together cannot stretch over the sequence. On a GPU the model is wider and the sequences longer.

mod learner;
mod task;

use std::process::ExitCode;

use clap::Parser;
use longgen_codegen::analysis::{Cost, Liveness};
use longgen_codegen::pattern::{IndexSet, Pattern};
use longgen_runtime::model::{Llama, Params};
use longgen_runtime::random::Random;
use longgen_runtime::train::TrainSettings;

use learner::{Learner, Place};
use task::Task;

type Failure = Box<dyn std::error::Error>;

/// Tokens of a test of recall.
const TEST_TOKENS: usize = 32_768;
const SPARSE: &str = "sink=2, window=16";

/// Name of a plan and its full layers.
const PLANS: [(&str, &[u32]); 6] = [
    ("all full", &[0, 1, 2, 3, 4, 5]),
    ("middle (sparse / full / sparse)", &[2, 3]),
    ("bottom", &[0, 1]),
    ("top", &[4, 5]),
    ("interleaved", &[1, 4]),
    ("all sparse", &[]),
];

const ON_CPU: Task = Task {
    hops: 1,
    lengths: [64, 256, 384],
    batch_tokens: 1536,
    learning_rate: 3e-3,
    width: 48,
    heads: 3,
    layers: 6,
    deviation: 0.1,
};
const ON_GPU: Task = Task {
    hops: 1,
    lengths: [128, 512, 1024],
    batch_tokens: 16384,
    learning_rate: 2e-3,
    width: 128,
    heads: 4,
    layers: 6,
    deviation: 0.06,
};

#[derive(Parser)]
struct Arguments {
    #[arg(default_value_t = 3)]
    seeds: u64,
    /// Steps of the dense model
    #[arg(default_value_t = 300)]
    short_steps: u64,
    /// Steps of each plan
    #[arg(default_value_t = 300)]
    long_steps: u64,
    /// Hops of an answer: 1, or 2 for pointers that lead to records
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    hops: u8,
    #[arg(long, value_parser = ["cpu", "cuda"], default_value = "cpu")]
    device: String,
}

/// Recall of a plan.
struct Score {
    before: f64,
    after: f64,
    longer: f64,
}

fn model(task: &Task, full: &[u32]) -> Result<Llama, Failure> {
    let pattern: Pattern = SPARSE.parse()?;
    let layers = IndexSet::of(full.iter().copied());
    let pattern = Pattern::builder(pattern.mask().clone()).layers(task.layers).full_layers(layers).build()?;
    Ok(Llama::new(task.config()?, &pattern)?)
}

/// Trains on fresh sequences; returns the loss of the last step.
fn train(
    task: &Task,
    learner: &mut dyn Learner,
    seed: u64,
    length: usize,
    steps: u64,
) -> Result<f64, Failure> {
    let settings = TrainSettings {
        steps,
        warmup_steps: steps / 20,
        learning_rate: task.learning_rate,
        min_learning_rate: task.learning_rate / 10.0,
        ..TrainSettings::default()
    };
    let mut random = Random::new(seed);
    let mut loss = 0.0;
    for step in 1..=steps {
        loss = learner.learn(&task.batch(&mut random, length)?, settings.learning_rate_at(step))?;
    }
    Ok(loss)
}

/// Share of the hard questions whose record is the most likely token.
fn recall(task: &Task, learner: &mut dyn Learner, length: usize) -> Result<f64, Failure> {
    let (mut right, mut all) = (0, 0);
    let mut random = Random::new(1_000_000);
    for _ in 0..TEST_TOKENS.div_ceil(task.batch_tokens) {
        let batch = task.batch(&mut random, length)?;
        let logits = learner.logits(&batch)?;
        let rows = logits.chunks_exact(logits.len() / batch.tokens().len());
        for ((row, &question), target) in rows.zip(batch.tokens()).zip(batch.targets()) {
            let Some(record) = target.filter(|&record| task.is_hard(question, record)) else { continue };
            let best = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]));
            right += usize::from(best == Some(record as usize));
            all += 1;
        }
    }
    Ok(right as f64 / f64::from(all))
}

/// Visible pairs and kept keys at a length, against full attention.
fn cost(model: &Llama, length: usize) -> Result<(f64, f64), Failure> {
    let config = model.config();
    let (heads, kv_heads, d) = (config.heads as u32, config.kv_heads as u32, config.head_dim as u32);
    let (mut visible, mut dense, mut kept) = (0, 0, 0);
    for layer in 0..config.layers {
        let ir = model.attention(layer).ir();
        let cost = Cost::new(ir, length as u32, heads, kv_heads, d)?;
        (visible, dense) = (visible + cost.visible_pairs, dense + cost.dense_pairs);
        kept += Liveness::new(ir, 0).kept_keys(length as u32);
    }
    Ok((visible as f64 / dense as f64, kept as f64 / (config.layers * length) as f64))
}

/// The scores of all plans from the weights that one dense model learned.
fn run_seed(task: &Task, place: &Place, seed: u64, arguments: &Arguments) -> Result<Vec<Score>, Failure> {
    let [short, long, longer] = task.lengths;
    let dense = model(task, PLANS[0].1)?;
    let mut learner = place.learner(&dense, Params::random(&task.config()?, seed), task.batch_tokens)?;
    let loss = train(task, &mut *learner, seed, short, arguments.short_steps)?;
    let share = recall(task, &mut *learner, short)?;
    println!("seed {seed}: dense on {short} tokens, loss {loss:.3}, recall {:.0} %", 100.0 * share);
    let base = learner.weights()?;
    let score = |(name, full): &(&str, &[u32])| {
        let model = model(task, full)?;
        let mut learner = place.learner(&model, base.clone(), task.batch_tokens)?;
        let before = recall(task, &mut *learner, long)?;
        train(task, &mut *learner, seed + 100, long, arguments.long_steps)?;
        let [after, longer] = [long, longer].map(|length| recall(task, &mut *learner, length));
        let score = Score { before, after: after?, longer: longer? };
        println!("  {name}: {:.0} % before, {:.0} % after", 100.0 * before, 100.0 * score.after);
        Ok(score)
    };
    PLANS.iter().map(score).collect()
}

/// Mean, least and most of the seeds' percentages.
fn spread(scores: &[Vec<Score>], plan: usize, of: fn(&Score) -> f64) -> (f64, String) {
    let values: Vec<f64> = scores.iter().map(|seed| 100.0 * of(&seed[plan])).collect();
    let (least, most) = values.iter().fold((100.0f64, 0.0f64), |(l, m), v| (l.min(*v), m.max(*v)));
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    (mean, format!("{mean:.0} ({least:.0} to {most:.0}) %"))
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let (place, task) = match arguments.device.as_str() {
        "cuda" => (Place::gpu()?, ON_GPU),
        _ => (Place::Cpu, ON_CPU),
    };
    let task = Task { hops: arguments.hops, ..task };
    let seeds = 0..arguments.seeds;
    let scores = seeds.map(|seed| run_seed(&task, &place, seed, arguments)).collect::<Result<Vec<_>, _>>()?;
    let [_, long, longer] = task.lengths;
    let steps = arguments.long_steps;
    println!(
        "\nRecall at {long} tokens before and after {steps} steps there, and at {longer} (mean, least, most)"
    );
    println!(
        "{:<32} {:>7} {:>18} {:>18} {:>7} {:>7}",
        "full layers", "before", "after", "longer", "pairs", "keys"
    );
    for (plan, (name, full)) in PLANS.iter().enumerate() {
        let (before, _) = spread(&scores, plan, |score| score.before);
        let (_, after) = spread(&scores, plan, |score| score.after);
        let (_, longer) = spread(&scores, plan, |score| score.longer);
        let (pairs, keys) = cost(&model(&task, full)?, long)?;
        println!(
            "{name:<32} {before:>5.0} % {after:>18} {longer:>18} {:>5.0} % {:>5.0} %",
            100.0 * pairs,
            100.0 * keys
        );
    }
    Ok(())
}
