//! `lgc explain`: what a kernel of a pattern does and takes, in words, with its source.

mod cpu;
mod cuda;
mod words;

use std::io::Write;

use longgen_codegen::model::PassGroup;
use longgen_codegen::target::Target;
use longgen_runtime::problem::HeadShape;

use super::device::DeviceArg;
use super::kernel_args::{MaskArgs, NvrtcArgs, Subject};
use super::tune::request::pass;
use super::{CliError, model_arg, number};

const NOTES: &str = "\
The schedule is the tuned one where there is one (for the CPU, or with a GPU in this machine), else the model's first choice.
In the source, lines that come from the pattern are marked with |, those that come from the schedule and the shape with :.

Examples:
  lgc explain 'sink=4, window=4096' --pass forward
  lgc explain longgen-stride --pass backward --device cuda --arch sm_90a --length 128k --no-source";

/// Arguments of `lgc explain`.
#[derive(Debug, clap::Args)]
#[command(after_help = NOTES)]
pub struct Args {
    #[command(flatten)]
    mask: MaskArgs,
    /// forward, backward or decode
    #[arg(long, default_value = "forward", value_parser = pass)]
    pass: PassGroup,
    /// Whose kernels
    #[arg(long, value_enum, default_value = "cuda")]
    device: DeviceArg,
    /// Architecture of the GPU; that of the GPU here, else sm_90a
    #[arg(long)]
    arch: Option<Target>,
    /// Heads and head dimension: llama-2-7b, llama-3-8b, a model directory or a config.json
    #[arg(long, value_name = "MODEL", default_value = "llama-2-7b")]
    model: String,
    /// Tokens
    #[arg(long, value_name = "N", default_value = "32k", value_parser = number::tokens)]
    length: u32,
    /// Leave the source out
    #[arg(long)]
    no_source: bool,
    #[command(flatten)]
    nvrtc: NvrtcArgs,
}

/// What is explained.
struct Explained<'a> {
    args: &'a Args,
    subject: Subject,
    shape: HeadShape,
}

/// Prints the explanation.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), CliError> {
    if args.device == DeviceArg::Cpu && args.arch.is_some() {
        return Err(CliError::usage(
            "--arch goes with --device cuda: CPU kernels are for the processor here",
        ));
    }
    let subject = args.mask.subject()?;
    let model = model_arg::resolve(&args.model)?;
    let shape = HeadShape::new(model.heads as usize, model.kv_heads as usize, model.head_dim as usize);
    let explained = Explained { args, subject, shape: shape.map_err(CliError::usage)? };
    writeln!(out, "{}", explained.subject.pattern)?;
    match args.device {
        DeviceArg::Cpu => cpu::explain(&explained, out),
        DeviceArg::Cuda => cuda::explain(&explained, out),
    }
}
