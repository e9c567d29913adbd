//! `lgc emit`: any stage of the compiler as text.

use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;

use longgen_codegen::artifact::{Artifact, BuildError, first};
use longgen_codegen::cpu::ClifSource;
use longgen_codegen::cuda::sass;
use longgen_codegen::cuda::source::CudaSource;
use longgen_codegen::plan::{Extent, PlanText, TilePlan, TileShape};
use longgen_codegen::spec::{KernelSpec, Pass};
use longgen_codegen::target::Target;
use thiserror::Error;

use super::kernel_args::{MaskArgs, NvrtcArgs, ShapeArgs, Subject};
use super::loaded::{self, LoadedCuda};
use super::{CliError, files, number};

const EXAMPLES: &str = "\
Examples:
  lgc emit longgen-sink --stage ir
  lgc emit longgen-sink --stage plan --length 16k --tile 128x64
  lgc emit 'sink=4, window=4096' --stage cuda --pass forward --arch sm_90a -o forward.cu
  lgc emit 'sink=4, window=4096' --stage ptx --load-cuda forward.cu";

/// Rows of a printed plan.
const PLAN_ROWS: u32 = 64;
/// Tiles on a side of a printed plan.
const PLANNED_TILES: u32 = 1 << 14;
/// The same for a listed mask, whose tiles are looked at one by one.
const LISTED_TILES: u32 = 1 << 8;

/// A stage of the compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Stage {
    /// The pattern's canonical text
    Pattern,
    /// The pattern as TOML
    Toml,
    /// The mask as a union of conjunctions
    Ir,
    /// Tiles and threads of each kernel
    Schedule,
    /// Tiles of keys for each tile of queries, and the transpose
    Plan,
    /// CUDA C++
    Cuda,
    /// Cranelift IR of the CPU kernels
    Clif,
    /// PTX, by NVRTC
    Ptx,
    /// Machine code, by NVRTC and nvdisasm
    Sass,
}

/// Arguments of `lgc emit`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    mask: MaskArgs,
    /// What to print
    #[arg(long, value_enum)]
    stage: Stage,
    /// Tokens of the sequence, for the plan
    #[arg(long, value_name = "N", default_value = "4096", value_parser = number::tokens)]
    length: u32,
    /// KV head, for the plan
    #[arg(long, value_name = "H", default_value = "0", value_parser = clap::value_parser!(u32).range(..1024))]
    head: u32,
    /// Tile, for the plan
    #[arg(long, default_value = "128x128", value_parser = number::tile)]
    tile: (u32, u32),
    #[command(flatten)]
    shape: ShapeArgs,
    /// Architecture, for schedule, cuda, ptx and sass
    #[arg(long, default_value = "sm_90a")]
    arch: Target,
    /// Kernel, for schedule (by default all), cuda, ptx and sass (by default forward)
    #[arg(long, value_parser = pass)]
    pass: Option<Pass>,
    /// Take this CUDA source in place of the generated one; it is compiled and checked like it
    #[arg(long, value_name = "FILE")]
    load_cuda: Option<PathBuf>,
    #[command(flatten)]
    nvrtc: NvrtcArgs,
    /// Write into a file instead
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Error)]
enum EmitError {
    #[error("there is no {pass} kernel for {target} with D = {head_dim}")]
    NoKernel { pass: Pass, target: Target, head_dim: u32 },
    #[error(
        "`{name}` is another kernel by its header: give the pattern, --pass, --arch, --head-dim and --dtype that it was \
         emitted with"
    )]
    OtherKernel { name: String },
    #[error(
        "{tiles} tiles a side are too many to print; {most} are the most: give a shorter --length or a larger --tile"
    )]
    LongPlan { tiles: u32, most: u32 },
    #[error("--load-cuda goes with the stages cuda, ptx and sass")]
    LoadedStage,
    #[error("nvdisasm, which prints machine code, was not found; `lgc fetch-nvrtc` installs it beside NVRTC")]
    NoDisassembler,
}

fn pass(text: &str) -> Result<Pass, String> {
    let found = Pass::ALL.into_iter().find(|pass| pass.name() == text);
    found.ok_or_else(|| format!("one of {}", Pass::ALL.map(Pass::name).join(", ")))
}

/// Prints the stage.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), CliError> {
    if args.load_cuda.is_some() && !matches!(args.stage, Stage::Cuda | Stage::Ptx | Stage::Sass) {
        return Err(CliError::usage(EmitError::LoadedStage));
    }
    let subject = args.mask.subject()?;
    let text = text(args, &subject)?;
    match &args.output {
        Some(path) => files::write(path, text).map_err(CliError::failure),
        None => Ok(out.write_all(text.as_bytes())?),
    }
}

fn text(args: &Args, subject: &Subject) -> Result<String, CliError> {
    match args.stage {
        Stage::Pattern => Ok(format!("{}\n", subject.pattern)),
        Stage::Toml => Ok(subject.pattern.to_toml()),
        Stage::Ir => Ok(subject.ir.to_string()),
        Stage::Schedule => schedules(args, subject),
        Stage::Plan => plan(args, subject),
        Stage::Clif => {
            let source = ClifSource::new(&subject.ir, args.shape.head_dim as usize);
            Ok(source.map_err(CliError::failure)?.to_string())
        }
        Stage::Cuda => Ok(cuda(args, subject)?.text),
        Stage::Ptx => Ok(artifact(args, subject)?.ptx),
        Stage::Sass => {
            let artifact = artifact(args, subject)?;
            let program = args.nvrtc.search().nvdisasm();
            let program = program.ok_or_else(|| CliError::failure(EmitError::NoDisassembler))?;
            sass::disassemble(&program, &artifact.cubin, &std::env::temp_dir()).map_err(CliError::failure)
        }
    }
}

fn plan(args: &Args, subject: &Subject) -> Result<String, CliError> {
    let shape = TileShape { queries: args.tile.0, keys: args.tile.1 };
    let most = if subject.ir.is_closed_form() { PLANNED_TILES } else { LISTED_TILES };
    let extent = Extent::square(args.length);
    let tiles = extent.query_tiles(shape).max(extent.key_tiles(shape));
    if tiles > most {
        return Err(CliError::usage(EmitError::LongPlan { tiles, most }));
    }
    let plan = TilePlan::new(&subject.ir, shape);
    Ok(PlanText { plan: &plan, extent, g: args.head, rows: PLAN_ROWS }.to_string())
}

/// The schedule of one pass as a line that parses back, or of all passes with their names.
fn schedules(args: &Args, subject: &Subject) -> Result<String, CliError> {
    if args.pass.is_some() {
        return Ok(format!("{}\n", specs(args, subject)?[0].schedule));
    }
    let (shape, code) = (subject.shape(&args.shape), subject.code());
    let mut text = String::new();
    for pass in Pass::ALL {
        if let Some(spec) = KernelSpec::candidates(pass, args.arch, shape, &code).first() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{:21}{}", format!("{pass}:"), spec.schedule);
        }
    }
    Ok(text)
}

/// The specifications to try, at least one.
fn specs(args: &Args, subject: &Subject) -> Result<Vec<KernelSpec>, CliError> {
    let pass = args.pass.unwrap_or(Pass::Forward);
    let shape = subject.shape(&args.shape);
    let specs = KernelSpec::candidates(pass, args.arch, shape, &subject.code());
    if specs.is_empty() {
        let head_dim = args.shape.head_dim;
        return Err(CliError::usage(EmitError::NoKernel { pass, target: args.arch, head_dim }));
    }
    Ok(specs)
}

/// The loaded or the generated source, and what it is.
fn source(args: &Args, subject: &Subject) -> Result<(KernelSpec, CudaSource), CliError> {
    let mut specs = specs(args, subject)?;
    let Some(path) = &args.load_cuda else {
        let spec = specs.swap_remove(0);
        let source = CudaSource::generate(&spec).map_err(CliError::failure)?;
        return Ok((spec, source));
    };
    let LoadedCuda { source, fingerprint } = loaded::load(path)?;
    let spec = specs.into_iter().find(|spec| spec.fingerprint() == fingerprint);
    match spec {
        Some(spec) => Ok((spec, source)),
        None => Err(CliError::usage(EmitError::OtherKernel { name: source.name })),
    }
}

/// The source that `lgc compile` would take: where NVRTC is at hand, of the first schedule that ptxas does not refuse.
fn cuda(args: &Args, subject: &Subject) -> Result<CudaSource, CliError> {
    let wanted = args.nvrtc.nvrtc.is_some() || args.nvrtc.fetch_nvrtc;
    if args.load_cuda.is_none() && (wanted || args.nvrtc.load_quietly().is_ok()) {
        return Ok(artifact(args, subject)?.source);
    }
    Ok(source(args, subject)?.1)
}

fn artifact(args: &Args, subject: &Subject) -> Result<Artifact, CliError> {
    let nvrtc = args.nvrtc.load()?;
    let built: Result<Artifact, BuildError> = if args.load_cuda.is_some() {
        let (spec, source) = source(args, subject)?;
        Artifact::build_source(&nvrtc, &spec, source)
    } else {
        first(&specs(args, subject)?, |spec| Artifact::build(&nvrtc, spec))
    };
    built.map_err(CliError::failure)
}
