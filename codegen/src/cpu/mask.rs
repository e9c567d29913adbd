//! Masks over a score tile: pairs that the pattern hides become -inf.

use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Type, Value, types};

use super::abi::{Item, LANES, STRIP};
use super::emit::{Declared, Emit, Unit};
use super::program::{LaneProgram, Varies, reinterpret};
use crate::scalar::Program;

/// What the lanes of a tile are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lanes {
    /// Lanes are query rows, rows are keys: forward and dQ.
    Queries,
    /// Lanes are keys, rows are queries: dK and dV.
    Keys,
}

const FLAGS: MemFlagsData = MemFlagsData::trusted();
const MASK_PARAMS: [Type; 2] = [types::I64; 2];
const LANE_BYTES: i64 = 4;

/// `(item, rows)`: hides the pairs with `j > i`.
pub(super) fn define_edge(unit: &mut Unit, lanes: Lanes) -> Declared {
    unit.define("mask_edge", &MASK_PARAMS, &[], |e, args| {
        each_quad(
            e,
            args,
            |e, lane| lane_indices(e, args[0], lane),
            |e, row, &lane_index| {
                let row_index = e.b.ins().splat(types::I32X4, row);
                let (query, key) = match lanes {
                    Lanes::Queries => (lane_index, row_index),
                    Lanes::Keys => (row_index, lane_index),
                };
                e.b.ins().icmp(IntCC::SignedLessThanOrEqual, key, query)
            },
        );
        e.b.ins().return_(&[]);
    })
}

/// `(item, rows)`: hides what `visible` does not admit, four lanes at a time in 32-bit arithmetic.
pub(super) fn define_pairs(unit: &mut Unit, lanes: Lanes, visible: &Program) -> Declared {
    unit.define("mask_pairs", &MASK_PARAMS, &[], |e, args| {
        let (i, j) = match lanes {
            Lanes::Queries => (Varies::Lane, Varies::Row),
            Lanes::Keys => (Varies::Row, Varies::Lane),
        };
        let program = std::cell::RefCell::new(LaneProgram::new(visible, &[Varies::Not, i, j]));
        let g = e.field(args[0], offset_of!(Item, g));
        let g = e.b.ins().ireduce(types::I32, g);
        program.borrow_mut().emit(e, Varies::Not, |_| g);
        each_quad(
            e,
            args,
            |e, lane| {
                let lane_index = lane_indices(e, args[0], lane);
                program.borrow_mut().emit(e, Varies::Lane, |_| lane_index);
            },
            |e, row, ()| {
                program.borrow_mut().emit(e, Varies::Row, |_| row);
                program.borrow().mask(e)
            },
        );
        e.b.ins().return_(&[]);
    })
}

/// `(item, rows)`: hides what the function `visible` does not admit, pair by pair in 64-bit arithmetic.
pub(super) fn define_wide(unit: &mut Unit, lanes: Lanes, visible: &Declared) -> Declared {
    unit.define("mask_pairs", &MASK_PARAMS, &[], |e, args| {
        let (item, rows) = (args[0], args[1]);
        let g = e.field(item, offset_of!(Item, g));
        let scores = e.field(item, offset_of!(Item, scores));
        let row_index = e.field(item, offset_of!(Item, row_index));
        let lane_index = e.field(item, offset_of!(Item, lane_index));
        let end = lanes_in_use(e, item);
        e.count(rows, 1, |e, r| {
            let row = index_at(e, row_index, r);
            let line = e.element(scores, r, LANES as i64 * LANE_BYTES);
            e.count(end, 1, |e, l| {
                let lane = index_at(e, lane_index, l);
                let pair = match lanes {
                    Lanes::Queries => [g, lane, row],
                    Lanes::Keys => [g, row, lane],
                };
                let seen = e.call(visible, &pair)[0];
                let hidden = e.b.ins().icmp_imm_s(IntCC::Equal, seen, 0);
                let at = e.element(line, l, LANE_BYTES);
                e.if_then(hidden, |e| {
                    let minus = e.b.ins().f32const(f32::NEG_INFINITY);
                    e.b.ins().store(FLAGS, minus, at, 0);
                });
            });
        });
        e.b.ins().return_(&[]);
    })
}

/// For every four lanes, `prepare`; then for every row the mask of what stays, and -inf elsewhere.
fn each_quad<P>(
    e: &mut Emit<'_>,
    args: &[Value],
    prepare: impl FnOnce(&mut Emit<'_>, Value) -> P,
    mask: impl FnOnce(&mut Emit<'_>, Value, &P) -> Value,
) {
    let (item, rows) = (args[0], args[1]);
    let scores = e.field(item, offset_of!(Item, scores));
    let row_index = e.field(item, offset_of!(Item, row_index));
    let minus = e.b.ins().f32const(f32::NEG_INFINITY);
    let minus = e.b.ins().splat(types::F32X4, minus);
    let minus = reinterpret(e, types::I32X4, minus);
    let end = lanes_in_use(e, item);
    e.count(end, 4, |e, lane| {
        let prepared = prepare(e, lane);
        let column = e.element(scores, lane, LANE_BYTES);
        e.count(rows, 1, |e, r| {
            let at = e.element(row_index, r, 4);
            let row = e.b.ins().load(types::I32, FLAGS, at, 0);
            let mask = mask(e, row, &prepared);
            let at = e.element(column, r, LANES as i64 * LANE_BYTES);
            let score = e.b.ins().load(types::I32X4, FLAGS, at, 0);
            let kept = e.b.ins().bitselect(mask, score, minus);
            e.b.ins().store(FLAGS, kept, at, 0);
        });
    });
}

fn lanes_in_use(e: &mut Emit<'_>, item: Value) -> Value {
    let strips = e.field(item, offset_of!(Item, strips));
    e.b.ins().imul_imm_s(strips, STRIP as i64)
}

fn lane_indices(e: &mut Emit<'_>, item: Value, lane: Value) -> Value {
    let base = e.field(item, offset_of!(Item, lane_index));
    let at = e.element(base, lane, 4);
    e.b.ins().load(types::I32X4, FLAGS, at, 0)
}

fn index_at(e: &mut Emit<'_>, base: Value, index: Value) -> Value {
    let at = e.element(base, index, 4);
    let value = e.b.ins().load(types::I32, FLAGS, at, 0);
    e.b.ins().sextend(types::I64, value)
}
