//! The text form of masks and patterns: what `lgc` takes on its command line and the attribute in its parentheses.
//!
//! ```text
//! sink=4, window=4096, stride=8                      the union of three clauses
//! stride=8, block=16 | window=128                    `block`, `step`, `offset` belong to their own list
//! (sink=4, window=4096) - where(k % 2 == 1)          set algebra: `|`, `&`, `-`, parentheses around lists
//! window=128; heads [0, 4..=7]: full; layers = 32; full_layers = every 6 from 5; softcap = 50.0; sink_logit
//! preset = "phi3-small", stride=16                   a preset with one key replaced
//! ```

mod lex;
mod parse;
mod print;
mod sections;

use std::str::FromStr;

use super::error::Fault;
use super::{IndexSet, Mask, Pattern, PatternError};

/// Longest text accepted, in bytes.
pub(super) const MAX_BYTES: usize = 1 << 20;

impl FromStr for Pattern {
    type Err = PatternError;

    /// Reads the text form.
    fn from_str(text: &str) -> Result<Self, PatternError> {
        sections::pattern(text).map_err(|fault| fault.in_text("pattern", text))
    }
}

impl FromStr for Mask {
    type Err = PatternError;

    /// Reads the mask part of the text form. Only a [`Pattern`] checks what spans several clauses.
    fn from_str(text: &str) -> Result<Self, PatternError> {
        parse::mask(text).map_err(|fault| fault.in_text("mask", text))
    }
}

impl FromStr for IndexSet {
    type Err = PatternError;

    /// Reads `all`, `none`, `3`, `0..=3`, `[0, 4..=7]`, `0, 4..=7` or `every 6 from 5`.
    fn from_str(text: &str) -> Result<Self, PatternError> {
        index_set(text).map_err(|fault| fault.in_text("indices", text))
    }
}

/// Indices inside another text.
pub(super) fn index_set(text: &str) -> Result<IndexSet, Fault> {
    parse::index_set(text)
}
