//! Which rows of a masked tile some of its lanes see: what lies before and behind them need not be computed.

use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, Value, types};

use super::abi::{Item, STRIP};
use super::emit::{Declared, Emit, Unit, item_field};
use super::mask::Lanes;

/// Rows are left out in whole chunks of this many: as fine as the strips, and few enough to ask for each.
const CHUNK: i64 = STRIP as i64;
/// Strips that are asked for together: the product of a single strip loads a number for each multiply-add, and computes
/// what it saves in the time it loses.
pub(super) const STRIPS: i64 = 2;

/// `(item, rows, strip, strips)` to `(first, end)`: outside these rows of the tile no pair of so many strips from `strip` on is
/// visible. Empty, behind the tile, where none is.
pub(super) fn define(unit: &mut Unit, lanes: Lanes, next_keys: &Declared) -> Declared {
    unit.define("hull", &[types::I64; 4], &[types::I64; 2], |e, args| {
        let &[item, rows, strip, strips] = args else { unreachable!("a hull has four parameters") };
        let columns = tokens_of(e, item, strip, strips);
        let hull = Hull { item, rows, lanes, columns, next_keys };
        let zero = e.int(0);
        let first = e.variable(zero);
        e.while_loop(
            |e| {
                let at = e.get(first);
                let inside = e.b.ins().icmp(IntCC::SignedLessThan, at, rows);
                hull.is_unseen(e, inside, at)
            },
            |e| {
                let at = e.get(first);
                let next = e.b.ins().iadd_imm_s(at, CHUNK);
                e.set(first, next);
            },
        );
        let first = e.get(first);
        // Behind the tile where nothing is seen: the loop below then stops at once.
        let first = e.smaller(first, rows);
        let chunks = e.b.ins().iadd_imm_s(rows, CHUNK - 1);
        let behind = e.b.ins().band_imm_s(chunks, -CHUNK);
        let end = e.variable(behind);
        e.while_loop(
            |e| {
                let end = e.get(end);
                let last = e.b.ins().iadd_imm_s(end, -CHUNK);
                let inside = e.b.ins().icmp(IntCC::SignedGreaterThan, last, first);
                hull.is_unseen(e, inside, last)
            },
            |e| {
                let end_now = e.get(end);
                let last = e.b.ins().iadd_imm_s(end_now, -CHUNK);
                e.set(end, last);
            },
        );
        let end = e.get(end);
        let end = e.smaller(end, rows);
        e.b.ins().return_(&[first, end]);
    })
}

/// The box of these strips and the rows of a tile.
struct Hull<'a> {
    item: Value,
    rows: Value,
    lanes: Lanes,
    /// First and one past the last token of the strips.
    columns: (Value, Value),
    next_keys: &'a Declared,
}

impl Hull<'_> {
    /// Whether the chunk at row `at` is `inside` the tile and shows the strips nothing.
    fn is_unseen(&self, e: &mut Emit<'_>, inside: Value, at: Value) -> Value {
        let no = e.b.ins().iconst(types::I8, 0);
        let unseen = e.variable(no);
        e.if_then(inside, |e| {
            let stop = e.b.ins().iadd_imm_s(at, CHUNK);
            let stop = e.smaller(stop, self.rows);
            let last = e.b.ins().iadd_imm_s(stop, -1);
            let indices = item_field!(e, self.item, row_index);
            let begin = e.index_at(indices, at);
            let end = e.index_at(indices, last);
            let end = e.b.ins().iadd_imm_s(end, 1);
            let (queries, keys) = match self.lanes {
                Lanes::Queries => (self.columns, (begin, end)),
                Lanes::Keys => ((begin, end), self.columns),
            };
            let g = item_field!(e, self.item, g);
            let run = e.call(self.next_keys, &[g, queries.0, queries.1, keys.0]);
            let none = e.b.ins().icmp(IntCC::SignedGreaterThanOrEqual, run[0], keys.1);
            e.set(unseen, none);
        });
        e.get(unseen)
    }
}

/// First and one past the last token of the lanes of these strips. Lanes not in use hold no token, and come last.
fn tokens_of(e: &mut Emit<'_>, item: Value, strip: Value, strips: Value) -> (Value, Value) {
    let indices = item_field!(e, item, lane_index);
    let first = e.b.ins().imul_imm_s(strip, STRIP as i64);
    let behind = e.b.ins().iadd(strip, strips);
    let behind = e.b.ins().imul_imm_s(behind, STRIP as i64);
    let last = e.b.ins().iadd_imm_s(behind, -1);
    let first = e.index_at(indices, first);
    let last = e.index_at(indices, last);
    let end = e.b.ins().iadd_imm_s(last, 1);
    let lane_end = item_field!(e, item, lane_end);
    let clipped = e.smaller(end, lane_end);
    let in_use = e.b.ins().icmp(IntCC::SignedGreaterThanOrEqual, last, first);
    (first, e.b.ins().select(in_use, clipped, lane_end))
}
