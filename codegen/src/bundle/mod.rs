//! Kernels in one file, compiled ahead of time, for hosts without NVRTC: the `.lgk` format of `docs/bundle.md`.
//!
//! A file is a header, an index of fixed records that C reads as structs, and the parts they point at: images (cubin or
//! PTX), manifests, what was tuned, and the C header itself. Header, index and each part carry a CRC-32, which is against
//! damage, not against malice: load a bundle only from where you would load a program.

mod build;
mod layout;
mod read;
mod write;

pub use build::CompileError;
use serde::{Deserialize, Serialize};

use crate::artifact::{BuildError, CompiledKernel, Manifest};
use crate::cuda::source::GENERATOR;
use crate::spec::{Pass, Shape};
use crate::target::Target;

/// The C header that reads and launches bundles. Every bundle carries the one it was written with.
pub const C_HEADER: &str = longgen_templates::C_HEADER;

/// Kernels of some patterns, for some architectures.
#[derive(Clone, Debug, PartialEq)]
pub struct Bundle {
    /// What is in it, in words.
    pub info: BundleInfo,
    /// The kernels, in the order of the file.
    pub kernels: Vec<BundledKernel>,
}

/// What a bundle holds apart from kernels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BundleInfo {
    /// Name and version of the generator.
    pub generator: String,
    /// The patterns.
    pub patterns: Vec<BundledPattern>,
    /// Schedules that were found by measuring; the others come from the model.
    pub tuned: Vec<BundledChoice>,
}

/// A pattern of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundledPattern {
    /// What C and Python call it: at most [`LABEL_BYTES`] - 1 bytes.
    pub label: String,
    /// Its canonical text, which parses back.
    pub text: String,
    /// [`PatternCode::hash`](crate::spec::PatternCode::hash).
    pub hash: String,
}

/// A measured choice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BundledChoice {
    /// Label of the pattern.
    pub pattern: String,
    /// What is computed.
    pub pass: String,
    /// Head dimension, type, softmax features.
    pub shape: Shape,
    /// Architecture.
    pub target: String,
    /// The schedule.
    pub schedule: String,
    /// Where it was measured.
    pub device: String,
    /// The longest length it stands for.
    pub tokens: u64,
    /// Time of the whole plan that it is part of, in seconds: a backward has three kernels.
    pub seconds: f64,
}

/// What an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ImageKind {
    /// Machine code for one architecture.
    Cubin,
    /// PTX text, ended by a NUL byte, which the driver compiles for any later architecture.
    Ptx,
}

/// One source's kernels.
#[derive(Clone, Debug, PartialEq)]
pub struct BundledKernel {
    /// Label of the pattern.
    pub pattern: String,
    /// What the image is.
    pub kind: ImageKind,
    /// Image and manifest.
    pub compiled: CompiledKernel,
}

/// Bytes of a label in the file, its final NUL included.
pub const LABEL_BYTES: usize = 64;

/// Why a file is no usable bundle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// The first bytes are not those of a bundle.
    #[error("this is no kernel bundle: it does not begin as one")]
    NotABundle,
    /// The file went through something that changes line ends.
    #[error("this kernel bundle was copied as text and is beyond repair: copy it again, as binary")]
    CopiedAsText,
    /// Another version's layout.
    #[error(
        "this kernel bundle has format {found}, this version reads {}: make it again with `lgc bundle`",
        layout::VERSION
    )]
    Version {
        /// The version in the file.
        found: u32,
    },
    /// Another version's kernels, which take other parameters.
    #[error(
        "this kernel bundle was made by {generator}, whose kernels take other parameters: make it again with `lgc bundle`"
    )]
    Parameters {
        /// Who made it.
        generator: String,
    },
    /// The file is shorter or longer than it says.
    #[error("this kernel bundle has {found} bytes and should have {expected}: it was cut short or added to")]
    Size {
        /// What the file says.
        expected: u64,
        /// What there is.
        found: u64,
    },
    /// A checksum differs.
    #[error("this kernel bundle is damaged: {part} does not match its checksum")]
    Damaged {
        /// Which part.
        part: String,
    },
    /// The checksums are right, and the content makes no sense.
    #[error("this kernel bundle is malformed: {reason}")]
    Malformed {
        /// What is wrong.
        reason: String,
    },
    /// A name that does not fit the file.
    #[error("the pattern name `{label}` must have 1 to {} bytes, none of them NUL, and be given once", LABEL_BYTES - 1)]
    Label {
        /// The name.
        label: String,
    },
}

/// CRC-32 of the parameter struct's declaration in [`C_HEADER`], which names, types and describes each field: `LGK_PARAMS_CRC`.
fn params_sum() -> u32 {
    let end = |text: &str| text.find("\n} lgk_params;").map_or(0, |end| end + "\n}".len());
    let declaration =
        C_HEADER.find("lgk_params {").map_or("", |start| &C_HEADER[start + "lgk_params ".len()..]);
    crc32fast::hash(&declaration.as_bytes()[..end(declaration)])
}

impl Bundle {
    /// A bundle without kernels.
    pub fn new() -> Bundle {
        let info = BundleInfo { generator: GENERATOR.to_owned(), patterns: Vec::new(), tuned: Vec::new() };
        Bundle { info, kernels: Vec::new() }
    }

    /// The image of a pass for a target that runs on a device of this compute capability: machine code where that does,
    /// else PTX.
    pub fn find(
        &self,
        pattern_hash: &str,
        pass: Pass,
        shape: &Shape,
        target: Target,
        capability: (u32, u32),
    ) -> Option<&BundledKernel> {
        let is_native = Target::for_device(capability.0, capability.1).contains(&target);
        let is_compiled = target.compute_capability() <= capability && !target.is_exact();
        let fits = |kernel: &&BundledKernel| {
            let manifest = &kernel.compiled.manifest;
            let runs = match kernel.kind {
                ImageKind::Cubin => is_native,
                ImageKind::Ptx => is_compiled,
            };
            runs && manifest.pattern_hash == pattern_hash
                && manifest.pass == pass
                && manifest.shape == *shape
                && manifest.target == target.name()
        };
        let found = self.kernels.iter().filter(fits);
        found.min_by_key(|kernel| kernel.kind == ImageKind::Ptx)
    }

    /// Whose kernels to take on a device of this compute capability: machine code that runs there, best first, else the
    /// latest PTX that the driver can compile for it. `None` when there is nothing for the pattern and shape.
    pub fn target_for(&self, pattern_hash: &str, shape: &Shape, capability: (u32, u32)) -> Option<Target> {
        let find = |target: &Target| self.find(pattern_hash, Pass::Forward, shape, *target, capability);
        let is_native = |target: &Target| find(target).is_some_and(|found| found.kind == ImageKind::Cubin);
        let native = Target::for_device(capability.0, capability.1).into_iter().find(is_native);
        native.or_else(|| {
            let compiled = Target::all().iter().filter(|target| find(target).is_some());
            compiled.max_by_key(|target| target.compute_capability()).copied()
        })
    }
}

impl Bundle {
    /// The error for a kernel that is not here.
    pub fn missing(&self, pass: Pass, shape: &Shape, target: &str) -> BuildError {
        let mut held: Vec<String> = self
            .kernels
            .iter()
            .map(|kernel| {
                let Manifest { shape, target, .. } = &kernel.compiled.manifest;
                format!("`{}` with {shape} on {target}", kernel.pattern)
            })
            .collect();
        held.sort();
        held.dedup();
        let held = if held.is_empty() { "nothing".to_owned() } else { held.join(", ") };
        BuildError::NotBundled { pass, shape: shape.to_string(), target: target.to_owned(), held }
    }
}

impl Default for Bundle {
    fn default() -> Self {
        Bundle::new()
    }
}
