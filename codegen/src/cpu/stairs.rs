//! Products over a part of a tile of which the first strip sees rows before the others do, and the last rows behind.

use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, Value};

use super::abi::{Item, LANES, STRIP};
use super::emit::{Declared, Emit, callee};
use super::parts;

/// The rows and strips of a part, and the rows that all its strips are computed with.
pub(super) struct Stairs {
    item: Value,
    rows: Value,
    strips: Value,
    /// Before this row only the first strip sees something,
    first: Value,
    /// from this one on only the last.
    end: Value,
}

impl Stairs {
    /// Of the part `(item, first row, end, first strip, strips)`, as [`parts::stairs`].
    pub(super) fn new(
        e: &mut Emit<'_>,
        hull: Option<&Declared>,
        is_full: Value,
        (item, first_row, end_row, first_strip, strips): (Value, Value, Value, Value, Value),
    ) -> Stairs {
        let rows = e.b.ins().isub(end_row, first_row);
        let zero = e.int(0);
        let Some(hull) = hull else {
            return Stairs { item, rows, strips, first: zero, end: rows };
        };
        let is_pair = e.b.ins().icmp_imm_s(IntCC::Equal, strips, 2);
        let is_masked = e.b.ins().bxor_imm_u(is_full, 1);
        let may_have = e.b.ins().band(is_pair, is_masked);
        let seen = |e: &mut Emit<'_>, strip, strips| {
            let seen = e.call(hull, &[item, end_row, strip, strips]);
            (seen[0], seen[1])
        };
        let (first, end) = parts::stairs(e, may_have, (first_row, end_row, first_strip), seen);
        Stairs { item, rows, strips, first, end }
    }

    /// `C = A B` by rows; those rows of a strip that are left out keep what they hold.
    pub(super) fn rows_product(
        &self,
        e: &mut Emit<'_>,
        (a, a_stride): (Value, Value),
        (b, c, depth): (Value, Value, Value),
        (next, next_stride): (Value, Value),
    ) {
        let product = callee!(e, self.item, rows);
        let zero = e.int(0);
        let one = e.int(1);
        let last = e.b.ins().iadd_imm_s(self.strips, -1);
        let steps = [
            (zero, self.first, zero, one),
            (self.first, self.end, zero, self.strips),
            (self.end, self.rows, last, one),
        ];
        for (row, end, strip, strips) in steps {
            let some = e.b.ins().icmp(IntCC::SignedLessThan, row, end);
            e.if_then(some, |e| {
                let lane = e.b.ins().imul_imm_s(strip, STRIP as i64);
                let a = row_of(e, a, row, a_stride);
                let next = row_of(e, next, row, next_stride);
                let b = e.element(b, lane, 4);
                let line = e.int(LANES as i64);
                let c = row_of(e, c, row, line);
                let c = e.element(c, lane, 4);
                let rows = e.b.ins().isub(end, row);
                e.call_pointer(product, &[a, a_stride, b, c, rows, depth, strips, next, next_stride]);
            });
        }
    }

    /// `C = alpha C + A B` by columns, through `product`.
    pub(super) fn columns_product(
        &self,
        e: &mut Emit<'_>,
        product: Value,
        (a, a_stride): (Value, Value),
        (b, c, depth): (Value, Value, Value),
        alpha: Value,
        soon: (Value, Value),
    ) {
        let Stairs { rows, strips, first, end, .. } = *self;
        let args = [a, a_stride, b, c, depth, rows, strips, alpha, soon.0, soon.1, first, end];
        e.call_pointer(product, &args);
    }
}

/// The address of a row of f32.
fn row_of(e: &mut Emit<'_>, base: Value, row: Value, stride: Value) -> Value {
    let offset = e.b.ins().imul(row, stride);
    e.element(base, offset, 4)
}
