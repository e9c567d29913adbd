//! LongGen.

pub mod picture;

pub use longgen_codegen::pattern::{self, Pattern, SparsePattern};
pub use longgen_macros::sparse_pattern;

/// What `#[sparse_pattern]` expands to.
#[doc(hidden)]
pub use longgen_codegen::pattern::attribute as __private;

/// The code of the page on patterns compiles.
#[cfg(doctest)]
#[doc = include_str!("../docs/patterns.md")]
struct PatternsPage;
