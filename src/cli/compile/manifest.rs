//! `manifest.json`: all that a host in another language needs to launch the kernels.

use longgen_codegen::artifact::Manifest;
use longgen_codegen::build::Missing;
use longgen_codegen::cuda::source::GENERATOR;
use serde::Serialize;

use super::build::Built;
use super::cpu::{self, CpuKernels};
use super::{Args, Emit};
use crate::cli::CliError;
use crate::cli::kernel_args::Subject;

/// The manifest of one `lgc compile`.
#[derive(Serialize)]
pub struct Bundle<'a> {
    generator: &'static str,
    pattern: String,
    pattern_toml: String,
    pattern_hash: String,
    layer: Option<u32>,
    head_dim: u32,
    dtype: &'static str,
    cpu: Cpu<'a>,
    cuda: Vec<Cuda<'a>>,
    missing: Vec<Gap>,
}

#[derive(Serialize)]
struct Cpu<'a> {
    file: Option<String>,
    instruction_set: &'a str,
    checked_problems: usize,
    worst_error: f64,
}

/// One source and its files; without NVRTC there is no more to tell.
#[derive(Serialize)]
struct Cuda<'a> {
    files: Files,
    target: &'a str,
    pass: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    manifest: Option<&'a Manifest>,
}

/// A pass that there are no kernels of.
#[derive(Serialize)]
struct Gap {
    target: &'static str,
    pass: &'static str,
    reason: String,
}

#[derive(Serialize)]
struct Files {
    cu: Option<String>,
    ptx: Option<String>,
    cubin: Option<String>,
}

impl Gap {
    fn new(Missing { target, pass, reason, .. }: &Missing) -> Gap {
        Gap { target: target.name(), pass: pass.name(), reason: reason.to_string() }
    }
}

impl<'a> Bundle<'a> {
    /// Collects what was built.
    pub fn new(
        subject: &Subject,
        args: &Args,
        cpu: &'a CpuKernels,
        (built, missing): (&'a [Built], &[Missing]),
    ) -> Bundle<'a> {
        let file =
            |emit: Emit, name: &str, extension: &str| args.wants(emit).then(|| format!("{name}.{extension}"));
        let cuda = built.iter().map(|kernel| {
            let binary =
                |emit, extension| kernel.artifact.as_ref().and_then(|_| file(emit, kernel.stem(), extension));
            Cuda {
                files: Files {
                    cu: file(Emit::Cu, kernel.stem(), "cu"),
                    ptx: binary(Emit::Ptx, "ptx"),
                    cubin: binary(Emit::Cubin, "cubin"),
                },
                target: kernel.target.name(),
                pass: kernel.pass.name(),
                manifest: kernel.artifact.as_ref().map(|artifact| &artifact.manifest),
            }
        });
        Bundle {
            generator: GENERATOR,
            pattern: subject.pattern.to_string(),
            pattern_toml: subject.pattern.to_toml(),
            pattern_hash: subject.code().hash(),
            layer: args.mask.layer,
            head_dim: args.shape.head_dim,
            dtype: args.shape.dtype.name(),
            cpu: Cpu {
                file: file(Emit::Clif, cpu::STEM, "clif"),
                instruction_set: cpu.isa.name(),
                checked_problems: cpu.problems,
                worst_error: cpu.worst,
            },
            cuda: cuda.collect(),
            missing: missing.iter().map(Gap::new).collect(),
        }
    }

    /// Indented JSON.
    ///
    /// # Errors
    /// None in practice: everything in it serialises.
    pub fn to_json(&self) -> Result<String, CliError> {
        serde_json::to_string_pretty(self).map_err(CliError::failure)
    }
}
