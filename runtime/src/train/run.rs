//! A run directory: the lock that keeps a second training out, the log, and where to start.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::TrainError;
use super::checkpoint::{checkpoints, prune};

const LOCK_FILE: &str = "lock";
/// One JSON object per step.
pub const LOG_FILE: &str = "log.jsonl";

/// What is known of one step: a line of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// The step, from 1.
    pub step: u64,
    /// Mean loss of its targets, in nats.
    pub loss: f64,
    /// Its learning rate.
    pub learning_rate: f32,
    /// Norm of all gradients before clipping.
    pub gradient_norm: f64,
    /// Tokens read.
    pub tokens: usize,
    /// Time taken.
    pub seconds: f64,
    /// Floating-point operations of model and visible pairs per second, recomputation not counted; none for a mask whose
    /// pairs cannot be counted.
    pub model_flops_per_second: Option<f64>,
    /// The same as a share of what the device is made for, where that is known.
    #[serde(default)]
    pub model_flops_utilisation: Option<f64>,
}

/// The directory of a run, locked as long as this value lives (the system releases the lock of a killed process).
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    _lock: File,
}

impl RunDirectory {
    /// Creates or opens a run directory, locks it, and removes what an interrupted checkpoint left.
    ///
    /// # Errors
    /// A directory that cannot be written, or in which another training runs.
    pub fn open(path: &Path) -> Result<RunDirectory, TrainError> {
        fs::create_dir_all(path).map_err(TrainError::io(path))?;
        let file = path.join(LOCK_FILE);
        let lock = File::create(&file).map_err(TrainError::io(&file))?;
        match lock.try_lock() {
            Ok(()) => (),
            Err(TryLockError::WouldBlock) => return Err(TrainError::Locked { directory: path.into() }),
            Err(TryLockError::Error(error)) => return Err(TrainError::io(&file)(error)),
        }
        prune(path, usize::MAX)?;
        Ok(RunDirectory { path: path.into(), _lock: lock })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The newest checkpoint: its step and path.
    ///
    /// # Errors
    /// A directory that cannot be read.
    pub fn latest(&self) -> Result<Option<(u64, PathBuf)>, TrainError> {
        Ok(checkpoints(&self.path)?.pop())
    }

    /// The log, opened for the steps after `step`; lines of later steps, which a crash left, are dropped.
    ///
    /// # Errors
    /// A log that cannot be read or written.
    pub fn log_after(&self, step: u64) -> Result<Log, TrainError> {
        let path = self.path.join(LOG_FILE);
        // As they stand: a number that is read and written again may differ in its last digit.
        let text = read_text(&path)?;
        let lines = text.split_inclusive('\n').zip(parse_log(&path, &text)?);
        let kept: String = lines.filter(|(_, report)| report.step <= step).map(|(line, _)| line).collect();
        let partial = self.path.join(format!(".{LOG_FILE}"));
        fs::write(&partial, kept).map_err(TrainError::io(&partial))?;
        fs::rename(&partial, &path).map_err(TrainError::io(&path))?;
        let file = File::options().append(true).open(&path).map_err(TrainError::io(&path))?;
        Ok(Log { file, path })
    }
}

/// The log of a run.
#[derive(Debug)]
pub struct Log {
    file: File,
    path: PathBuf,
}

impl Log {
    /// Adds a line, whole or not at all.
    ///
    /// # Errors
    /// A log that cannot be written.
    pub fn write(&mut self, report: &StepReport) -> Result<(), TrainError> {
        let length = self.file.metadata().map_err(TrainError::io(&self.path))?.len();
        self.file.write_all(line(report).as_bytes()).map_err(|error| {
            // A disk that was full may have taken half a line; a later one must not be glued to it.
            let _ = self.file.set_len(length);
            TrainError::io(&self.path)(error)
        })
    }
}

/// The steps of a log, in order; none if there is no log. A last line without an end is a write that was cut short.
///
/// # Errors
/// A log that cannot be read.
pub fn read_log(path: &Path) -> Result<Vec<StepReport>, TrainError> {
    parse_log(path, &read_text(path)?)
}

/// The text of a log; empty if there is none.
fn read_text(path: &Path) -> Result<String, TrainError> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        text => text.map_err(TrainError::io(path)),
    }
}

/// A step for each whole line.
fn parse_log(path: &Path, text: &str) -> Result<Vec<StepReport>, TrainError> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let parse = |(number, line): (usize, &str)| {
        serde_json::from_str(line)
            .map_err(|error| TrainError::data(path, format!("line {}: {error}", number + 1)))
    };
    whole.lines().enumerate().map(parse).collect()
}

fn line(report: &StepReport) -> String {
    // Numbers and nothing else: this form always has a text.
    serde_json::to_string(report).map(|json| json + "\n").unwrap_or_default()
}
