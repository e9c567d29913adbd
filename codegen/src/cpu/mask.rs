//! Masks over a score tile: pairs that the pattern hides become -inf.

use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Type, Value, types};
use cranelift_frontend::Variable;

use super::abi::{Item, LANES};
use super::emit::{Declared, Emit, Unit};
use super::parts::Lanes;
use super::program::{LaneProgram, Varies, reinterpret};
use crate::scalar::Program;

const FLAGS: MemFlagsData = MemFlagsData::trusted();
/// `(item, first row, rows, first lane, lanes)`: a part of the score tile.
const MASK_PARAMS: [Type; 5] = [types::I64; 5];
const LANE_BYTES: i64 = 4;

/// Hides the pairs with `j > i`: from the first row on of which a quad's first lane sees nothing, or up to the first row of
/// which its last lane sees something. Those rows come later and later, since indices ascend.
pub(super) fn define_edge(unit: &mut Unit, lanes: Lanes) -> Declared {
    unit.define("mask_edge", &MASK_PARAMS, &[], |e, args| {
        let part = Part::new(e, args);
        let zero = e.int(0);
        let turn = e.variable(zero);
        each_quad(
            e,
            &part,
            |e, lane| match lanes {
                Lanes::Queries => (rows_below(e, &part, turn, lane, IntCC::SignedLessThanOrEqual), part.rows),
                Lanes::Keys => {
                    let last = e.b.ins().iadd_imm_s(lane, 3);
                    (zero, rows_below(e, &part, turn, last, IntCC::SignedLessThan))
                }
            },
            |_, lane_index| lane_index,
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

/// Hides what `visible` does not admit, four lanes at a time in 32-bit arithmetic.
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
        let part = Part::new(e, args);
        let zero = e.int(0);
        each_quad(
            e,
            &part,
            |_, _| (zero, part.rows),
            |e, lane_index| {
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

/// Hides what the function `visible` does not admit, pair by pair in 64-bit arithmetic.
pub(super) fn define_wide(unit: &mut Unit, lanes: Lanes, visible: &Declared) -> Declared {
    unit.define("mask_pairs", &MASK_PARAMS, &[], |e, args| {
        let g = e.field(args[0], offset_of!(Item, g));
        let part = Part::new(e, args);
        e.count(part.rows, 1, |e, r| {
            let row = e.index_at(part.row_index, r);
            let line = e.element(part.scores, r, LANES as i64 * LANE_BYTES);
            e.count(part.lanes, 1, |e, l| {
                let lane = e.index_at(part.lane_index, l);
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

/// The part of the score tile that a mask works on.
struct Part {
    scores: Value,
    row_index: Value,
    rows: Value,
    lane_index: Value,
    lanes: Value,
}

impl Part {
    /// From the parameters of a mask.
    fn new(e: &mut Emit<'_>, args: &[Value]) -> Part {
        let &[item, first_row, rows, first_lane, lanes] = args else {
            unreachable!("a mask has five parameters")
        };
        let scores = e.field(item, offset_of!(Item, scores));
        let scores = e.element(scores, first_row, LANES as i64 * LANE_BYTES);
        let scores = e.element(scores, first_lane, LANE_BYTES);
        let row_index = e.field(item, offset_of!(Item, row_index));
        let row_index = e.element(row_index, first_row, 4);
        let lane_index = e.field(item, offset_of!(Item, lane_index));
        let lane_index = e.element(lane_index, first_lane, 4);
        Part { scores, row_index, rows, lane_index, lanes }
    }
}

/// Moves `turn` on to the first row whose index does not compare thus to that of the lane.
fn rows_below(e: &mut Emit<'_>, part: &Part, turn: Variable, lane: Value, comparison: IntCC) -> Value {
    let lane_index = e.index_at(part.lane_index, lane);
    e.while_loop(
        |e| {
            let row = e.get(turn);
            let inside = e.b.ins().icmp(IntCC::SignedLessThan, row, part.rows);
            let no = e.b.ins().iconst(types::I8, 0);
            let below = e.variable(no);
            e.if_then(inside, |e| {
                let row_index = e.index_at(part.row_index, row);
                let is_below = e.b.ins().icmp(comparison, row_index, lane_index);
                e.set(below, is_below);
            });
            e.get(below)
        },
        |e| {
            let row = e.get(turn);
            let next = e.b.ins().iadd_imm_s(row, 1);
            e.set(turn, next);
        },
    );
    e.get(turn)
}

/// For the indices of every four lanes, `prepare`; then for each of the `rows` (first and end) the mask of what stays, and
/// -inf elsewhere.
fn each_quad<P>(
    e: &mut Emit<'_>,
    part: &Part,
    rows: impl FnOnce(&mut Emit<'_>, Value) -> (Value, Value),
    prepare: impl FnOnce(&mut Emit<'_>, Value) -> P,
    mask: impl FnOnce(&mut Emit<'_>, Value, &P) -> Value,
) {
    let minus = e.b.ins().f32const(f32::NEG_INFINITY);
    let minus = e.b.ins().splat(types::F32X4, minus);
    let minus = reinterpret(e, types::I32X4, minus);
    e.count(part.lanes, 4, |e, lane| {
        let at = e.element(part.lane_index, lane, 4);
        let lane_index = e.b.ins().load(types::I32X4, FLAGS, at, 0);
        let prepared = prepare(e, lane_index);
        let (first, end) = rows(e, lane);
        let column = e.element(part.scores, lane, LANE_BYTES);
        let column = e.element(column, first, LANES as i64 * LANE_BYTES);
        let indices = e.element(part.row_index, first, 4);
        let count = e.b.ins().isub(end, first);
        e.count(count, 1, |e, r| {
            let at = e.element(indices, r, 4);
            let row = e.b.ins().load(types::I32, FLAGS, at, 0);
            let mask = mask(e, row, &prepared);
            let at = e.element(column, r, LANES as i64 * LANE_BYTES);
            let score = e.b.ins().load(types::I32X4, FLAGS, at, 0);
            let kept = e.b.ins().bitselect(mask, score, minus);
            e.b.ins().store(FLAGS, kept, at, 0);
        });
    });
}
