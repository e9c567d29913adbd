//! What the commands that run a model share: loading one, progress, threads, and Ctrl-C.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use half::bf16;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use longgen_codegen::pattern::{Clause, Pattern};
use longgen_runtime::driver::Device;
use longgen_runtime::generate::{CpuDecoder, Decoder};
use longgen_runtime::gpu_model::{DeviceParams, GpuDecoder, GpuLlama, GpuUse, load_device_weights};
use longgen_runtime::model::{Llama, LlamaConfig, ModelError, Params, Tokenizer, load_weights};
use longgen_runtime::train::checkpoint::{PATTERN_FILE, checkpoints};
use thiserror::Error;

use super::device::DeviceArg;
use super::kernel_args::NvrtcArgs;
use super::{CliError, environment, pattern_arg, store};

/// Exit code of a process ended by Ctrl-C, as shells give it.
const INTERRUPTED: i32 = 130;
/// More than any machine has cores for; starting many more takes minutes.
const MOST_THREADS: usize = 1024;

/// What is wrong with a command's model or threads.
#[derive(Debug, Error)]
pub enum EngineError {
    #[error("`{}` is no model directory: it has no config.json and no checkpoints", .0.display())]
    NoModel(PathBuf),
    #[error("Ctrl-C cannot be caught")]
    CtrlC(#[from] ctrlc::Error),
    #[error("--threads {0} is too many: 1 to {MOST_THREADS}")]
    TooManyThreads(usize),
    #[error("{0} threads cannot be started")]
    Threads(usize, #[source] rayon::ThreadPoolBuildError),
}

/// Where a model runs.
#[derive(Debug, clap::Args)]
pub struct Place {
    /// Where the model runs: f32 on the CPU, bf16 on the GPU
    #[arg(long, value_enum, default_value = "cpu")]
    pub device: DeviceArg,
    #[command(flatten)]
    nvrtc: NvrtcArgs,
    /// cuBLASLt to use on the GPU: the library, its folder or a CUDA toolkit
    #[arg(long, value_name = "PATH")]
    cublaslt: Option<PathBuf>,
}

impl Place {
    /// The model on the first GPU.
    ///
    /// # Errors
    /// No GPU, NVRTC or cuBLASLt, or a model that the GPU engine does not take.
    pub fn gpu_model(&self, model: &Llama, used: GpuUse) -> Result<GpuLlama, CliError> {
        let device = Device::open(0).map_err(CliError::failure)?;
        let cache = self.nvrtc.kernel_cache()?;
        let blas = environment::blas_search(self.cublaslt.clone());
        GpuLlama::new(&device, &cache, &blas, model, used).map_err(CliError::failure)
    }
}

/// A model with everything it takes to run it.
#[derive(Debug)]
pub struct Loaded {
    /// The model under its pattern.
    pub model: Llama,
    /// Its weights, and where they are.
    pub weights: Weights,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
}

/// The weights of a model, with what runs them.
#[derive(Debug)]
pub enum Weights {
    /// In host memory.
    Cpu(Params),
    /// On the GPU, with the model there.
    Gpu(Box<GpuLlama>, DeviceParams<bf16>),
}

impl Loaded {
    /// Decodes with the model, where it is.
    pub fn with_decoder<T>(&self, decode: impl FnOnce(&mut dyn Decoder) -> T) -> T {
        match &self.weights {
            Weights::Cpu(weights) => decode(&mut CpuDecoder::new(&self.model, weights)),
            Weights::Gpu(model, weights) => decode(&mut GpuDecoder::new(model, weights)),
        }
    }
}

/// The model directory that `path` means: itself, or its newest checkpoint.
pub fn model_directory(path: &Path) -> Result<PathBuf, CliError> {
    find_model(path)?.ok_or_else(|| CliError::failure(EngineError::NoModel(path.into())))
}

/// The same; `None` where there is none.
///
/// # Errors
/// A directory that cannot be read.
pub fn find_model(path: &Path) -> Result<Option<PathBuf>, CliError> {
    if path.join("config.json").is_file() {
        return Ok(Some(path.into()));
    }
    let newest = checkpoints(path).map_err(CliError::failure)?.pop();
    Ok(newest.map(|(_, path)| path))
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

/// Loads a model to where it will run, with a progress bar.
pub fn load(path: &Path, pattern: Option<&str>, place: &Place) -> Result<Loaded, CliError> {
    let directory = model_directory(path)?;
    let config = LlamaConfig::read(&directory.join("config.json")).map_err(CliError::failure)?;
    let pattern = pattern_of(pattern, &directory, &config)?;
    let tokenizer = Tokenizer::load(&directory, config.vocabulary).map_err(CliError::failure)?;
    let model = Llama::new(config, &pattern).map_err(CliError::failure)?;
    model.use_tuned(&store::open());
    let weights = match place.device {
        DeviceArg::Cpu => Weights::Cpu(weights(&directory, model.config())?),
        DeviceArg::Cuda => {
            let on_device = place.gpu_model(&model, GpuUse::Decode)?;
            let weights = with_progress(|progress| load_device_weights(&directory, &on_device, progress))?;
            Weights::Gpu(Box::new(on_device), weights)
        }
    };
    Ok(Loaded { model, weights, tokenizer })
}

/// Loads weights to host memory, with a progress bar.
pub fn weights(directory: &Path, config: &LlamaConfig) -> Result<Params, CliError> {
    with_progress(|progress| load_weights(directory, config, progress))
}

/// Runs a load that tells how many weights it has loaded and how many there are.
fn with_progress<T>(
    load: impl FnOnce(&mut dyn FnMut(usize, usize)) -> Result<T, ModelError>,
) -> Result<T, CliError> {
    let bar = progress(0, "loading {bar:30} {percent}% of {msg} million weights");
    let loaded = load(&mut |done, all| {
        bar.set_length(all as u64);
        bar.set_message(format!("{:.1}", all as f64 / 1e6));
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    loaded.map_err(CliError::failure)
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
    if threads > MOST_THREADS {
        return Err(CliError::usage(EngineError::TooManyThreads(threads)));
    }
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .map_err(|error| CliError::failure(EngineError::Threads(threads, error)))
}
