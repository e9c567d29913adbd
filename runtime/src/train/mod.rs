//! Training: data to batches, batches to gradients, gradients to updates, and checkpoints that a run can go on from.
//!
//! The loop reads from top to bottom in `step.rs`.

mod backend;
pub mod checkpoint;
mod data;
mod error;
mod optimizer;
mod run;
mod settings;
mod step;

pub use backend::Placement;
pub use data::Dataset;
pub use error::TrainError;
pub use optimizer::{NotFinite, Optimizer, OptimizerConfig};
pub use run::{LOG_FILE, Log, RunDirectory, StepReport, read_log};
pub use settings::TrainSettings;
pub use step::{Event, Outcome, Saving, Trainer};
