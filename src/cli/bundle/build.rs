//! The kernels of a bundle, several at once. Machine code is kept in the store as it is made, so that a run that was
//! interrupted goes on where it stopped.

use std::sync::Arc;

use longgen_codegen::artifact::{Artifact, BuildError};
use longgen_codegen::bundle::{Bundle, BundledChoice, BundledKernel, ImageKind};
use longgen_codegen::cuda::nvrtc::Nvrtc;
use longgen_codegen::cuda::source::GENERATOR;
use longgen_codegen::schedule::Schedule;
use longgen_codegen::spec::{KernelSpec, Pass, PatternCode, Shape};
use longgen_runtime::gpu::KernelCache;
use longgen_runtime::store::TunedRow;
use rayon::prelude::*;

use super::{Args, Named, unique};
use crate::cli::{CliError, engine, store};

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
            jobs.extend(jobs_of(args, label, &code, shape, &tuned));
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
            Err(BuildError::Refused { .. }) if Pass::BACKWARD_FUSED.contains(&job.pass) => {}
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
    tuned: &[TunedRow],
) -> Vec<Job<'a>> {
    let oldest = args.arch.iter().filter(|target| !target.is_exact());
    let oldest = oldest.min_by_key(|target| target.compute_capability());
    let mut jobs = Vec::new();
    for target in unique(&args.arch) {
        for pass in Pass::ALL.into_iter().filter(|pass| args.wants(*pass)) {
            let mut specs = KernelSpec::candidates(pass, target, shape, code);
            let Some(first) = specs.first() else { continue };
            let choice = measured(tuned, first);
            if let Some((spec, _)) = &choice {
                specs.insert(0, spec.clone());
            }
            let tuned = choice.map(|(_, row)| choice_of(label, shape, row));
            jobs.push(Job { label, pass, with_ptx: oldest == Some(&target), specs, tuned });
        }
    }
    jobs
}

/// The latest schedule that tuning found for a kernel, of those for the longest lengths.
fn measured<'a>(tuned: &'a [TunedRow], spec: &KernelSpec) -> Option<(KernelSpec, &'a TunedRow)> {
    let hash = spec.pattern.hash();
    let rows = tuned.iter().filter(|row| {
        let problem = &row.key.problem;
        let Shape { head_dim, dtype, softcap, sink_logit } = spec.shape;
        problem.pattern_hash == hash
            && problem.pass == spec.pass.name()
            && (problem.head_dim, problem.dtype.as_str()) == (head_dim, dtype.name())
            && (problem.softcap, problem.sink_logit) == (softcap, sink_logit)
            && problem.target == spec.target.name()
            && problem.generator == GENERATOR
    });
    let row = rows.max_by_key(|row| (row.key.bucket, row.made))?;
    let schedule: Schedule = row.choice.schedule.parse().ok()?;
    schedule.check(spec.pass, spec.family, &spec.shape, spec.target).ok()?;
    Some((KernelSpec { schedule, ..spec.clone() }, row))
}

fn choice_of(label: &str, shape: Shape, row: &TunedRow) -> BundledChoice {
    let problem = &row.key.problem;
    BundledChoice {
        pattern: label.to_owned(),
        pass: problem.pass.clone(),
        shape,
        target: problem.target.clone(),
        schedule: row.choice.schedule.clone(),
        device: problem.device.clone(),
        tokens: row.key.bucket,
        seconds: row.choice.seconds,
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
