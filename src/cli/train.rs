//! `lgc train`: one training pass from flags, or several from a recipe.

mod pass;

use std::io::Write;
use std::path::{Path, PathBuf};

use longgen_runtime::read::read_limited;
use longgen_runtime::train::{Outcome, TrainError};
use serde::Deserialize;
use thiserror::Error;

use super::{CliError, engine};

pub use pass::Pass;

const EXAMPLES: &str = "\
Examples:
  lgc train --init examples/recipe/tiny.json --data docs --pattern 'sink=16, window=128' --out /tmp/run --steps 200
  lgc train --out /tmp/run --resume --data docs --steps 200
  lgc train --model llama/ --data long.jsonl --pattern longgen-sink --rope-base 5e6 --out /tmp/long
  lgc train --recipe examples/recipe/two_passes.toml --out /tmp/two

Data: a text, .jsonl, .u16 or .u32 file, or a directory of them. Without a tokenizer.json text is read as bytes.
A run directory holds checkpoints (step-00000100/ ..., each a model directory) and log.jsonl, one line per step.
Ctrl-C saves a checkpoint and ends; --resume goes on from there, with the same losses to the bit.";

/// Bytes no recipe needs.
const RECIPE_LIMIT: u64 = 1 << 20;

/// Arguments of `lgc train`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Directory of the run; with a recipe, one directory per pass is made in it
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Go on from the newest checkpoint in the directory
    #[arg(long)]
    resume: bool,
    /// A TOML file with one [[pass]] table per pass, whose keys are the flags below; each pass starts from the model of
    /// the one before. Passes that are done are skipped, an interrupted one goes on
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    recipe: Option<PathBuf>,
    /// Threads of all computation; by default as many as there are cores
    #[arg(long, value_name = "N", value_parser = super::number::count)]
    threads: Option<usize>,
    #[command(flatten)]
    place: engine::Place,
    #[command(flatten)]
    pass: Pass,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recipe {
    pass: Vec<Pass>,
}

#[derive(Debug, Error)]
enum RecipeError {
    #[error("recipe `{}`: {problem}", .path.display())]
    Parse { path: PathBuf, problem: String },
}

/// Trains.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), CliError> {
    engine::set_threads(args.threads)?;
    let stop = engine::stop_flag()?;
    let Some(recipe) = &args.recipe else {
        let outcome = args.pass.train(&args.out, None, args.resume, &args.place, &stop, out)?;
        return tell_stop(outcome, "--resume", out);
    };
    let mut before: Option<PathBuf> = None;
    for (n, pass) in read_recipe(recipe)?.pass.iter().enumerate() {
        let directory = args.out.join(pass.name.clone().unwrap_or_else(|| format!("pass-{}", n + 1)));
        let begun = engine::model_directory(&directory).is_ok();
        writeln!(out, "pass {}: {}", n + 1, directory.display())?;
        let outcome = pass.train(&directory, before.as_deref(), begun, &args.place, &stop, out)?;
        if outcome != Outcome::Finished {
            return tell_stop(outcome, "the same command", out);
        }
        before = Some(directory);
    }
    Ok(())
}

/// Says where a run stopped, if it did, and what goes on from there.
fn tell_stop(outcome: Outcome, goes_on: &str, out: &mut dyn Write) -> Result<(), CliError> {
    match outcome {
        Outcome::Finished => (),
        Outcome::Stopped(0) => writeln!(out, "stopped before the first step was done: nothing is saved")?,
        Outcome::Stopped(step) => writeln!(out, "stopped after step {step}; {goes_on} goes on from there")?,
    }
    Ok(())
}

/// Reads a recipe; paths in it are relative to it.
fn read_recipe(path: &Path) -> Result<Recipe, CliError> {
    let wrong = |problem: String| CliError::usage(RecipeError::Parse { path: path.into(), problem });
    let bytes = read_limited(path, "recipe", RECIPE_LIMIT).map_err(CliError::usage)?;
    let text = String::from_utf8(bytes).map_err(|error| wrong(error.to_string()))?;
    let mut recipe: Recipe = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    if recipe.pass.is_empty() {
        return Err(wrong("it has no [[pass]]".into()));
    }
    let base = path.parent().unwrap_or(Path::new(""));
    recipe.pass.iter_mut().for_each(|pass| pass.rebase(base));
    Ok(recipe)
}

/// The exit code and text of what stopped a run: wrong settings are the command line's fault.
fn failed(error: TrainError) -> CliError {
    match error {
        TrainError::Settings { .. } | TrainError::NotEmpty { .. } | TrainError::NothingToResume { .. } => {
            CliError::usage(error)
        }
        error => CliError::failure(error),
    }
}
