//! `lgc check`: kernels against the f64 oracle on random problems.

mod cpu;
mod cuda;
mod numbers;
pub mod problems;
mod table;

use std::io::Write;
use std::path::PathBuf;

use longgen_runtime::problem::DType;
use thiserror::Error;

use super::CliError;
use super::device::DeviceArg;
use super::kernel_args::{MaskArgs, NvrtcArgs, head_dim};

pub use cpu::CpuSubject;
/// The errors of all outputs of one problem.
pub use longgen_runtime::gpu::CheckReport as Outcome;

const NOTES: &str = "\
Each error is the norm of the difference from the f64 oracle over the norm of the oracle. The limit is a multiple of what
plain attention of the same precision errs by on the same numbers. Exit code 1 when a limit is broken.

Examples:
  lgc check longgen-sink
  lgc check 'sink=4, window=4096' --head-dim 64 --dtype bf16 --device cuda
  lgc check longgen-sink --device cuda --load-cuda edited_forward.cu";

/// Arguments of `lgc check`.
#[derive(Debug, clap::Args)]
#[command(after_help = NOTES)]
pub struct Args {
    #[command(flatten)]
    mask: MaskArgs,
    /// Where to compute
    #[arg(long, value_enum, default_value = "cpu")]
    device: DeviceArg,
    /// Elements of a head, D: a multiple of 32 from 32 to 256
    #[arg(long, value_name = "D", default_value = "64", value_parser = head_dim)]
    head_dim: u32,
    /// Types of Q, K, V, O, with commas: f32 (CPU only), bf16, fp16; by default all that the device takes
    #[arg(long, value_delimiter = ',', value_parser = dtype)]
    dtype: Vec<DType>,
    /// Seed of the random numbers
    #[arg(long, default_value = "1")]
    seed: u32,
    /// Put this edited CUDA source in place of the kernel whose header it bears (with --device cuda)
    #[arg(long, value_name = "FILE")]
    load_cuda: Option<PathBuf>,
    #[command(flatten)]
    nvrtc: NvrtcArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Error)]
enum CheckError {
    #[error("{wrong} of {all} outputs differ from the oracle by more than their limit")]
    OutOfBounds { wrong: usize, all: usize },
    #[error(
        "`{name}` is none of the kernels checked, by its header: give the pattern, --head-dim and --dtype that it was \
         emitted with, for an architecture that runs here"
    )]
    OtherKernel { name: String },
    #[error("GPU kernels take bf16 and fp16, not f32")]
    Single,
    #[error("--load-cuda goes with --device cuda: the CPU has no CUDA kernels")]
    LoadedOnCpu,
}

fn dtype(text: &str) -> Result<DType, String> {
    match text {
        "f32" => Ok(DType::F32),
        "bf16" => Ok(DType::Bf16),
        "fp16" => Ok(DType::F16),
        _ => Err("f32, bf16 or fp16".to_string()),
    }
}

/// Checks and prints the table.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), CliError> {
    if args.device == DeviceArg::Cuda && args.dtype.contains(&DType::F32) {
        return Err(CliError::usage(CheckError::Single));
    }
    if args.device == DeviceArg::Cpu && args.load_cuda.is_some() {
        return Err(CliError::usage(CheckError::LoadedOnCpu));
    }
    let subject = args.mask.subject()?;
    let table = match args.device {
        DeviceArg::Cpu => cpu::table(args, &subject)?,
        DeviceArg::Cuda => cuda::table(args, &subject)?,
    };
    if args.json {
        writeln!(out, "{}", table.to_json()?)?;
    } else {
        write!(out, "{}\n\n{table}", subject.pattern)?;
    }
    let (wrong, all) = table.count();
    if wrong == 0 { Ok(()) } else { Err(CliError::failure(CheckError::OutOfBounds { wrong, all })) }
}

impl Args {
    /// The types to check.
    fn dtypes(&self) -> Vec<DType> {
        match (self.dtype.is_empty(), self.device) {
            (false, _) => self.dtype.clone(),
            (true, DeviceArg::Cpu) => vec![DType::F32, DType::Bf16, DType::F16],
            (true, DeviceArg::Cuda) => vec![DType::Bf16, DType::F16],
        }
    }
}
