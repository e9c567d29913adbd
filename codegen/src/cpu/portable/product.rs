//! Tile products in blocks of 4 rows x 8 lanes.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Type, Value, types};
use cranelift_frontend::Variable;

use crate::cpu::abi::{LANES, STRIP};
use crate::cpu::emit::{Emit, Unit};
use crate::cpu::program::reinterpret;

/// How A is read, as in [`super::super::abi::RowsFn`] and [`super::super::abi::ColumnsFn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Rows,
    Columns,
    ColumnsMasked,
}

const FLAGS: MemFlagsData = MemFlagsData::trusted();
/// Rows of A start at any element.
const ANYWHERE: MemFlagsData = MemFlagsData::new();
const LINE_BYTES: i64 = LANES as i64 * 4;
const UNROLL: i64 = 4;

/// The operands of a product, as values.
#[derive(Clone, Copy)]
struct Operands {
    a: Value,
    /// Bytes between rows or columns of A.
    stride: Value,
    b: Value,
    c: Value,
    depth: Value,
    alpha: Value,
    form: Form,
    has_fma: bool,
}

pub(super) fn define(unit: &mut Unit, name: &str, form: Form, has_fma: bool) {
    let params: &[Type] = if form == Form::Rows { &[types::I64; 9] } else { &[types::I64; 12] };
    unit.define(name, params, &[], |e, args| {
        let &[a, stride, b, c, rows, depth, strips, last, ..] = args else {
            unreachable!("a product has at least eight parameters")
        };
        // A rows product overwrites C. What they might fetch is left to the machine; zeros are multiplied like the rest.
        let alpha = if form == Form::Rows { e.int(0) } else { last };
        let stride = e.b.ins().imul_imm_s(stride, 4);
        let lanes = e.b.ins().imul_imm_s(strips, STRIP as i64);
        e.count(lanes, 8, |e, lane| {
            let b = e.element(b, lane, 4);
            let c = e.element(c, lane, 4);
            let operands = Operands { a, stride, b, c, depth, alpha, form, has_fma };
            let zero = e.int(0);
            let row = e.variable(zero);
            for height in [4, 1] {
                e.while_loop(
                    |e| {
                        let row = e.get(row);
                        let after = e.b.ins().iadd_imm_s(row, height);
                        e.b.ins().icmp(IntCC::SignedLessThanOrEqual, after, rows)
                    },
                    |e| {
                        let first = e.get(row);
                        block(e, operands, first, lane, height);
                        let next = e.b.ins().iadd_imm_s(first, height);
                        e.set(row, next);
                    },
                );
            }
        });
        e.b.ins().return_(&[]);
    });
}

/// `height` rows from `first` on, 8 lanes.
fn block(e: &mut Emit<'_>, x: Operands, first: Value, lane: Value, height: i64) {
    let zero = e.b.ins().f32const(0.0);
    let zero = e.b.ins().splat(types::F32X4, zero);
    let sums: Vec<[Variable; 2]> = (0..height).map(|_| [e.variable(zero), e.variable(zero)]).collect();
    let to_first = match x.form {
        Form::Rows => e.b.ins().imul(first, x.stride),
        _ => e.b.ins().imul_imm_s(first, 4),
    };
    let start = e.b.ins().iadd(x.a, to_first);
    let (at_a, at_b) = (e.variable(start), e.variable(x.b));
    let none = e.int(0);
    let k = e.variable(none);
    for steps in [UNROLL, 1] {
        e.while_loop(
            |e| {
                let k = e.get(k);
                let after = e.b.ins().iadd_imm_s(k, steps);
                e.b.ins().icmp(IntCC::SignedLessThanOrEqual, after, x.depth)
            },
            |e| {
                let (mut a, b) = (e.get(at_a), e.get(at_b));
                for step in 0..steps {
                    one_step(e, x, a, b, step, &sums);
                    if x.form != Form::Rows {
                        a = e.b.ins().iadd(a, x.stride);
                    }
                }
                if x.form == Form::Rows {
                    a = e.b.ins().iadd_imm_s(a, 4 * steps);
                }
                e.set(at_a, a);
                let b = e.b.ins().iadd_imm_s(b, LINE_BYTES * steps);
                e.set(at_b, b);
                let next = e.get(k);
                let next = e.b.ins().iadd_imm_s(next, steps);
                e.set(k, next);
            },
        );
    }
    let line = e.element(x.c, first, LINE_BYTES);
    e.if_else(
        x.alpha,
        |e| {
            let alpha = e.element(x.alpha, lane, 4);
            store(e, x, line, Some(alpha), &sums);
        },
        |e| store(e, x, line, None, &sums),
    );
}

/// Adds one column of A times one line of B. In a rows product `a` stays and `step` is an offset.
fn one_step(e: &mut Emit<'_>, x: Operands, a: Value, b: Value, step: i64, sums: &[[Variable; 2]]) {
    let line = (step * LINE_BYTES) as i32;
    let weights = [0, 16].map(|offset| e.b.ins().load(types::F32X4, FLAGS, b, line + offset));
    let masks = (x.form == Form::ColumnsMasked).then(|| weights.map(|w| nonzero(e, w)));
    let mut row = a;
    for (r, pair) in sums.iter().enumerate() {
        let offset = match x.form {
            Form::Rows => 4 * step as i32,
            _ => 4 * r as i32,
        };
        let factor = e.b.ins().load(types::F32, ANYWHERE, row, offset);
        let factor = e.b.ins().splat(types::F32X4, factor);
        for (n, &sum) in pair.iter().enumerate() {
            let before = e.get(sum);
            let after = match masks {
                Some(masks) => {
                    let product = e.b.ins().fmul(factor, weights[n]);
                    let product = reinterpret(e, types::I32X4, product);
                    let product = e.b.ins().band(product, masks[n]);
                    let product = reinterpret(e, types::F32X4, product);
                    e.b.ins().fadd(before, product)
                }
                None => mul_add(e, x.has_fma, factor, weights[n], before),
            };
            e.set(sum, after);
        }
        if x.form == Form::Rows && r + 1 < sums.len() {
            row = e.b.ins().iadd(row, x.stride);
        }
    }
}

fn store(e: &mut Emit<'_>, x: Operands, line: Value, alpha: Option<Value>, sums: &[[Variable; 2]]) {
    for (r, pair) in sums.iter().enumerate() {
        for (n, &sum) in pair.iter().enumerate() {
            let offset = (r as i64 * LINE_BYTES) as i32 + 16 * n as i32;
            let mut value = e.get(sum);
            if let Some(alpha) = alpha {
                let alpha = e.b.ins().load(types::F32X4, FLAGS, alpha, 16 * n as i32);
                let before = e.b.ins().load(types::F32X4, FLAGS, line, offset);
                value = mul_add(e, x.has_fma, before, alpha, value);
            }
            e.b.ins().store(FLAGS, value, line, offset);
        }
    }
}

/// A mask of the lanes that are not 0; a NaN is not 0.
pub(super) fn nonzero(e: &mut Emit<'_>, x: Value) -> Value {
    let zero = e.b.ins().f32const(0.0);
    let zero = e.b.ins().splat(types::F32X4, zero);
    e.b.ins().fcmp(FloatCC::NotEqual, x, zero)
}

/// `a * b + c`, fused where the machine can: elsewhere Cranelift would call a library for each lane.
pub(super) fn mul_add(e: &mut Emit<'_>, has_fma: bool, a: Value, b: Value, c: Value) -> Value {
    if has_fma {
        e.b.ins().fma(a, b, c)
    } else {
        let product = e.b.ins().fmul(a, b);
        e.b.ins().fadd(product, c)
    }
}
