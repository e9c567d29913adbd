//! GPU kernels against the oracle.

use longgen_codegen::spec::{Dtype, Shape};
use longgen_runtime::driver::Device;
use longgen_runtime::gpu::{GpuAttention, GpuAttentionError, GpuOptions, KernelCache};
use longgen_runtime::problem::DType;

use super::problems::{self, Named};
use super::table::Table;
use super::{Args, CheckError, Outcome};
use crate::cli::CliError;
use crate::cli::kernel_args::Subject;
use crate::cli::loaded::{self, LoadedCuda};

/// The table of all problems and types.
///
/// # Errors
/// No GPU, no NVRTC, kernels that cannot be compiled or launched.
pub fn table(args: &Args, subject: &Subject) -> Result<Table, CliError> {
    let device = Device::open(0).map_err(CliError::failure)?;
    let mut cache = args.nvrtc.kernel_cache()?;
    let loaded = args.load_cuda.as_deref().map(loaded::load).transpose()?;
    if let Some(LoadedCuda { source, fingerprint }) = &loaded {
        cache = cache.replacing(fingerprint.clone(), source.clone());
    }
    let mut is_used = false;
    let mut table = Table::new(format!("cuda ({})", device.name()), subject);
    let problems = problems::thorough(subject, args.head_dim as usize)?;
    for dtype in args.dtypes() {
        let attention = attention(args, subject, &device, &cache, dtype).map_err(CliError::failure)?;
        is_used |= loaded.as_ref().is_some_and(|loaded| uses(&attention, loaded));
        for problem in &problems {
            let outcome = checked(&attention, problem, args.seed).map_err(CliError::failure)?;
            table.add(problem, dtype, outcome);
        }
    }
    match loaded {
        Some(LoadedCuda { source, .. }) if !is_used => {
            Err(CliError::usage(CheckError::OtherKernel { name: source.name }))
        }
        _ => Ok(table),
    }
}

fn uses(attention: &GpuAttention, loaded: &LoadedCuda) -> bool {
    let hash = loaded.source.hash();
    attention.kernels().any(|kernel| kernel.manifest.source_hash == hash)
}

fn checked(attention: &GpuAttention, named: &Named, seed: u32) -> Result<Outcome, GpuAttentionError> {
    attention.check(&named.problem, u64::from(seed))
}

fn attention(
    args: &Args,
    subject: &Subject,
    device: &Device,
    cache: &KernelCache,
    dtype: DType,
) -> Result<GpuAttention, GpuAttentionError> {
    let softmax = subject.pattern.softmax();
    let shape = Shape {
        head_dim: args.head_dim,
        dtype: if dtype == DType::F16 { Dtype::Fp16 } else { Dtype::Bf16 },
        softcap: softmax.softcap.is_some(),
        sink_logit: softmax.sink_logit,
    };
    let canonical = subject.pattern.to_string();
    GpuAttention::new(device, cache, &canonical, &subject.ir, shape, GpuOptions::default())
}
