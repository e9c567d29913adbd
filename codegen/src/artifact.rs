//! A compiled kernel with everything a host needs to launch it, and its manifest: the same as JSON, for hosts in other
//! languages.

use serde::{Deserialize, Serialize};

use crate::cuda::NvrtcError;
use crate::cuda::abi::{Field, Params};
use crate::cuda::kernels::{Entry, Extra, GridAxis, MapRows, MapTensor, template, walk_keys};
use crate::cuda::log::{KernelResources, PtxasReport, Refusal};
use crate::cuda::nvrtc::{CompileOptions, Nvrtc};
use crate::cuda::source::{CudaSource, GENERATOR};
use crate::cuda::splice::SpliceError;
use crate::schedule::{IllegalSchedule, PIECE_KEYS, Schedule, smem_bytes};
use crate::spec::{KernelSpec, Pass, Shape};

/// One compiled source.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// What was compiled.
    pub source: CudaSource,
    /// PTX text.
    pub ptx: String,
    /// Device binary.
    pub cubin: Vec<u8>,
    /// What the compilers said.
    pub log: String,
    /// How to launch it.
    pub manifest: Manifest,
}

/// What is kept of an artifact: what the driver loads, and how to launch it.
#[derive(Clone, Debug, PartialEq)]
pub struct CompiledKernel {
    /// A cubin; or, from a bundle, PTX text with a final NUL byte.
    pub image: Vec<u8>,
    /// Entry points, grids, arguments, resources.
    pub manifest: Manifest,
}

/// Why a specification gave no artifact.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// No template computes the pass for this shape and target.
    #[error("there is no kernel for this pass, head dimension and target")]
    NoKernel,
    /// The schedule breaks a limit of the target.
    #[error(transparent)]
    Schedule(#[from] IllegalSchedule),
    /// The templates are incomplete.
    #[error(transparent)]
    Splice(#[from] SpliceError),
    /// NVRTC is missing or refuses the source.
    #[error(transparent)]
    Nvrtc(#[from] NvrtcError),
    /// A bundle lacks a kernel.
    #[error("the bundle holds no {pass} kernel of this pattern for {shape} on {target}; it is for {held}")]
    NotBundled {
        /// Which kernel.
        pass: Pass,
        /// Head dimension, type and softmax features.
        shape: String,
        /// The architecture.
        target: String,
        /// What it does hold.
        held: String,
    },
    /// The kernel compiled, but not into something to ship.
    #[error("`{name}` is refused: {refusal}")]
    Refused {
        /// The source's name.
        name: String,
        /// Why.
        refusal: Refusal,
    },
}

/// How to launch the kernels of one source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Name and version of the generator.
    pub generator: String,
    /// The pattern, in its canonical text.
    pub pattern: String,
    /// blake3 of the pattern's text and functions.
    pub pattern_hash: String,
    /// blake3 of the specification.
    pub spec_hash: String,
    /// blake3 of the source text.
    pub source_hash: String,
    /// What the kernels compute.
    pub pass: Pass,
    /// Architecture, as NVRTC names it.
    pub target: String,
    /// Head dimension, type, softmax features.
    pub shape: Shape,
    /// `tile_m=... tile_n=... stages=... threads=... consumers=...`
    pub schedule: String,
    /// Query rows of a tile.
    pub tile_m: u32,
    /// Keys of a tile.
    pub tile_n: u32,
    /// Tiles come from a list that the host makes.
    pub listed: bool,
    /// Keys of one entry of that list.
    pub list_n: u32,
    /// Version of NVRTC, `major.minor`.
    pub nvrtc_version: String,
    /// The options NVRTC got.
    pub options: Vec<String>,
    /// Layout of the struct that is the first argument of every kernel, by value.
    pub params: StructLayout,
    /// The entry points, in launch order.
    pub kernels: Vec<KernelEntry>,
}

/// A C struct.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StructLayout {
    /// Its size in bytes.
    pub size: usize,
    /// Its fields, in order.
    pub fields: Vec<Field>,
}

/// One entry point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelEntry {
    /// The `extern "C"` name in the cubin.
    pub name: String,
    /// To be launched only when there are sink logits.
    pub needs_sink_logit: bool,
    /// May be launched while the kernels before it in the stream still run (the launch attribute
    /// `PROGRAMMATIC_STREAM_SERIALIZATION`): it waits for them itself. For architectures from 9.0 on.
    pub starts_early: bool,
    /// Arguments in order.
    pub arguments: Vec<Argument>,
    /// What each grid axis counts.
    pub grid: [GridAxis; 3],
    /// The same as formulas.
    pub grid_rule: [String; 3],
    /// Threads of a block, along x.
    pub block: u32,
    /// Dynamic shared memory to pass at launch, in bytes; above 48 KiB the function attribute must be raised first.
    pub dynamic_smem_bytes: u32,
    /// What ptxas counted.
    pub resources: KernelResources,
}

/// An argument of a kernel, by value unless it says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Argument {
    /// The struct laid out in `params`.
    Params,
    /// A `CUtensorMap`: 16-bit elements, dimensions (D, head, token), 128-byte swizzle, no interleave, zeros out of
    /// bounds.
    TensorMap {
        /// Which tensor of the parameter struct.
        tensor: MapTensor,
        /// Extent of the box along (D, head, token), in elements.
        #[serde(rename = "box")]
        box_extent: [u32; 3],
    },
    /// A pointer to one int that is zero before the launch, or null.
    WorkCounter,
}

/// Elements of the innermost box: 128 bytes, the widest swizzle.
const MAP_COLUMNS: u32 = 64;

impl Artifact {
    /// Generates, compiles and checks a specification.
    ///
    /// # Errors
    /// [`BuildError`]; a kernel that spills or draws a warning from ptxas is refused.
    pub fn build(nvrtc: &Nvrtc, spec: &KernelSpec) -> Result<Self, BuildError> {
        Self::build_source(nvrtc, spec, CudaSource::generate(spec)?)
    }

    /// The first of these specifications that is not refused: see [`KernelSpec::candidates`].
    ///
    /// # Errors
    /// The refusal of the last one, or the first error of another kind; [`BuildError::NoKernel`] for none at all.
    pub fn build_first(nvrtc: &Nvrtc, specs: &[KernelSpec]) -> Result<Self, BuildError> {
        first(specs, |spec| Self::build(nvrtc, spec))
    }

    /// The same with a source of the caller's, such as a hand-edited one.
    ///
    /// # Errors
    /// As [`Artifact::build`].
    pub fn build_source(nvrtc: &Nvrtc, spec: &KernelSpec, source: CudaSource) -> Result<Self, BuildError> {
        spec.schedule.check(spec.pass, spec.family, &spec.shape, spec.target)?;
        let options = CompileOptions::new(spec.target);
        let compiled = nvrtc.compile(&source.text, &source.name, &options)?;
        let refused = |refusal| BuildError::Refused { name: source.name.clone(), refusal };
        compiled.report.check().map_err(refused)?;
        let manifest = Manifest::new(spec, &source, &options, &compiled.report, compiled.nvrtc_version);
        Ok(Artifact { source, ptx: compiled.ptx, cubin: compiled.cubin, log: compiled.log, manifest })
    }
}

/// Tries specifications in order until one is built or fails for another reason than a refusal.
///
/// # Errors
/// As [`Artifact::build_first`].
pub fn first<T>(
    specs: &[KernelSpec],
    mut build: impl FnMut(&KernelSpec) -> Result<T, BuildError>,
) -> Result<T, BuildError> {
    let mut refused = BuildError::NoKernel;
    for spec in specs {
        match build(spec) {
            Err(error @ BuildError::Refused { .. }) => refused = error,
            other => return other,
        }
    }
    Err(refused)
}

impl Manifest {
    fn new(
        spec: &KernelSpec,
        source: &CudaSource,
        options: &CompileOptions,
        report: &PtxasReport,
        nvrtc_version: String,
    ) -> Self {
        Manifest {
            generator: GENERATOR.to_owned(),
            pattern: spec.pattern.canonical.clone(),
            pattern_hash: spec.pattern.hash(),
            spec_hash: spec.fingerprint(),
            source_hash: source.hash(),
            pass: spec.pass,
            target: spec.target.to_string(),
            shape: spec.shape,
            schedule: spec.schedule.to_string(),
            tile_m: spec.schedule.tile_m,
            tile_n: spec.schedule.tile_n,
            listed: spec.pattern.listed,
            list_n: walk_keys(spec.pass, spec.family, &spec.schedule),
            nvrtc_version,
            options: options.arguments(),
            params: StructLayout { size: std::mem::size_of::<Params>(), fields: Params::fields() },
            kernels: kernel_entries(spec, report),
        }
    }

    /// The manifest as indented JSON with a final newline.
    pub fn to_json(&self) -> String {
        // Plain structs with string keys: nothing in them can fail to serialise.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Reads what [`Manifest::to_json`] wrote.
    ///
    /// # Errors
    /// When the text is no manifest of this version.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}

fn kernel_entries(spec: &KernelSpec, report: &PtxasReport) -> Vec<KernelEntry> {
    let schedule = &spec.schedule;
    let smem = smem_bytes(spec.pass, spec.family, &spec.shape, schedule);
    let describe = |entry: &Entry| KernelEntry {
        name: entry.name.to_owned(),
        needs_sink_logit: entry.needs_sink_logit,
        starts_early: entry.starts_early && spec.target.compute_capability() >= (9, 0),
        arguments: arguments(entry, schedule),
        grid: entry.grid,
        grid_rule: entry.grid.map(|axis| axis.rule(schedule)),
        block: schedule.threads,
        dynamic_smem_bytes: if entry.uses_smem { smem } else { 0 },
        resources: report.kernel(entry.name).cloned().unwrap_or_default(),
    };
    template(spec.pass, spec.family).entries.iter().map(describe).collect()
}

fn arguments(entry: &Entry, schedule: &Schedule) -> Vec<Argument> {
    let extra = entry.extra.iter().map(|extra| match *extra {
        Extra::WorkCounter => Argument::WorkCounter,
        Extra::Map { tensor, rows } => {
            let tokens = match rows {
                MapRows::TileM => schedule.tile_m,
                MapRows::Piece => PIECE_KEYS,
            };
            Argument::TensorMap { tensor, box_extent: [MAP_COLUMNS, 1, tokens] }
        }
    });
    std::iter::once(Argument::Params).chain(extra).collect()
}
