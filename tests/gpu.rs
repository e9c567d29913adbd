//! The kernels on a GPU, against the f64 oracle: random problems, patterns, head dimensions, types, both families; then
//! single properties that the oracle does not see. Without NVRTC every test is reported as ignored, by name; without a GPU
//! they run on an emulated one.
//!
//! The binary needs a driver and NVRTC, nothing else: copied to such a machine it runs as it is.

#[path = "cuda/choices.rs"]
mod choices;
mod cuda;
#[path = "cuda/mistakes.rs"]
mod mistakes;
#[path = "cuda/properties.rs"]
mod properties;

use std::sync::Arc;

use cuda::Case;
use libtest_mimic::{Arguments, Failed, Trial};
use longgen_codegen::spec::{Dtype, Pass, Shape};
use longgen_codegen::target::{Family, Target};
use longgen_runtime::driver::Device;
use longgen_runtime::gpu::{GpuAttention, GpuOptions, KernelCache};
use longgen_runtime::problem::{AttentionProblem, HeadShape, Sequences};

/// What every test needs. `None` fields where the machine has none.
pub struct Machine {
    /// The first GPU.
    pub device: Device,
    /// Kernels compiled so far.
    pub cache: KernelCache,
    /// Where its libraries are.
    pub gpu: cuda::Gpu,
}

type Test = Box<dyn Fn(&Machine) -> Result<(), Failed> + Send>;

fn main() {
    let arguments = Arguments::from_args();
    let machine = machine();
    if let Err(reason) = &machine {
        eprintln!("ignored: {reason}");
    }
    let trials = trials(machine.ok().map(Arc::new));
    libtest_mimic::run(&arguments, trials).exit();
}

fn machine() -> Result<Machine, String> {
    let gpu = cuda::Gpu::find()?;
    let device = Device::open(0).map_err(|error| error.to_string())?;
    eprintln!("on {} ({:?})", device.name(), device.targets());
    let cache = KernelCache::in_memory(gpu.search.clone());
    Ok(Machine { device, cache, gpu })
}

/// Families of this machine, or of the one the tests were written for.
fn targets(machine: Option<&Machine>) -> Vec<Target> {
    let known = |name: &str| name.parse::<Target>().expect("known");
    let Some(machine) = machine else { return vec![known("sm_90a"), known("sm_90")] };
    let mut targets = machine.device.targets();
    targets.dedup_by_key(|target| target.family());
    targets
}

fn trials(machine: Option<Arc<Machine>>) -> Vec<Trial> {
    let mut trials = Vec::new();
    let mut add = |name: String, run: Test| {
        let machine = machine.clone();
        let ignored = machine.is_none();
        let title = name.clone();
        let run = move || match machine.as_deref().ok_or("no GPU")? {
            machine if machine.gpu.keeps_trials_apart() => cuda::run_apart(&title),
            machine => run(machine),
        };
        trials.push(Trial::test(name, run).with_ignored_flag(ignored));
    };
    for (family, target) in targets(machine.as_deref()).into_iter().enumerate() {
        for (index, case) in cuda::small_patterns().into_iter().enumerate() {
            for head_dim in [64, 128] {
                for dtype in Dtype::ALL {
                    // Where time is short each family meets each pattern once, and each dimension with each type.
                    let even = |n: usize| (n + family).is_multiple_of(2);
                    let turn =
                        (head_dim == 64) == even(index / 2) && (dtype == Dtype::Bf16) == even(index / 4);
                    if !turn && machine.as_ref().is_some_and(|machine| machine.gpu.is_emulated()) {
                        continue;
                    }
                    // Softmax features alternate, so that each meets each pattern, dimension and type somewhere.
                    let softcap = (index + (head_dim == 64) as usize).is_multiple_of(2);
                    let sink_logit = (index / 2 + (dtype == Dtype::Bf16) as usize).is_multiple_of(2);
                    let shape = Shape { head_dim, dtype, softcap, sink_logit };
                    let (case, seed) = (case.clone(), index as u64 + u64::from(head_dim));
                    let name = format!("random::{}::{target}::d{head_dim}::{dtype}", case.name);
                    add(name, Box::new(move |machine| random(machine, target, &case, shape, seed)));
                }
            }
        }
        for head_dim in [96, 192, 256] {
            let shape = Shape { softcap: head_dim == 192, ..Shape::plain(head_dim, Dtype::Bf16) };
            let run = move |machine: &Machine| large_heads(machine, target, shape);
            add(format!("head-dim::{target}::d{head_dim}"), Box::new(run));
        }
        for (name, run) in properties::ALL.into_iter().chain(choices::ALL) {
            add(format!("property::{name}::{target}"), Box::new(move |machine| run(machine, target)));
        }
    }
    // A GPU mostly forgives them.
    if machine.as_ref().is_some_and(|machine| machine.gpu.is_emulated()) {
        for mistake in &mistakes::ALL {
            let run = move |machine: &Machine| mistakes::is_found(machine, mistake);
            add(format!("mistake::{}", mistake.name), Box::new(run));
        }
    }
    trials
}

/// Attention with `case` on `machine`.
pub fn attention(
    machine: &Machine,
    case: &Case,
    shape: Shape,
    options: GpuOptions,
) -> Result<GpuAttention, Failed> {
    let ir = case.ir();
    Ok(GpuAttention::new(&machine.device, &machine.cache, &ir.to_string(), &ir, shape, options)?)
}

/// A problem with the kernels' own softcap.
pub fn problem(
    shape: Shape,
    (heads, kv_heads): (usize, usize),
    sequences: Sequences,
) -> Result<AttentionProblem, Failed> {
    let heads = HeadShape::new(heads, kv_heads, shape.head_dim as usize)?;
    let problem = AttentionProblem::new(heads, sequences);
    Ok(if shape.softcap { problem.with_softcap(4.0)? } else { problem })
}

/// One sequence, documents, chunks and decode steps, with every grouping of heads.
fn random(machine: &Machine, target: Target, case: &Case, shape: Shape, seed: u64) -> Result<(), Failed> {
    let deterministic = seed.is_multiple_of(3);
    let options = GpuOptions { target: Some(target), deterministic, ..GpuOptions::default() };
    let attention = attention(machine, case, shape, options)?;
    expect_family(&attention, target, shape, deterministic && attention.is_listed())?;
    attention.self_check()?;
    // Lengths on, just before and just past the edges of tiles; a document without tokens; one with a single token.
    let documents = vec![0, 1, 65, 193, 193, 320, 449];
    // Queries that are the last of their keys; in the middle of them; all before any key.
    let (cu_q, cu_k) = (vec![0, 70, 199, 209, 229], vec![0, 300, 429, 529, 529]);
    let chunks = Sequences::new(cu_q.clone(), cu_k.clone(), None)?;
    let inside = Sequences::new(cu_q, cu_k, Some(vec![100, 0, 90, 40]))?;
    let mut problems = vec![
        problem(shape, (4, 2), Sequences::single(257 + seed as usize)?)?,
        problem(shape, (3, 3), Sequences::packed(documents)?)?,
        problem(shape, (6, 1), chunks)?,
        problem(shape, (4, 2), inside)?,
        problem(shape, (8, 2), Sequences::new(vec![0, 1, 1, 2, 3], vec![0, 500, 507, 508, 1100], None)?)?,
        problem(shape, (20, 1), Sequences::new(vec![0, 1], vec![0, 777], Some(vec![400]))?)?,
    ];
    if !case.code().listed {
        let before = Sequences::new(vec![0, 140], vec![0, 90], None)?;
        problems.push(problem(shape, (2, 1), before)?);
    }
    check_all(&attention, &problems, seed)
}

/// Head dimensions that only the plainer family has.
fn large_heads(machine: &Machine, target: Target, shape: Shape) -> Result<(), Failed> {
    let case = &cuda::small_patterns()[2];
    let options = GpuOptions { target: Some(target), ..GpuOptions::default() };
    let attention = attention(machine, case, shape, options)?;
    let problems = [
        problem(shape, (4, 2), Sequences::packed(vec![0, 300, 431])?)?,
        problem(shape, (4, 2), Sequences::new(vec![0, 1, 2], vec![0, 300, 431], None)?)?,
    ];
    check_all(&attention, &problems, 5)
}

fn check_all(attention: &GpuAttention, problems: &[AttentionProblem], seed: u64) -> Result<(), Failed> {
    for (index, problem) in problems.iter().enumerate() {
        let report = attention.check(problem, seed + index as u64)?;
        if !report.holds() {
            let kernels: Vec<&str> = attention.kernels().map(|k| k.manifest.schedule.as_str()).collect();
            return Err(format!("problem {index}: {problem:?}\n{kernels:?}\n{report}").into());
        }
    }
    Ok(())
}

/// On Hopper forward and backward must come from Hopper's own templates: a fallback would leave them untested. (What sums dQ in
/// one order is the plainer family's where tiles are listed.)
fn expect_family(attention: &GpuAttention, target: Target, shape: Shape, split: bool) -> Result<(), Failed> {
    let hopper = target.family() == Family::Sm90 && matches!(shape.head_dim, 64 | 128);
    for kernel in attention.kernels() {
        let entries = &kernel.manifest.kernels;
        let uses_maps = entries.iter().flat_map(|entry| &entry.arguments).count() > entries.len();
        let expected = match kernel.manifest.pass {
            Pass::Forward => hopper,
            Pass::BackwardFused | Pass::BackwardOrdered => hopper,
            Pass::BackwardDkv | Pass::BackwardDq if hopper && !split => {
                return Err("the backward is of another family".into());
            }
            _ => false,
        };
        if uses_maps != expected {
            return Err(format!("the {} kernel is of another family", kernel.manifest.pass).into());
        }
    }
    Ok(())
}
