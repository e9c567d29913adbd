//! The loop: micro-batches to gradients, gradients to an update, a line to the log, now and then a checkpoint.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use longgen_codegen::analysis::Cost;
use serde_json::Value;

use crate::model::{Batch, Llama, Params, check_memory};

use super::backend::{Backend, Placement, Snapshot};
use super::checkpoint::{ModelFiles, TrainState, load, load_state, prune, save};
use super::data::lengths;
use super::run::{Log, RunDirectory, StepReport};
use super::{Dataset, NotFinite, Optimizer, TrainError, TrainSettings};

/// How often to save, and how much to keep. None of it changes a number of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saving {
    /// Steps between checkpoints.
    pub every: u64,
    /// Checkpoints that are kept.
    pub keep: usize,
}

/// What a run tells while it goes.
#[derive(Debug)]
pub enum Event<'a> {
    /// A step is done.
    Step(&'a StepReport),
    /// A checkpoint is whole.
    Saved(PathBuf),
    /// A checkpoint or a line of the log could not be written; what was there before is whole, and training goes on.
    NotWritten(TrainError),
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done.
    Finished,
    /// It was asked to stop after this step, and saved a checkpoint.
    Stopped(u64),
}

/// A run, ready to go.
#[derive(Debug)]
pub struct Trainer<'a> {
    model: &'a Llama,
    data: &'a Dataset,
    files: ModelFiles<'a>,
    directory: RunDirectory,
    state: TrainState,
    backend: Box<dyn Backend + 'a>,
    log: Log,
    /// Floating-point operations of attention for a sequence of so many tokens, forward and backward.
    attention_flops: HashMap<u32, Option<f64>>,
}

impl<'a> Trainer<'a> {
    /// Starts a run from `weights` in an empty directory, computed where `on` says.
    ///
    /// # Errors
    /// Settings out of range, a directory that already holds a run, too little data, too little memory.
    pub fn start(
        model: &'a Llama,
        data: &'a Dataset,
        files: ModelFiles<'a>,
        directory: RunDirectory,
        settings: TrainSettings,
        weights: Params,
        on: Placement,
    ) -> Result<Trainer<'a>, TrainError> {
        if let Some(problem) = settings.defect() {
            return Err(TrainError::Settings { problem });
        }
        if let Some((step, _)) = directory.latest()? {
            return Err(TrainError::NotEmpty { directory: directory.path().into(), step });
        }
        // Masters and two moments, beside the gradients.
        check_memory("the state of the optimiser", 12 * weights.data().len() as u128)?;
        let mut weights = weights;
        let optimizer = Optimizer::new(settings.optimizer, &weights);
        optimizer.round_into(&mut weights);
        let pattern = files.pattern.to_owned();
        let state = TrainState { step: 0, settings, data: data.fingerprint(), pattern };
        Trainer::with(model, data, files, directory, state, (weights, optimizer, on))
    }

    /// Goes on with the newest checkpoint of a directory.
    ///
    /// # Errors
    /// No checkpoint, or one of other settings, other data or another model.
    pub fn resume(
        model: &'a Llama,
        data: &'a Dataset,
        files: ModelFiles<'a>,
        directory: RunDirectory,
        settings: TrainSettings,
        on: Placement,
    ) -> Result<Trainer<'a>, TrainError> {
        let path = directory.path().to_path_buf();
        let Some((_, checkpoint)) = directory.latest()? else {
            return Err(TrainError::NothingToResume { directory: path });
        };
        let state = load_state(&checkpoint)?;
        let changed = |what: String| TrainError::Changed { directory: path.clone(), what };
        if let Some(difference) = first_difference(&state.settings, &settings) {
            return Err(changed(difference));
        }
        if state.data != data.fingerprint() {
            return Err(changed("other data".into()));
        }
        if state.pattern != files.pattern {
            return Err(changed("another pattern".into()));
        }
        let (weights, optimizer) = load(&checkpoint, model.config(), &state)?;
        Trainer::with(model, data, files, directory, state, (weights, optimizer, on))
    }

    fn with(
        model: &'a Llama,
        data: &'a Dataset,
        files: ModelFiles<'a>,
        directory: RunDirectory,
        state: TrainState,
        (weights, optimizer, on): (Params, Optimizer, Placement),
    ) -> Result<Trainer<'a>, TrainError> {
        check_memory("gradients and activations of a step", step_bytes(model, &state.settings, &on))?;
        data.batch(&state.settings, 0)?;
        let backend = on.place(model, &state.settings, weights, optimizer)?;
        let log = directory.log_after(state.step)?;
        let attention_flops = HashMap::new();
        Ok(Trainer { model, data, files, directory, state, backend, log, attention_flops })
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.state.step
    }

    /// The weights as they are.
    ///
    /// # Errors
    /// Faults of the device they are on.
    pub fn weights(&self) -> Result<Params, TrainError> {
        Ok(self.backend.snapshot()?.weights.into_owned())
    }

    /// Trains until the last step, or until `stop` is set: then the step at hand is left out and the state before it is
    /// saved.
    ///
    /// # Errors
    /// A loss or gradient that is not finite, a last checkpoint that cannot be saved.
    pub fn run(
        &mut self,
        saving: Saving,
        stop: &AtomicBool,
        mut tell: impl FnMut(Event<'_>),
    ) -> Result<Outcome, TrainError> {
        let mut saved_at = self.state.step;
        while self.state.step < self.state.settings.steps {
            let Some(report) = self.advance(stop)? else {
                if saved_at != self.state.step {
                    tell(Event::Saved(self.save(saving).map_err(|error| self.not_saved(error))?));
                }
                return Ok(Outcome::Stopped(self.state.step));
            };
            if let Err(error) = self.log.write(&report) {
                tell(Event::NotWritten(error));
            }
            tell(Event::Step(&report));
            let last = self.state.step == self.state.settings.steps;
            if last || self.state.step.is_multiple_of(saving.every.max(1)) {
                match self.save(saving) {
                    Ok(path) => {
                        saved_at = self.state.step;
                        tell(Event::Saved(path));
                    }
                    Err(error) if last => return Err(self.not_saved(error)),
                    Err(error) => tell(Event::NotWritten(error)),
                }
            }
        }
        Ok(Outcome::Finished)
    }

    fn save(&self, saving: Saving) -> Result<PathBuf, TrainError> {
        let Snapshot { weights, optimizer } = self.backend.snapshot()?;
        let path = save(self.directory.path(), self.files, &self.state, &weights, &optimizer)?;
        prune(self.directory.path(), saving.keep)?;
        Ok(path)
    }

    /// One update; `None` if it was asked to stop on the way.
    fn advance(&mut self, stop: &AtomicBool) -> Result<Option<StepReport>, TrainError> {
        let started = Instant::now();
        let settings = self.state.settings.clone();
        let step = self.state.step + 1;
        let first = self.state.step * settings.accumulate as u64;
        let batches: Vec<Batch> = (first..first + settings.accumulate as u64)
            .map(|index| self.data.batch(&settings, index))
            .collect::<Result<_, _>>()?;
        let targets: usize = batches.iter().map(Batch::target_count).sum();
        let scale = 1.0 / targets.max(1) as f32;
        self.backend.clear_gradients()?;
        let (mut loss, mut flops) = (0.0, Some(0.0));
        for batch in &batches {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            loss += self.backend.add_gradients(batch, scale)?;
            flops = flops.zip(self.flops(batch)).map(|(sum, flops)| sum + flops);
        }
        let loss = loss / targets.max(1) as f64;
        let learning_rate = settings.learning_rate_at(step);
        let gradient_norm = self.update(step, loss, learning_rate)?;
        self.state.step = step;
        let seconds = started.elapsed().as_secs_f64();
        Ok(Some(StepReport {
            step,
            loss,
            learning_rate,
            gradient_norm,
            tokens: settings.tokens_per_step(),
            seconds,
            model_flops_per_second: flops.map(|flops| flops / seconds),
            model_flops_utilisation: flops
                .zip(self.backend.peak_flops())
                .map(|(flops, peak)| flops / seconds / peak),
        }))
    }

    fn update(&mut self, step: u64, loss: f64, learning_rate: f32) -> Result<f64, TrainError> {
        if !loss.is_finite() {
            let first = self.backend.first_not_finite()?;
            let tensor = first.unwrap_or_else(|| "the loss".into());
            return Err(TrainError::NotFinite { step, loss, tensor, kept: self.kept() });
        }
        let updated = self.backend.update(learning_rate)?;
        updated.map_err(|NotFinite { tensor }| TrainError::NotFinite {
            step,
            loss,
            tensor,
            kept: self.kept(),
        })
    }

    fn not_saved(&self, source: TrainError) -> TrainError {
        TrainError::NotSaved { step: self.state.step, kept: self.kept(), source: Box::new(source) }
    }

    /// What is left of a run that cannot go on, in words.
    fn kept(&self) -> String {
        match self.directory.latest() {
            Ok(Some((saved, path))) => {
                format!("the checkpoint of step {saved} is whole: `{}`", path.display())
            }
            _ => "no checkpoint has been saved yet".into(),
        }
    }

    /// Floating-point operations of the model for a batch: 6 per weight of a product and token, and attention over
    /// visible pairs.
    fn flops(&mut self, batch: &Batch) -> Option<f64> {
        let products = 6.0 * self.model.product_weights() as f64 * batch.tokens().len() as f64;
        let model = self.model;
        let known = &mut self.attention_flops;
        let of = |tokens: u32| *known.entry(tokens).or_insert_with(|| attention_flops(model, tokens));
        lengths(batch.sequences()).map(of).sum::<Option<f64>>().map(|attention| attention + products)
    }
}

/// Host memory of a step beside weights and optimiser.
fn step_bytes(model: &Llama, settings: &TrainSettings, on: &Placement) -> u128 {
    let tokens = settings.sequence_tokens as u128 * settings.batch_sequences as u128;
    // A token, its target and its position, of all micro-batches.
    let batches = 16 * tokens * settings.accumulate as u128;
    match on {
        Placement::Cpu => batches + model.gradient_bytes(tokens, settings.kept()),
        Placement::Gpu(_) => batches,
    }
}

fn attention_flops(model: &Llama, tokens: u32) -> Option<f64> {
    let config = model.config();
    let (heads, kv_heads, d) = (config.heads as u32, config.kv_heads as u32, config.head_dim as u32);
    let of_layer = |layer: usize| {
        let cost = Cost::new(model.attention(layer).ir(), tokens, heads, kv_heads, d).ok()?;
        Some((cost.flops_forward + cost.flops_backward) as f64)
    };
    (0..config.layers).map(of_layer).sum()
}

/// The first setting in which a run and its continuation differ, in words.
fn first_difference(begun: &TrainSettings, now: &TrainSettings) -> Option<String> {
    // Through text: there a number of single precision has the digits that a person gave it.
    let json =
        |settings| serde_json::to_string(settings).ok().and_then(|text| serde_json::from_str(&text).ok());
    difference(&json(begun)?, &json(now)?)
}

fn difference(begun: &Value, now: &Value) -> Option<String> {
    let (name, begun) = begun.as_object()?.iter().find(|(name, value)| now.get(*name) != Some(*value))?;
    let now = now.get(name)?;
    difference(begun, now).or_else(|| Some(format!("`{name}` = {begun}, not {now}")))
}
