//! Under which key a tuning result is kept, and how it is found again.

use longgen_codegen::cuda::source::tuning_generator;
use longgen_codegen::ir::MaskIr;
use longgen_codegen::model::PassGroup;
use longgen_codegen::model::gpu::GpuPlan;
use longgen_codegen::spec::Shape;
use longgen_codegen::target::Target;

use crate::cpu::{Isa, TunedBlocking, processor_name};
use crate::driver::{Device, driver_version};
use crate::gpu::KernelCache;
use crate::problem::{DType, HeadShape};
use crate::store::{Store, TuneProblem, TunedChoice, length_bucket};

/// 64 hexadecimal digits of a mask: equal for patterns that mean the same by the same rules, however they were written.
pub fn mask_hash(ir: &MaskIr) -> String {
    blake3::hash(ir.to_string().as_bytes()).to_hex().to_string()
}

/// The key of a mask on the CPU. Whether scores are capped is part of it, by how much is not: every cap is the same work.
pub fn cpu_problem(
    ir: &MaskIr,
    pass: PassGroup,
    (shape, dtype, softcap): (HeadShape, DType, bool),
    (isa, threads): (Isa, usize),
) -> TuneProblem {
    TuneProblem {
        pattern_hash: mask_hash(ir),
        pass: pass.name().to_owned(),
        head_dim: shape.head_dim() as u32,
        group: shape.group() as u32,
        dtype: dtype.to_string(),
        softcap,
        sink_logit: false,
        target: isa.name().to_owned(),
        device: processor_name().to_owned(),
        driver: format!("{threads} threads"),
        compiler: "cranelift".to_owned(),
        generator: tuning_generator().to_owned(),
    }
}

/// The key of a mask on a GPU with `group` query heads to a KV head; `None` without NVRTC, whose version is part of it.
pub fn gpu_problem(
    (cache, device): (&KernelCache, &Device),
    ir: &MaskIr,
    pass: PassGroup,
    (shape, group, target): (Shape, u32, Target),
    deterministic: bool,
) -> Option<TuneProblem> {
    let driver = driver_version().ok()?;
    let same_bits = if deterministic && pass == PassGroup::Backward { "_deterministic" } else { "" };
    Some(TuneProblem {
        pattern_hash: mask_hash(ir),
        pass: format!("{pass}{same_bits}"),
        head_dim: shape.head_dim,
        group,
        dtype: shape.dtype.to_string(),
        softcap: shape.softcap,
        sink_logit: shape.sink_logit,
        target: target.to_string(),
        device: device.name().to_owned(),
        driver: driver.to_string(),
        compiler: format!("nvrtc {}", cache.nvrtc_version().ok()?),
        generator: tuning_generator().to_owned(),
    })
}

/// What was tuned for a mask on a GPU. Kernels know no length, so the choice of the longest tuned length serves all: there a
/// schedule matters most.
pub fn tuned_plans(
    (cache, device): (&KernelCache, &Device),
    ir: &MaskIr,
    (shape, group, target): (Shape, u32, Target),
    deterministic: bool,
) -> Vec<GpuPlan> {
    let plan = |pass| {
        let problem = gpu_problem((cache, device), ir, pass, (shape, group, target), deterministic)?;
        // A choice that an older version wrote may no longer parse: then there is none.
        chosen(cache.store(), &problem, u64::MAX)?.schedule.parse().ok()
    };
    PassGroup::ALL.into_iter().filter_map(plan).collect()
}

/// The choice for a problem at a length, or at the nearest length that was tuned.
pub fn chosen(store: &Store, problem: &TuneProblem, tokens: u64) -> Option<TunedChoice> {
    let wanted = length_bucket(tokens).ilog2();
    let nearest = |(bucket, _): &(u64, TunedChoice)| bucket.max(&1).ilog2().abs_diff(wanted);
    store.tuned_buckets(problem).into_iter().min_by_key(nearest).map(|(_, choice)| choice)
}

/// What was tuned for a mask, with or without a softcap, on this machine with so many threads, for
/// [`crate::cpu::CpuAttention::use_tuned`].
pub fn tuned_blockings(
    store: &Store,
    ir: &MaskIr,
    (shape, softcap): (HeadShape, bool),
    (isa, threads): (Isa, usize),
) -> Vec<TunedBlocking> {
    let group = shape.group();
    let mut found = Vec::new();
    for pass in PassGroup::ALL {
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            let problem = cpu_problem(ir, pass, (shape, dtype, softcap), (isa, threads));
            let choices = store.tuned_buckets(&problem).into_iter();
            // A choice that an older version wrote may no longer parse: then there is none.
            let parsed = choices.filter_map(|(bucket, choice)| Some((bucket, choice.schedule.parse().ok()?)));
            found.extend(parsed.map(|(bucket, blocking)| TunedBlocking {
                pass,
                dtype,
                softcap,
                group,
                bucket,
                blocking,
            }));
        }
    }
    found
}
