//! The loaded kernels of one pattern.

use std::collections::HashSet;
use std::sync::Arc;

use longgen_codegen::artifact::{BuildError, KernelEntry};
use longgen_codegen::bundle::Bundle;
use longgen_codegen::ir::MaskIr;
use longgen_codegen::model::gpu::{GpuPlan, PlannedKernel};
use longgen_codegen::plan::TileShape;
use longgen_codegen::spec::{KernelSpec, Pass, PatternCode, Shape};
use longgen_codegen::target::Target;

use super::cache::KernelCache;
use super::{CompiledKernel, GpuAttentionError};
use crate::driver::{Device, Function, Module, Stream};
use crate::tune;

/// What to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuOptions {
    /// Which target's kernels; the device's best when `None`.
    pub target: Option<Target>,
    /// Load the backward kernels.
    pub backward: bool,
    /// The same bits in every run, also for dQ.
    pub deterministic: bool,
    /// Load the decode kernel.
    pub decode: bool,
    /// Query heads of a KV head in the calls to come, for which schedules were tuned; the kernels take any number.
    pub group: u32,
}

impl Default for GpuOptions {
    fn default() -> Self {
        GpuOptions { target: None, backward: true, deterministic: false, decode: true, group: 1 }
    }
}

/// Attention with one pattern on one GPU. Knows no lengths: one object serves every batch.
#[derive(Debug)]
pub struct GpuAttention {
    pub(super) stream: Stream,
    pub(super) multiprocessors: u32,
    pub(super) ir: MaskIr,
    pub(super) shape: Shape,
    pub(super) listed: bool,
    /// In launch order, by what they belong to.
    pub(super) forward: Vec<Loaded>,
    pub(super) backward: Vec<Loaded>,
    pub(super) decode: Option<Loaded>,
}

/// One source's kernels on the device.
#[derive(Debug)]
pub(super) struct Loaded {
    pub pass: Pass,
    pub compiled: Arc<CompiledKernel>,
    pub functions: Vec<Function>,
    /// Its schedule was found by a tune.
    pub is_tuned: bool,
}

impl Loaded {
    fn new(
        device: &Device,
        (pass, is_tuned): (Pass, bool),
        compiled: Arc<CompiledKernel>,
    ) -> Result<Self, GpuAttentionError> {
        let module = Module::load(device, &compiled.image)?;
        let load = |entry: &KernelEntry| module.function(&entry.name, entry.dynamic_smem_bytes);
        let functions = compiled.manifest.kernels.iter().map(load).collect::<Result<_, _>>()?;
        Ok(Loaded { pass, compiled, functions, is_tuned })
    }

    pub fn tiles(&self) -> TileShape {
        TileShape { queries: self.compiled.manifest.tile_m, keys: self.compiled.manifest.tile_n }
    }

    /// Blocks of the first entry point that a multiprocessor holds at a time.
    pub fn blocks_per_multiprocessor(&self) -> Result<u32, GpuAttentionError> {
        let first = self.functions.iter().zip(&self.compiled.manifest.kernels).next();
        Ok(first.map_or(Ok(1), |(function, entry)| function.blocks_per_multiprocessor(entry.block))?)
    }

    /// The tiles that a listed pattern's list holds: the pieces, where a kernel gathers its key tiles.
    pub fn listed_tiles(&self) -> TileShape {
        TileShape { keys: self.compiled.manifest.list_n, ..self.tiles() }
    }
}

impl GpuAttention {
    /// Finds in `cache`, or compiles, and loads the kernels of `ir`, whose canonical text is `canonical`.
    ///
    /// A kernel of the device's own family that ptxas spills is replaced by the plainer family's: slower, never absent.
    ///
    /// # Errors
    /// [`GpuAttentionError`] when no kernel fits the device, or a kernel cannot be made or loaded.
    pub fn new(
        device: &Device,
        cache: &KernelCache,
        canonical: &str,
        ir: &MaskIr,
        shape: Shape,
        options: GpuOptions,
    ) -> Result<Self, GpuAttentionError> {
        let pattern = Arc::new(PatternCode::new(canonical, ir));
        let target = match (options.target, cache.bundle()) {
            (None, Some(bundle)) => bundled_target(device, bundle, &pattern, &shape)?,
            (wanted, _) => choose_target(device, wanted)?,
        };
        let listed = pattern.listed;
        let tuned =
            tune::tuned_plans((cache, device), ir, (shape, options.group, target), options.deterministic);
        let build = Build { device, cache, target, shape, pattern, planned: tuned };
        let forward = vec![build.load(Pass::Forward)?];
        let backward = if options.backward { build.backward(options.deterministic)? } else { Vec::new() };
        let decode = if options.decode { Some(build.load(Pass::Decode)?) } else { None };
        let stream = device.stream()?;
        let multiprocessors = device.multiprocessors();
        let ir = ir.clone();
        Ok(GpuAttention { stream, multiprocessors, ir, shape, listed, forward, backward, decode })
    }

    /// The kernels of one plan and no others, beside a forward for the statistics that a backward starts from; on a stream
    /// that is there. For measuring.
    ///
    /// # Errors
    /// As [`GpuAttention::new`]; a kernel of the plan that is refused.
    pub(crate) fn planned(
        (device, cache, stream): (&Device, &KernelCache, &Stream),
        (canonical, ir): (&str, &MaskIr),
        (shape, target): (Shape, Target),
        plan: &GpuPlan,
    ) -> Result<Self, GpuAttentionError> {
        let pattern = Arc::new(PatternCode::new(canonical, ir));
        let listed = pattern.listed;
        let build = Build { device, cache, target, shape, pattern, planned: Vec::new() };
        let (mut forward, mut backward, mut decode) = (Vec::new(), Vec::new(), None);
        for kernel in &plan.kernels {
            let loaded = Loaded::new(device, (kernel.pass, false), cache.get(&build.spec(kernel))?)?;
            match kernel.pass {
                Pass::Forward => forward.push(loaded),
                Pass::Decode => decode = Some(loaded),
                _ => backward.push(loaded),
            }
        }
        if forward.is_empty() {
            forward.push(build.load(Pass::Forward)?);
        }
        let (stream, multiprocessors, ir) = (stream.clone(), device.multiprocessors(), ir.clone());
        Ok(GpuAttention { stream, multiprocessors, ir, shape, listed, forward, backward, decode })
    }

    /// Whether the kernel of a pass is loaded and has the schedule that an earlier tune found.
    pub fn is_tuned(&self, pass: Pass) -> bool {
        self.loaded().any(|loaded| loaded.pass == pass && loaded.is_tuned)
    }

    /// The stream that all work goes to, and that buffers must be allocated on.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The same kernels on a stream of the caller's, so that their work is in order with other work on it. Nothing may have
    /// been prepared yet: what is on the old stream would be refused.
    pub fn on_stream(self, stream: &Stream) -> Self {
        GpuAttention { stream: stream.clone(), ..self }
    }

    /// Whether the tiles of this pattern come from lists, so that every query offset needs a preparation of its own.
    pub fn is_listed(&self) -> bool {
        self.listed
    }

    /// Head dimension, type and softmax features.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The kernels in use, with their manifests.
    pub fn kernels(&self) -> impl Iterator<Item = &CompiledKernel> {
        self.loaded().map(|loaded| loaded.compiled.as_ref())
    }

    fn loaded(&self) -> impl Iterator<Item = &Loaded> {
        self.forward.iter().chain(&self.backward).chain(&self.decode)
    }
}

struct Build<'a> {
    device: &'a Device,
    cache: &'a KernelCache,
    target: Target,
    shape: Shape,
    pattern: Arc<PatternCode>,
    /// What was tuned.
    planned: Vec<GpuPlan>,
}

impl Build<'_> {
    fn spec(&self, kernel: &PlannedKernel) -> KernelSpec {
        let PlannedKernel { pass, family, schedule } = *kernel;
        KernelSpec {
            pass,
            family,
            target: self.target,
            shape: self.shape,
            schedule,
            pattern: self.pattern.clone(),
        }
    }

    /// The kernel of a pass: the tuned one first, then those that leave more and more registers to the pattern.
    fn load(&self, pass: Pass) -> Result<Loaded, GpuAttentionError> {
        let tuned = self.planned.iter().flat_map(|plan| &plan.kernels).find(|kernel| kernel.pass == pass);
        let tuned = tuned.map(|kernel| self.spec(kernel));
        let candidates = KernelSpec::candidates(pass, self.target, self.shape, &self.pattern);
        let specs: Vec<KernelSpec> = tuned.iter().cloned().chain(candidates).collect();
        let compiled = self.cache.get_first(&specs)?;
        // The tuned one may have been refused, in favour of another.
        let is_tuned = tuned.is_some_and(|spec| spec.fingerprint() == compiled.manifest.spec_hash);
        Loaded::new(self.device, (pass, is_tuned), compiled)
    }

    /// The kernels of the first set that is whole. A set that some kernel is refused of, or that a bundle holds in part, is
    /// passed over.
    fn backward(&self, deterministic: bool) -> Result<Vec<Loaded>, GpuAttentionError> {
        let mut first_error = None;
        for passes in self.backward_sets(deterministic) {
            match passes.into_iter().map(|pass| self.load(pass)).collect() {
                Err(GpuAttentionError::Build(
                    error @ (BuildError::NoKernel
                    | BuildError::Refused { .. }
                    | BuildError::NotBundled { .. }),
                )) => first_error = first_error.or(Some(error)),
                other => return other,
            }
        }
        // Why there is not the one that was wanted most.
        Err(first_error.unwrap_or(BuildError::NoKernel).into())
    }

    /// The backwards that may serve, best first: the tuned one, that of the target, any other. Only the fused one gives other bits
    /// in every run.
    fn backward_sets(&self, deterministic: bool) -> Vec<[Pass; 3]> {
        let known = [Pass::BACKWARD_FUSED, Pass::BACKWARD_SPLIT, Pass::BACKWARD_ORDERED];
        let has = |pass| self.planned.iter().flat_map(|plan| &plan.kernels).any(|kernel| kernel.pass == pass);
        // What was tuned may be the split one where the fused one is slower.
        let tuned = known.into_iter().find(|passes| has(passes[1]));
        let usual = Pass::backward(self.target, &self.shape, deterministic, self.pattern.listed);
        let mut sets: Vec<[Pass; 3]> = tuned.into_iter().chain([usual]).chain(known).collect();
        sets.retain(|passes| !deterministic || *passes != Pass::BACKWARD_FUSED);
        let mut seen = HashSet::new();
        sets.retain(|passes| seen.insert(*passes));
        sets
    }
}

/// A bundle need not hold the device's own target: an older one serves.
fn bundled_target(
    device: &Device,
    bundle: &Bundle,
    pattern: &PatternCode,
    shape: &Shape,
) -> Result<Target, BuildError> {
    let capability = device.compute_capability();
    let found = bundle.target_for(&pattern.hash(), shape, capability);
    found.ok_or_else(|| {
        let target = format!("compute capability {}.{}", capability.0, capability.1);
        bundle.missing(Pass::Forward, shape, &target)
    })
}

fn choose_target(device: &Device, wanted: Option<Target>) -> Result<Target, GpuAttentionError> {
    let targets = device.targets();
    match wanted {
        Some(target) if targets.contains(&target) => Ok(target),
        Some(target) => Err(GpuAttentionError::Target { target, name: device.name().to_owned() }),
        None => targets.first().copied().ok_or_else(|| GpuAttentionError::Device {
            name: device.name().to_owned(),
            found: device.compute_capability(),
            known: Target::names().join(", "),
        }),
    }
}
