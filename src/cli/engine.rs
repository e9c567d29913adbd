//! What the commands that run a model share: loading one, progress, threads, and Ctrl-C.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use longgen_codegen::pattern::{Clause, Pattern};
use longgen_runtime::model::{Llama, LlamaConfig, Params, Tokenizer, load_weights};
use longgen_runtime::train::checkpoint::{PATTERN_FILE, checkpoints};
use thiserror::Error;

use super::{CliError, pattern_arg};

/// Exit code of a process ended by Ctrl-C, as shells give it.
const INTERRUPTED: i32 = 130;

#[derive(Debug, Error)]
enum EngineError {
    #[error("`{}` is no model directory: it has no config.json and no checkpoints", .0.display())]
    NoModel(PathBuf),
    #[error("Ctrl-C cannot be caught")]
    CtrlC(#[from] ctrlc::Error),
    #[error("{0} threads cannot be started")]
    Threads(usize, #[source] rayon::ThreadPoolBuildError),
}

/// A model with everything it takes to run it.
#[derive(Debug)]
pub struct Loaded {
    /// The model under its pattern.
    pub model: Llama,
    /// Its weights.
    pub weights: Params,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
}

/// The model directory that `path` means: itself, or its newest checkpoint.
pub fn model_directory(path: &Path) -> Result<PathBuf, CliError> {
    if path.join("config.json").is_file() {
        return Ok(path.into());
    }
    let newest = checkpoints(path).map_err(CliError::failure)?.pop();
    newest.map(|(_, path)| path).ok_or_else(|| CliError::failure(EngineError::NoModel(path.into())))
}

/// The pattern that was asked for; else the one stored with the model; else what its configuration says.
pub fn pattern_of(
    argument: Option<&str>,
    directory: &Path,
    config: &LlamaConfig,
) -> Result<Pattern, CliError> {
    if let Some(argument) = argument {
        return pattern_arg::resolve(argument);
    }
    let stored = directory.join(PATTERN_FILE);
    if stored.is_file() {
        // Through the path, so that a file of another name can never be meant.
        return pattern_arg::resolve(&stored.display().to_string());
    }
    match config.window_tokens {
        Some(tokens) => Pattern::builder(Clause::Window { tokens }).build().map_err(CliError::usage),
        None => Pattern::builder(Clause::Full).build().map_err(CliError::usage),
    }
}

/// Loads a model, with a progress bar.
pub fn load(path: &Path, pattern: Option<&str>) -> Result<Loaded, CliError> {
    let directory = model_directory(path)?;
    let config = LlamaConfig::read(&directory.join("config.json")).map_err(CliError::failure)?;
    let pattern = pattern_of(pattern, &directory, &config)?;
    let tokenizer = Tokenizer::load(&directory, config.vocabulary).map_err(CliError::failure)?;
    let model = Llama::new(config, &pattern).map_err(CliError::failure)?;
    let weights = weights(&directory, model.config())?;
    Ok(Loaded { model, weights, tokenizer })
}

/// Loads weights, with a progress bar.
pub fn weights(directory: &Path, config: &LlamaConfig) -> Result<Params, CliError> {
    let bar = progress(0, "loading {bar:30} {percent}% of {msg} million weights");
    let weights = load_weights(directory, config, &mut |done, all| {
        bar.set_length(all as u64);
        bar.set_message(format!("{:.1}", all as f64 / 1e6));
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    weights.map_err(CliError::failure)
}

/// A bar on standard error; nothing where that is no terminal.
pub fn progress(length: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// A flag that Ctrl-C sets; the second Ctrl-C ends the process at once.
pub fn stop_flag() -> Result<Arc<AtomicBool>, CliError> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&flag);
    let handler = move || {
        if set.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED);
        }
        // Nothing is left to be told if standard error is closed.
        let _ = io::Write::write_all(&mut io::stderr(), b"\nstopping; press Ctrl-C again to end at once\n");
    };
    ctrlc::set_handler(handler).map_err(|error| CliError::failure(EngineError::from(error)))?;
    Ok(flag)
}

/// Bounds the threads of all computation.
pub fn set_threads(threads: Option<usize>) -> Result<(), CliError> {
    let Some(threads) = threads else { return Ok(()) };
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .map_err(|error| CliError::failure(EngineError::Threads(threads, error)))
}
