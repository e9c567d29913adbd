//! `lgc eval`: perplexity, and the needle.

use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use clap::Subcommand;
use longgen::picture::HeatMap;
use longgen_runtime::eval::{Needle, NeedleCell, needle_grid, perplexity};
use longgen_runtime::gpu_model::GpuPass;
use thiserror::Error;

use super::engine::{self, Loaded, Weights};
use super::{CliError, drawing, files, number};

/// What follows the results so far after Ctrl-C.
const STOPPED: &str = "stopped before the end";

/// Arguments of `lgc eval`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Hide a number in long filler text and ask for it, by length and depth
    Needle(NeedleArgs),
    /// The exponential of the mean loss over a text
    Perplexity(PerplexityArgs),
}

/// What both need.
#[derive(Debug, clap::Args)]
struct ModelArgs {
    /// Model or training directory
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Attention of the layers; by default that of the model
    #[arg(long, value_name = "PATTERN")]
    pattern: Option<String>,
    /// Threads of all computation; by default as many as there are cores
    #[arg(long, value_name = "N", value_parser = number::count)]
    threads: Option<usize>,
    #[command(flatten)]
    place: engine::Place,
}

#[derive(Debug, clap::Args)]
struct NeedleArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Text to hide the number in; repeated as often as needed
    #[arg(long, value_name = "FILE")]
    filler: PathBuf,
    /// Lengths of the prompt in tokens
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "512,1k,2k,4k", value_parser = number::count)]
    lengths: Vec<usize>,
    /// How many depths between the beginning and the end
    #[arg(long, value_name = "N", default_value = "5", value_parser = number::count)]
    depths: usize,
    /// Tries for each length and depth
    #[arg(long, value_name = "N", default_value = "3", value_parser = number::count)]
    trials: usize,
    /// Seed of the numbers
    #[arg(long, value_name = "N", default_value = "0")]
    seed: u64,
    /// Tokens of the prompt that go through the model at once
    #[arg(long, value_name = "N", default_value = "256", value_parser = number::count)]
    chunk: usize,
    /// Draw the heat map into a file: NAME.png or NAME.svg
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct PerplexityArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Text
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Tokens of a window; each is read without the ones before it
    #[arg(long, value_name = "N", default_value = "1k", value_parser = number::count)]
    window: usize,
}

#[derive(Debug, Error)]
enum EvalError {
    #[error("--window {0} is too short: perplexity needs windows of at least two tokens")]
    Window(usize),
}

/// Evaluates.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), CliError> {
    match &args.what {
        What::Needle(args) => needle(args, out),
        What::Perplexity(args) => run_perplexity(args, out),
    }
}

impl ModelArgs {
    fn load(&self) -> Result<Loaded, CliError> {
        engine::set_threads(self.threads)?;
        engine::load(&self.model, self.pattern.as_deref(), &self.place)
    }
}

fn needle(args: &NeedleArgs, out: &mut dyn Write) -> Result<(), CliError> {
    let picture = args.output.as_deref().map(drawing::Drawing::of).transpose().map_err(CliError::usage)?;
    let filler = files::read_text(&args.filler).map_err(CliError::failure)?;
    let loaded = args.model.load()?;
    let depth = |n: usize| if args.depths == 1 { 0.5 } else { n as f64 / (args.depths - 1) as f64 };
    let needle = Needle {
        lengths: args.lengths.clone(),
        depths: (0..args.depths).map(depth).collect(),
        trials: args.trials,
        seed: args.seed,
        chunk_tokens: args.chunk,
    };
    let stop = engine::stop_flag()?;
    let total = (needle.lengths.len() * needle.depths.len()) as u64;
    let bar = engine::progress(total, "{bar:30} {pos}/{len} lengths and depths [{elapsed}, {eta} left]");
    let tokenizer = &loaded.tokenizer;
    let cells = loaded
        .with_decoder(|decoder| needle_grid(decoder, tokenizer, &filler, &needle, &stop, |_| bar.inc(1)))
        .map_err(CliError::failure)?;
    bar.finish_and_clear();
    writeln!(out, "{:>8} {:>6} {:>7}", "tokens", "depth", "found")?;
    for cell in &cells {
        let found = format!("{}/{}", cell.found, cell.trials);
        writeln!(out, "{:>8} {:>5.0}% {found:>7}", cell.length, 100.0 * cell.depth)?;
    }
    if cells.len() < total as usize {
        writeln!(out, "{STOPPED}")?;
    }
    if let Some(picture) = picture {
        picture.write(&heat_map(&needle, &cells).draw()).map_err(CliError::failure)?;
    }
    Ok(())
}

fn heat_map(needle: &Needle, cells: &[NeedleCell]) -> HeatMap {
    let value = |length: usize, depth: f64| {
        let cell = cells.iter().find(|cell| cell.length == length && cell.depth == depth)?;
        Some(cell.found as f64 / cell.trials as f64)
    };
    HeatMap {
        title: "Numbers found".into(),
        x_label: "tokens".into(),
        y_label: "depth".into(),
        columns: needle.lengths.iter().map(usize::to_string).collect(),
        rows: needle.depths.iter().map(|depth| format!("{:.0}%", 100.0 * depth)).collect(),
        values: needle
            .depths
            .iter()
            .map(|&depth| needle.lengths.iter().map(|&length| value(length, depth)).collect())
            .collect(),
    }
}

fn run_perplexity(args: &PerplexityArgs, out: &mut dyn Write) -> Result<(), CliError> {
    if args.window < 2 {
        return Err(CliError::usage(EvalError::Window(args.window)));
    }
    let text = files::read_text(&args.data).map_err(CliError::failure)?;
    let Loaded { model, weights, tokenizer } = args.model.load()?;
    let tokens = tokenizer.encode(&text).map_err(CliError::failure)?;
    let stop = engine::stop_flag()?;
    let bar = engine::progress(tokens.len() as u64, "{bar:30} {pos}/{len} tokens [{elapsed}, {eta} left]");
    let read = |read| bar.set_position(read as u64);
    let result = match &weights {
        Weights::Cpu(weights) => {
            perplexity(&tokens, args.window, &stop, |batch| model.loss(weights, batch), read)
        }
        Weights::Gpu(model, weights) => {
            let window = args.window.min(tokens.len());
            let mut pass = GpuPass::new(model, window, false).map_err(CliError::failure)?;
            perplexity(&tokens, args.window, &stop, |batch| pass.loss(model, weights, batch), read)
        }
    };
    let result = result.map_err(CliError::failure)?;
    bar.finish_and_clear();
    let (loss, perplexity) = (result.loss, result.perplexity());
    writeln!(out, "perplexity {perplexity:.4}, loss {loss:.6} nats over {} tokens", result.targets)?;
    if stop.load(Ordering::Relaxed) {
        writeln!(out, "{STOPPED}")?;
    }
    Ok(())
}
