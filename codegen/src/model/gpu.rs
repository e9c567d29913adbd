//! The model of the CUDA kernels: which schedules can be launched, and about how long each takes.

mod machine;
mod plan;
mod registers;
mod space;
mod time;

pub use machine::GpuMachine;
pub use plan::{GpuPlan, ParsePlanError, PlannedKernel};
pub use registers::{MOST_REGISTERS, Occupancy, SPILLS_FROM, occupancy, predicted_registers};
pub use space::{candidates, first_choice};
pub use time::{GpuEstimate, estimate};

use super::workload::Workload;
use crate::spec::Shape;
use crate::target::Target;

/// A workload on a GPU.
#[derive(Clone, Copy, Debug)]
pub struct GpuWorkload<'a> {
    /// Lengths, heads, mask.
    pub work: Workload<'a>,
    /// What is compiled in.
    pub shape: Shape,
    /// What kernels are compiled for.
    pub target: Target,
    /// The same bits in every run, also for dQ.
    pub deterministic: bool,
}
