//! One training pass: its flags, which are also the keys of a recipe, and its run.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use longgen_codegen::pattern::Pattern;
use longgen_runtime::gpu_model::GpuUse;
use longgen_runtime::model::{Llama, LlamaConfig, Params, RopeScaling, TOKENIZER_FILE, Tokenizer};
use longgen_runtime::problem::DType;
use longgen_runtime::train::checkpoint::ModelFiles;
use longgen_runtime::train::{
    Dataset, Event, Outcome, Placement, RunDirectory, Saving, StepReport, TrainSettings, Trainer,
};
use serde::Deserialize;
use thiserror::Error;

use super::super::device::DeviceArg;
use super::super::{CliError, engine, number, pattern_arg};
use super::failed;

/// The settings of a pass. What is not given takes the default in brackets.
// Help texts: a default in brackets is not a link.
#[allow(rustdoc::broken_intra_doc_links)]
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pass {
    /// Directory of the pass inside --out (recipes only)
    #[arg(skip)]
    pub name: Option<String>,
    /// Model directory to start from
    #[arg(long, value_name = "DIR", conflicts_with = "init")]
    model: Option<PathBuf>,
    /// A config.json to start from with random weights
    #[arg(long, value_name = "FILE")]
    init: Option<PathBuf>,
    /// Text, .jsonl, .u16 or .u32 file, or a directory of them
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// tokenizer.json; by default that of the model, or bytes
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Attention of the layers: preset, TOML file or pattern text; by default that of the model
    #[arg(long, value_name = "PATTERN")]
    pattern: Option<String>,
    /// Another base of the rotary embedding
    #[arg(long, value_name = "X")]
    rope_base: Option<f64>,
    /// Another scaling of the rotary embedding: none, linear:FACTOR, ntk:FACTOR, or yarn:FACTOR:ORIGINAL_TOKENS
    #[arg(long, value_name = "S")]
    rope_scaling: Option<String>,
    /// Updates of the weights [1000]
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Tokens of a sequence [512]
    #[arg(long, value_name = "N", value_parser = number::count)]
    sequence_tokens: Option<usize>,
    /// Sequences of a micro-batch [4]
    #[arg(long, value_name = "N", value_parser = number::count)]
    batch_sequences: Option<usize>,
    /// Micro-batches per update [1]
    #[arg(long, value_name = "N", value_parser = number::count)]
    accumulate: Option<usize>,
    /// Learning rate after warm-up [1e-3]
    #[arg(long, value_name = "X")]
    learning_rate: Option<f32>,
    /// Learning rate at the end [a tenth of it]
    #[arg(long, value_name = "X")]
    min_learning_rate: Option<f32>,
    /// Steps of linear warm-up [50]
    #[arg(long, value_name = "N")]
    warmup_steps: Option<u64>,
    /// AdamW's weight decay of matrices [0.1]
    #[arg(long, value_name = "X")]
    weight_decay: Option<f32>,
    /// Clip gradients to this norm; 0 for not at all [1]
    #[arg(long, value_name = "X")]
    clip_norm: Option<f32>,
    /// Keep the weights of the forward pass as f32 or bf16; masters are always f32 [f32; bf16 on the GPU]
    #[arg(long, value_name = "TYPE", value_parser = parse_dtype)]
    weights: Option<DType>,
    /// Documents do not see each other, and positions restart in each
    #[arg(long)]
    document_mask: bool,
    /// Keep all activations instead of computing them again
    #[arg(long)]
    keep_activations: bool,
    /// Seed of initial weights and of the order of the data [0]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Steps between checkpoints [100]
    #[arg(long, value_name = "N")]
    save_every: Option<u64>,
    /// Checkpoints that are kept [2]
    #[arg(long, value_name = "N", value_parser = number::count)]
    keep: Option<usize>,
}

#[derive(Debug, Error)]
enum PassError {
    #[error("a training needs --{0}")]
    Missing(&'static str),
    #[error("a training starts from --model DIR or --init FILE")]
    NoStart,
    #[error("`{0}` is no rotary scaling: none, linear:FACTOR, ntk:FACTOR or yarn:FACTOR:ORIGINAL_TOKENS")]
    Scaling(String),
    #[error("{0}")]
    Config(String),
    #[error("`{}`: {problem}", .path.display())]
    Init { path: PathBuf, problem: String },
}

/// `f32` or `bf16`.
fn parse_dtype(text: &str) -> Result<DType, String> {
    match text {
        "f32" => Ok(DType::F32),
        "bf16" => Ok(DType::Bf16),
        _ => Err("f32 or bf16".into()),
    }
}

impl Pass {
    /// Makes the paths relative to `base`, that of a pattern file too.
    pub fn rebase(&mut self, base: &Path) {
        let paths = [&mut self.model, &mut self.init, &mut self.data, &mut self.tokenizer];
        for path in paths.into_iter().flatten() {
            *path = base.join(&*path);
        }
        if let Some(pattern) = self.pattern.as_mut().filter(|pattern| pattern.ends_with(".toml")) {
            *pattern = base.join(&*pattern).display().to_string();
        }
    }

    /// Trains into `directory`, from the model `before` unless the pass names another.
    pub fn train(
        &self,
        directory: &Path,
        before: Option<&Path>,
        resume: bool,
        place: &engine::Place,
        stop: &AtomicBool,
        out: &mut dyn Write,
    ) -> Result<Outcome, CliError> {
        let mut settings = self.settings();
        if place.device == DeviceArg::Cuda && self.weights.is_none() {
            settings.optimizer.weights = DType::Bf16;
        }
        if let Some(problem) = settings.defect() {
            return Err(CliError::usage(PassError::Config(problem)));
        }
        let data = self.data.as_deref().ok_or_else(|| CliError::usage(PassError::Missing("data")))?;
        let origin = self.origin(directory, before, resume)?;
        let (config, pattern) = self.shape(&origin, resume)?;
        let toml = pattern.to_toml();
        let model = Llama::new(config, &pattern).map_err(CliError::failure)?;
        let (tokenizer, tokenizer_file) = self.tokenizer(&origin, model.config().vocabulary)?;
        let dataset = Dataset::read(data, tokenizer.as_ref(), model.config().vocabulary).map_err(failed)?;
        let files =
            ModelFiles { config: model.config(), pattern: &toml, tokenizer: tokenizer_file.as_deref() };
        let run = RunDirectory::open(directory).map_err(failed)?;
        let on = match place.device {
            DeviceArg::Cpu => Placement::Cpu,
            DeviceArg::Cuda => Placement::Gpu(Box::new(place.gpu_model(&model, GpuUse::Train)?)),
        };
        let trainer = if resume {
            Trainer::resume(&model, &dataset, files, run, settings, on)
        } else {
            let weights = match &origin {
                Origin::Model(path) => engine::weights(path, model.config())?,
                Origin::Init(_) => {
                    let weights = Params::try_random(model.config(), settings.seed);
                    weights.map_err(CliError::failure)?
                }
            };
            Trainer::start(&model, &dataset, files, run, settings, weights, on)
        };
        let mut trainer = trainer.map_err(failed)?;
        describe(&model, &dataset, &pattern, out)?;
        self.follow(&mut trainer, stop, out)
    }

    fn settings(&self) -> TrainSettings {
        let mut settings = TrainSettings::default();
        let learning_rate = self.learning_rate.unwrap_or(settings.learning_rate);
        settings.learning_rate = learning_rate;
        settings.min_learning_rate = self.min_learning_rate.unwrap_or(learning_rate / 10.0);
        settings.steps = self.steps.unwrap_or(settings.steps);
        settings.sequence_tokens = self.sequence_tokens.unwrap_or(settings.sequence_tokens);
        settings.batch_sequences = self.batch_sequences.unwrap_or(settings.batch_sequences);
        settings.accumulate = self.accumulate.unwrap_or(settings.accumulate);
        settings.warmup_steps = self.warmup_steps.unwrap_or(settings.warmup_steps);
        settings.document_mask = self.document_mask;
        settings.recompute = !self.keep_activations;
        settings.seed = self.seed.unwrap_or(settings.seed);
        let optimizer = &mut settings.optimizer;
        optimizer.weight_decay = self.weight_decay.unwrap_or(optimizer.weight_decay);
        optimizer.clip_norm =
            self.clip_norm.map_or(optimizer.clip_norm, |norm| (norm != 0.0).then_some(norm));
        optimizer.weights = self.weights.unwrap_or(optimizer.weights);
        settings
    }

    fn origin(&self, directory: &Path, before: Option<&Path>, resume: bool) -> Result<Origin, CliError> {
        if resume {
            return Ok(Origin::Model(engine::model_directory(directory)?));
        }
        match (&self.model, &self.init, before) {
            (Some(path), _, _) => Ok(Origin::Model(engine::model_directory(path)?)),
            (None, Some(path), _) => Ok(Origin::Init(path.clone())),
            (None, None, Some(path)) => Ok(Origin::Model(engine::model_directory(path)?)),
            (None, None, None) => Err(CliError::usage(PassError::NoStart)),
        }
    }

    /// The configuration, with the pass's rotary embedding unless a checkpoint of the pass has it already, and the pattern.
    fn shape(&self, origin: &Origin, resume: bool) -> Result<(LlamaConfig, Pattern), CliError> {
        let (file, directory) = match origin {
            Origin::Model(path) => (path.join("config.json"), path.as_path()),
            Origin::Init(path) => (path.clone(), Path::new("")),
        };
        let mut config = LlamaConfig::read(&file).map_err(CliError::failure)?;
        let pattern = match (origin, &self.pattern) {
            (Origin::Init(_), Some(pattern)) => pattern_arg::resolve(pattern)?,
            (Origin::Init(_), None) => return Err(CliError::usage(PassError::Missing("pattern"))),
            (Origin::Model(_), pattern) => engine::pattern_of(pattern.as_deref(), directory, &config)?,
        };
        if resume {
            return Ok((config, pattern));
        }
        let scaling = self.rope_scaling.as_deref().map(parse_scaling).transpose()?;
        let wrong = |problem: String| CliError::usage(PassError::Init { path: file.clone(), problem });
        match scaling {
            Some(Scaling::Ntk(factor)) => {
                let base = RopeScaling::ntk_base(
                    self.rope_base.unwrap_or(config.rope.base),
                    factor,
                    config.head_dim,
                );
                config.set_rope(Some(base), Some(RopeScaling::None)).map_err(wrong)?;
            }
            Some(Scaling::Kind(kind)) => config.set_rope(self.rope_base, Some(kind)).map_err(wrong)?,
            None => config.set_rope(self.rope_base, None).map_err(wrong)?,
        }
        config.max_tokens = config.max_tokens.max(self.settings().sequence_tokens);
        Ok((config, pattern))
    }

    /// The tokenizer and its file; none where data must be tokens already.
    fn tokenizer(
        &self,
        origin: &Origin,
        vocabulary: usize,
    ) -> Result<(Option<Tokenizer>, Option<PathBuf>), CliError> {
        let file = match (&self.tokenizer, origin) {
            (Some(file), _) => Some(file.clone()),
            (None, Origin::Model(path)) => Some(path.join(TOKENIZER_FILE)).filter(|file| file.is_file()),
            (None, Origin::Init(_)) => None,
        };
        let tokenizer = match &file {
            Some(file) => Some(Tokenizer::read(file, vocabulary).map_err(CliError::failure)?),
            None => Tokenizer::of_bytes(vocabulary),
        };
        Ok((tokenizer, file))
    }

    fn follow(
        &self,
        trainer: &mut Trainer<'_>,
        stop: &AtomicBool,
        out: &mut dyn Write,
    ) -> Result<Outcome, CliError> {
        let steps = self.settings().steps;
        let bar = engine::progress(steps, "{bar:30} step {pos}/{len} {msg} [{elapsed}, {eta} left]");
        bar.set_position(trainer.step());
        let mut lines =
            Lines { every: if std::io::stderr().is_terminal() { steps } else { (steps / 20).max(1) } };
        let saving = Saving { every: self.save_every.unwrap_or(100), keep: self.keep.unwrap_or(2) };
        let outcome = trainer.run(saving, stop, |event| match event {
            Event::Step(report) => {
                bar.set_position(report.step);
                bar.set_message(summary(report));
                lines.step(report, steps, out);
            }
            Event::Saved(path) => bar.suspend(|| lines.say(out, &format!("saved {}", path.display()))),
            Event::NotWritten(error) => {
                bar.suspend(|| lines.say(out, &format!("warning: not written: {error}")));
            }
        });
        bar.finish_and_clear();
        outcome.map_err(failed)
    }
}

/// Where the first weights come from.
enum Origin {
    Model(PathBuf),
    Init(PathBuf),
}

enum Scaling {
    /// Another base.
    Ntk(f64),
    Kind(RopeScaling),
}

fn parse_scaling(text: &str) -> Result<Scaling, CliError> {
    let parts: Vec<&str> = text.split(':').collect();
    let number = |text: &str| text.parse::<f64>().ok();
    let scaling = match parts.as_slice() {
        ["none"] => Some(Scaling::Kind(RopeScaling::None)),
        ["linear", factor] => number(factor).map(|factor| Scaling::Kind(RopeScaling::Linear { factor })),
        ["ntk", factor] => number(factor).map(Scaling::Ntk),
        ["yarn", factor, original] => number(factor)
            .zip(number(original))
            .map(|(f, tokens)| Scaling::Kind(RopeScaling::yarn(f, tokens))),
        _ => None,
    };
    scaling.ok_or_else(|| CliError::usage(PassError::Scaling(text.into())))
}

fn describe(model: &Llama, data: &Dataset, pattern: &Pattern, out: &mut dyn Write) -> Result<(), CliError> {
    let weights = model.parameters();
    let (layers, width) = (model.config().layers, model.config().width);
    writeln!(out, "model    {} weights, {layers} layers of width {width}", number::grouped(weights as u128))?;
    writeln!(out, "pattern  {pattern}")?;
    let (tokens, documents) = (number::grouped(data.tokens().len() as u128), data.documents());
    writeln!(out, "data     {tokens} tokens in {documents} documents")?;
    if data.skipped() > 0 {
        writeln!(out, "         {} files skipped: neither text nor tokens", data.skipped())?;
    }
    out.flush()?;
    Ok(())
}

fn summary(report: &StepReport) -> String {
    let speed = report.tokens as f64 / report.seconds;
    let flops =
        report.model_flops_per_second.map(|f| format!(", {:.1} GFLOP/s", f / 1e9)).unwrap_or_default();
    let share = report.model_flops_utilisation.map(|f| format!(" ({:.1} % of peak)", 100.0 * f));
    format!("loss {:.4}, {speed:.0} tokens/s{flops}{}", report.loss, share.unwrap_or_default())
}

/// Lines for a log or a pipe, where a bar would be noise. A reader that has gone away does not end a training.
struct Lines {
    every: u64,
}

impl Lines {
    fn step(&mut self, report: &StepReport, steps: u64, out: &mut dyn Write) {
        if report.step == 1 || report.step.is_multiple_of(self.every) || report.step == steps {
            self.say(out, &format!("step {}/{steps}: {}", report.step, summary(report)));
        }
    }

    fn say(&mut self, out: &mut dyn Write, line: &str) {
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}
