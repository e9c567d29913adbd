//! Kernels of a GPU.

use std::io::Write;

use longgen_codegen::artifact::Artifact;
use longgen_codegen::cuda::source::CudaSource;
use longgen_codegen::ir::Programs;
use longgen_codegen::model::PassGroup;
use longgen_codegen::model::gpu::{
    GpuMachine, GpuPlan, GpuWorkload, PlannedKernel, estimate, first_choice, occupancy, predicted_registers,
};
use longgen_codegen::schedule::smem_bytes;
use longgen_codegen::spec::{Dtype, KernelSpec, Pass, Shape};
use longgen_codegen::target::{Family, Target};
use longgen_runtime::driver::Device;
use longgen_runtime::tune::{gpu_workload, tuned_plans};
use thiserror::Error;

use super::{Explained, words};
use crate::cli::CliError;
use crate::cli::number::{grouped, milliseconds};

#[derive(Debug, Error)]
#[error("there is no {pass} kernel for {target} and head dimension {head_dim}")]
struct NoKernel {
    pass: &'static str,
    target: Target,
    head_dim: u32,
}

/// Words, numbers and source of every kernel of the pass.
pub fn explain(explained: &Explained<'_>, out: &mut dyn Write) -> Result<(), CliError> {
    let args = explained.args;
    let device = Device::open(0).ok();
    let here = device.as_ref().and_then(|device| device.targets().first().copied());
    let target = args.arch.or(here).unwrap_or_else(|| Target::of_family(Family::Sm90));
    let softmax = explained.subject.pattern.softmax();
    let shape = Shape {
        head_dim: explained.shape.head_dim() as u32,
        dtype: Dtype::Bf16,
        softcap: softmax.softcap.is_some(),
        sink_logit: softmax.sink_logit,
    };
    let programs = Programs::new(&explained.subject.ir);
    let work = gpu_workload(&programs, args.pass, explained.shape, args.length);
    let workload = GpuWorkload { work, shape, target, deterministic: false };
    let machine = GpuMachine::of(target);
    let tuned = match &device {
        Some(device) if here == Some(target) => tuned(explained, device, shape, target)?,
        _ => None,
    };
    let chosen_by = if tuned.is_some() { "tuned" } else { "not tuned" };
    let plan = tuned.or_else(|| untuned(explained, shape, target)).ok_or_else(|| {
        CliError::usage(NoKernel { pass: args.pass.name(), target, head_dim: shape.head_dim })
    })?;
    let expected = estimate(&machine, &workload, &plan);
    writeln!(
        out,
        "{} of {} tokens, {} query heads, {} KV heads, D {}, bf16, for {target} ({chosen_by})",
        args.pass,
        grouped(args.length.into()),
        work.heads,
        work.kv_heads,
        work.head_dim
    )?;
    writeln!(
        out,
        "  {} blocks of work, {} steps, {} of them with a mask; {} ms expected, floor {} ms",
        grouped(expected.items.round() as u128),
        grouped(expected.steps.round() as u128),
        grouped(expected.masked_steps.round() as u128),
        milliseconds(expected.seconds),
        milliseconds(expected.floor_seconds)
    )?;
    if let Some(guess) = first_choice(&machine, &workload).filter(|guess| *guess != plan) {
        let ms = milliseconds(estimate(&machine, &workload, &guess).seconds);
        writeln!(out, "  the model's first guess is another, {ms} ms: {guess}")?;
    }
    for kernel in &plan.kernels {
        of_kernel(explained, (&machine, &workload), kernel, out)?;
    }
    Ok(())
}

fn tuned(
    explained: &Explained<'_>,
    device: &Device,
    shape: Shape,
    target: Target,
) -> Result<Option<GpuPlan>, CliError> {
    let cache = explained.args.nvrtc.kernel_cache()?;
    let group = explained.shape.group() as u32;
    let plans = tuned_plans((&cache, device), &explained.subject.ir, (shape, group, target), false);
    let pass = explained.args.pass.name();
    Ok(plans.into_iter().find(|plan| plan.kernels.iter().any(|kernel| kernel.pass.name().starts_with(pass))))
}

/// The kernels that are taken where nothing was tuned.
fn untuned(explained: &Explained<'_>, shape: Shape, target: Target) -> Option<GpuPlan> {
    let code = explained.subject.code();
    let backward = Pass::backward(target, &shape, false, code.listed);
    let passes = match explained.args.pass {
        PassGroup::Forward => &[Pass::Forward][..],
        PassGroup::Backward => &backward,
        PassGroup::Decode => &[Pass::Decode],
    };
    let kernel = |&pass: &Pass| {
        let KernelSpec { family, schedule, .. } =
            KernelSpec::candidates(pass, target, shape, &code).into_iter().next()?;
        Some(PlannedKernel { pass, family, schedule })
    };
    Some(GpuPlan { kernels: passes.iter().map(kernel).collect::<Option<_>>()? })
}

fn of_kernel(
    explained: &Explained<'_>,
    (machine, workload): (&GpuMachine, &GpuWorkload<'_>),
    kernel: &PlannedKernel,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let PlannedKernel { pass, family, schedule } = *kernel;
    let shape = workload.shape;
    writeln!(out, "\n{pass}, {family} family: {schedule}")?;
    for sentence in words::of(kernel) {
        writeln!(out, "  {sentence}")?;
    }
    let registers = predicted_registers(pass, family, &shape, &schedule);
    let smem = smem_bytes(pass, family, &shape, &schedule);
    let found = occupancy(machine, (pass, family), &shape, &schedule, registers);
    writeln!(out, "  registers: about {} a thread at launch", registers.min(255))?;
    writeln!(out, "  shared memory: {} bytes a block", grouped(smem.into()))?;
    writeln!(out, "  occupancy: {} block(s) a multiprocessor, bound by {}", found.blocks, found.limit)?;
    let pattern = explained.subject.code();
    let spec = KernelSpec { pass, family, target: workload.target, shape, schedule, pattern };
    if let Ok(nvrtc) = explained.args.nvrtc.load_quietly() {
        match Artifact::build(&nvrtc, &spec) {
            Ok(artifact) => {
                for kernel in &artifact.manifest.kernels {
                    let found = &kernel.resources;
                    writeln!(out, "  ptxas: {} registers, no spills ({})", found.registers, kernel.name)?;
                }
            }
            Err(error) => writeln!(out, "  ptxas: {error}")?,
        }
    }
    if explained.args.no_source {
        return Ok(());
    }
    let source = CudaSource::generate(&spec).map_err(CliError::failure)?;
    writeln!(out)?;
    Ok(out.write_all(marked(&source.text, &spec.pattern.functions).as_bytes())?)
}

/// The source with a mark before each line of the pattern's functions and of the generated constants.
fn marked(source: &str, functions: &str) -> String {
    let own = functions.trim_end();
    let range = |start: Option<usize>, length: usize| start.map_or(0..0, |start| start..start + length);
    let pattern = range(source.find(own).filter(|_| !own.is_empty()), own.len());
    let constants = source.find("namespace lg {").map_or(0..0, |start| start..pattern.start.max(start));
    let mut at = 0;
    let mut text = String::with_capacity(source.len() + source.len() / 16);
    for line in source.split_inclusive('\n') {
        let mark = match at {
            at if pattern.contains(&at) => "| ",
            at if constants.contains(&at) => ": ",
            _ => "  ",
        };
        at += line.len();
        text.push_str(if line.trim().is_empty() { "" } else { mark });
        text.push_str(line);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::marked;

    #[test]
    fn lines_are_marked_by_where_they_come_from() {
        let source = "// header\nnamespace lg {\nconstexpr int kTileM = 1;\n\nbool f() {\n}\n}\nkernel\n";
        let expected = "  // header\n: namespace lg {\n: constexpr int kTileM = 1;\n\n| bool f() {\n| }\n  }\n  kernel\n";
        assert_eq!(marked(source, "bool f() {\n}\n"), expected);
    }
}
