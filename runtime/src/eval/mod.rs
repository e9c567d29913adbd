//! Evaluation: perplexity of a text, and retrieval of a number hidden in one.

mod needle;
mod perplexity;

pub use needle::{Needle, NeedleCell, needle_grid};
pub use perplexity::{Perplexity, perplexity};
