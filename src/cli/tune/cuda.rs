//! Tuning on the GPU.

use std::sync::Arc;

use longgen_codegen::ir::Programs;
use longgen_codegen::model::PassGroup;
use longgen_codegen::model::Ranked;
use longgen_codegen::model::gpu::{GpuMachine, GpuWorkload, candidates as ranked_plans};
use longgen_codegen::spec::{Dtype, Shape};
use longgen_codegen::target::{Family, Target};
use longgen_runtime::driver::Device;
use longgen_runtime::gpu::GpuAttentionError;
use longgen_runtime::problem::DType;
use longgen_runtime::store::TuneKey;
use longgen_runtime::tune::{
    GpuBench, GpuSubject, GpuTensors, GpuTuner, TuneReport, gpu_problem, gpu_workload,
};

use super::request::{Request, Search};
use super::{Args, Session};
use crate::cli::CliError;

/// Searches every pass at every length: length by length, since the tensors of one are large.
///
/// # Errors
/// A missing GPU or NVRTC, kernels that cannot be run.
pub fn search(args: &Args, request: &Request, session: &Session<'_>) -> Result<Vec<TuneReport>, CliError> {
    let device = Device::open(0).map_err(CliError::failure)?;
    let cache = Arc::new(args.nvrtc.kernel_cache()?);
    // Loaded now, so that a machine without it says so at once.
    cache.nvrtc_version().map_err(CliError::failure)?;
    let shape = shape(request);
    let target = *device.targets().first().ok_or_else(|| {
        CliError::failure(GpuAttentionError::Device {
            name: device.name().to_owned(),
            found: device.compute_capability(),
            known: Target::names().join(", "),
        })
    })?;
    let (canonical, ir) = (request.canonical.as_str(), &request.ir);
    let subject = GpuSubject { canonical, ir, shape, heads: request.shape, target };
    let mut tuner = GpuTuner::new(device.clone(), cache.clone(), subject).map_err(CliError::failure)?;
    let backward = request.passes.contains(&PassGroup::Backward);
    let mut left = request.passes.len() * request.lengths.len();
    let mut reports = Vec::with_capacity(left);
    for &tokens in &request.lengths {
        if session.is_stopped() {
            break;
        }
        let mut tensors = GpuTensors::new(&tuner, tokens, backward).map_err(CliError::failure)?;
        for &pass in request.passes.iter().take_while(|_| !session.is_stopped()) {
            let group = request.shape.group() as u32;
            let (on, of) = ((&*cache, &device), (shape, group, target));
            let problem = gpu_problem(on, &request.ir, pass, of, request.deterministic);
            let Some(problem) = problem else { continue };
            let key = TuneKey::new(problem, tokens.into());
            left -= 1;
            let mut bench = GpuBench::new(&mut tuner, &mut tensors, pass, request.deterministic)
                .map_err(CliError::failure)?;
            reports.push(session.search(Search { pass, tokens }, left, &key, &mut bench)?);
        }
    }
    Ok(reports)
}

/// What the model proposes: for the GPU that is here, else for an H200.
///
/// # Errors
/// None.
pub fn candidates(request: &Request, search: Search) -> Result<Vec<Ranked<String>>, CliError> {
    let device = Device::open(0).ok();
    let target = device.as_ref().and_then(|device| device.targets().first().copied());
    let target = target.unwrap_or_else(|| Target::of_family(Family::Sm90));
    let mut machine = GpuMachine::of(target);
    if let Some(device) = &device {
        machine.multiprocessors = device.multiprocessors();
    }
    let programs = Programs::new(&request.ir);
    let work = gpu_workload(&programs, search.pass, request.shape, search.tokens);
    let workload = GpuWorkload { work, shape: shape(request), target, deterministic: request.deterministic };
    Ok(ranked_plans(&machine, &workload).iter().map(Ranked::to_text).collect())
}

fn shape(request: &Request) -> Shape {
    Shape {
        head_dim: request.shape.head_dim() as u32,
        dtype: if request.dtype == DType::F16 { Dtype::Fp16 } else { Dtype::Bf16 },
        softcap: request.softmax.softcap.is_some(),
        sink_logit: request.softmax.sink_logit,
    }
}
