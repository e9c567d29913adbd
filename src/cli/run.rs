//! `lgc run`: attention on the user's own tensors.

mod cpu;
mod cuda;
mod input;
mod output;

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use longgen_runtime::read::read_limited;

use super::device::DeviceArg;
use super::kernel_args::{MaskArgs, NvrtcArgs};
use super::{CliError, files, number};
use input::Input;

const NOTES: &str = "\
Tensors of the input (safetensors): q [tokens, heads, D], k and v [key tokens, KV heads, D] of f32, bf16 or fp16;
optional: do [as q], dlse [heads, tokens] f32, cu_seqlens [sequences + 1] (cu_seqlens_k where keys differ),
q_offset [sequences], sink_logit [heads]. Written: o [as q], lse [heads, tokens] f32, and with --backward dq, dk, dv
(dsink_logit where the pattern has sink logits).

Examples:
  lgc run 'sink=4, window=4096' --input qkv.safetensors --output o.safetensors
  lgc run longgen-sink --input qkv.safetensors --output grads.safetensors --backward --device cuda";

/// Arguments of `lgc run`.
#[derive(Debug, clap::Args)]
#[command(after_help = NOTES)]
pub struct Args {
    #[command(flatten)]
    mask: MaskArgs,
    /// The tensors
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Where results go
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Where to compute
    #[arg(long, value_enum, default_value = "cpu")]
    device: DeviceArg,
    /// Also the gradients of q, k and v for the gradient `do`
    #[arg(long)]
    backward: bool,
    /// Factor on the scores; 1 / sqrt(D) by default
    #[arg(long, value_name = "S")]
    scale: Option<f32>,
    #[command(flatten)]
    nvrtc: NvrtcArgs,
}

/// Reads, computes, writes.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), CliError> {
    let subject = args.mask.subject()?;
    let bytes = read_limited(&args.input, "tensor file", u64::MAX - 1).map_err(CliError::failure)?;
    let softmax = subject.pattern.softmax();
    let input = Input::read(&args.input, &bytes, softmax, args.scale, args.backward)?;
    drop(bytes);
    let start = Instant::now();
    let results = match args.device {
        DeviceArg::Cpu => cpu::run(&subject, &input, args.backward)?,
        DeviceArg::Cuda => cuda::run(&subject, &input, args.backward, &args.nvrtc)?,
    };
    let seconds = start.elapsed().as_secs_f64();
    let names = results.names().join(", ");
    let schedules = results.schedules.clone();
    let bytes = results.serialize(&subject, &input).map_err(CliError::failure)?;
    files::write(&args.output, bytes).map_err(CliError::failure)?;
    if input.unused_sink_logit {
        writeln!(out, "note: the pattern has no sink logits, so the tensor `sink_logit` is not used")?;
    }
    let shape = input.problem.shape;
    writeln!(
        out,
        "{}: {names}; {} tokens in {} sequences, {} heads, {} KV heads, D {}, {}; {seconds:.3} s",
        args.output.display(),
        number::grouped(input.problem.sequences.total_q() as u128),
        input.problem.sequences.len(),
        shape.heads(),
        shape.kv_heads(),
        shape.head_dim(),
        input.q.dtype(),
    )?;
    for schedule in schedules {
        writeln!(out, "  {schedule}")?;
    }
    Ok(())
}
