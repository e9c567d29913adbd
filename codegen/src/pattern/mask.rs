//! Masks: clauses and the set algebra over them, with their meaning. Causality is not in here:
//! [`Pattern::sees`](super::Pattern::sees) adds it.

use std::ops::{BitAnd, BitOr, Sub};

use super::Predicate;

/// The block of `stride`, `window_blocks`, `sink_blocks` when none is given, in tokens.
pub const DEFAULT_BLOCK: u32 = 64;

/// One clause of the pattern language: a set of (query, key) pairs, before causality.
///
/// `i` is the index of the query and `j` that of the key, in tokens of their sequence, from 0; `g` is the KV head.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Clause {
    /// `j < tokens`: the first keys.
    Sink {
        /// How many keys, in tokens.
        tokens: u32,
    },
    /// `floor(j / block) < blocks`: the first blocks of keys.
    SinkBlocks {
        /// How many blocks.
        blocks: u32,
        /// Tokens in a block; a power of two.
        block: u32,
    },
    /// `i - j < tokens`: the most recent keys, the query's own included.
    Window {
        /// How many keys, in tokens.
        tokens: u32,
    },
    /// `floor(i / block) - floor(j / block) < blocks`: the most recent blocks, the query's own included.
    WindowBlocks {
        /// How many blocks.
        blocks: u32,
        /// Tokens in a block; a power of two.
        block: u32,
    },
    /// `(floor(j / block) + step * g + offset) mod every == 0`: every n-th block, a different one for each KV head.
    Stride {
        /// Distance between visible blocks, in blocks.
        every: u32,
        /// Tokens in a block; a power of two.
        block: u32,
        /// How far the next KV head's blocks are shifted, in blocks.
        step: u32,
        /// Shift common to all heads, in blocks.
        offset: u32,
    },
    /// Query and key in the same group of `size` tokens.
    Group {
        /// Tokens in a group; even.
        size: u32,
        /// Groups shifted by half a group, without wrap-around: `floor((i + size/2) / size) == floor((j + size/2) / size)`.
        shifted: bool,
    },
    /// Every pair.
    Full,
    /// The pairs for which an expression over `q`, `k` and `head` is true.
    Where(Predicate),
}

/// A set of (query, key) pairs per KV head, before causality.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mask {
    /// One clause.
    Clause(Clause),
    /// Pairs in any of these. In a built [`Pattern`](super::Pattern): two or more, sorted, no nested union.
    Union(Vec<Mask>),
    /// Pairs in all of these. In a built [`Pattern`](super::Pattern): two or more, sorted, no nested intersection.
    Intersection(Vec<Mask>),
    /// Pairs in the first and not in the second.
    Difference(Box<Mask>, Box<Mask>),
}

impl Clause {
    /// Whether the clause holds for query `i`, key `j` and KV head `g`, straight from the definition.
    ///
    /// # Panics
    /// On a block, stride or group of 0, which no built pattern holds.
    pub fn contains(&self, g: u32, i: u32, j: u32) -> bool {
        let (g, i, j) = (u64::from(g), u64::from(i), u64::from(j));
        match *self {
            Self::Sink { tokens } => j < u64::from(tokens),
            Self::SinkBlocks { blocks, block } => j / u64::from(block) < u64::from(blocks),
            // Written without subtraction: i - j < w, also where j is later than i.
            Self::Window { tokens } => i < j + u64::from(tokens),
            Self::WindowBlocks { blocks, block } => {
                i / u64::from(block) < j / u64::from(block) + u64::from(blocks)
            }
            Self::Stride { every, block, step, offset } => {
                (j / u64::from(block) + u64::from(step) * g + u64::from(offset))
                    .is_multiple_of(u64::from(every))
            }
            Self::Group { size, shifted } => {
                let (size, shift) = (u64::from(size), if shifted { u64::from(size) / 2 } else { 0 });
                (i + shift) / size == (j + shift) / size
            }
            Self::Full => true,
            Self::Where(ref predicate) => predicate.holds(i as i64, j as i64, g as i64),
        }
    }
}

impl Mask {
    /// The first `tokens` keys.
    pub const fn sink(tokens: u32) -> Self {
        Self::Clause(Clause::Sink { tokens })
    }

    /// The most recent `tokens` keys, the query's own included.
    pub const fn window(tokens: u32) -> Self {
        Self::Clause(Clause::Window { tokens })
    }

    /// Every `every`-th block of [`DEFAULT_BLOCK`] keys, shifted by one block from KV head to KV head.
    /// For other blocks, steps and offsets write [`Clause::Stride`].
    pub const fn stride(every: u32) -> Self {
        Self::Clause(Clause::Stride { every, block: DEFAULT_BLOCK, step: 1, offset: 0 })
    }

    /// The first `blocks` blocks of `block` keys.
    pub const fn sink_blocks(blocks: u32, block: u32) -> Self {
        Self::Clause(Clause::SinkBlocks { blocks, block })
    }

    /// The most recent `blocks` blocks of `block` keys, the query's own included.
    pub const fn window_blocks(blocks: u32, block: u32) -> Self {
        Self::Clause(Clause::WindowBlocks { blocks, block })
    }

    /// Query and key in the same group of `size` tokens.
    pub const fn group(size: u32) -> Self {
        Self::Clause(Clause::Group { size, shifted: false })
    }

    /// Query and key in the same group of `size` tokens, groups shifted by half a group.
    pub const fn shifted_group(size: u32) -> Self {
        Self::Clause(Clause::Group { size, shifted: true })
    }

    /// Every pair: causal attention.
    pub const fn full() -> Self {
        Self::Clause(Clause::Full)
    }

    /// Whether the pair is in the set, causality aside; the oracle of everything derived from the mask.
    ///
    /// # Panics
    /// On a block, stride or group of 0, which no built pattern holds.
    pub fn contains(&self, g: u32, i: u32, j: u32) -> bool {
        match self {
            Self::Clause(clause) => clause.contains(g, i, j),
            Self::Union(masks) => masks.iter().any(|mask| mask.contains(g, i, j)),
            Self::Intersection(masks) => masks.iter().all(|mask| mask.contains(g, i, j)),
            Self::Difference(kept, removed) => kept.contains(g, i, j) && !removed.contains(g, i, j),
        }
    }

    /// The same set in canonical order: nested unions and intersections flattened, sorted and without doubles.
    /// An empty union or intersection stays as it is, for the rules to refuse.
    pub(crate) fn normalised(self) -> Self {
        match self {
            Self::Clause(_) => self,
            Self::Union(masks) => collect(masks, Self::Union, |mask| match mask {
                Self::Union(inner) => Ok(inner),
                other => Err(other),
            }),
            Self::Intersection(masks) => collect(masks, Self::Intersection, |mask| match mask {
                Self::Intersection(inner) => Ok(inner),
                other => Err(other),
            }),
            Self::Difference(kept, removed) => {
                Self::Difference(Box::new(kept.normalised()), Box::new(removed.normalised()))
            }
        }
    }
}

/// Normalises the members of one union or intersection; `open` takes a nested one apart.
fn collect(
    masks: Vec<Mask>,
    close: fn(Vec<Mask>) -> Mask,
    open: fn(Mask) -> Result<Vec<Mask>, Mask>,
) -> Mask {
    let mut members = Vec::with_capacity(masks.len());
    for mask in masks {
        match open(mask.normalised()) {
            Ok(inner) => members.extend(inner),
            Err(other) => members.push(other),
        }
    }
    members.sort();
    members.dedup();
    if members.len() == 1 { members.swap_remove(0) } else { close(members) }
}

impl From<Clause> for Mask {
    fn from(clause: Clause) -> Self {
        Self::Clause(clause)
    }
}

impl From<Predicate> for Mask {
    fn from(predicate: Predicate) -> Self {
        Self::Clause(Clause::Where(predicate))
    }
}

/// Union.
impl BitOr for Mask {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self::Union(vec![self, other])
    }
}

/// Intersection.
impl BitAnd for Mask {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self::Intersection(vec![self, other])
    }
}

/// Difference: the pairs of `self` that are not in `other`.
impl Sub for Mask {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self::Difference(Box::new(self), Box::new(other))
    }
}
