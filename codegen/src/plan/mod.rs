//! Which tiles a mask needs: the host's view of what kernels compute from the closed forms.
//!
//! A [`TilePlan`] knows a mask and a tile shape, no lengths; it holds nothing proportional to a length. Tiles are
//! found by walking ([`TilePlan::key_tiles`], [`TilePlan::query_tiles`]), in closed form where the mask has one and
//! by interval arithmetic over boxes where it has none. Kernels of listed masks get [`TileList`]s made from the same walks.

mod boxes;
mod list;
mod text;
mod walk;

pub use boxes::{Cover, cover};
pub use list::TileList;
pub use text::{PlanText, Sequence};

use crate::ir::{MaskIr, Programs};

/// The shape of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TileShape {
    /// Query rows.
    pub queries: u32,
    /// Keys.
    pub keys: u32,
}

/// How much mask code a tile needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TileKind {
    /// None: every pair is visible.
    Full = 0,
    /// One comparison, `j <= i`.
    Edge = 1,
    /// The whole element test.
    Partial = 2,
}

/// A tile of the other axis, with its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Its number along its axis.
    pub index: u32,
    /// Its kind.
    pub kind: TileKind,
}

/// The queries and keys of one sequence, as indices of its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Index of the first query: 0 for a whole prefill, the tokens already cached for a later chunk.
    pub first_query: u32,
    /// Number of queries, T.
    pub queries: u32,
    /// Number of keys, S.
    pub keys: u32,
}

impl Extent {
    /// A whole sequence: as many keys as queries, from 0.
    pub fn square(tokens: u32) -> Extent {
        Extent { first_query: 0, queries: tokens, keys: tokens }
    }

    /// The rows of query tile `m`, as query indices.
    pub fn query_rows(&self, m: u32, shape: TileShape) -> (i64, i64) {
        let start = i64::from(self.first_query) + i64::from(m) * i64::from(shape.queries);
        let end = i64::from(self.first_query) + i64::from(self.queries);
        (start, end.min(start + i64::from(shape.queries)))
    }

    /// The columns of key tile `n`, as key indices.
    pub fn key_columns(&self, n: u32, shape: TileShape) -> (i64, i64) {
        let start = i64::from(n) * i64::from(shape.keys);
        (start, i64::from(self.keys).min(start + i64::from(shape.keys)))
    }

    /// Number of query tiles.
    pub fn query_tiles(&self, shape: TileShape) -> u32 {
        self.queries.div_ceil(shape.queries)
    }

    /// Number of key tiles.
    pub fn key_tiles(&self, shape: TileShape) -> u32 {
        self.keys.div_ceil(shape.keys)
    }
}

/// A mask cut into tiles of one shape.
#[derive(Clone, Debug)]
pub struct TilePlan {
    programs: Programs,
    shape: TileShape,
}

impl TilePlan {
    /// The plan of a mask for tiles of this shape.
    ///
    /// # Panics
    /// When the shape has an empty side.
    pub fn new(ir: &MaskIr, shape: TileShape) -> TilePlan {
        TilePlan::with_programs(Programs::new(ir), shape)
    }

    /// The same for a mask whose functions are at hand.
    ///
    /// # Panics
    /// When the shape has an empty side.
    pub fn with_programs(programs: Programs, shape: TileShape) -> TilePlan {
        assert!(shape.queries > 0 && shape.keys > 0, "a tile has at least one query and one key");
        TilePlan { programs, shape }
    }

    /// The functions the plan walks by.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The tile shape.
    pub fn shape(&self) -> TileShape {
        self.shape
    }
}
