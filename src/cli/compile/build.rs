//! The CUDA kernels of a pattern: every pass for every architecture.

use longgen_codegen::artifact::{Artifact, BuildError};
use longgen_codegen::build::{Job, Order, Outcome};
use longgen_codegen::cuda::nvrtc::Nvrtc;
use longgen_codegen::cuda::source::CudaSource;
use longgen_codegen::model::PassGroup;
use longgen_codegen::spec::{Pass, Shape};
use longgen_codegen::target::Target;

use crate::cli::CliError;
use crate::cli::kernel_args::Subject;

/// One kernel's source and, where there is NVRTC, what it compiled to.
pub struct Built {
    /// What it is compiled for.
    pub target: Target,
    /// What it computes.
    pub pass: Pass,
    /// The source.
    pub source: CudaSource,
    /// The binaries.
    pub artifact: Option<Artifact>,
}

impl Built {
    /// File name without extension.
    pub fn stem(&self) -> &str {
        self.source.name.strip_suffix(".cu").unwrap_or(&self.source.name)
    }
}

/// Builds every pass that exists; without NVRTC, its sources.
///
/// # Errors
/// The first kernel that could not be built for another reason than a refusal; the missing pass where none is left.
pub fn all(
    subject: &Subject,
    shape: Shape,
    targets: &[Target],
    nvrtc: Option<&Nvrtc>,
) -> Result<Outcome<Built>, CliError> {
    let order = Order::new(&subject.code(), &[shape], targets, &PassGroup::ALL);
    let mut outcome = order.build(|job| build(job, nvrtc)).map_err(CliError::failure)?;
    match outcome.missing.pop() {
        Some(last) if outcome.kernels.is_empty() => Err(CliError::failure(last)),
        last => {
            outcome.missing.extend(last);
            Ok(outcome)
        }
    }
}

fn build(job: &Job, nvrtc: Option<&Nvrtc>) -> Result<Built, BuildError> {
    let (target, pass) = (job.target, job.pass);
    match nvrtc {
        Some(nvrtc) => {
            let artifact = Artifact::build_first(nvrtc, &job.specs)?;
            Ok(Built { target, pass, source: artifact.source.clone(), artifact: Some(artifact) })
        }
        None => {
            let source = CudaSource::generate(&job.specs[0])?;
            Ok(Built { target, pass, source, artifact: None })
        }
    }
}
