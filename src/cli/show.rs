//! `lgc show`: the mask in the terminal, or drawn.

use std::io::Write;
use std::path::{Path, PathBuf};

use longgen::picture::{Figure, MaskGrid, Panel, TextPicture};
use longgen_codegen::analysis::visible_pairs;
use longgen_codegen::ir::MaskIr;
use longgen_codegen::pattern::{Mask, Pattern};
use longgen_codegen::plan::TileShape;
use thiserror::Error;

use super::terminal::{self, Colour};
use super::{CliError, files, number, pattern_arg};

const EXAMPLES: &str = "\
Examples:
  lgc show longgen-sink --length 16k
  lgc show 'sink=64, window=512, stride=8' --length 8k --head 3
  lgc show duo --length 4096 -o duo.png
  lgc show pattern.toml --length 128k --head 0,1,2 --layer 5 -o mask.svg";

/// Heads drawn side by side when none is named.
const PANELS: usize = 4;
/// KV heads among which different masks are looked for.
const SEARCHED_HEADS: u32 = 32;
/// Most heads in one picture.
const MOST_HEADS: usize = 16;
/// Cells a side of a drawn panel.
const DRAWN_CELLS: u32 = 256;

/// Arguments of `lgc show`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Preset, TOML file or pattern text
    pattern: String,
    /// Tokens of the sequence, like 4096 or 16k
    #[arg(long, value_name = "N", value_parser = number::tokens)]
    length: u32,
    /// KV heads, from 0, several with commas; by default those whose masks differ (in the terminal: the first)
    #[arg(long, value_name = "H", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(..1024))]
    head: Vec<u32>,
    /// Layer, from 0; by default a layer that is not full
    #[arg(long, value_name = "L", value_parser = clap::value_parser!(u32).range(..1024))]
    layer: Option<u32>,
    /// Tile of the kernels, QUERIESxKEYS
    #[arg(long, default_value = "128x128", value_parser = number::tile)]
    tile: (u32, u32),
    /// Draw into a file instead: NAME.png or NAME.svg
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Colours in the terminal
    #[arg(long, value_enum, default_value = "auto", value_name = "WHEN")]
    color: Colour,
}

#[derive(Debug, Error)]
enum ShowError {
    #[error("the pattern has layers 0 to {}, not {layer}", .count - 1)]
    NoLayer { layer: u32, count: u32 },
    #[error("at most {MOST_HEADS} heads fit into one picture, not {given}")]
    TooManyHeads { given: usize },
    #[error("`{}` ends neither in .png nor in .svg: the name says what to draw", .path.display())]
    Format { path: PathBuf },
}

/// Draws the mask.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), CliError> {
    let format = args.output.as_deref().map(Format::of).transpose()?;
    let pattern = pattern_arg::resolve(&args.pattern)?;
    if let (Some(layer), Some(count)) = (args.layer, pattern.layers().count)
        && layer >= count
    {
        return Err(CliError::usage(ShowError::NoLayer { layer, count }));
    }
    if args.head.len() > MOST_HEADS {
        return Err(CliError::usage(ShowError::TooManyHeads { given: args.head.len() }));
    }
    let ir = MaskIr::lower(&pattern, args.layer).map_err(CliError::usage)?;
    match (&args.output, format) {
        (Some(path), Some(format)) => draw(args, &pattern, &ir, path, format, out),
        _ => print(args, &pattern, &ir, out),
    }
}

#[derive(Clone, Copy)]
enum Format {
    Png,
    Svg,
}

impl Format {
    fn of(path: &Path) -> Result<Format, CliError> {
        let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
        match extension.as_deref().and_then(|extension| extension.to_str()) {
            Some("png") => Ok(Format::Png),
            Some("svg") => Ok(Format::Svg),
            _ => Err(CliError::usage(ShowError::Format { path: path.into() })),
        }
    }
}

impl Args {
    fn tile(&self) -> TileShape {
        TileShape { queries: self.tile.0, keys: self.tile.1 }
    }

    /// The heads asked for, or the first of those whose masks differ.
    fn heads(&self, pattern: &Pattern, ir: &MaskIr, most: usize) -> Vec<u32> {
        if !self.head.is_empty() {
            return self.head.clone();
        }
        let mut different: Vec<(u32, HeadMask<'_>)> = Vec::new();
        for g in 0..SEARCHED_HEADS {
            let mask = HeadMask::new(pattern, ir, self.layer, g);
            if different.len() < most && different.iter().all(|(_, seen)| *seen != mask) {
                different.push((g, mask));
            }
        }
        different.into_iter().map(|(g, _)| g).collect()
    }
}

/// What tells the masks of two heads apart: their rule, and where their strides stand.
#[derive(PartialEq)]
struct HeadMask<'a> {
    mask: &'a Mask,
    phases: Vec<i64>,
}

impl<'a> HeadMask<'a> {
    fn new(pattern: &'a Pattern, ir: &MaskIr, layer: Option<u32>, g: u32) -> HeadMask<'a> {
        let residues = ir.terms(g).iter().flat_map(|term| &term.residues);
        HeadMask {
            mask: pattern.mask_for(layer, g),
            phases: residues.map(|residue| residue.phase(g.into(), 0)).collect(),
        }
    }
}

fn print(args: &Args, pattern: &Pattern, ir: &MaskIr, out: &mut dyn Write) -> Result<(), CliError> {
    let colour = args.color.on_stdout();
    let cells = TextPicture::cells_for(terminal::columns(), colour);
    writeln!(out, "{pattern}")?;
    for g in args.heads(pattern, ir, 1) {
        let grid = MaskGrid::new(ir, g, args.length, args.tile(), cells);
        writeln!(out, "{}", caption(args, ir, g, &grid))?;
        write!(out, "{}", TextPicture { grid: &grid, colour })?;
    }
    Ok(())
}

fn caption(args: &Args, ir: &MaskIr, g: u32, grid: &MaskGrid) -> String {
    let layer = args.layer.map(|layer| format!("layer {layer}, ")).unwrap_or_default();
    let share = visible_share(ir, g, args.length).map(|share| format!(", {share}")).unwrap_or_default();
    let cell = grid.cell_tokens();
    let sampled = if grid.is_exact() { "" } else { " (sampled)" };
    format!(
        "{layer}KV head {g}, {} tokens{share}; a cell is {cell} x {cell} tokens{sampled}",
        number::grouped(args.length.into())
    )
}

/// In words; nothing for a predicate that cannot be counted.
fn visible_share(ir: &MaskIr, g: u32, tokens: u32) -> Option<String> {
    let pairs = u128::from(tokens) * (u128::from(tokens) + 1) / 2;
    let visible = visible_pairs(ir, g, tokens).ok()?;
    Some(format!("{} visible", number::percent(visible as f64 / pairs as f64)))
}

fn draw(
    args: &Args,
    pattern: &Pattern,
    ir: &MaskIr,
    path: &Path,
    format: Format,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let panels: Vec<Panel> = args
        .heads(pattern, ir, PANELS)
        .into_iter()
        .map(|g| Panel {
            title: format!("KV head {g}"),
            remark: visible_share(ir, g, args.length).unwrap_or_default(),
            grid: MaskGrid::new(ir, g, args.length, args.tile(), DRAWN_CELLS),
        })
        .collect();
    let count = panels.len();
    let tile = panels.first().map_or(args.tile(), |panel| panel.grid.tile());
    let layer = args.layer.map(|layer| format!(" · layer {layer}")).unwrap_or_default();
    let sampled = if panels.iter().all(|panel| panel.grid.is_exact()) { "" } else { " · sampled" };
    let figure = Figure {
        title: pattern.name().map_or_else(|| pattern.mask().to_string(), str::to_string),
        subtitle: format!(
            "{}{} tokens{layer} · {} of {} x {}{sampled}",
            if pattern.name().is_some() { format!("{} · ", pattern.mask()) } else { String::new() },
            number::grouped(args.length.into()),
            if tile == args.tile() { "tiles" } else { "cells" },
            tile.queries,
            tile.keys
        ),
        panels,
    };
    let scene = figure.draw();
    let bytes = match format {
        Format::Svg => scene.to_svg().into_bytes(),
        Format::Png => scene.to_png().map_err(CliError::failure)?,
    };
    files::write(path, bytes).map_err(CliError::failure)?;
    writeln!(out, "{}: {} x {} pixels, {count} heads", path.display(), scene.width, scene.height)?;
    Ok(())
}
