//! The tuner: measures the candidates that the model proposes, on the real pattern and length, and keeps what it learns.
//!
//! ```text
//! Bench      one pass at one length on one device: admits candidates (compiles, checks against the oracle), times them
//! Race       successive halving over the times; says what to time next
//! search     Bench + Race + Store: the budget, Ctrl-C, resuming, the report
//! ```
//!
//! The runtime asks [`chosen`] and takes what was tuned without being told.

mod cpu;
mod gpu;
mod key;
mod race;
mod report;
mod search;

pub use cpu::{CpuBench, CpuBenchError, CpuClock, CpuSubject};
pub use gpu::{GpuBench, GpuBenchError, GpuSubject, GpuTensors, GpuTuner, workload as gpu_workload};
pub use key::{chosen, cpu_problem, gpu_problem, mask_hash, tuned_blockings, tuned_plans};
pub use race::{Race, RaceRules, Statistic, Step};
pub use report::{Outcome, Standing, TuneReport};
pub use search::{Bench, Limits, Progress, search};
