//! What the compiler proves about a mask at a length: cost, liveness, the KV-cache layout, coverage and advice.
//!
//! For masks of the clause language nothing here takes longer for a longer sequence: past its constants a mask
//! repeats, so sums over rows are arithmetic series ([`periodic`]).

pub mod advice;
mod cost;
mod coverage;
mod far;
mod layout;
mod liveness;
pub mod model;
pub mod periodic;
mod row;

pub use cost::{Cost, CostError, head_twins, sum_over_heads, tile_pairs, visible_pairs};
pub use coverage::{StrideCoverage, stride_coverage};
pub use far::far_pieces;
pub use layout::{KvLayout, StrideRegion};
pub use liveness::{Liveness, empty_rows};
pub use row::tiles_at_most;
