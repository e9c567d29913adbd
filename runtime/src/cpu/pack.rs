//! Rows that many tiles walk, copied once into contiguous f32.
//!
//! With many heads a row of one head lies far from the next, and each tile that walks them pays for it again: at 32 heads
//! of 128 the products run at three quarters of their speed. Where every row is read by several tiles, the rows of a KV
//! head are copied first, a few heads at a time: the memory is bounded and linear in the length.

use super::CpuAttention;
use super::rows::{Source, read_row};
use super::shared::RowWriter;
use super::work::{KeyTile, QueryTile};
use crate::problem::HeadShape;
use crate::tensor::{Elements, ElementsMut, TensorShape, TensorView};

/// Bytes of copies at any time.
const BUDGET_BYTES: usize = 256 << 20;
/// Rows copied by one work item.
const ROWS_PER_ITEM: usize = 256;

/// A tile whose rows come from one KV head of one sequence.
pub trait Walks: Sync {
    /// What is walked.
    fn stretch(&self, shape: HeadShape) -> Stretch;
}

/// Rows of one sequence and one KV head: all its keys, or all its queries of the heads of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stretch {
    /// First packed token.
    pub token: usize,
    /// Tokens.
    pub tokens: usize,
    /// First head.
    pub head: usize,
    /// Heads.
    pub heads: usize,
}

impl Walks for QueryTile {
    fn stretch(&self, _: HeadShape) -> Stretch {
        let sequence = self.sequence;
        Stretch { token: sequence.k_start, tokens: sequence.k_len, head: self.g, heads: 1 }
    }
}

impl Walks for KeyTile {
    fn stretch(&self, shape: HeadShape) -> Stretch {
        let (sequence, heads) = (self.sequence, shape.group());
        Stretch { token: sequence.q_start, tokens: sequence.q_len, head: self.g * heads, heads }
    }
}

impl Stretch {
    fn order(&self) -> (usize, usize, usize) {
        (self.token, self.head, self.tokens)
    }

    fn rows(&self) -> usize {
        self.tokens * self.heads
    }
}

/// The tensors that tiles walk.
#[derive(Clone, Copy, Debug)]
pub struct Operands<'a> {
    /// K, or Q.
    pub a: TensorView<'a>,
    /// V, or dO.
    pub b: TensorView<'a>,
}

impl Operands<'_> {
    /// Whether rows are best read where they are.
    fn is_compact(&self) -> bool {
        [self.a, self.b].iter().all(|view| {
            matches!(view.elements(), Elements::F32(_)) && view.token_stride() == view.shape().head_dim
        })
    }
}

/// Does every tile in order, each with the source of its rows: the tensors themselves, or a copy where that is
/// `repaid` by the number of tiles that walk a row.
pub fn for_each<T: Walks>(
    attention: &CpuAttention,
    shape: HeadShape,
    (operands, repaid): (Operands<'_>, bool),
    tiles: &[T],
    work: impl Fn(&mut super::scratch::Scratch, &T, &Source<'_>) + Sync,
) {
    let d = shape.head_dim();
    let mut stretches: Vec<Stretch> = tiles.iter().map(|tile| tile.stretch(shape)).collect();
    stretches.sort_by_key(Stretch::order);
    stretches.dedup();
    let row_bytes = 2 * d * size_of::<f32>();
    let largest = stretches.iter().map(Stretch::rows).max().unwrap_or(0);
    if operands.is_compact() || !repaid || largest.saturating_mul(row_bytes) > BUDGET_BYTES {
        attention.for_each(tiles, |scratch, tile| {
            let Stretch { token, head, .. } = tile.stretch(shape);
            work(scratch, tile, &Source { a: operands.a, b: operands.b, token, head });
        });
        return;
    }
    let mut left = stretches.as_slice();
    while !left.is_empty() {
        let mut rows = 0;
        let count = left.iter().take_while(|stretch| {
            rows += stretch.rows();
            rows * row_bytes <= BUDGET_BYTES
        });
        let (wave, rest) = left.split_at(count.count().max(1));
        let copy = Copy::new(attention, operands, wave, d);
        let members: Vec<(&T, usize)> = tiles
            .iter()
            .filter_map(|tile| {
                let order = tile.stretch(shape).order();
                Some((tile, wave.binary_search_by_key(&order, Stretch::order).ok()?))
            })
            .collect();
        attention.for_each(&members, |scratch, (tile, which)| {
            work(scratch, tile, &copy.source(*which));
        });
        left = rest;
    }
}

/// Some stretches, one after the other, head after head.
struct Copy<'a> {
    a: Vec<f32>,
    b: Vec<f32>,
    stretches: &'a [Stretch],
    /// First row of each stretch.
    starts: Vec<usize>,
    head_dim: usize,
}

impl<'a> Copy<'a> {
    fn new(
        attention: &CpuAttention,
        operands: Operands<'_>,
        stretches: &'a [Stretch],
        head_dim: usize,
    ) -> Copy<'a> {
        let mut starts = Vec::with_capacity(stretches.len());
        let mut rows = 0;
        let mut items = Vec::new();
        for stretch in stretches {
            starts.push(rows);
            for head in 0..stretch.heads {
                let chunks = (0..stretch.tokens).step_by(ROWS_PER_ITEM);
                items.extend(chunks.map(|token| (*stretch, head, token, rows + token)));
                rows += stretch.tokens;
            }
        }
        let (mut a, mut b) = (vec![0.0; rows * head_dim], vec![0.0; rows * head_dim]);
        let to_a = RowWriter::new(ElementsMut::F32(&mut a), 1, head_dim);
        let to_b = RowWriter::new(ElementsMut::F32(&mut b), 1, head_dim);
        attention.for_each(&items, |scratch, &(stretch, head, token, row)| {
            for r in 0..ROWS_PER_ITEM.min(stretch.tokens - token) {
                let (from, head) = (stretch.token + token + r, stretch.head + head);
                for (view, to) in [(&operands.a, &to_a), (&operands.b, &to_b)] {
                    read_row(view, from, head, &mut scratch.row);
                    // SAFETY: each row of the copy belongs to one item, each item to one thread.
                    unsafe { to.write(row + r, 0, &scratch.row) }
                }
            }
        });
        Copy { a, b, stretches, starts, head_dim }
    }

    /// The rows of a stretch.
    fn source(&self, which: usize) -> Source<'_> {
        Source { a: self.view(&self.a, which), b: self.view(&self.b, which), token: 0, head: 0 }
    }

    fn view<'b>(&self, buffer: &'b [f32], which: usize) -> TensorView<'b> {
        let Stretch { tokens, heads, .. } = self.stretches[which];
        let shape = TensorShape { tokens, heads, head_dim: self.head_dim };
        let start = self.starts[which] * self.head_dim;
        let elements = Elements::F32(&buffer[start..start + tokens * heads * self.head_dim]);
        TensorView::heads_first(elements, shape)
    }
}
