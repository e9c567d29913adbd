//! Checkpoints: directories that appear whole or not at all.
//!
//! A checkpoint is written under a name that starts with a dot, every file is brought to the disk, and then the
//! directory gets its name in one step. Whatever happens before that step leaves the older checkpoints as they were.
//! Each is a model directory that any program can load, plus `optimizer.safetensors` and `training.json`.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use crate::model::{
    LlamaConfig, Params, SHARD_BYTES, TOKENIZER_FILE, load_weights, save_model, save_params, sync,
};
use crate::problem::DType;
use crate::read::{CONFIG_LIMIT, read_limited};

use super::{Optimizer, TrainError, TrainSettings};

const OPTIMIZER_FILE: &str = "optimizer.safetensors";
const STATE_FILE: &str = "training.json";
/// The pattern of the model, in the form that parses.
pub const PATTERN_FILE: &str = "pattern.toml";
const PREFIX: &str = "step-";

/// What a run must keep to be the same run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainState {
    /// Steps done.
    pub step: u64,
    /// The settings.
    pub settings: TrainSettings,
    /// [`super::Dataset::fingerprint`] of the data.
    pub data: u64,
    /// The pattern as TOML.
    pub pattern: String,
}

/// The files of a model beside its weights.
#[derive(Clone, Copy, Debug)]
pub struct ModelFiles<'a> {
    /// Its shape.
    pub config: &'a LlamaConfig,
    /// Its pattern as TOML.
    pub pattern: &'a str,
    /// Its `tokenizer.json`; none for bytes.
    pub tokenizer: Option<&'a Path>,
}

/// The checkpoints of a run directory: step and path, in ascending order.
///
/// # Errors
/// A directory that cannot be read.
pub fn checkpoints(directory: &Path) -> Result<Vec<(u64, PathBuf)>, TrainError> {
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(TrainError::io(directory))? {
        let path = entry.map_err(TrainError::io(directory))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let step = name.strip_prefix(PREFIX).and_then(|step| step.parse().ok());
        if let Some(step) = step.filter(|_| path.is_dir()) {
            found.push((step, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Writes a checkpoint and returns its path.
///
/// # Errors
/// Anything that cannot be written; then nothing of it stays, and the older checkpoints are untouched.
pub fn save(
    directory: &Path,
    files: ModelFiles<'_>,
    state: &TrainState,
    weights: &Params,
    optimizer: &Optimizer,
) -> Result<PathBuf, TrainError> {
    let name = format!("{PREFIX}{:08}", state.step);
    let (partial, path) = (directory.join(format!(".{name}")), directory.join(&name));
    remove(&partial)?;
    let written = write(&partial, files, state, weights, optimizer)
        .and_then(|()| fs::rename(&partial, &path).map_err(TrainError::io(&path)));
    if let Err(error) = written {
        // The error that is being reported matters more than one of cleaning up after it.
        let _ = fs::remove_dir_all(&partial);
        return Err(error);
    }
    sync(directory)?;
    Ok(path)
}

fn write(
    partial: &Path,
    files: ModelFiles<'_>,
    state: &TrainState,
    weights: &Params,
    optimizer: &Optimizer,
) -> Result<(), TrainError> {
    fs::create_dir_all(partial).map_err(TrainError::io(partial))?;
    save_model(partial, files.config, weights, state.settings.optimizer.weights, SHARD_BYTES)?;
    let sets = [("master.", &optimizer.masters), ("mean.", &optimizer.mean), ("square.", &optimizer.square)];
    save_params(&partial.join(OPTIMIZER_FILE), &sets, DType::F32)?;
    put(&partial.join(PATTERN_FILE), files.pattern.as_bytes())?;
    if let Some(tokenizer) = files.tokenizer {
        let bytes = fs::read(tokenizer).map_err(TrainError::io(tokenizer))?;
        put(&partial.join(TOKENIZER_FILE), &bytes)?;
    }
    let json = serde_json::to_string_pretty(state)
        .map_err(|error| TrainError::Checkpoint { path: partial.into(), problem: error.to_string() })?;
    put(&partial.join(STATE_FILE), json.as_bytes())?;
    Ok(sync(partial)?)
}

fn put(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    fs::write(path, bytes).map_err(TrainError::io(path))?;
    Ok(sync(path)?)
}

/// Removes all but the newest `keep` checkpoints, and what interrupted writes left behind.
///
/// # Errors
/// Something that cannot be removed.
pub fn prune(directory: &Path, keep: usize) -> Result<(), TrainError> {
    let all = checkpoints(directory)?;
    for (_, path) in &all[..all.len().saturating_sub(keep.max(1))] {
        // Under another name first: a half-removed directory must not be taken for a checkpoint.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let doomed = directory.join(format!(".{name}"));
        remove(&doomed)?;
        fs::rename(path, &doomed).map_err(TrainError::io(path))?;
    }
    for entry in fs::read_dir(directory).map_err(TrainError::io(directory))? {
        let path = entry.map_err(TrainError::io(directory))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.strip_prefix('.').is_some_and(|name| name.starts_with(PREFIX)) {
            remove(&path)?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), TrainError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(TrainError::io(path)(error)),
        _ => Ok(()),
    }
}

/// Reads the state of a checkpoint.
///
/// # Errors
/// A file that cannot be read or parsed.
pub fn load_state(path: &Path) -> Result<TrainState, TrainError> {
    let file = path.join(STATE_FILE);
    serde_json::from_slice(&read_limited(&file, "state of a training", CONFIG_LIMIT)?)
        .map_err(|error| TrainError::Checkpoint { path: file, problem: error.to_string() })
}

/// Reads weights and optimiser of a checkpoint.
///
/// # Errors
/// Files that are damaged or of another model.
pub fn load(
    path: &Path,
    config: &LlamaConfig,
    state: &TrainState,
) -> Result<(Params, Optimizer), TrainError> {
    let weights = load_weights(path, config, &mut |_, _| ())?;
    let mut optimizer = Optimizer::new(state.settings.optimizer, &weights);
    let file = path.join(OPTIMIZER_FILE);
    let bytes = fs::read(&file).map_err(TrainError::io(&file))?;
    let damaged = |problem: String| TrainError::Checkpoint { path: file.clone(), problem };
    let stored = SafeTensors::deserialize(&bytes).map_err(|error| damaged(error.to_string()))?;
    let Optimizer { masters, mean, square, .. } = &mut optimizer;
    for (prefix, params) in [("master.", masters), ("mean.", mean), ("square.", square)] {
        for entry in weights.table().entries() {
            let name = format!("{prefix}{}", entry.name);
            let tensor = stored.tensor(&name).map_err(|error| damaged(error.to_string()))?;
            let (values, _) = tensor.data().as_chunks::<4>();
            let target = &mut params.data_mut()[entry.range()];
            if tensor.dtype() != safetensors::Dtype::F32 || values.len() != target.len() {
                return Err(damaged(format!("`{name}` does not fit the model")));
            }
            target.iter_mut().zip(values).for_each(|(t, &b)| *t = f32::from_le_bytes(b));
        }
    }
    optimizer.updates = state.step;
    Ok((weights, optimizer))
}
