//! The `lgc` command line: the commands, and what they share. Each command lives in a module of its own and writes
//! to the stream it is given; nothing here prints by itself.

mod bundle;
mod cache;
mod check;
mod compile;
mod device;
mod doctor;
mod drawing;
mod emit;
mod engine;
mod environment;
mod error;
mod eval;
mod explain;
mod fetch_nvrtc;
mod files;
mod generate;
mod kernel_args;
mod loaded;
mod model_arg;
mod number;
mod pattern_arg;
mod plot;
mod report;
mod run;
mod show;
mod store;
mod terminal;
mod train;
mod tune;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

pub use error::CliError;

const ABOUT: &str = "Compiles sparse attention patterns to CUDA and CPU kernels, and tells what they cost.";

const PATTERN_HELP: &str = "\
PATTERN is one of
  a preset's name    longgen-sink, longgen-stride, phi3-small, streaming-llm, mistral, gemma3, gpt-oss, duo, longlora
  a TOML file        pattern.toml
  the pattern text   'sink=4, window=4096, stride=8'

Exit codes: 0 done, 1 it failed (input data, files, devices, a check out of bounds), 2 wrong command line or pattern.";

/// `lgc` and its arguments.
#[derive(Debug, Parser)]
#[command(name = "lgc", version, about = ABOUT, after_help = PATTERN_HELP, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tell what a pattern costs and saves in a model: pairs, FLOPs, KV bytes, ideal speed-ups
    Report(report::Args),
    /// Draw the mask: in the terminal, or as a PNG or SVG picture
    Show(show::Args),
    /// Compile every kernel of a pattern, and write a manifest
    Compile(Box<compile::Args>),
    /// Kernels of some patterns in one file, for machines without NVRTC
    Bundle(Box<bundle::Args>),
    /// Print any stage of the compiler as text
    Emit(Box<emit::Args>),
    /// Compute attention on tensors of your own
    Run(Box<run::Args>),
    /// Compare kernels with the f64 oracle on random problems
    Check(Box<check::Args>),
    /// Tell what the kernels of a pattern do and take, in words, with their source
    Explain(Box<explain::Args>),
    /// Measure which tiles are the quickest for a pattern here, and remember them
    Tune(Box<tune::Args>),
    /// Tell what this machine has, what it lacks, and how to get it
    Doctor(doctor::Args),
    /// Train a Llama model under a pattern, on the CPU or a GPU
    Train(Box<train::Args>),
    /// Continue texts with a model
    Generate(Box<generate::Args>),
    /// Measure a model: perplexity, or retrieval of a hidden number
    Eval(Box<eval::Args>),
    /// Draw the loss curves of trainings
    Plot(plot::Args),
    /// Kernels and tuning results that are kept between runs
    Cache(cache::Args),
    /// Fetch NVIDIA's run-time compiler into the cache
    FetchNvrtc(fetch_nvrtc::Args),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let outcome = dispatch(std::env::args_os(), &mut out).and_then(|()| Ok(out.flush()?));
    store::tell_notices();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has seen enough: `lgc report ... | head` is no failure.
        Err(CliError::Stdout(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to be told if standard error is closed too.
            let _ = write!(io::stderr(), "{}", error.render());
            ExitCode::from(error.exit_code())
        }
    }
}

/// Reads the command line. `--length -4` is a wrong length, which its parser explains, and no unknown option.
fn parse(args: impl Iterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut command = with_negative_numbers(Cli::command());
    let mut matches = command.try_get_matches_from_mut(args)?;
    Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

fn with_negative_numbers(command: clap::Command) -> clap::Command {
    let names: Vec<String> = command.get_subcommands().map(|inner| inner.get_name().to_owned()).collect();
    let command = command.mut_args(|arg| {
        let takes_values = arg.get_action().takes_values();
        arg.allow_negative_numbers(takes_values)
    });
    names.iter().fold(command, |command, name| command.mut_subcommand(name, with_negative_numbers))
}

fn dispatch(args: impl Iterator<Item = OsString>, out: &mut dyn Write) -> Result<(), CliError> {
    let cli = match parse(args) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => return Err(CliError::Clap(error)),
        Err(help_or_version) => return Ok(write!(out, "{help_or_version}")?),
    };
    match cli.command {
        Command::Report(args) => report::run(&args, out),
        Command::Show(args) => show::run(&args, out),
        Command::Compile(args) => compile::run(&args, out),
        Command::Bundle(args) => bundle::run(&args, out),
        Command::Check(args) => check::run(&args, out),
        Command::Doctor(args) => doctor::run(&args, out),
        Command::Emit(args) => emit::run(&args, out),
        Command::Run(args) => run::run(&args, out),
        Command::Explain(args) => explain::run(&args, out),
        Command::Tune(args) => tune::run(&args, out),
        Command::Train(args) => train::run(&args, out),
        Command::Generate(args) => generate::run(&args, out),
        Command::Eval(args) => eval::run(&args, out),
        Command::Plot(args) => plot::run(&args, out),
        Command::Cache(args) => cache::run(&args, out),
        Command::FetchNvrtc(args) => fetch_nvrtc::run(&args, out),
    }
}
