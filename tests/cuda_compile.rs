//! Every kernel compiles to a cubin without spills and without a ptxas warning: each pattern, head dimension, type and
//! family. Needs NVRTC and no GPU; without NVRTC every test is reported as ignored.

mod cuda;

use std::sync::Arc;

use cuda::Case;
use libtest_mimic::{Failed, Trial};
use longgen_codegen::artifact::Artifact;
use longgen_codegen::cuda::engine;
use longgen_codegen::cuda::nvrtc::{CompileOptions, Nvrtc};
use longgen_codegen::pattern::PRESETS;
use longgen_codegen::spec::{Dtype, KernelSpec, Pass, PatternCode, Shape};
use longgen_codegen::target::{Family, Target};

fn main() {
    cuda::run_with_nvrtc(trials);
}

/// Presets as they ship; and the small patterns, which are odder, once each with everything switched on.
fn trials(nvrtc: Option<Nvrtc>) -> Vec<Trial> {
    let (mut trials, mut engine_trials) = (Vec::new(), Vec::new());
    let mut add = |case: &Case, family: Family, shape: Shape| {
        let (pattern, nvrtc) = (Arc::new(case.code()), nvrtc.clone());
        let Shape { head_dim, dtype, .. } = shape;
        let name = format!("{}::{family}::d{head_dim}::{dtype}", case.name);
        let ignored = nvrtc.is_none();
        let run = move || compile_all(nvrtc.as_ref(), family, shape, &pattern);
        trials.push(Trial::test(name, run).with_ignored_flag(ignored));
    };
    for operation in engine::OPERATIONS {
        for family in [Family::Sm80, Family::Sm90] {
            let (found, ignored) = (nvrtc.clone(), nvrtc.is_none());
            let run = move || compile_operation(found.as_ref(), operation, Target::of_family(family));
            engine_trials
                .push(Trial::test(format!("engine::{operation}::{family}"), run).with_ignored_flag(ignored));
        }
    }
    for family in [Family::Sm80, Family::Sm90] {
        for case in PRESETS.map(Case::preset) {
            let softmax = case.pattern.softmax();
            for head_dim in [64, 128] {
                for dtype in Dtype::ALL {
                    let (softcap, sink_logit) = (softmax.softcap.is_some(), softmax.sink_logit);
                    add(&case, family, Shape { head_dim, dtype, softcap, sink_logit });
                }
            }
        }
        for head_dim in [96, 192, 256] {
            if family == Family::Sm80 {
                let dtype = Dtype::Bf16;
                let shape = Shape { head_dim, dtype, softcap: true, sink_logit: true };
                add(&Case::preset("longgen-stride"), family, shape);
            }
        }
        for case in cuda::small_patterns() {
            let dtype = Dtype::Bf16;
            add(&case, family, Shape { head_dim: 128, dtype, softcap: true, sink_logit: true });
            // At D 64 the presets have no softcap, which takes registers of its own.
            if ["full", "blocks", "listed"].contains(&case.name.as_str()) {
                add(
                    &case,
                    family,
                    Shape { head_dim: 64, dtype: Dtype::Fp16, softcap: true, sink_logit: true },
                );
            }
        }
    }
    trials.extend(engine_trials);
    trials
}

/// An operation of the engine.
fn compile_operation(nvrtc: Option<&Nvrtc>, operation: &str, target: Target) -> Result<(), Failed> {
    let nvrtc = nvrtc.ok_or("no NVRTC on this machine")?;
    let source = engine::source(operation)?;
    let compiled = nvrtc.compile(&source.text, &source.name, &CompileOptions::new(target))?;
    Ok(compiled.report.check().map_err(|refusal| refusal.to_string())?)
}

/// Every pass that has a template of this family.
fn compile_all(
    nvrtc: Option<&Nvrtc>,
    family: Family,
    shape: Shape,
    pattern: &Arc<PatternCode>,
) -> Result<(), Failed> {
    let nvrtc = nvrtc.ok_or("no NVRTC on this machine")?;
    let target = Target::of_family(family);
    for pass in Pass::ALL {
        if !pass.exists(family, &shape) {
            continue;
        }
        let specs = KernelSpec::of_family(pass, family, target, shape, pattern);
        if specs.is_empty() {
            assert!(pass == Pass::BackwardOrdered && pattern.listed, "{pass} has no schedule");
            continue;
        }
        let artifact = Artifact::build_first(nvrtc, &specs)?;
        for kernel in &artifact.manifest.kernels {
            if kernel.resources.registers == 0 {
                return Err(format!("`{}` is not in the log:\n{}", kernel.name, artifact.log).into());
            }
        }
    }
    Ok(())
}
