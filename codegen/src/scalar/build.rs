//! Building scalar programs: equal instructions are shared and constants folded as they are added.

use std::collections::HashMap;

use super::{Op, Program, Type, Value, type_of};

/// Appends instructions and keeps them small; `finish` drops what no result needs.
#[derive(Clone, Debug)]
pub struct Builder {
    params: Vec<String>,
    ops: Vec<Op>,
    known: HashMap<Op, Value>,
}

impl Builder {
    /// A builder for a function of these integer parameters.
    pub fn new(params: &[&str]) -> Builder {
        let mut builder = Builder {
            params: params.iter().map(|name| name.to_string()).collect(),
            ops: Vec::new(),
            known: HashMap::new(),
        };
        for index in 0..params.len() {
            builder.push(Op::Param(index as u32));
        }
        builder
    }

    /// The n-th parameter.
    pub fn param(&self, index: usize) -> Value {
        assert!(index < self.params.len(), "parameter {index} of {}", self.params.len());
        Value(index as u32)
    }

    /// Number of instructions so far.
    pub fn size(&self) -> usize {
        self.ops.len()
    }

    /// The type of a value made by this builder.
    pub fn type_of(&self, value: Value) -> Type {
        type_of(&self.ops, value)
    }

    /// An integer constant.
    pub fn int(&mut self, value: i64) -> Value {
        self.push(Op::Int(value))
    }

    /// A truth constant.
    pub fn bool(&mut self, value: bool) -> Value {
        self.push(Op::Bool(value))
    }

    /// `a + b`
    pub fn add(&mut self, a: Value, b: Value) -> Value {
        match (self.as_int(a), self.as_int(b)) {
            (Some(x), Some(y)) => self.int(x.wrapping_add(y)),
            (Some(0), _) => b,
            (_, Some(0)) => a,
            _ => self.push(Op::Add(a, b)),
        }
    }

    /// `a + constant`, folding a chain of constants into one.
    pub fn add_const(&mut self, a: Value, constant: i64) -> Value {
        if let Op::Add(x, c) = self.ops[a.index()]
            && let Some(inner) = self.as_int(c)
        {
            return self.add_const(x, inner.wrapping_add(constant));
        }
        let c = self.int(constant);
        self.add(a, c)
    }

    /// `a - b`
    pub fn sub(&mut self, a: Value, b: Value) -> Value {
        match (self.as_int(a), self.as_int(b)) {
            (Some(x), Some(y)) => self.int(x.wrapping_sub(y)),
            (_, Some(0)) => a,
            _ if a == b => self.int(0),
            _ => self.push(Op::Sub(a, b)),
        }
    }

    /// `a * b`
    pub fn mul(&mut self, a: Value, b: Value) -> Value {
        match (self.as_int(a), self.as_int(b)) {
            (Some(x), Some(y)) => self.int(x.wrapping_mul(y)),
            (Some(0), _) | (_, Some(0)) => self.int(0),
            (Some(1), _) => b,
            (_, Some(1)) => a,
            _ => self.push(Op::Mul(a, b)),
        }
    }

    /// The smaller of two integers.
    pub fn min(&mut self, a: Value, b: Value) -> Value {
        match (self.as_int(a), self.as_int(b)) {
            (Some(x), Some(y)) => self.int(x.min(y)),
            _ if a == b => a,
            _ => self.push(Op::Min(a, b)),
        }
    }

    /// The larger of two integers.
    pub fn max(&mut self, a: Value, b: Value) -> Value {
        match (self.as_int(a), self.as_int(b)) {
            (Some(x), Some(y)) => self.int(x.max(y)),
            _ if a == b => a,
            _ => self.push(Op::Max(a, b)),
        }
    }

    /// `a / divisor`, rounded towards zero; the divisor must be positive.
    pub fn div(&mut self, a: Value, divisor: i64) -> Value {
        assert!(divisor > 0, "divisor {divisor} is not positive");
        match self.as_int(a) {
            Some(x) => self.int(x / divisor),
            None if divisor == 1 => a,
            None => self.push(Op::Div(a, divisor)),
        }
    }

    /// `a % divisor`, with the sign of `a`; the divisor must be positive.
    pub fn rem(&mut self, a: Value, divisor: i64) -> Value {
        assert!(divisor > 0, "divisor {divisor} is not positive");
        match self.as_int(a) {
            Some(x) => self.int(x % divisor),
            None if divisor == 1 => self.int(0),
            None => self.push(Op::Rem(a, divisor)),
        }
    }

    /// `floor(a / divisor)`; the divisor must be positive.
    pub fn floor_div(&mut self, a: Value, divisor: i64) -> Value {
        assert!(divisor > 0, "divisor {divisor} is not positive");
        match self.as_int(a) {
            Some(x) => self.int(x.div_euclid(divisor)),
            None if divisor == 1 => a,
            None => self.push(Op::FloorDiv(a, divisor)),
        }
    }

    /// `a - divisor * floor(a / divisor)`; the divisor must be positive.
    pub fn floor_mod(&mut self, a: Value, divisor: i64) -> Value {
        assert!(divisor > 0, "divisor {divisor} is not positive");
        match self.as_int(a) {
            Some(x) => self.int(x.rem_euclid(divisor)),
            None if divisor == 1 => self.int(0),
            None => self.push(Op::FloorMod(a, divisor)),
        }
    }

    /// `a < b`
    pub fn lt(&mut self, a: Value, b: Value) -> Value {
        match (self.as_int(a), self.as_int(b)) {
            (Some(x), Some(y)) => self.bool(x < y),
            _ if a == b => self.bool(false),
            _ => self.push(Op::Lt(a, b)),
        }
    }

    /// `a <= b`
    pub fn le(&mut self, a: Value, b: Value) -> Value {
        match (self.as_int(a), self.as_int(b)) {
            (Some(x), Some(y)) => self.bool(x <= y),
            _ if a == b => self.bool(true),
            _ => self.push(Op::Le(a, b)),
        }
    }

    /// `a == b` of integers.
    pub fn eq(&mut self, a: Value, b: Value) -> Value {
        match (self.as_int(a), self.as_int(b)) {
            (Some(x), Some(y)) => self.bool(x == y),
            _ if a == b => self.bool(true),
            _ => self.push(Op::Eq(a, b)),
        }
    }

    /// Both `a` and `b`.
    pub fn and(&mut self, a: Value, b: Value) -> Value {
        match (self.as_bool(a), self.as_bool(b)) {
            (Some(false), _) | (_, Some(false)) => self.bool(false),
            (Some(true), _) => b,
            (_, Some(true)) => a,
            _ if a == b => a,
            _ => self.push(Op::And(a, b)),
        }
    }

    /// `a`, `b` or both.
    pub fn or(&mut self, a: Value, b: Value) -> Value {
        match (self.as_bool(a), self.as_bool(b)) {
            (Some(true), _) | (_, Some(true)) => self.bool(true),
            (Some(false), _) => b,
            (_, Some(false)) => a,
            _ if a == b => a,
            _ => self.push(Op::Or(a, b)),
        }
    }

    /// The negation of a truth value.
    pub fn not(&mut self, a: Value) -> Value {
        match self.ops[a.index()] {
            Op::Bool(x) => self.bool(!x),
            Op::Not(x) => x,
            Op::Lt(x, y) => self.le(y, x),
            Op::Le(x, y) => self.lt(y, x),
            _ => self.push(Op::Not(a)),
        }
    }

    /// `if condition { a } else { b }`; both arms must have the same type.
    pub fn select(&mut self, condition: Value, a: Value, b: Value) -> Value {
        assert_eq!(self.type_of(a), self.type_of(b), "the arms of a select differ in type");
        match self.as_bool(condition) {
            Some(true) => a,
            Some(false) => b,
            None if a == b => a,
            None => match (self.as_bool(a), self.as_bool(b)) {
                (Some(true), Some(false)) => condition,
                (Some(false), Some(true)) => self.not(condition),
                _ => self.push(Op::Select(condition, a, b)),
            },
        }
    }

    /// Appends another program's instructions with its parameters replaced by `args`; returns its results here.
    pub fn inline(&mut self, program: &Program, args: &[Value]) -> Vec<Value> {
        assert_eq!(args.len(), program.params().len(), "arguments for `{}`", program.name());
        let mut here: Vec<Value> = Vec::with_capacity(program.ops().len());
        for &op in program.ops() {
            let value = match op.map(|v| here[v.index()]) {
                Op::Param(index) => args[index as usize],
                op => self.apply(op),
            };
            here.push(value);
        }
        program.results().iter().map(|v| here[v.index()]).collect()
    }

    /// The finished function: only instructions that a result needs, in their order.
    pub fn finish(self, name: &str, results: &[Value]) -> Program {
        let mut live = vec![false; self.ops.len()];
        live[..self.params.len()].fill(true);
        for value in results {
            live[value.index()] = true;
        }
        for index in (0..self.ops.len()).rev() {
            if live[index] {
                self.ops[index].args().for_each(|v| live[v.index()] = true);
            }
        }
        let mut renamed = vec![Value(u32::MAX); self.ops.len()];
        let mut ops = Vec::new();
        for (index, op) in self.ops.iter().enumerate().filter(|(index, _)| live[*index]) {
            renamed[index] = Value(ops.len() as u32);
            ops.push(op.map(|v| renamed[v.index()]));
        }
        let results = results.iter().map(|v| renamed[v.index()]).collect();
        Program { name: name.to_string(), params: self.params, ops, results }
    }

    /// Adds an instruction through its folding constructor.
    fn apply(&mut self, op: Op) -> Value {
        match op {
            Op::Param(_) => unreachable!("parameters are replaced before instructions are added"),
            Op::Int(x) => self.int(x),
            Op::Bool(x) => self.bool(x),
            Op::Add(a, b) => self.add(a, b),
            Op::Sub(a, b) => self.sub(a, b),
            Op::Mul(a, b) => self.mul(a, b),
            Op::Min(a, b) => self.min(a, b),
            Op::Max(a, b) => self.max(a, b),
            Op::Div(a, d) => self.div(a, d),
            Op::Rem(a, d) => self.rem(a, d),
            Op::FloorDiv(a, d) => self.floor_div(a, d),
            Op::FloorMod(a, d) => self.floor_mod(a, d),
            Op::Lt(a, b) => self.lt(a, b),
            Op::Le(a, b) => self.le(a, b),
            Op::Eq(a, b) => self.eq(a, b),
            Op::And(a, b) => self.and(a, b),
            Op::Or(a, b) => self.or(a, b),
            Op::Not(a) => self.not(a),
            Op::Select(c, a, b) => self.select(c, a, b),
        }
    }

    fn push(&mut self, op: Op) -> Value {
        if let Some(&value) = self.known.get(&op) {
            return value;
        }
        let value = Value(self.ops.len() as u32);
        self.ops.push(op);
        self.known.insert(op, value);
        value
    }

    fn as_int(&self, value: Value) -> Option<i64> {
        match self.ops[value.index()] {
            Op::Int(x) => Some(x),
            _ => None,
        }
    }

    fn as_bool(&self, value: Value) -> Option<bool> {
        match self.ops[value.index()] {
            Op::Bool(x) => Some(x),
            _ => None,
        }
    }
}
