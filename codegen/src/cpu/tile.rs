//! What happens to one tile: products, mask, softmax or its gradient, products again.

use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Value, types};

use super::abi::{Item, LANES, STRIP};
use super::emit::{Declared, Emit, Unit, callee, item_field};
use super::parts::each_part;
use super::stairs::Stairs;

/// Kinds of tiles, from no mask to the whole element test; the larger covers the smaller.
pub(super) const FULL: i64 = 0;
/// Only `j <= i`.
pub(super) const EDGE: i64 = 1;
/// Every pair is tested.
pub(super) const PAIRS: i64 = 2;

/// What a tile does with its products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    Forward,
    DQuery,
    DKeyValue,
}

/// What a tile calls that depends on the mask.
pub(super) struct MaskParts<'a> {
    pub(super) edge: &'a Declared,
    pub(super) pairs: &'a Declared,
    /// Absent for listed masks: nothing is known of a strip without trying its pairs.
    pub(super) hull: Option<&'a Declared>,
}

/// `(item, a, a_stride, b, b_stride, rows, kind, stats)`: one tile of rows against the lanes; `stats` is the offset in
/// elements of the rows' statistics, where rows are queries.
///
/// Of a masked tile only parts are computed: neighbouring strips that see the same rows.
pub(super) fn define_tile(unit: &mut Unit, pass: Pass, head_dim: usize, mask: &MaskParts<'_>) -> Declared {
    let part = define_part(unit, pass, head_dim, mask);
    unit.define("tile", &[types::I64; 8], &[], |e, args| {
        let &[item, a, a_stride, b, b_stride, rows, kind, stats] = args else {
            unreachable!("a tile has eight parameters")
        };
        let operands = [item, a, a_stride, b, b_stride, kind, stats];
        let compute = |e: &mut Emit<'_>, rows: (Value, Value), strips: (Value, Value)| {
            let bounds = [rows.0, rows.1, strips.0, strips.1];
            e.call(&part, &[operands.as_slice(), &bounds].concat());
        };
        let zero = e.int(0);
        let strips = item_field!(e, item, strips);
        let Some(hull) = mask.hull else {
            compute(e, (zero, rows), (zero, strips));
            e.b.ins().return_(&[]);
            return;
        };
        let is_full = e.b.ins().icmp_imm_s(IntCC::Equal, kind, FULL);
        e.if_else(
            is_full,
            |e| compute(e, (zero, rows), (zero, strips)),
            |e| {
                let seen = |e: &mut Emit<'_>, strip, together| {
                    let seen = e.call(hull, &[item, rows, strip, together]);
                    (seen[0], seen[1])
                };
                each_part(e, strips, seen, compute);
            },
        );
        e.b.ins().return_(&[]);
    })
}

/// `(item, a, a_stride, b, b_stride, kind, stats, first row, end, first strip, end)`: a part of a tile.
fn define_part(unit: &mut Unit, pass: Pass, head_dim: usize, mask: &MaskParts<'_>) -> Declared {
    unit.define("part", &[types::I64; 11], &[], |e, args| {
        let &[item, a, a_stride, b, b_stride, kind, stats, first_row, end_row, first_strip, end_strip] = args
        else {
            unreachable!("a part has eleven parameters")
        };
        let rows = e.b.ins().isub(end_row, first_row);
        let strips = e.b.ins().isub(end_strip, first_strip);
        let lane = e.b.ins().imul_imm_s(first_strip, STRIP as i64);
        let from_row = |e: &mut Emit<'_>, base: Value, stride: Value| {
            let offset = e.b.ins().imul(first_row, stride);
            e.element(base, offset, 4)
        };
        let (a, b) = (from_row(e, a, a_stride), from_row(e, b, b_stride));
        let line = e.int(LANES as i64);
        let depth = e.int(head_dim as i64);
        let scores = item_field!(e, item, scores);
        let scores = from_row(e, scores, line);
        let scores = e.element(scores, lane, 4);
        let lanes_a = item_field!(e, item, lanes_a);
        let lanes_a = e.element(lanes_a, lane, 4);
        let is_full = e.b.ins().icmp_imm_s(IntCC::Equal, kind, FULL);
        let stairs = Stairs::new(e, mask.hull, is_full, (item, first_row, end_row, first_strip, strips));
        stairs.rows_product(e, (a, a_stride), (lanes_a, scores, depth), (b, b_stride));
        e.if_else(
            is_full,
            |_| {},
            |e| {
                let lanes = e.b.ins().imul_imm_s(strips, STRIP as i64);
                let part = [item, first_row, rows, lane, lanes];
                let is_edge = e.b.ins().icmp_imm_s(IntCC::Equal, kind, EDGE);
                e.if_else(
                    is_edge,
                    |e| {
                        e.call(mask.edge, &part);
                    },
                    |e| {
                        e.call(mask.pairs, &part);
                    },
                );
            },
        );
        let whole = callee!(e, item, columns);
        let masked = callee!(e, item, columns_masked);
        let columns = e.b.ins().select(is_full, whole, masked);
        let alpha = item_field!(e, item, alpha);
        let alpha = e.element(alpha, lane, 4);
        let out_a = item_field!(e, item, out_a);
        let out_a = e.element(out_a, lane, 4);
        let soon = take_soon(e, item, rows);
        if pass == Pass::Forward {
            let softmax = callee!(e, item, softmax);
            e.call_pointer(softmax, &[scores, rows, strips, item, lane]);
            let alpha = take_fresh(e, (item, head_dim), (first_strip, end_strip), alpha);
            stairs.columns_product(e, columns, (b, b_stride), (scores, out_a, depth), alpha, soon);
            e.b.ins().return_(&[]);
            return;
        }
        let dp = item_field!(e, item, dp);
        let dp = from_row(e, dp, line);
        let dp = e.element(dp, lane, 4);
        let lanes_b = item_field!(e, item, lanes_b);
        let lanes_b = e.element(lanes_b, lane, 4);
        stairs.rows_product(e, (b, b_stride), (lanes_b, dp, depth), (a, a_stride));
        // Statistics belong to queries, be they rows or lanes.
        let (gradient, query) = if pass == Pass::DQuery {
            (callee!(e, item, gradient_query_lanes), lane)
        } else {
            (callee!(e, item, gradient_key_lanes), first_row)
        };
        let query = e.b.ins().iadd(stats, query);
        let lse2 = item_field!(e, item, lse2);
        let lse2 = e.element(lse2, query, 4);
        let delta = item_field!(e, item, delta);
        let delta = e.element(delta, query, 4);
        e.call_pointer(gradient, &[scores, dp, rows, strips, item, lse2, delta]);
        if pass == Pass::DQuery {
            stairs.columns_product(e, columns, (a, a_stride), (scores, out_a, depth), alpha, soon);
        } else {
            let out_b = item_field!(e, item, out_b);
            let out_b = e.element(out_b, lane, 4);
            stairs.columns_product(e, columns, (b, b_stride), (scores, out_b, depth), alpha, soon);
            let none = (soon.0, e.int(0));
            stairs.columns_product(e, columns, (a, a_stride), (dp, out_a, depth), alpha, none);
        }
        e.b.ins().return_(&[]);
    })
}

/// What O of these strips is multiplied by: `alpha`, or null where all of them are fresh. If some are, they become 0.
fn take_fresh(
    e: &mut Emit<'_>,
    (item, head_dim): (Value, usize),
    (first, end): (Value, Value),
    alpha: Value,
) -> Value {
    let fresh = item_field!(e, item, fresh);
    let ones = e.int(-1);
    let from_first = e.b.ins().ishl(ones, first);
    let from_end = e.b.ins().ishl(ones, end);
    let strips = e.b.ins().bxor(from_first, from_end);
    let rest = e.b.ins().band_not(fresh, strips);
    e.set_field(item, offset_of!(Item, fresh), rest);
    let taken = e.b.ins().band(fresh, strips);
    let are_all = e.b.ins().icmp(IntCC::Equal, taken, strips);
    let none = e.int(0);
    let only_some = e.b.ins().icmp(IntCC::NotEqual, taken, none);
    let only_some = e.b.ins().band_not(only_some, are_all);
    e.if_then(only_some, |e| {
        let out = item_field!(e, item, out_a);
        e.count(end, 1, |e, strip| {
            let bit = e.b.ins().ushr(taken, strip);
            let is_fresh = e.b.ins().band_imm_s(bit, 1);
            e.if_then(is_fresh, |e| {
                let column = e.element(out, strip, STRIP as i64 * 4);
                clear_strip(e, column, head_dim);
            });
        });
    });
    e.b.ins().select(are_all, none, alpha)
}

/// Sets a strip of a D x LANES tile to 0.
fn clear_strip(e: &mut Emit<'_>, column: Value, head_dim: usize) {
    let zero = e.b.ins().f32const(0.0);
    let zero = e.b.ins().splat(types::F32X4, zero);
    let lines = e.int(head_dim as i64);
    e.count(lines, 1, |e, line| {
        let at = e.element(column, line, LANES as i64 * 4);
        for quad in 0..STRIP as i32 / 4 {
            e.b.ins().store(MemFlagsData::trusted(), zero, at, 16 * quad);
        }
    });
}

/// Takes rows from the item's list of those needed soon: one for two rows walked, which is as fast as they come.
fn take_soon(e: &mut Emit<'_>, item: Value, rows: Value) -> (Value, Value) {
    let list = item_field!(e, item, soon);
    let left = item_field!(e, item, soon_len);
    let wanted = e.b.ins().sshr_imm_u(rows, 1);
    let taken = e.smaller(wanted, left);
    let rest = e.element(list, taken, size_of::<*const f32>() as i64);
    let still = e.b.ins().isub(left, taken);
    e.set_field(item, offset_of!(Item, soon), rest);
    e.set_field(item, offset_of!(Item, soon_len), still);
    (list, taken)
}
