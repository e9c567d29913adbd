//! Lane by lane: the online softmax, the gradient of the scores, row sums. Four lanes at a time.

use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::FloatCC;
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Value, types};

use super::product::{mul_add, nonzero};
use crate::cpu::abi::{Item, LANES, STRIP};
use crate::cpu::approx::{EXP2, ROUND, TANH, TANH_LIMIT};
use crate::cpu::emit::{Emit, Unit};
use crate::cpu::program::reinterpret;

const FLAGS: MemFlagsData = MemFlagsData::trusted();
/// Statistics of rows start at any element.
const ANYWHERE: MemFlagsData = MemFlagsData::new();
const LINE_BYTES: i64 = LANES as i64 * 4;

/// Vector arithmetic on four lanes.
struct Math<'e, 'f> {
    e: &'e mut Emit<'f>,
    has_fma: bool,
}

/// `softmax(scores, rows, strips, item, first lane)`
pub(super) fn define_softmax(unit: &mut Unit, has_fma: bool) {
    unit.define("softmax", &[types::I64; 5], &[], |e, args| {
        let &[scores, rows, strips, item, first] = args else { unreachable!("softmax has five parameters") };
        let lanes = e.b.ins().imul_imm_s(strips, STRIP as i64);
        let softcap2 = e.b.ins().load(types::F32, FLAGS, item, offset_of!(Item, softcap2) as i32);
        e.count(lanes, 4, |e, lane| {
            let column = e.element(scores, lane, 4);
            let state = |e: &mut Emit<'_>, offset: usize| {
                let base = e.field(item, offset);
                let lane = e.b.ins().iadd(first, lane);
                e.element(base, lane, 4)
            };
            let max = state(e, offset_of!(Item, max));
            let sum = state(e, offset_of!(Item, sum));
            let alpha = state(e, offset_of!(Item, alpha));
            with_softcap(e, softcap2, |e, softcap2| {
                cap_column(&mut Math { e, has_fma }, column, rows, softcap2);
            });
            softmax_column(&mut Math { e, has_fma }, column, rows, [max, sum, alpha]);
        });
        e.b.ins().return_(&[]);
    });
}

/// `gradient(scores, dp, rows, strips, item, lse2, delta)`
pub(super) fn define_gradient(unit: &mut Unit, name: &str, key_lanes: bool, has_fma: bool) {
    unit.define(name, &[types::I64; 7], &[], |e, args| {
        let &[scores, dp, rows, strips, item, lse2, delta] = args else {
            unreachable!("a gradient has seven parameters")
        };
        let lanes = e.b.ins().imul_imm_s(strips, STRIP as i64);
        let softcap2 = e.b.ins().load(types::F32, FLAGS, item, offset_of!(Item, softcap2) as i32);
        e.count(lanes, 4, |e, lane| {
            e.count(rows, 1, |e, row| {
                let at = e.element(scores, lane, 4);
                let at = e.element(at, row, LINE_BYTES);
                let at_dp = e.element(dp, lane, 4);
                let at_dp = e.element(at_dp, row, LINE_BYTES);
                let statistic = |e: &mut Emit<'_>, from: Value| {
                    if key_lanes {
                        let at = e.element(from, row, 4);
                        let one = e.b.ins().load(types::F32, ANYWHERE, at, 0);
                        e.b.ins().splat(types::F32X4, one)
                    } else {
                        let at = e.element(from, lane, 4);
                        e.b.ins().load(types::F32X4, FLAGS, at, 0)
                    }
                };
                let (lse2, delta) = (statistic(e, lse2), statistic(e, delta));
                let score = e.b.ins().load(types::F32X4, FLAGS, at, 0);
                let mut m = Math { e, has_fma };
                let one = m.splat(1.0);
                let (score, slope) = (m.e.variable(score), m.e.variable(one));
                with_softcap(m.e, softcap2, |e, softcap2| {
                    let raw = e.get(score);
                    let (bounded, steepness) = Math { e: &mut *e, has_fma }.capped(raw, softcap2);
                    e.set(score, bounded);
                    e.set(slope, steepness);
                });
                let (score, slope) = (m.e.get(score), m.e.get(slope));
                let x = m.e.b.ins().fsub(score, lse2);
                let p = m.exp2(x);
                // Explicitly: the statistics of a row that sees a NaN are NaN, and hidden keys must not get it.
                let (lowest, zero) = (m.splat(f32::MIN), m.splat(0.0));
                let p = m.less_select(score, lowest, zero, p);
                let dp = m.e.b.ins().load(types::F32X4, FLAGS, at_dp, 0);
                let ds = m.e.b.ins().fsub(dp, delta);
                let ds = m.e.b.ins().fmul(p, ds);
                let ds = m.e.b.ins().fmul(ds, slope);
                // A hidden pair has P = 0 and no gradient, whatever dP holds there.
                let seen = nonzero(m.e, p);
                let ds = reinterpret(m.e, types::I32X4, ds);
                let ds = m.e.b.ins().band(ds, seen);
                if key_lanes {
                    m.e.b.ins().store(FLAGS, p, at, 0);
                    m.e.b.ins().store(FLAGS, ds, at_dp, 0);
                } else {
                    m.e.b.ins().store(FLAGS, ds, at, 0);
                }
            });
        });
        e.b.ins().return_(&[]);
    });
}

/// `lane_dots(x, y, depth, strips, out)`: `out[l] = sum_d x[d][l] * y[d][l]`
pub(super) fn define_dots(unit: &mut Unit, has_fma: bool) {
    unit.define("lane_dots", &[types::I64; 5], &[], |e, args| {
        let &[x, y, depth, strips, out] = args else { unreachable!("lane_dots has five parameters") };
        let lanes = e.b.ins().imul_imm_s(strips, STRIP as i64);
        e.count(lanes, 4, |e, lane| {
            let [x, y, out] = [x, y, out].map(|base| e.element(base, lane, 4));
            let zero = Math { e, has_fma }.splat(0.0);
            let sum = e.variable(zero);
            e.count(depth, 1, |e, d| {
                let [x, y] = [x, y].map(|column| {
                    let at = e.element(column, d, LINE_BYTES);
                    e.b.ins().load(types::F32X4, FLAGS, at, 0)
                });
                let before = e.get(sum);
                let after = mul_add(e, has_fma, x, y, before);
                e.set(sum, after);
            });
            let sum = e.get(sum);
            e.b.ins().store(FLAGS, sum, out, 0);
        });
        e.b.ins().return_(&[]);
    });
}

/// Runs `body` with the softcap in all lanes, where there is one.
fn with_softcap(e: &mut Emit<'_>, softcap2: Value, body: impl FnOnce(&mut Emit<'_>, Value)) {
    let zero = e.b.ins().f32const(0.0);
    let is_on = e.b.ins().fcmp(FloatCC::NotEqual, softcap2, zero);
    e.if_then(is_on, |e| {
        let softcap2 = e.b.ins().splat(types::F32X4, softcap2);
        body(e, softcap2);
    });
}

fn cap_column(m: &mut Math<'_, '_>, column: Value, rows: Value, softcap2: Value) {
    let has_fma = m.has_fma;
    m.e.count(rows, 1, |e, row| {
        let at = e.element(column, row, LINE_BYTES);
        let score = e.b.ins().load(types::F32X4, FLAGS, at, 0);
        let (bounded, _) = Math { e: &mut *e, has_fma }.capped(score, softcap2);
        e.b.ins().store(FLAGS, bounded, at, 0);
    });
}

/// One step of the online softmax for four lanes; `state` holds maximum, sum and alpha.
fn softmax_column(m: &mut Math<'_, '_>, column: Value, rows: Value, state: [Value; 3]) {
    let has_fma = m.has_fma;
    let [at_max, at_sum, at_alpha] = state;
    let before = m.e.b.ins().load(types::F32X4, FLAGS, at_max, 0);
    let largest = m.e.variable(before);
    m.e.count(rows, 1, |e, row| {
        let at = e.element(column, row, LINE_BYTES);
        let score = e.b.ins().load(types::F32X4, FLAGS, at, 0);
        let so_far = e.get(largest);
        let larger = Math { e: &mut *e, has_fma }.max(so_far, score);
        e.set(largest, larger);
    });
    let largest = m.e.get(largest);
    // A lane that has seen nothing yet: subtract 0, so that exp2(-inf) gives 0 and not NaN.
    let (lowest, zero) = (m.splat(f32::MIN), m.splat(0.0));
    let shift = m.less_select(largest, lowest, zero, largest);
    let sum = m.e.variable(zero);
    m.e.count(rows, 1, |e, row| {
        let at = e.element(column, row, LINE_BYTES);
        let score = e.b.ins().load(types::F32X4, FLAGS, at, 0);
        let x = e.b.ins().fsub(score, shift);
        let p = Math { e: &mut *e, has_fma }.exp2(x);
        e.b.ins().store(FLAGS, p, at, 0);
        let so_far = e.get(sum);
        let more = e.b.ins().fadd(so_far, p);
        e.set(sum, more);
    });
    let x = m.e.b.ins().fsub(before, shift);
    let alpha = m.exp2(x);
    let old = m.e.b.ins().load(types::F32X4, FLAGS, at_sum, 0);
    let added = m.e.get(sum);
    let sum = mul_add(m.e, has_fma, old, alpha, added);
    for (value, at) in [(largest, at_max), (sum, at_sum), (alpha, at_alpha)] {
        m.e.b.ins().store(FLAGS, value, at, 0);
    }
}

impl Math<'_, '_> {
    fn splat(&mut self, x: f32) -> Value {
        let x = self.e.b.ins().f32const(x);
        self.e.b.ins().splat(types::F32X4, x)
    }

    /// `x` where `a < b`, else `y`; `y` where either is NaN.
    fn less_select(&mut self, a: Value, b: Value, x: Value, y: Value) -> Value {
        let less = self.e.b.ins().fcmp(FloatCC::LessThan, a, b);
        let (x, y) = (reinterpret(self.e, types::I32X4, x), reinterpret(self.e, types::I32X4, y));
        let chosen = self.e.b.ins().bitselect(less, x, y);
        reinterpret(self.e, types::F32X4, chosen)
    }

    /// The larger; `b` where either is NaN.
    fn max(&mut self, a: Value, b: Value) -> Value {
        self.less_select(b, a, a, b)
    }

    fn polynomial(&mut self, coefficients: &[f32], x: Value) -> Value {
        let mut value = self.splat(coefficients[0]);
        for &coefficient in &coefficients[1..] {
            let coefficient = self.splat(coefficient);
            value = mul_add(self.e, self.has_fma, value, x, coefficient);
        }
        value
    }

    /// `2^x` for `x` up to 127; 0 below -126.5, NaN for NaN.
    fn exp2(&mut self, x: Value) -> Value {
        let lowest = self.splat(-127.0);
        let x = self.max(lowest, x);
        let round = self.splat(ROUND);
        let shifted = self.e.b.ins().fadd(x, round);
        let whole = self.e.b.ins().fsub(shifted, round);
        let fraction = self.e.b.ins().fsub(x, whole);
        let value = self.polynomial(&EXP2, fraction);
        let bits = reinterpret(self.e, types::I32X4, shifted);
        let bias = self.e.b.ins().iconst(types::I32, 127);
        let bias = self.e.b.ins().splat(types::I32X4, bias);
        let exponent = self.e.b.ins().iadd(bits, bias);
        let power = self.e.b.ins().ishl_imm_u(exponent, 23);
        let power = reinterpret(self.e, types::F32X4, power);
        self.e.b.ins().fmul(value, power)
    }

    fn tanh(&mut self, x: Value) -> Value {
        let (zero, one) = (self.splat(0.0), self.splat(1.0));
        let square = self.e.b.ins().fmul(x, x);
        let small = self.polynomial(&TANH, square);
        let small = self.e.b.ins().fmul(small, x);
        let negated = self.e.b.ins().fsub(zero, x);
        let magnitude = self.less_select(x, zero, negated, x);
        let factor = self.splat(-2.0 * std::f32::consts::LOG2_E);
        let decay = self.e.b.ins().fmul(magnitude, factor);
        let decay = self.exp2(decay);
        let below = self.e.b.ins().fsub(one, decay);
        let above = self.e.b.ins().fadd(one, decay);
        let large = self.e.b.ins().fdiv(below, above);
        let mirrored = self.e.b.ins().fsub(zero, large);
        let large = self.less_select(x, zero, mirrored, large);
        let limit = self.splat(TANH_LIMIT);
        self.less_select(magnitude, limit, small, large)
    }

    /// A score bounded by the softcap, in base 2, and the slope of the bound there; -inf stays -inf.
    fn capped(&mut self, score: Value, softcap2: Value) -> (Value, Value) {
        let t = self.tanh(score);
        let one = self.splat(1.0);
        let square = self.e.b.ins().fmul(t, t);
        let slope = self.e.b.ins().fsub(one, square);
        let bounded = self.e.b.ins().fmul(t, softcap2);
        let lowest = self.splat(f32::MIN);
        (self.less_select(score, lowest, score, bounded), slope)
    }
}
