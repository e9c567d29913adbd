//! The CPU kernels of a pattern: Cranelift IR, machine code in this process, and the check against the oracle.

use longgen_codegen::cpu::ClifSource;
use longgen_runtime::cpu::Isa;
use longgen_runtime::problem::DType;

use crate::cli::CliError;
use crate::cli::check::{CpuSubject, Outcome, problems};
use crate::cli::kernel_args::Subject;

/// File name without extension.
pub const STEM: &str = "attention_cpu";

/// Kernels that passed.
pub struct CpuKernels {
    /// Cranelift IR.
    pub clif: String,
    /// What tile products are compiled for.
    pub isa: Isa,
    /// Problems checked.
    pub problems: usize,
    /// The largest error of any output, norm over norm.
    pub worst: f64,
}

/// Compiles and checks.
///
/// # Errors
/// Kernels that cannot be compiled, or compute something else than the oracle.
pub fn compile(subject: &Subject, head_dim: u32) -> Result<CpuKernels, CliError> {
    let head_dim = head_dim as usize;
    let clif = ClifSource::new(&subject.ir, head_dim).map_err(CliError::failure)?.to_string();
    let kernels = CpuSubject::compile(subject, head_dim)?;
    let mut worst = 0.0f64;
    let problems = problems::quick(subject, head_dim)?;
    for problem in &problems {
        let outcome: Outcome = kernels.check(problem, DType::F32, 1)?;
        if !outcome.holds() {
            return Err(CliError::failure(format!(
                "the CPU kernels fail their check against the oracle:\n{outcome}"
            )));
        }
        worst = outcome.outputs.iter().map(|output| output.error).fold(worst, f64::max);
    }
    Ok(CpuKernels { clif, isa: kernels.isa(), problems: problems.len(), worst })
}
