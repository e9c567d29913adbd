//! Which kernels are taken: what was tuned, where it can be had; else others that compute the same.

use std::sync::Arc;

use libtest_mimic::Failed;
use longgen_codegen::bundle::{Bundle, BundledKernel, ImageKind};
use longgen_codegen::cuda::source::CudaSource;
use longgen_codegen::model::PassGroup;
use longgen_codegen::model::gpu::{GpuPlan, PlannedKernel};
use longgen_codegen::spec::{Dtype, KernelSpec, Pass, Shape};
use longgen_codegen::target::{Family, Target};
use longgen_runtime::gpu::{GpuAttention, GpuAttentionError, GpuOptions, KernelCache};
use longgen_runtime::problem::Sequences;
use longgen_runtime::store::{Provenance, TuneKey, TunedChoice};
use longgen_runtime::tune::gpu_problem;

use crate::properties::Property;
use crate::{Machine, check_all, cuda, problem};

/// All of them.
pub const ALL: [Property; 3] = [
    ("tuned-by-pass", tuned_by_pass),
    ("backward-after-a-refusal", backward_after_a_refusal),
    ("backward-of-what-is-there", backward_of_what_is_there),
];

const SHAPE: Shape = Shape { head_dim: 128, dtype: Dtype::Bf16, softcap: false, sink_logit: false };

/// The pattern `window`, and kernels for it.
struct Kernels<'a> {
    machine: &'a Machine,
    case: cuda::Case,
    target: Target,
}

impl Kernels<'_> {
    fn on(machine: &Machine, target: Target) -> Kernels<'_> {
        Kernels { machine, case: cuda::small_patterns().swap_remove(1), target }
    }

    fn cache(&self) -> KernelCache {
        KernelCache::in_memory(self.machine.gpu.search.clone())
    }

    fn load(
        &self,
        cache: &KernelCache,
        deterministic: bool,
        backward: bool,
    ) -> Result<GpuAttention, GpuAttentionError> {
        let (target, ir) = (Some(self.target), self.case.ir());
        let options = GpuOptions { target, backward, deterministic, decode: false, ..GpuOptions::default() };
        GpuAttention::new(&self.machine.device, cache, &ir.to_string(), &ir, SHAPE, options)
    }

    /// The kernel of a pass that is tried last, so that it is not the one that is taken anyway.
    fn last(&self, pass: Pass) -> Result<KernelSpec, Failed> {
        let specs = KernelSpec::candidates(pass, self.target, SHAPE, &Arc::new(self.case.code()));
        Ok(specs.last().cloned().ok_or("no such kernel")?)
    }

    /// Keeps a plan of these kernels as what a tune found.
    fn keep(&self, cache: &KernelCache, specs: &[KernelSpec], deterministic: bool) -> Result<(), Failed> {
        let kernel = |spec: &KernelSpec| {
            let KernelSpec { pass, family, schedule, .. } = *spec;
            PlannedKernel { pass, family, schedule }
        };
        let plan = GpuPlan { kernels: specs.iter().map(kernel).collect() };
        let pass = PassGroup::from(plan.kernels[0].pass);
        let (of, on) = ((SHAPE, 1, self.target), (cache, &self.machine.device));
        let problem = gpu_problem(on, &self.case.ir(), pass, of, deterministic).ok_or("no NVRTC")?;
        let provenance = Provenance {
            pattern: self.case.name.clone(),
            problem: "a guess".to_owned(),
            candidates_timed: 1,
            candidates: 1,
            finished: true,
        };
        let choice = TunedChoice { schedule: plan.to_string(), seconds: 1e-3, spread: 0.0, provenance };
        cache.store().put_tuned(&TuneKey::new(problem, 1024), &choice);
        Ok(())
    }

    /// The passes of the backward, whose numbers are right.
    fn backward(&self, attention: &GpuAttention) -> Result<Vec<Pass>, Failed> {
        check_all(attention, &[problem(SHAPE, (2, 1), Sequences::packed(vec![0, 70, 211])?)?], 5)?;
        let passes = attention.kernels().map(|kernel| kernel.manifest.pass);
        Ok(passes.filter(|&pass| pass != Pass::Forward).collect())
    }
}

/// Only a kernel with a tuned schedule is called tuned.
fn tuned_by_pass(machine: &Machine, target: Target) -> Result<(), Failed> {
    let kernels = Kernels::on(machine, target);
    let (cache, spec) = (kernels.cache(), kernels.last(Pass::Forward)?);
    kernels.keep(&cache, std::slice::from_ref(&spec), false)?;
    let attention = kernels.load(&cache, false, true)?;
    let found: Vec<bool> = attention.kernels().map(|k| attention.is_tuned(k.manifest.pass)).collect();
    let schedule = attention.kernels().next().map(|kernel| kernel.manifest.schedule.clone());
    if found != [true, false, false, false] || schedule != Some(spec.schedule.to_string()) {
        return Err(format!("{found:?}, forward {schedule:?}").into());
    }
    Ok(())
}

/// Where a kernel of the tuned split backward is refused, another backward serves, if there is one with the same bits in every
/// run where that is asked for.
fn backward_after_a_refusal(machine: &Machine, target: Target) -> Result<(), Failed> {
    let kernels = Kernels::on(machine, target);
    let split = Pass::BACKWARD_SPLIT.iter().map(|&pass| kernels.last(pass));
    let split = split.collect::<Result<Vec<_>, _>>()?;
    let refused = &split[1];
    let mut source = CudaSource::generate(refused)?;
    source.text.push_str("\n#warning \"refused\"\n");
    let cache = kernels.cache().replacing(refused.fingerprint(), source);
    for deterministic in [false, true] {
        kernels.keep(&cache, &split, deterministic)?;
        let expected = match (deterministic, target.family()) {
            (false, _) => Pass::BACKWARD_FUSED,
            (true, Family::Sm90) => Pass::BACKWARD_ORDERED,
            (true, Family::Sm80) => {
                let error = kernels.load(&cache, true, true).err().map(|error| error.to_string());
                let says = error.as_ref().is_some_and(|error| error.contains("refused"));
                return if says { Ok(()) } else { Err(format!("{error:?}").into()) };
            }
        };
        let found = kernels.backward(&kernels.load(&cache, deterministic, true)?)?;
        if found != expected {
            return Err(format!("deterministic: {deterministic}, {found:?}").into());
        }
    }
    Ok(())
}

/// Any backward of a bundle serves that gives what is asked for.
fn backward_of_what_is_there(machine: &Machine, target: Target) -> Result<(), Failed> {
    let kernels = Kernels::on(machine, target);
    let compiled = kernels.cache();
    let sets = [Pass::BACKWARD_FUSED, Pass::BACKWARD_ORDERED, Pass::BACKWARD_SPLIT];
    for set in sets.into_iter().filter(|set| kernels.last(set[1]).is_ok()) {
        let mut bundle = Bundle::new();
        for pass in [&[Pass::Forward][..], &set].concat() {
            let compiled = compiled.get(&kernels.last(pass)?)?.as_ref().clone();
            // Whatever the images are, they are for this device.
            let kind = ImageKind::Cubin;
            bundle.kernels.push(BundledKernel { pattern: kernels.case.name.clone(), kind, compiled });
        }
        let bundle = Arc::new(bundle);
        for deterministic in [false, true] {
            let capability = machine.device.compute_capability();
            let cache = KernelCache::from_bundle(bundle.clone(), capability);
            let found = kernels.load(&cache, deterministic, true);
            let wanted = if deterministic && set == Pass::BACKWARD_FUSED { None } else { Some(set.to_vec()) };
            let found = match found {
                Ok(attention) => Some(kernels.backward(&attention)?),
                Err(_) => None,
            };
            if found != wanted {
                return Err(format!("of {set:?}, deterministic: {deterministic}: {found:?}").into());
            }
        }
    }
    Ok(())
}
