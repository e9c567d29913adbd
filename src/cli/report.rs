//! `lgc report`: what a pattern costs and saves in a model.

mod facts;
mod text;

use std::io::Write;

use longgen_codegen::plan::TileShape;

use super::{CliError, model_arg, number, pattern_arg};
use facts::Report;

const EXAMPLES: &str = "\
Examples:
  lgc report longgen-sink --length 128k
  lgc report 'sink=4, window=4096' --length 1M --model llama-3-8b
  lgc report pattern.toml --length 32768 --model path/to/config.json --json";

/// Arguments of `lgc report`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Preset, TOML file or pattern text
    pattern: String,
    /// Tokens of the sequence, like 131072 or 128k
    #[arg(long, value_name = "N", value_parser = number::tokens)]
    length: u32,
    /// llama-2-7b, llama-3-8b, a model directory, or a config.json as Hugging Face writes it
    #[arg(long, default_value = "llama-2-7b")]
    model: String,
    /// Tile of the kernels, QUERIESxKEYS, for the tile efficiency and the advice
    #[arg(long, default_value = "128x128", value_parser = number::tile)]
    tile: (u32, u32),
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Computes the report and prints it.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), CliError> {
    let pattern = pattern_arg::resolve(&args.pattern)?;
    let model = model_arg::resolve(&args.model)?;
    let tile = TileShape { queries: args.tile.0, keys: args.tile.1 };
    let report = Report::new(&pattern, &model, args.length, tile)?;
    if args.json {
        let json = serde_json::to_string_pretty(&report).map_err(CliError::failure)?;
        writeln!(out, "{json}")?;
    } else {
        write!(out, "{report}")?;
    }
    Ok(())
}
