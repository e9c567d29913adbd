//! The CUDA kernels of a pattern: every pass for every architecture, several at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use longgen_codegen::artifact::{Artifact, BuildError};
use longgen_codegen::cuda::nvrtc::Nvrtc;
use longgen_codegen::cuda::source::CudaSource;
use longgen_codegen::model::PassGroup;
use longgen_codegen::spec::{KernelSpec, Pass, Shape};
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

impl Missing {
    fn covers(&self, target: Target, pass: Pass) -> bool {
        (self.target, self.pass) == (target, pass.into())
    }
}

/// A pass on a target, and the specifications to try.
struct Job {
    target: Target,
    pass: Pass,
    specs: Vec<KernelSpec>,
}

/// A pass that there is no kernel for: large heads do not fit the registers of a backward, nor of decoding.
pub struct Missing {
    /// The architecture.
    pub target: Target,
    /// The pass, all of its kernels.
    pub pass: PassGroup,
    /// That there is no template, or what was wrong with the last schedule that was tried.
    pub reason: BuildError,
}

/// Builds every pass that exists. A fused backward that ptxas refuses is left out: the split one does its work. Where ptxas
/// refuses another kernel, its whole pass is missing.
///
/// # Errors
/// The first kernel that could not be built for another reason; the refusal where no pass is left.
pub fn all(
    subject: &Subject,
    shape: Shape,
    targets: &[Target],
    nvrtc: Option<&Nvrtc>,
) -> Result<(Vec<Built>, Vec<Missing>), CliError> {
    let code = subject.code();
    let (mut jobs, mut missing) = (Vec::new(), Vec::<Missing>::new());
    for &target in targets {
        for pass in Pass::ALL {
            let specs = KernelSpec::candidates(pass, target, shape, &code);
            if !specs.is_empty() {
                jobs.push(Job { target, pass, specs });
            } else if !pass.has_substitute() {
                missing.push(Missing { target, pass: pass.into(), reason: BuildError::NoKernel });
            }
        }
    }
    let mut built: Vec<Built> = Vec::with_capacity(jobs.len());
    for (job, outcome) in jobs.iter().zip(in_parallel(&jobs, nvrtc)) {
        match outcome {
            Ok(kernel) => built.push(kernel),
            Err(BuildError::Refused { .. }) if job.pass.has_substitute() => {}
            Err(reason @ BuildError::Refused { .. }) => {
                let (target, pass) = (job.target, job.pass.into());
                if !missing.iter().any(|gap| gap.covers(target, job.pass)) {
                    missing.push(Missing { target, pass, reason });
                }
            }
            Err(error) => return Err(CliError::failure(error)),
        }
    }
    built.retain(|kernel| !missing.iter().any(|gap| gap.covers(kernel.target, kernel.pass)));
    match missing.pop() {
        Some(last) if built.is_empty() => Err(CliError::failure(last.reason)),
        last => {
            missing.extend(last);
            Ok((built, missing))
        }
    }
}

fn in_parallel(jobs: &[Job], nvrtc: Option<&Nvrtc>) -> Vec<Result<Built, BuildError>> {
    let outcomes: Vec<Mutex<Option<Result<Built, BuildError>>>> =
        jobs.iter().map(|_| Mutex::new(None)).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(at) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&at| at < jobs.len()) {
            let outcome = build(&jobs[at], nvrtc);
            *outcomes[at].lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(jobs.len());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let outcomes = outcomes.into_iter().map(|cell| cell.into_inner().unwrap_or_else(PoisonError::into_inner));
    outcomes.map(|outcome| outcome.unwrap_or(Err(BuildError::NoKernel))).collect()
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
