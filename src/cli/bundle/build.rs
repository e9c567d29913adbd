//! The kernels of a bundle, several at once. Machine code is kept in the store as it is made, so that a run that was
//! interrupted goes on where it stopped.

use std::sync::Arc;

use longgen_codegen::artifact::{Artifact, BuildError};
use longgen_codegen::bundle::{Bundle, BundledChoice, BundledKernel, ImageKind};
use longgen_codegen::cuda::nvrtc::Nvrtc;
use longgen_codegen::cuda::source::GENERATOR;
use longgen_codegen::model::PassGroup;
use longgen_codegen::model::gpu::{GpuPlan, PlannedKernel};
use longgen_codegen::spec::{KernelSpec, Pass, PatternCode, Shape};
use longgen_runtime::gpu::KernelCache;
use longgen_runtime::store::TunedRow;
use longgen_runtime::tune::mask_hash;
use rayon::prelude::*;

use super::{Args, Named};
use crate::cli::kernel_args::unique;
use crate::cli::{CliError, engine, store};

/// A pass that was asked for and that has no kernel, or none that fits.
#[derive(Debug, thiserror::Error)]
#[error("there is no {pass} of `{label}` for this head dimension and type: leave it out by --pass")]
struct NoPass {
    label: String,
    pass: PassGroup,
    source: BuildError,
}

fn no_pass(label: &str, pass: Pass, source: BuildError) -> CliError {
    CliError::failure(NoPass { label: label.to_owned(), pass: pass.into(), source })
}

/// One source to compile.
struct Job<'a> {
    label: &'a str,
    pass: Pass,
    with_ptx: bool,
    /// In the order to try them.
    specs: Vec<KernelSpec>,
    tuned: Option<BundledChoice>,
}

/// Compiles every pass of every pattern, shape and architecture.
///
/// # Errors
/// No NVRTC, or the first kernel that could not be built. A fused backward that is refused is left out.
pub fn bundle(args: &Args, subjects: &[Named]) -> Result<Bundle, CliError> {
    let nvrtc = args.nvrtc.load()?;
    let cache = args.nvrtc.kernel_cache()?;
    let mut bundle = Bundle::new();
    let mut jobs = Vec::new();
    let tuned = store::open().tuned_rows();
    for Named { label, subject } in subjects {
        let code = subject.code();
        bundle.add_pattern(label, &code);
        for shape in args.shapes(subject) {
            let tuned = tuned_kernels(&tuned, &mask_hash(&subject.ir), &shape);
            jobs.extend(jobs_of(args, label, &code, shape, &tuned)?);
        }
    }
    let bar = engine::progress(jobs.len() as u64, "compiling {bar:30} {pos}/{len} kernels, {eta} left");
    let built: Vec<Result<Vec<BundledKernel>, BuildError>> = jobs
        .par_iter()
        .map(|job| {
            let kernels = build(job, &nvrtc, &cache);
            bar.inc(1);
            kernels
        })
        .collect();
    bar.finish_and_clear();
    for (job, kernels) in jobs.iter().zip(built) {
        match kernels {
            Ok(kernels) => {
                // A tuned schedule that ptxas refuses today gave way to the next.
                let schedule = kernels.first().map(|kernel| &kernel.compiled.manifest.schedule);
                let used = job.tuned.iter().find(|choice| Some(&choice.schedule) == schedule);
                bundle.info.tuned.extend(used.cloned());
                bundle.kernels.extend(kernels);
            }
            Err(BuildError::Refused { .. }) if job.pass.has_substitute() => {}
            Err(refused @ BuildError::Refused { .. }) => return Err(no_pass(job.label, job.pass, refused)),
            Err(error) => return Err(CliError::failure(error)),
        }
    }
    Ok(bundle)
}

fn jobs_of<'a>(
    args: &Args,
    label: &'a str,
    code: &Arc<PatternCode>,
    shape: Shape,
    tuned: &[TunedKernel<'_>],
) -> Result<Vec<Job<'a>>, CliError> {
    let oldest = args.arch.iter().filter(|target| !target.is_exact());
    let oldest = oldest.min_by_key(|target| target.compute_capability());
    let mut jobs = Vec::new();
    for target in unique(&args.arch) {
        for pass in Pass::ALL.into_iter().filter(|pass| args.wants(*pass)) {
            let mut specs = KernelSpec::candidates(pass, target, shape, code);
            let Some(first) = specs.first() else {
                if pass.has_substitute() {
                    continue;
                }
                return Err(no_pass(label, pass, BuildError::NoKernel));
            };
            let fits = |tuned: &&TunedKernel<'_>| {
                tuned.kernel.pass == pass && tuned.row.key.problem.target == target.name()
            };
            let found = tuned.iter().find(fits);
            if let Some(TunedKernel { kernel: PlannedKernel { family, schedule, .. }, .. }) = found {
                specs.insert(0, KernelSpec { family: *family, schedule: *schedule, ..first.clone() });
            }
            let tuned = found.map(|tuned| tuned.described(label, shape));
            jobs.push(Job { label, pass, with_ptx: oldest == Some(&target), specs, tuned });
        }
    }
    Ok(jobs)
}

/// A kernel of a plan that `lgc tune` chose.
struct TunedKernel<'a> {
    kernel: PlannedKernel,
    row: &'a TunedRow,
}

/// What was tuned for a mask and a shape on any device, the choice for the longest lengths first, as the runtime takes it; of
/// equals the latest.
fn tuned_kernels<'a>(tuned: &'a [TunedRow], mask: &str, shape: &Shape) -> Vec<TunedKernel<'a>> {
    let mut rows: Vec<&TunedRow> = tuned
        .iter()
        .filter(|row| {
            let problem = &row.key.problem;
            problem.pattern_hash == mask
                && (problem.head_dim, problem.dtype.as_str()) == (shape.head_dim, shape.dtype.name())
                && (problem.softcap, problem.sink_logit) == (shape.softcap, shape.sink_logit)
                && problem.generator == GENERATOR
        })
        .collect();
    rows.sort_by_key(|row| std::cmp::Reverse((row.key.bucket, row.made)));
    // A CPU's choice is no plan of GPU kernels, nor is one that another version wrote.
    let plans = rows.into_iter().filter_map(|row| Some((row, row.choice.schedule.parse::<GpuPlan>().ok()?)));
    plans
        .flat_map(|(row, plan)| plan.kernels.into_iter().map(move |kernel| TunedKernel { kernel, row }))
        .collect()
}

impl TunedKernel<'_> {
    fn described(&self, label: &str, shape: Shape) -> BundledChoice {
        let TunedRow { key, choice, .. } = self.row;
        BundledChoice {
            pattern: label.to_owned(),
            pass: self.kernel.pass.name().to_owned(),
            shape,
            target: key.problem.target.clone(),
            schedule: self.kernel.schedule.to_string(),
            device: key.problem.device.clone(),
            tokens: key.bucket,
            seconds: choice.seconds,
        }
    }
}

fn build(job: &Job<'_>, nvrtc: &Nvrtc, cache: &KernelCache) -> Result<Vec<BundledKernel>, BuildError> {
    if job.with_ptx {
        let artifact = Artifact::build_first(nvrtc, &job.specs)?;
        return Ok(BundledKernel::of_artifact(job.label, artifact, true));
    }
    let compiled = cache.get_first(&job.specs)?.as_ref().clone();
    Ok(vec![BundledKernel { pattern: job.label.to_owned(), kind: ImageKind::Cubin, compiled }])
}
