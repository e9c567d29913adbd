//! What can stop a training run.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::model::ModelError;
use crate::read::ReadError;

/// Why training cannot start or go on.
#[derive(Debug, Error)]
pub enum TrainError {
    /// A file or directory that cannot be used.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file that is read whole, and cannot be.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Data that is not what its name promises.
    #[error("data `{}` {problem}", path.display())]
    Data {
        /// The file.
        path: PathBuf,
        /// What is wrong, in words.
        problem: String,
    },
    /// Less data than one sequence.
    #[error("the data has {tokens} tokens, fewer than one sequence (`sequence_tokens`) of {needed}")]
    TooLittleData {
        /// Tokens there are.
        tokens: usize,
        /// Tokens of a sequence.
        needed: usize,
    },
    /// Settings out of range.
    #[error("{problem}")]
    Settings {
        /// What is wrong, in words.
        problem: String,
    },
    /// Another process trains in the directory.
    #[error("another training is running in `{}`", directory.display())]
    Locked {
        /// The directory.
        directory: PathBuf,
    },
    /// A new run in a directory that holds one.
    #[error("`{}` already holds a training, up to step {step}: resume it, or choose another directory", directory.display())]
    NotEmpty {
        /// The directory.
        directory: PathBuf,
        /// Its last step.
        step: u64,
    },
    /// Nothing to resume.
    #[error("`{}` holds no checkpoint to resume from", directory.display())]
    NothingToResume {
        /// The directory.
        directory: PathBuf,
    },
    /// A run that is to be resumed with something else than it was started with.
    #[error("the run in `{}` was started with {what}: it cannot be resumed with this", directory.display())]
    Changed {
        /// The directory.
        directory: PathBuf,
        /// What differs.
        what: String,
    },
    /// A file of a checkpoint that is damaged or does not fit the others.
    #[error("checkpoint `{}`: {problem}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong, in words.
        problem: String,
    },
    /// A checkpoint without which the run must not end.
    #[error("the checkpoint of step {step} cannot be saved; {kept}")]
    NotSaved {
        /// The step.
        step: u64,
        /// What is left, in words.
        kept: String,
        /// What went wrong.
        source: Box<TrainError>,
    },
    /// A loss or a gradient that is not a number: nothing was updated.
    #[error("step {step}: the loss is {loss} and `{tensor}` is not finite; {kept}")]
    NotFinite {
        /// The step.
        step: u64,
        /// Its loss.
        loss: f64,
        /// The first tensor, in the order of the model, whose weights or gradients are not finite.
        tensor: String,
        /// What is left, in words.
        kept: String,
    },
    /// The model refused something.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl TrainError {
    /// For `map_err` on input and output at `path`.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> TrainError {
        let path = path.into();
        move |source| TrainError::Io { path, source }
    }

    pub(super) fn data(path: &Path, problem: impl Into<String>) -> TrainError {
        TrainError::Data { path: path.into(), problem: problem.into() }
    }
}
