//! Turns the expression tree into a scalar program.

use super::ast::{Expr, Op};
use crate::scalar::{Builder, Program, Type, Value};

/// The program of a condition: parameters `i`, `j`, `g`, one truth value as result.
pub(super) fn program(condition: &Expr) -> Program {
    let mut lowering = Lowering { builder: Builder::new(&["i", "j", "g"]), locals: Vec::new() };
    let result = lowering.expr(condition);
    lowering.builder.finish("predicate", &[result])
}

struct Lowering {
    builder: Builder,
    locals: Vec<Value>,
}

impl Lowering {
    fn expr(&mut self, expr: &Expr) -> Value {
        match expr {
            Expr::Int(value) => self.builder.int(*value),
            Expr::Bool(value) => self.builder.bool(*value),
            Expr::Param(param) => self.builder.param(*param as usize),
            Expr::Local(_, number) => self.locals[*number],
            Expr::Neg(of) => {
                let of = self.expr(of);
                self.negated(of)
            }
            Expr::Abs(of) => {
                let of = self.expr(of);
                let negated = self.negated(of);
                self.builder.max(of, negated)
            }
            Expr::Not(of) => {
                let of = self.expr(of);
                self.builder.not(of)
            }
            Expr::Binary(op, left, right) => self.binary(*op, left, right),
            Expr::If(condition, yes, no) => {
                let condition = self.expr(condition);
                let (yes, no) = (self.expr(yes), self.expr(no));
                self.builder.select(condition, yes, no)
            }
            Expr::Let(_, value, body) => {
                let value = self.expr(value);
                self.locals.push(value);
                let body = self.expr(body);
                self.locals.pop();
                body
            }
        }
    }

    fn negated(&mut self, value: Value) -> Value {
        let zero = self.builder.int(0);
        self.builder.sub(zero, value)
    }

    fn binary(&mut self, op: Op, left: &Expr, right: &Expr) -> Value {
        let a = self.expr(left);
        if let (Op::Div | Op::Rem, Expr::Int(divisor)) = (op, right) {
            return if op == Op::Div { self.builder.div(a, *divisor) } else { self.builder.rem(a, *divisor) };
        }
        let b = self.expr(right);
        let builder = &mut self.builder;
        match op {
            Op::Add => builder.add(a, b),
            Op::Sub => builder.sub(a, b),
            Op::Mul => builder.mul(a, b),
            Op::Div | Op::Rem => unreachable!("the parser folds every divisor into a constant"),
            Op::Min => builder.min(a, b),
            Op::Max => builder.max(a, b),
            Op::Lt => builder.lt(a, b),
            Op::Le => builder.le(a, b),
            Op::Gt => builder.lt(b, a),
            Op::Ge => builder.le(b, a),
            Op::Eq => self.equal(a, b),
            Op::Ne => {
                let equal = self.equal(a, b);
                self.builder.not(equal)
            }
            Op::And => builder.and(a, b),
            Op::Or => builder.or(a, b),
        }
    }

    /// Equality of numbers is an instruction; that of conditions is a choice.
    fn equal(&mut self, a: Value, b: Value) -> Value {
        if self.builder.type_of(a) == Type::Int {
            return self.builder.eq(a, b);
        }
        let not_b = self.builder.not(b);
        self.builder.select(a, b, not_b)
    }
}
