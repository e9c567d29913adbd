//! The CPU backend: a mask's walks, bounds and masks as Cranelift IR around precompiled tile products.
//!
//! Generated here is what a pattern changes: which runs of keys a tile of queries needs (and the transpose), which
//! of them need a mask and what that mask is. The products, the softmax and the widening of 16-bit rows are called
//! through the work item ([`abi`]); a portable set of those is generated too ([`ClifSource::portable`]).
//! Head dimension and mask are fixed at generation; lengths, batch, heads and scalars are arguments.

pub mod abi;
pub mod approx;
mod blocking;
mod emit;
mod hull;
mod jit;
mod kernels;
mod mask;
pub(crate) mod parts;
mod portable;
mod program;
mod stairs;
mod tile;

use std::fmt;

use cranelift_codegen::ir::Function;
use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_codegen::settings::{self, Configurable};
use thiserror::Error;

use crate::ir::{MaskIr, Programs};
use emit::Unit;

pub use blocking::{Blocking, BlockingError};
pub use jit::JitCode;

/// What can go wrong between a mask and machine code.
#[derive(Debug, Error)]
pub enum CpuError {
    /// A head dimension without kernels.
    #[error("head dimension {head_dim} is not supported on the CPU: {HEAD_DIMS}")]
    HeadDim {
        /// The dimension asked for.
        head_dim: usize,
    },
    /// A machine for which Cranelift has no code generator.
    #[error("no code can be generated for this machine: {reason}")]
    Host {
        /// Cranelift's words.
        reason: String,
    },
    /// Generated code that Cranelift refuses; a defect of this crate.
    #[error("generated function `{function}` was refused (a defect of longgen): {reason}")]
    Refused {
        /// The function.
        function: String,
        /// Cranelift's words.
        reason: String,
    },
}

/// Head dimensions the CPU kernels take, in words.
pub const HEAD_DIMS: &str = "multiples of 8 from 8 to 256";

/// Whether the CPU has kernels for this head dimension.
pub fn supports_head_dim(head_dim: usize) -> bool {
    head_dim.is_multiple_of(8) && (8..=256).contains(&head_dim)
}

/// Cranelift IR of one mask and head dimension, and its text.
pub struct ClifSource {
    header: String,
    functions: Vec<(String, Function)>,
    isa: OwnedTargetIsa,
}

impl ClifSource {
    /// Generates `forward`, `backward_dq` and `backward_dkv` for the machine this runs on.
    ///
    /// # Errors
    /// An unsupported head dimension or machine.
    pub fn new(ir: &MaskIr, head_dim: usize) -> Result<ClifSource, CpuError> {
        if !supports_head_dim(head_dim) {
            return Err(CpuError::HeadDim { head_dim });
        }
        let isa = host("speed")?;
        let mut unit = Unit::new(isa.frontend_config());
        kernels::define_all(&mut unit, &Programs::new(ir), ir.has_predicates(), head_dim);
        let header = format!("; attention kernels, head dimension {head_dim}, {}\n", isa.triple());
        Ok(ClifSource { header, functions: unit.functions, isa })
    }

    /// Generates the portable micro-kernels, under the names of the fields of [`abi::Calls`] and `lane_dots`.
    ///
    /// # Errors
    /// An unsupported machine.
    pub fn portable() -> Result<ClifSource, CpuError> {
        // At `speed` the optimiser moves the multiply-adds behind all loads and spills; as written they run 1.75 times
        // as fast.
        let isa = host("none")?;
        let mut unit = Unit::new(isa.frontend_config());
        portable::define_all(&mut unit, has_fma(&isa));
        let header = format!("; portable micro-kernels, {}\n", isa.triple());
        Ok(ClifSource { header, functions: unit.functions, isa })
    }
}

impl fmt::Display for ClifSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.header)?;
        for (name, function) in &self.functions {
            write!(f, "\n; {name}\n{}", function.display())?;
        }
        Ok(())
    }
}

impl fmt::Debug for ClifSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClifSource").field("functions", &self.functions.len()).finish_non_exhaustive()
    }
}

/// The code generator of this machine. `opt_level` is `speed` for code with scalar bookkeeping, `none` for code
/// whose instructions already stand in the best order.
fn host(opt_level: &str) -> Result<OwnedTargetIsa, CpuError> {
    let failed = |reason: String| CpuError::Host { reason };
    let mut flags = settings::builder();
    for (name, value) in [("opt_level", opt_level), ("use_colocated_libcalls", "false"), ("is_pic", "false")]
    {
        flags.set(name, value).map_err(|error| failed(error.to_string()))?;
    }
    let builder = cranelift_native::builder().map_err(|reason| failed(reason.to_string()))?;
    builder.finish(settings::Flags::new(flags)).map_err(|error| failed(error.to_string()))
}

/// Whether the machine has a fused multiply-add on vectors.
fn has_fma(isa: &OwnedTargetIsa) -> bool {
    let of_x86 = |flag: settings::Value| flag.name == "has_fma" && flag.as_bool() == Some(true);
    isa.name() != "x64" || isa.isa_flags().into_iter().any(of_x86)
}
