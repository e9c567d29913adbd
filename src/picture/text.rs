//! A grid in characters.

use std::fmt::{self, Write};

use super::grid::{Cell, Class, MaskGrid};

/// Width of the numbers at the left.
const MARGIN: usize = 11;

/// A grid for the terminal: with colours two rows of cells in one line (half blocks), without them one row in a line
/// and two characters for a cell, so that cells are square either way.
#[derive(Clone, Copy, Debug)]
pub struct TextPicture<'a> {
    /// The mask.
    pub grid: &'a MaskGrid,
    /// Whether to write ANSI colours.
    pub colour: bool,
}

impl TextPicture<'_> {
    /// The most cells a side that fit into `columns` columns: a power of two, so that lengths of powers of two fill it.
    pub fn cells_for(columns: usize, colour: bool) -> u32 {
        let room = columns.saturating_sub(MARGIN).max(8);
        let cells = if colour { room } else { room / 2 };
        // More would not fit the height of a terminal.
        let most = if colour { 64 } else { 32 };
        cells.min(most) as u32
    }
}

impl fmt::Display for TextPicture<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (side, step) = (self.grid.side(), if self.colour { 2 } else { 1 });
        let width = side as usize * if self.colour { 1 } else { 2 };
        let end = self.grid.tokens().to_string();
        writeln!(f, "{:MARGIN$}0{:>2$}", "", end, width.saturating_sub(1))?;
        for query in (0..side).step_by(step) {
            let line = query / step as u32;
            let token = u64::from(query) * u64::from(self.grid.cell_tokens());
            let label = if line.is_multiple_of(4) { token.to_string() } else { String::new() };
            let mut text = String::new();
            for key in 0..side {
                let upper = self.grid.cell(query, key);
                if self.colour {
                    let lower = (query + 1 < side).then(|| self.grid.cell(query + 1, key));
                    half_blocks(&mut text, upper, lower)?;
                } else {
                    let glyph = glyph(upper);
                    text.extend([glyph, glyph]);
                }
            }
            writeln!(f, "{}", format!("{label:>10} {text}").trim_end())?;
        }
        self.legend(f)
    }
}

impl TextPicture<'_> {
    fn legend(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = [
            (Class::Full, "full"),
            (Class::Edge, "causal edge"),
            (Class::Partial, "partial"),
            (Class::Skipped, "skipped"),
        ];
        write!(f, "{:MARGIN$}", "")?;
        for (class, name) in entries {
            let cell = Cell { class, share: 1.0 };
            match index(cell) {
                Some(colour) if self.colour => write!(f, "\x1b[38;5;{colour}m██\x1b[0m {name}   ")?,
                _ => write!(f, "{0}{0} {name}   ", glyph(cell))?,
            }
        }
        writeln!(f)
    }
}

fn glyph(cell: Cell) -> char {
    match cell.class {
        Class::Future => ' ',
        Class::Skipped => '·',
        Class::Partial => '░',
        Class::Edge => '▒',
        Class::Full => '█',
    }
}

/// The colour's index among the 256; none for the future, which is left blank.
fn index(cell: Cell) -> Option<u8> {
    match cell.class {
        Class::Future => None,
        Class::Skipped => Some(239),
        Class::Partial if cell.share < 0.34 => Some(136),
        Class::Partial if cell.share < 0.67 => Some(178),
        Class::Partial => Some(214),
        Class::Edge => Some(110),
        Class::Full => Some(32),
    }
}

fn half_blocks(text: &mut String, upper: Cell, lower: Option<Cell>) -> fmt::Result {
    match (index(upper), lower.and_then(index)) {
        (None, None) => text.write_char(' '),
        (Some(upper), None) => write!(text, "\x1b[38;5;{upper}m▀\x1b[0m"),
        (None, Some(lower)) => write!(text, "\x1b[38;5;{lower}m▄\x1b[0m"),
        (Some(upper), Some(lower)) if upper == lower => write!(text, "\x1b[38;5;{upper}m█\x1b[0m"),
        (Some(upper), Some(lower)) => write!(text, "\x1b[38;5;{upper};48;5;{lower}m▀\x1b[0m"),
    }
}
