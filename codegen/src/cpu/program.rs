//! Scalar programs as Cranelift IR: as functions of 64-bit integers, and inline with four lanes at a time.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Value, types};

use super::emit::{Declared, Emit, Unit};
use crate::scalar::{self, Op, Program, Type};

/// Defines a program as a function of i64 parameters; truth values are returned as 0 or 1.
pub(super) fn define(unit: &mut Unit, program: &Program) -> Declared {
    let params = vec![types::I64; program.params().len()];
    let results = vec![types::I64; program.results().len()];
    unit.define(program.name(), &params, &results, |e, args| {
        let mut values: Vec<Value> = Vec::with_capacity(program.ops().len());
        for &op in program.ops() {
            let value = scalar_op(e, op, types::I64, args, &|v| values[v.index()]);
            values.push(value);
        }
        let results: Vec<Value> = program
            .results()
            .iter()
            .map(|&v| match program.type_of(v) {
                Type::Int => values[v.index()],
                Type::Bool => e.b.ins().uextend(types::I64, values[v.index()]),
            })
            .collect();
        e.b.ins().return_(&results);
    })
}

/// One instruction on integers of type `ty`; truth values are i8.
fn scalar_op(
    e: &mut Emit<'_>,
    op: Op,
    ty: cranelift_codegen::ir::Type,
    args: &[Value],
    v: &dyn Fn(scalar::Value) -> Value,
) -> Value {
    let ins = e.b.ins();
    match op {
        Op::Param(index) => args[index as usize],
        Op::Int(x) => ins.iconst(ty, narrow(x, ty)),
        Op::Bool(x) => ins.iconst(types::I8, i64::from(x)),
        Op::Add(a, b) => ins.iadd(v(a), v(b)),
        Op::Sub(a, b) => ins.isub(v(a), v(b)),
        Op::Mul(a, b) => ins.imul(v(a), v(b)),
        Op::Min(a, b) => ins.smin(v(a), v(b)),
        Op::Max(a, b) => ins.smax(v(a), v(b)),
        Op::Div(..) | Op::Rem(..) | Op::FloorDiv(..) | Op::FloorMod(..) => division(e, op, ty, v),
        Op::Lt(a, b) => ins.icmp(IntCC::SignedLessThan, v(a), v(b)),
        Op::Le(a, b) => ins.icmp(IntCC::SignedLessThanOrEqual, v(a), v(b)),
        Op::Eq(a, b) => ins.icmp(IntCC::Equal, v(a), v(b)),
        Op::And(a, b) => ins.band(v(a), v(b)),
        Op::Or(a, b) => ins.bor(v(a), v(b)),
        Op::Not(a) => ins.bxor_imm_u(v(a), 1),
        Op::Select(c, a, b) => ins.select(v(c), v(a), v(b)),
    }
}

/// Division by a positive constant, rounded towards zero or down.
fn division(
    e: &mut Emit<'_>,
    op: Op,
    ty: cranelift_codegen::ir::Type,
    v: &dyn Fn(scalar::Value) -> Value,
) -> Value {
    match op {
        Op::FloorDiv(a, d) if d.count_ones() == 1 => {
            e.b.ins().sshr_imm_u(v(a), i64::from(d.trailing_zeros()))
        }
        Op::FloorMod(a, d) if d.count_ones() == 1 => {
            let mask = e.b.ins().iconst(ty, narrow(d - 1, ty));
            e.b.ins().band(v(a), mask)
        }
        Op::Div(a, d) | Op::Rem(a, d) | Op::FloorDiv(a, d) | Op::FloorMod(a, d) => {
            let divisor = e.b.ins().iconst(ty, narrow(d, ty));
            let quotient = e.b.ins().sdiv(v(a), divisor);
            if matches!(op, Op::Div(..)) {
                return quotient;
            }
            let product = e.b.ins().imul(quotient, divisor);
            let rest = e.b.ins().isub(v(a), product);
            if matches!(op, Op::Rem(..)) {
                return rest;
            }
            let is_negative = e.b.ins().icmp_imm_s(IntCC::SignedLessThan, rest, 0);
            if matches!(op, Op::FloorDiv(..)) {
                let less = e.b.ins().iadd_imm_s(quotient, -1);
                e.b.ins().select(is_negative, less, quotient)
            } else {
                let more = e.b.ins().iadd(rest, divisor);
                e.b.ins().select(is_negative, more, rest)
            }
        }
        _ => unreachable!("only divisions come here"),
    }
}

/// A constant as an immediate of `ty`; closed forms use nothing beyond 32 bits but "no bound" sentinels, which
/// are brought to the nearest 32-bit number.
fn narrow(x: i64, ty: cranelift_codegen::ir::Type) -> i64 {
    if ty == types::I32 { i64::from(x.clamp(i32::MIN.into(), i32::MAX.into()) as i32 as u32) } else { x }
}

/// How a parameter varies in a mask loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Varies {
    /// Constant during the whole loop.
    Not,
    /// With the lane (the outer loop, four lanes at a time).
    Lane,
    /// With the row (the inner loop).
    Row,
}

/// A value of the lane-wise form: one number for all lanes, or one per lane.
#[derive(Clone, Copy, Debug)]
enum Mixed {
    Scalar(Value),
    Vector(Value),
}

/// A program with 32-bit arithmetic, emitted in three steps: what is constant before the loops, what varies with the
/// lanes in the outer loop, the rest in the inner one.
pub(super) struct LaneProgram<'p> {
    program: &'p Program,
    varies: Vec<(bool, bool)>,
    values: Vec<Option<Mixed>>,
}

impl<'p> LaneProgram<'p> {
    /// `params` says how each parameter varies.
    pub(super) fn new(program: &'p Program, params: &[Varies]) -> LaneProgram<'p> {
        let mut varies: Vec<(bool, bool)> = Vec::with_capacity(program.ops().len());
        for op in program.ops() {
            let next = match *op {
                Op::Param(index) => {
                    let how = params[index as usize];
                    (how == Varies::Lane, how == Varies::Row)
                }
                _ => op.args().fold((false, false), |(lane, row), v| {
                    (lane || varies[v.index()].0, row || varies[v.index()].1)
                }),
            };
            varies.push(next);
        }
        LaneProgram { program, varies, values: vec![None; program.ops().len()] }
    }

    /// Emits what varies like `step` and is not emitted yet. `param` gives a parameter: i32 or i32x4.
    pub(super) fn emit(&mut self, e: &mut Emit<'_>, step: Varies, param: impl Fn(u32) -> Value) {
        for (index, &op) in self.program.ops().iter().enumerate() {
            let (lane, row) = self.varies[index];
            let when = if row {
                Varies::Row
            } else if lane {
                Varies::Lane
            } else {
                Varies::Not
            };
            if when != step {
                continue;
            }
            let value = match op {
                Op::Param(index) if lane => Mixed::Vector(param(index)),
                Op::Param(index) => Mixed::Scalar(param(index)),
                _ if lane => Mixed::Vector(self.vector_op(e, op)),
                _ => Mixed::Scalar(scalar_op(e, op, types::I32, &[], &|v| match self.value(v) {
                    Mixed::Scalar(value) => value,
                    Mixed::Vector(_) => unreachable!("a scalar does not depend on lanes"),
                })),
            };
            self.values[index] = Some(value);
        }
    }

    /// The only result as a mask of four lanes, all ones or all zeros each.
    pub(super) fn mask(&self, e: &mut Emit<'_>) -> Value {
        self.vector(e, self.program.results()[0])
    }

    fn value(&self, v: scalar::Value) -> Mixed {
        self.values[v.index()].expect("an instruction is emitted after those it reads")
    }

    fn vector(&self, e: &mut Emit<'_>, v: scalar::Value) -> Value {
        match (self.value(v), self.program.type_of(v)) {
            (Mixed::Vector(value), _) => value,
            (Mixed::Scalar(value), Type::Int) => e.b.ins().splat(types::I32X4, value),
            (Mixed::Scalar(value), Type::Bool) => {
                let wide = e.b.ins().uextend(types::I32, value);
                let ones = e.b.ins().ineg(wide);
                e.b.ins().splat(types::I32X4, ones)
            }
        }
    }

    fn vector_op(&self, e: &mut Emit<'_>, op: Op) -> Value {
        let args: Vec<Value> = op.args().map(|v| self.vector(e, v)).collect();
        let ins = e.b.ins();
        match (op, args.as_slice()) {
            (Op::Add(..), &[a, b]) => ins.iadd(a, b),
            (Op::Sub(..), &[a, b]) => ins.isub(a, b),
            (Op::Mul(..), &[a, b]) => ins.imul(a, b),
            (Op::Min(..), &[a, b]) => ins.smin(a, b),
            (Op::Max(..), &[a, b]) => ins.smax(a, b),
            (Op::Lt(..), &[a, b]) => ins.icmp(IntCC::SignedLessThan, a, b),
            (Op::Le(..), &[a, b]) => ins.icmp(IntCC::SignedLessThanOrEqual, a, b),
            (Op::Eq(..), &[a, b]) => ins.icmp(IntCC::Equal, a, b),
            (Op::And(..), &[a, b]) => ins.band(a, b),
            (Op::Or(..), &[a, b]) => ins.bor(a, b),
            (Op::Not(_), &[a]) => ins.bnot(a),
            (Op::Select(..), &[c, a, b]) => ins.bitselect(c, a, b),
            (Op::FloorDiv(_, d), &[a]) if d.count_ones() == 1 => {
                ins.sshr_imm_u(a, i64::from(d.trailing_zeros()))
            }
            (Op::FloorMod(_, d), &[a]) if d.count_ones() == 1 => {
                let mask = ins.iconst(types::I32, narrow(d - 1, types::I32));
                let mask = e.b.ins().splat(types::I32X4, mask);
                e.b.ins().band(a, mask)
            }
            (_, &[a]) => lane_by_lane(e, op, a),
            _ => unreachable!("constants do not vary with the lane"),
        }
    }
}

/// A division that has no vector instruction.
fn lane_by_lane(e: &mut Emit<'_>, op: Op, a: Value) -> Value {
    let mut result = a;
    for lane in 0..4u8 {
        let one = e.b.ins().extractlane(a, lane);
        let divided = division(e, op, types::I32, &|_| one);
        result = e.b.ins().insertlane(result, divided, lane);
    }
    result
}

/// Reinterprets a vector; lanes keep their order.
pub(super) fn reinterpret(e: &mut Emit<'_>, ty: cranelift_codegen::ir::Type, value: Value) -> Value {
    let flags = MemFlagsData::new().with_endianness(cranelift_codegen::ir::Endianness::Little);
    e.b.ins().bitcast(ty, flags, value)
}
