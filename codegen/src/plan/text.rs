//! The text form of a plan: tiles as arithmetic sequences.

use std::fmt;

use super::{Extent, Tile, TileKind, TilePlan};

/// Tiles `first, first + step, .., last`, all of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// The first tile.
    pub first: u32,
    /// The last tile.
    pub last: u32,
    /// The distance from one to the next; 1 for a sequence of one.
    pub step: u32,
    /// Their kind.
    pub kind: TileKind,
}

impl Sequence {
    /// Joins ascending tiles into as few sequences as a greedy pass finds.
    pub fn join(tiles: impl Iterator<Item = Tile>) -> Vec<Sequence> {
        let mut sequences: Vec<Sequence> = Vec::new();
        for Tile { index, kind } in tiles {
            match sequences.last_mut() {
                Some(s) if s.kind == kind && s.first == s.last => {
                    (s.step, s.last) = (index - s.first, index);
                }
                Some(s) if s.kind == kind && index - s.last == s.step => s.last = index,
                _ => sequences.push(Sequence { first: index, last: index, step: 1, kind }),
            }
        }
        sequences
    }

    /// Number of tiles.
    pub fn len(&self) -> u32 {
        (self.last - self.first) / self.step + 1
    }

    /// Never true: a sequence has a first tile.
    pub fn is_empty(&self) -> bool {
        false
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            TileKind::Full => "full",
            TileKind::Edge => "edge",
            TileKind::Partial => "partial",
        };
        match self {
            Sequence { first, last, .. } if first == last => write!(f, "{kind} {first}"),
            Sequence { first, last, step: 1, .. } => write!(f, "{kind} {first}..={last}"),
            Sequence { first, last, step, .. } => write!(f, "{kind} {first}..={last} step {step}"),
        }
    }
}

/// A plan at a length, for printing: the key tiles of chosen query tiles, and the transpose.
#[derive(Clone, Copy, Debug)]
pub struct PlanText<'a> {
    /// The plan.
    pub plan: &'a TilePlan,
    /// The length.
    pub extent: Extent,
    /// KV head.
    pub g: u32,
    /// At most this many rows of each table; the middle ones are left out.
    pub rows: u32,
}

impl fmt::Display for PlanText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape = self.plan.shape();
        writeln!(
            f,
            "plan: {} queries x {} keys, tiles of {} x {}, KV head {}, {}",
            self.extent.queries,
            self.extent.keys,
            shape.queries,
            shape.keys,
            self.g,
            if self.plan.programs().closed.is_some() { "closed form" } else { "listed" },
        )?;
        writeln!(f, "key tiles of each query tile:")?;
        self.rows(f, self.extent.query_tiles(shape), |m| {
            Sequence::join(self.plan.key_tiles(self.g, self.extent, m))
        })?;
        writeln!(f, "query tiles of each key tile:")?;
        self.rows(f, self.extent.key_tiles(shape), |n| {
            Sequence::join(self.plan.query_tiles(self.g, self.extent, n))
        })
    }
}

impl PlanText<'_> {
    fn rows(
        &self,
        f: &mut fmt::Formatter<'_>,
        count: u32,
        tiles: impl Fn(u32) -> Vec<Sequence>,
    ) -> fmt::Result {
        let head = self.rows.div_ceil(2).min(count);
        let tail = count.saturating_sub(self.rows / 2).max(head);
        for index in (0..head).chain(tail..count) {
            if index == tail && tail > head {
                writeln!(f, "  ... {} more", tail - head)?;
            }
            let listed: Vec<String> = tiles(index).iter().map(Sequence::to_string).collect();
            let listed = if listed.is_empty() { "none".to_string() } else { listed.join(", ") };
            writeln!(f, "  {index:>5}: {listed}")?;
        }
        Ok(())
    }
}
