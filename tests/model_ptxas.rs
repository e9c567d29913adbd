//! The model's registers and shared memory against what ptxas reports, for every variant that is shipped; and that what the
//! model proposes is not refused. Needs NVRTC and no GPU; without NVRTC every test is reported as ignored.

mod cuda;

use std::sync::Arc;

use cuda::Case;
use libtest_mimic::{Failed, Trial};
use longgen_codegen::artifact::{Artifact, BuildError};
use longgen_codegen::cuda::nvrtc::Nvrtc;
use longgen_codegen::ir::Programs;
use longgen_codegen::model::gpu::{
    GpuMachine, GpuWorkload, MOST_REGISTERS, SPILLS_FROM, candidates, predicted_registers,
};
use longgen_codegen::model::{PassGroup, Workload};
use longgen_codegen::schedule::smem_bytes;
use longgen_codegen::spec::{Dtype, KernelSpec, Pass, Shape};
use longgen_codegen::target::{Family, Target};

/// Registers that a prediction may be off by: what a pattern's own arithmetic takes, and ptxas' rounding.
const OFF_BY: u32 = 28;

fn main() {
    cuda::run_with_nvrtc(trials);
}

fn trials(nvrtc: Option<Nvrtc>) -> Vec<Trial> {
    let mut trials = Vec::new();
    let ignored = nvrtc.is_none();
    for target in [Family::Sm80, Family::Sm90].map(Target::of_family) {
        // Others than these two are the plainer family's on every target.
        let large = if target.family() == Family::Sm80 { &[96, 192, 256][..] } else { &[] };
        for &head_dim in [64, 128].iter().chain(large) {
            let shape = Shape::plain(head_dim, Dtype::Bf16);
            for pass in Pass::ALL.into_iter().filter(|pass| pass.exists(target.family(), &shape)) {
                let nvrtc = nvrtc.clone();
                let run = move || shipped(nvrtc.as_ref(), pass, target, shape);
                let name = format!("shipped::{pass}::{target}::d{head_dim}");
                trials.push(Trial::test(name, run).with_ignored_flag(ignored));
            }
        }
        for pass in PassGroup::ALL {
            let nvrtc = nvrtc.clone();
            let run = move || proposed(nvrtc.as_ref(), pass, target);
            trials.push(Trial::test(format!("proposed::{pass}::{target}"), run).with_ignored_flag(ignored));
        }
    }
    trials
}

/// Every schedule of a pass that the compiler may take by itself.
fn shipped(nvrtc: Option<&Nvrtc>, pass: Pass, target: Target, shape: Shape) -> Result<(), Failed> {
    let nvrtc = nvrtc.ok_or("no NVRTC on this machine")?;
    let pattern = Arc::new(Case::preset("longgen-sink").code());
    for spec in KernelSpec::of_family(pass, target.family(), target, shape, &pattern) {
        let predicted = predicted_registers(pass, spec.family, &shape, &spec.schedule);
        let artifact = match Artifact::build(nvrtc, &spec) {
            Ok(artifact) => artifact,
            // One that spills under this pattern has others behind it; the model must have seen it coming.
            Err(BuildError::Refused { .. }) if predicted >= SPILLS_FROM => continue,
            Err(error) => {
                return Err(format!("{}: {predicted} registers expected: {error}", spec.schedule).into());
            }
        };
        let predicted = predicted.min(MOST_REGISTERS);
        let smem = smem_bytes(pass, spec.family, &shape, &spec.schedule);
        for kernel in &artifact.manifest.kernels {
            let found = kernel.resources.registers;
            // Kernels that only move bytes are never short of registers.
            if kernel.dynamic_smem_bytes > 0 && found.abs_diff(predicted) > OFF_BY {
                return Err(format!("{}: {found} registers, {predicted} expected", spec.schedule).into());
            }
            // The source asserts the dynamic part; nothing may hide beside it.
            let all = kernel.dynamic_smem_bytes + kernel.resources.static_smem_bytes;
            if kernel.dynamic_smem_bytes > 0 && all.abs_diff(smem) > 1024 {
                return Err(
                    format!("{}: {all} bytes of shared memory, {smem} expected", spec.schedule).into()
                );
            }
        }
    }
    Ok(())
}

/// The three best plans for a long prefill, whatever they are.
fn proposed(nvrtc: Option<&Nvrtc>, pass: PassGroup, target: Target) -> Result<(), Failed> {
    let nvrtc = nvrtc.ok_or("no NVRTC on this machine")?;
    let case = Case::preset("longgen-sink");
    let (ir, pattern) = (case.ir(), Arc::new(case.code()));
    let programs = Programs::new(&ir);
    let queries = if pass == PassGroup::Decode { 1 } else { 32_768 };
    let work = Workload {
        programs: &programs,
        pass,
        heads: 32,
        kv_heads: 32,
        head_dim: 128,
        batch: 1,
        queries,
        keys: 32_768,
        element_bytes: 2,
    };
    let shape = Shape::plain(128, Dtype::Bf16);
    let workload = GpuWorkload { work, shape, target, deterministic: false };
    let ranked = candidates(&GpuMachine::of(target), &workload);
    for plan in ranked.iter().filter(|ranked| ranked.rejected.is_none()).take(3) {
        for kernel in &plan.candidate.kernels {
            let (pass, family, schedule) = (kernel.pass, kernel.family, kernel.schedule);
            let spec = KernelSpec { pass, family, target, shape, schedule, pattern: pattern.clone() };
            Artifact::build(nvrtc, &spec).map_err(|error| format!("{schedule}: {error}"))?;
        }
    }
    Ok(())
}
