//! `lgc bundle`: kernels of some patterns in one file, for machines without NVRTC.

mod build;

use std::io::Write;
use std::path::PathBuf;

use longgen_codegen::bundle::{Bundle, BundleInfo, C_HEADER, ImageKind, LABEL_BYTES};
use longgen_codegen::model::PassGroup;
use longgen_codegen::spec::{Dtype, Pass, Shape};
use longgen_codegen::target::Target;
use serde::Serialize;

use super::files::FileSet;
use super::kernel_args::{MaskArgs, NvrtcArgs, Subject, head_dim, unique};
use super::tune::request;
use super::{CliError, number};

const EXAMPLES: &str = "\
Examples:
  lgc bundle mistral longgen-sink -o kernels.lgk
  lgc bundle pattern.toml --arch sm_90a,sm_80,sm_89 --head-dim 64,128 --dtype bf16,fp16
  lgc bundle mistral --pass forward,decode --header longgen.h      then: examples/bundle_c, examples/bundle_python

The file also holds PTX of the oldest architecture that has any, which the driver compiles for devices of other ones.
Schedules that `lgc tune` found for an architecture go in; the others come from the model.";

/// Arguments of `lgc bundle`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Presets, TOML files or pattern texts
    #[arg(value_name = "PATTERN", required = true)]
    patterns: Vec<String>,
    /// File to write
    #[arg(short, long, value_name = "FILE", default_value = "kernels.lgk")]
    output: PathBuf,
    /// Architectures, with commas
    #[arg(long, value_delimiter = ',', default_value = "sm_90a,sm_80")]
    arch: Vec<Target>,
    /// Elements of a head, D, with commas: multiples of 32 from 32 to 256
    #[arg(long, value_name = "D", value_delimiter = ',', default_value = "128", value_parser = head_dim)]
    head_dim: Vec<u32>,
    /// Types of Q, K, V and O, with commas: bf16, fp16
    #[arg(long, value_delimiter = ',', default_value = "bf16")]
    dtype: Vec<Dtype>,
    /// Passes, with commas; backward is both the fused and the deterministic one
    #[arg(long, value_name = "PASSES", value_delimiter = ',', default_value = "forward,backward,decode", value_parser = request::pass)]
    pass: Vec<PassGroup>,
    /// Write the C header here too
    #[arg(long, value_name = "FILE")]
    header: Option<PathBuf>,
    #[command(flatten)]
    nvrtc: NvrtcArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A pattern whose kernels C and Python could not launch.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{label}` has no closed form: its tiles come from lists that depend on the lengths and that only the Rust runtime makes, so
C and Python could not launch its kernels. Write it with clauses that have one (`lgc report` then says `closed form`); or
take it into a Rust program, with `Bundle::compile` in its build script (examples/build_time) or NVRTC beside it"
)]
struct Listed {
    label: String,
}

/// A pattern and what C and Python call it.
struct Named {
    label: String,
    subject: Subject,
}

impl Args {
    fn subjects(&self) -> Result<Vec<Named>, CliError> {
        let mut named: Vec<Named> = Vec::new();
        for argument in &self.patterns {
            let mask = MaskArgs { pattern: argument.clone(), layer: None };
            let subject = mask.subject()?;
            let label = label(&subject);
            if subject.code().listed {
                return Err(CliError::usage(Listed { label }));
            }
            if named.iter().any(|other| other.label == label) {
                return Err(CliError::usage(format!(
                    "two of the patterns are called `{label}`: name them apart"
                )));
            }
            named.push(Named { label, subject });
        }
        Ok(named)
    }

    fn shapes(&self, subject: &Subject) -> Vec<Shape> {
        let softmax = subject.pattern.softmax();
        let (softcap, sink_logit) = (softmax.softcap.is_some(), softmax.sink_logit);
        let shape = |head_dim, dtype| Shape { head_dim, dtype, softcap, sink_logit };
        let dtypes = unique(&self.dtype);
        let of_dim = |d| dtypes.iter().map(move |&dtype| shape(d, dtype)).collect::<Vec<_>>();
        unique(&self.head_dim).into_iter().flat_map(of_dim).collect()
    }
}

/// The pattern's own name, else its text, else what the text hashes to.
fn label(subject: &Subject) -> String {
    let text = subject.pattern.to_string();
    let fits = |name: &str| (1..LABEL_BYTES).contains(&name.len()) && !name.contains(['\n', '\0']);
    match subject.pattern.name() {
        Some(name) if fits(name) => name.to_owned(),
        _ if fits(&text) => text,
        _ => format!("pattern-{}", &subject.code().hash()[..8]),
    }
}

/// Compiles everything, writes the file and tells what is in it.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), CliError> {
    let subjects = args.subjects()?;
    let bundle = build::bundle(args, &subjects)?;
    let bytes = bundle.to_bytes().map_err(CliError::failure)?;
    let size = bytes.len();
    let mut files = FileSet::default();
    files.add(&args.output, bytes);
    if let Some(header) = &args.header {
        files.add(header, C_HEADER);
    }
    files.commit().map_err(CliError::failure)?;
    if args.json {
        let text = serde_json::to_string_pretty(&summary(args, &bundle, size)).map_err(CliError::failure)?;
        return Ok(writeln!(out, "{text}")?);
    }
    for pattern in &bundle.info.patterns {
        writeln!(out, "{}", pattern.label)?;
        let kernels = bundle.kernels.iter().filter(|kernel| kernel.pattern == pattern.label);
        for kernel in kernels {
            let (manifest, bytes) = (&kernel.compiled.manifest, kernel.compiled.image.len());
            let kind = if kernel.kind == ImageKind::Ptx { "PTX" } else { "" };
            let (pass, shape, target) = (manifest.pass, manifest.shape, &manifest.target);
            let bytes = number::grouped(bytes as u128);
            writeln!(
                out,
                "  {:20} {target:7} {kind:3} {bytes:>9}  {shape}  {}",
                pass.name(),
                manifest.schedule
            )?;
        }
    }
    let (count, tuned) = (bundle.kernels.len(), bundle.info.tuned.len());
    let (size, file) = (number::grouped(size as u128), args.output.display());
    writeln!(out, "{count} images, {tuned} of tuned schedules, {size} bytes in {file}")?;
    Ok(())
}

#[derive(Serialize)]
struct Summary<'a> {
    file: String,
    bytes: usize,
    #[serde(flatten)]
    info: &'a BundleInfo,
    kernels: Vec<SummaryKernel<'a>>,
}

#[derive(Serialize)]
struct SummaryKernel<'a> {
    pattern: &'a str,
    pass: Pass,
    shape: Shape,
    target: &'a str,
    ptx: bool,
    bytes: usize,
    schedule: &'a str,
}

fn summary<'a>(args: &Args, bundle: &'a Bundle, bytes: usize) -> Summary<'a> {
    let kernels = bundle.kernels.iter().map(|kernel| {
        let manifest = &kernel.compiled.manifest;
        SummaryKernel {
            pattern: &kernel.pattern,
            pass: manifest.pass,
            shape: manifest.shape,
            target: &manifest.target,
            ptx: kernel.kind == ImageKind::Ptx,
            bytes: kernel.compiled.image.len(),
            schedule: &manifest.schedule,
        }
    });
    let kernels = kernels.collect();
    Summary { file: args.output.display().to_string(), bytes, info: &bundle.info, kernels }
}
