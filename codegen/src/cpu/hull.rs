//! The rule of the parts of a masked tile (`parts.rs`) as generated code.

use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, Value, types};
use cranelift_frontend::Variable;

use super::abi::Item;
use super::emit::{Declared, Emit, Unit, item_field};
use super::parts::{self, Lanes, Steps, Tile};

/// `(item, rows, strip, strips)` to `(first, end)`, as [`parts::hull`].
pub(super) fn define(unit: &mut Unit, lanes: Lanes, next_keys: &Declared) -> Declared {
    unit.define("hull", &[types::I64; 4], &[types::I64; 2], |e, args| {
        let &[item, rows, strip, strips] = args else { unreachable!("a hull has four parameters") };
        let (first, end) = parts::hull(e, &ItemTile { item, lanes, next_keys }, rows, (strip, strips));
        e.b.ins().return_(&[first, end]);
    })
}

/// The tile that a work item is at.
struct ItemTile<'a> {
    item: Value,
    lanes: Lanes,
    next_keys: &'a Declared,
}

impl<'b> Tile<Emit<'b>> for ItemTile<'_> {
    fn lanes(&self) -> Lanes {
        self.lanes
    }
    fn row(&self, e: &mut Emit<'b>, at: Value) -> Value {
        let indices = item_field!(e, self.item, row_index);
        e.index_at(indices, at)
    }
    fn lane(&self, e: &mut Emit<'b>, at: Value) -> Value {
        let indices = item_field!(e, self.item, lane_index);
        e.index_at(indices, at)
    }
    fn lane_end(&self, e: &mut Emit<'b>) -> Value {
        item_field!(e, self.item, lane_end)
    }
    fn next_keys(&self, e: &mut Emit<'b>, queries: (Value, Value), key: Value) -> Value {
        let g = item_field!(e, self.item, g);
        e.call(self.next_keys, &[g, queries.0, queries.1, key])[0]
    }
}

impl Steps for Emit<'_> {
    type Int = Value;
    type Truth = Value;
    type Variable = Variable;

    fn int(&mut self, value: i64) -> Value {
        Emit::int(self, value)
    }
    fn plus(&mut self, a: Value, b: i64) -> Value {
        self.b.ins().iadd_imm_s(a, b)
    }
    fn sum(&mut self, a: Value, b: Value) -> Value {
        self.b.ins().iadd(a, b)
    }
    fn difference(&mut self, a: Value, b: Value) -> Value {
        self.b.ins().isub(a, b)
    }
    fn times(&mut self, a: Value, b: i64) -> Value {
        self.b.ins().imul_imm_s(a, b)
    }
    fn round_up(&mut self, a: Value, to: i64) -> Value {
        let above = self.b.ins().iadd_imm_s(a, to - 1);
        self.b.ins().band_imm_s(above, -to)
    }
    fn smaller(&mut self, a: Value, b: Value) -> Value {
        Emit::smaller(self, a, b)
    }
    fn select(&mut self, condition: Value, a: Value, b: Value) -> Value {
        self.b.ins().select(condition, a, b)
    }
    fn less(&mut self, a: Value, b: Value) -> Value {
        self.b.ins().icmp(IntCC::SignedLessThan, a, b)
    }
    fn equal(&mut self, a: Value, b: Value) -> Value {
        self.b.ins().icmp(IntCC::Equal, a, b)
    }
    fn not(&mut self, a: Value) -> Value {
        self.b.ins().bxor_imm_u(a, 1)
    }
    fn both(&mut self, a: Value, b: impl FnOnce(&mut Self) -> Value) -> Value {
        let no = self.b.ins().iconst(types::I8, 0);
        let holds = Emit::variable(self, no);
        Emit::if_then(self, a, |e| {
            let b = b(e);
            Emit::set(e, holds, b);
        });
        Emit::get(self, holds)
    }
    fn variable(&mut self, start: Value) -> Variable {
        Emit::variable(self, start)
    }
    fn get(&mut self, variable: Variable) -> Value {
        Emit::get(self, variable)
    }
    fn set(&mut self, variable: Variable, value: Value) {
        Emit::set(self, variable, value);
    }
    fn while_loop(&mut self, condition: impl FnMut(&mut Self) -> Value, body: impl FnMut(&mut Self)) {
        Emit::while_loop(self, condition, body);
    }
    fn if_then(&mut self, condition: Value, then: impl FnOnce(&mut Self)) {
        Emit::if_then(self, condition, then);
    }
}
