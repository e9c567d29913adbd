//! The kernels of a bundle, several at once. Machine code is kept in the store as it is made, so that a run that was
//! interrupted goes on where it stopped.

use longgen_codegen::artifact::{Artifact, BuildError};
use longgen_codegen::build::{Job, Missing, Order, Outcome};
use longgen_codegen::bundle::{Bundle, BundledChoice, BundledKernel, ImageKind};
use longgen_codegen::cuda::nvrtc::Nvrtc;
use longgen_codegen::cuda::source::tuning_generator;
use longgen_codegen::model::PassGroup;
use longgen_codegen::model::gpu::{GpuPlan, PlannedKernel};
use longgen_codegen::spec::{KernelSpec, Shape};
use longgen_codegen::target::Target;
use longgen_runtime::gpu::KernelCache;
use longgen_runtime::store::TunedRow;
use longgen_runtime::tune::mask_hash;

use super::{Args, Named};
use crate::cli::kernel_args::unique;
use crate::cli::{CliError, engine, store};

/// Passes that were asked for and that have no kernel, or none that fits.
#[derive(Debug, thiserror::Error)]
#[error("there is no {passes} of `{label}` for {shape} on {target}: {advice}")]
struct NoPass {
    label: String,
    /// `backward and no decode`.
    passes: String,
    shape: Shape,
    target: Target,
    advice: String,
    /// Why the first of them is missing.
    source: BuildError,
}

/// The passes that one shape lacks on one target, and what to leave out: where other shapes or targets of this bundle have them,
/// they are to keep them.
fn no_pass(args: &Args, label: &str, first: Missing, others: &[Missing]) -> CliError {
    let Missing { pass, shape, target, reason } = first;
    let beside = others.iter().filter(|other| (other.shape, other.target) == (shape, target));
    let lacking: Vec<PassGroup> = [pass].into_iter().chain(beside.map(|other| other.pass)).collect();
    let there = unique(&args.pass).into_iter().filter(|pass| !lacking.contains(pass)).map(PassGroup::name);
    let there = there.collect::<Vec<_>>().join(",");
    let cases = unique(&args.head_dim).len() * unique(&args.dtype).len() * unique(&args.arch).len();
    let Shape { head_dim, dtype, .. } = shape;
    let advice = match (there.as_str(), cases) {
        ("", 1) => "nothing else was asked for".to_owned(),
        ("", _) => format!("leave D {head_dim}, {dtype} on {target} out"),
        (there, 1) => format!("leave it out, by `--pass {there}`"),
        (there, _) => format!(
            "put this case into a file of its own, by `--head-dim {head_dim} --dtype {dtype} --arch {target} --pass \
             {there}`, so that the others keep theirs"
        ),
    };
    let passes = lacking.iter().map(|pass| pass.name()).collect::<Vec<_>>().join(" and no ");
    CliError::failure(NoPass { label: label.to_owned(), passes, shape, target, advice, source: reason })
}

/// Compiles every pass of every pattern, shape and architecture.
///
/// # Errors
/// No NVRTC, the first kernel that could not be built, a pass that is missing.
pub fn bundle(args: &Args, subjects: &[Named]) -> Result<Bundle, CliError> {
    let nvrtc = args.nvrtc.load()?;
    let cache = args.nvrtc.kernel_cache()?;
    let (targets, rows) = (unique(&args.arch), store::open().tuned_rows());
    let orders: Vec<Order> = subjects
        .iter()
        .map(|Named { subject, .. }| Order::new(&subject.code(), &args.shapes(subject), &targets, &args.pass))
        .collect();
    let jobs = orders.iter().map(Order::len).sum::<usize>();
    let bar = engine::progress(jobs as u64, "compiling {bar:30} {pos}/{len} kernels, {eta} left");
    let mut bundle = Bundle::new();
    for (Named { label, subject }, order) in subjects.iter().zip(&orders) {
        bundle.add_pattern(label, &subject.code());
        let mask = mask_hash(&subject.ir);
        let outcome = order.build(|job| {
            let tuned = tuned_kernels(&rows, &mask, &job.shape);
            let built = build(args, label, job, &tuned, (&nvrtc, &cache));
            bar.inc(1);
            built
        });
        let Outcome { kernels, missing } = outcome.map_err(CliError::failure)?;
        let mut missing = missing.into_iter();
        if let Some(first) = missing.next() {
            return Err(no_pass(args, label, first, missing.as_slice()));
        }
        for Built { kernels, tuned } in kernels {
            bundle.info.tuned.extend(tuned);
            bundle.kernels.extend(kernels);
        }
    }
    bar.finish_and_clear();
    Ok(bundle)
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
                && problem.generator == tuning_generator()
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

/// The images of one kernel, and the choice of a tune that they come of.
struct Built {
    kernels: Vec<BundledKernel>,
    tuned: Option<BundledChoice>,
}

fn build(
    args: &Args,
    label: &str,
    job: &Job,
    tuned: &[TunedKernel<'_>],
    (nvrtc, cache): (&Nvrtc, &KernelCache),
) -> Result<Built, BuildError> {
    let fits = |tuned: &&TunedKernel<'_>| {
        tuned.kernel.pass == job.pass && tuned.row.key.problem.target == job.target.name()
    };
    let (found, mut specs) = (tuned.iter().find(fits), job.specs.clone());
    if let Some(TunedKernel { kernel: PlannedKernel { family, schedule, .. }, .. }) = found {
        specs.insert(0, KernelSpec { family: *family, schedule: *schedule, ..specs[0].clone() });
    }
    let oldest = args.arch.iter().filter(|target| !target.is_exact());
    let oldest = oldest.min_by_key(|target| target.compute_capability());
    let kernels = if oldest == Some(&job.target) {
        BundledKernel::of_artifact(label, Artifact::build_first(nvrtc, &specs)?, true)
    } else {
        let compiled = cache.get_first(&specs)?.as_ref().clone();
        vec![BundledKernel { pattern: label.to_owned(), kind: ImageKind::Cubin, compiled }]
    };
    // A tuned schedule that ptxas refuses today gave way to the next.
    let schedule = kernels.first().map(|kernel| kernel.compiled.manifest.schedule.as_str());
    let used = found.map(|tuned| tuned.described(label, job.shape));
    Ok(Built { tuned: used.filter(|choice| Some(choice.schedule.as_str()) == schedule), kernels })
}
