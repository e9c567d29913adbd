//! Attention on the GPU: kernels compiled or loaded from a cache, problems bound to device buffers, launches, and the
//! check against the oracle.
//!
//! ```text
//! GpuAttention   the loaded kernels of one pattern, shape and target
//!   .prepare(problem) -> Prepared    sequences, tile lists and workspaces on the device; allocates
//!   .forward / .backward / .decode   submits work to the stream; allocates nothing, so graphs can capture it
//!   .check(problem, seed)            random numbers against the f64 oracle
//! ```

mod attention;
mod cache;
mod check;
mod launch;
mod prepared;
mod tensor;

pub use attention::{GpuAttention, GpuOptions};
pub use cache::KernelCache;
pub use check::{CheckReport, OutputError};
pub use launch::{BackwardTensors, ForwardTensors};
pub use longgen_codegen::artifact::CompiledKernel;
pub use prepared::Prepared;
pub use tensor::{DeviceTensor, Layout, View, ViewMut};

use longgen_codegen::artifact::BuildError;

use crate::driver::GpuError;
use crate::problem::ProblemError;

/// Why attention on the GPU failed.
#[derive(Debug, thiserror::Error)]
pub enum GpuAttentionError {
    /// The driver or the device.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// A kernel could not be made.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The problem or a tensor is malformed.
    #[error(transparent)]
    Problem(#[from] ProblemError),
    /// No kernel serves this device.
    #[error("`{name}` has compute capability {}.{}; kernels exist for {known}", found.0, found.1)]
    Device {
        /// The device.
        name: String,
        /// Its (major, minor).
        found: (u32, u32),
        /// The targets that exist.
        known: String,
    },
    /// The target chosen does not run on the device.
    #[error("kernels for {target} do not run on `{name}`")]
    Target {
        /// The target asked for.
        target: longgen_codegen::target::Target,
        /// The device.
        name: String,
    },
    /// The kernels of this object do not do what was asked of them.
    #[error("{0}")]
    Unsupported(String),
    /// The kernels compute something else than the oracle.
    #[error("the kernels fail their check against the oracle:\n{0}")]
    Wrong(CheckReport),
}
