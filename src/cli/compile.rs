//! `lgc compile`: every kernel of a pattern, with a manifest for hosts in any language.

mod build;
mod cpu;
mod manifest;
mod text;

use std::io::Write;
use std::path::PathBuf;

use longgen::picture::{MaskGrid, TextPicture};
use longgen_codegen::build::Outcome;
use longgen_codegen::cuda::nvrtc::Nvrtc;
use longgen_codegen::plan::TileShape;
use longgen_codegen::target::Target;

use super::files::FileSet;
use super::kernel_args::{MaskArgs, NvrtcArgs, ShapeArgs, Subject, unique};
use super::terminal::{self, Colour};
use super::{CliError, number};
use build::Built;
use manifest::Bundle;

const EXAMPLES: &str = "\
Examples:
  lgc compile longgen-sink -o out --fetch-nvrtc
  lgc compile 'sink=4, window=4096' --head-dim 64 --dtype fp16 --arch sm_80 --emit cubin,json
  lgc compile pattern.toml --emit cu,clif          (needs no NVRTC)";

/// Tokens of the mask that is shown at the end.
const SHOWN_TOKENS: u32 = 8192;

/// Something to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Emit {
    /// CUDA C++
    Cu,
    /// PTX
    Ptx,
    /// Device binaries
    Cubin,
    /// Cranelift IR of the CPU kernels
    Clif,
    /// The manifest
    Json,
}

/// Arguments of `lgc compile`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    mask: MaskArgs,
    #[command(flatten)]
    shape: ShapeArgs,
    /// Architectures, with commas
    #[arg(long, value_delimiter = ',', default_value = "sm_90a,sm_80")]
    arch: Vec<Target>,
    /// What to write, with commas; by default everything, without PTX and cubin where there is no NVRTC
    #[arg(long, value_enum, value_delimiter = ',')]
    emit: Vec<Emit>,
    /// Folder to write into
    #[arg(short, long, value_name = "DIR", default_value = "lgc-out")]
    output: PathBuf,
    #[command(flatten)]
    nvrtc: NvrtcArgs,
    /// Print the manifest in place of the table
    #[arg(long)]
    json: bool,
    /// Colours in the terminal
    #[arg(long, value_enum, default_value = "auto", value_name = "WHEN")]
    color: Colour,
}

impl Args {
    fn wants(&self, emit: Emit) -> bool {
        self.emit.is_empty() || self.emit.contains(&emit)
    }

    /// NVRTC, or the reason to go on without it. Asked for by name, PTX and cubin must come.
    fn load_nvrtc(&self) -> Result<Result<Nvrtc, CliError>, CliError> {
        let loaded = self.nvrtc.load();
        let needed =
            self.emit.contains(&Emit::Ptx) || self.emit.contains(&Emit::Cubin) || self.nvrtc.fetch_nvrtc;
        if needed { loaded.map(Ok) } else { Ok(loaded) }
    }
}

/// Compiles, checks the CPU kernels, writes all files together, prints the table.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), CliError> {
    let subject = args.mask.subject()?;
    let nvrtc = args.load_nvrtc()?;
    let folder = super::files::Folder::create(&args.output).map_err(CliError::failure)?;
    let cpu = cpu::compile(&subject, args.shape.head_dim)?;
    let shape = subject.shape(&args.shape);
    let Outcome { kernels: built, missing } =
        build::all(&subject, shape, &unique(&args.arch), nvrtc.as_ref().ok())?;
    let bundle = Bundle::new(&subject, args, &cpu, (&built, &missing));
    let mut files = FileSet::default();
    add_files(args, &mut files, &built, &cpu, &bundle)?;
    let count = files.len();
    files.commit().map_err(CliError::failure)?;
    folder.keep();
    if args.json {
        writeln!(out, "{}", bundle.to_json()?)?;
        return Ok(());
    }
    writeln!(out, "{}\n", subject.pattern)?;
    text::table(&built, &missing, &cpu, out)?;
    writeln!(out, "\n{count} files in {}", args.output.display())?;
    if let Err(missing) = nvrtc {
        writeln!(out, "no PTX and no cubin: {}", missing.message())?;
    }
    picture(args, &subject, out)
}

fn add_files(
    args: &Args,
    files: &mut FileSet,
    built: &[Built],
    cpu: &cpu::CpuKernels,
    bundle: &Bundle<'_>,
) -> Result<(), CliError> {
    let path = |name: &str, extension: &str| args.output.join(format!("{name}.{extension}"));
    for kernel in built {
        let stem = kernel.stem();
        if args.wants(Emit::Cu) {
            files.add(path(stem, "cu"), kernel.source.text.as_str());
        }
        if let Some(artifact) = &kernel.artifact {
            if args.wants(Emit::Ptx) {
                files.add(path(stem, "ptx"), artifact.ptx.as_str());
            }
            if args.wants(Emit::Cubin) {
                files.add(path(stem, "cubin"), artifact.cubin.as_slice());
            }
        }
    }
    if args.wants(Emit::Clif) {
        files.add(path(cpu::STEM, "clif"), cpu.clif.as_str());
    }
    if args.wants(Emit::Json) {
        files.add(args.output.join("manifest.json"), format!("{}\n", bundle.to_json()?));
    }
    Ok(())
}

fn picture(args: &Args, subject: &Subject, out: &mut dyn Write) -> Result<(), CliError> {
    let colour = args.color.on_stdout();
    let cells = TextPicture::cells_for(terminal::columns(), colour);
    let tile = TileShape { queries: 128, keys: 128 };
    let grid = MaskGrid::new(&subject.ir, 0, SHOWN_TOKENS, tile, cells);
    writeln!(out, "\nKV head 0 at {} tokens", number::grouped(SHOWN_TOKENS.into()))?;
    write!(out, "{}", TextPicture { grid: &grid, colour })?;
    Ok(())
}
