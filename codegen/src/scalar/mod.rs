//! Scalar programs: straight-line integer code in SSA form.
//!
//! A pattern reaches every backend as a handful of small integer functions ("is this key visible", "which keys
//! come next"). They are built once, here, and then evaluated on the host ([`Program::eval`]), bounded over boxes
//! ([`Program::bounds`]), asked what moves their results ([`Program::rises`]), printed as CUDA C++ ([`Program::to_cuda`]) and emitted as Cranelift IR by the CPU backend.
//! Because there is one program and not four, the backends cannot disagree about a mask.

mod build;
mod cuda;
mod eval;
mod interval;
mod shift;
mod text;

pub use build::Builder;
pub use interval::Interval;

/// The result of one instruction; an index into the program's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(u32);

impl Value {
    /// Position of the defining instruction in [`Program::ops`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Whether a value is an integer or a truth value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// A signed integer: 64 bits on the host and in predicates, 32 bits in closed-form device code.
    Int,
    /// A truth value, 0 or 1.
    Bool,
}

/// One instruction. Arithmetic wraps at 64 bits; divisors are positive constants, so no instruction can trap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// The n-th parameter.
    Param(u32),
    /// An integer constant.
    Int(i64),
    /// A truth constant.
    Bool(bool),
    /// `a + b`
    Add(Value, Value),
    /// `a - b`
    Sub(Value, Value),
    /// `a * b`
    Mul(Value, Value),
    /// The smaller of two integers.
    Min(Value, Value),
    /// The larger of two integers.
    Max(Value, Value),
    /// `a / d`, rounded towards zero (Rust's and C's division), d > 0.
    Div(Value, i64),
    /// `a % d`, with the sign of `a`, d > 0.
    Rem(Value, i64),
    /// `floor(a / d)`, d > 0.
    FloorDiv(Value, i64),
    /// `a - d * floor(a / d)`, in `0..d`, d > 0.
    FloorMod(Value, i64),
    /// `a < b`
    Lt(Value, Value),
    /// `a <= b`
    Le(Value, Value),
    /// `a == b` of integers.
    Eq(Value, Value),
    /// Both.
    And(Value, Value),
    /// Either.
    Or(Value, Value),
    /// Negation of a truth value.
    Not(Value),
    /// `if c { a } else { b }`, of two integers or two truth values.
    Select(Value, Value, Value),
}

impl Op {
    /// The values this instruction reads, in order.
    pub fn args(&self) -> impl Iterator<Item = Value> + use<> {
        use Op::*;
        let list = match *self {
            Param(_) | Int(_) | Bool(_) => [None; 3],
            Div(a, _) | Rem(a, _) | FloorDiv(a, _) | FloorMod(a, _) | Not(a) => [Some(a), None, None],
            Add(a, b)
            | Sub(a, b)
            | Mul(a, b)
            | Min(a, b)
            | Max(a, b)
            | Lt(a, b)
            | Le(a, b)
            | Eq(a, b)
            | And(a, b)
            | Or(a, b) => [Some(a), Some(b), None],
            Select(c, a, b) => [Some(c), Some(a), Some(b)],
        };
        list.into_iter().flatten()
    }

    /// The same instruction with every value it reads replaced.
    fn map(self, mut f: impl FnMut(Value) -> Value) -> Op {
        use Op::*;
        match self {
            Param(_) | Int(_) | Bool(_) => self,
            Add(a, b) => Add(f(a), f(b)),
            Sub(a, b) => Sub(f(a), f(b)),
            Mul(a, b) => Mul(f(a), f(b)),
            Min(a, b) => Min(f(a), f(b)),
            Max(a, b) => Max(f(a), f(b)),
            Div(a, d) => Div(f(a), d),
            Rem(a, d) => Rem(f(a), d),
            FloorDiv(a, d) => FloorDiv(f(a), d),
            FloorMod(a, d) => FloorMod(f(a), d),
            Lt(a, b) => Lt(f(a), f(b)),
            Le(a, b) => Le(f(a), f(b)),
            Eq(a, b) => Eq(f(a), f(b)),
            And(a, b) => And(f(a), f(b)),
            Or(a, b) => Or(f(a), f(b)),
            Not(a) => Not(f(a)),
            Select(c, a, b) => Select(f(c), f(a), f(b)),
        }
    }
}

/// A named function from integers to a few results, every instruction before its uses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Program {
    name: String,
    params: Vec<String>,
    ops: Vec<Op>,
    results: Vec<Value>,
}

impl Program {
    /// The function's name, a C identifier.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Parameter names, all integers.
    pub fn params(&self) -> &[String] {
        &self.params
    }

    /// The instructions; the value of instruction `n` is the `n`-th [`Value`].
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// The values returned.
    pub fn results(&self) -> &[Value] {
        &self.results
    }

    /// The type of a value of this program.
    pub fn type_of(&self, value: Value) -> Type {
        type_of(&self.ops, value)
    }
}

fn type_of(ops: &[Op], value: Value) -> Type {
    use Op::*;
    match ops[value.index()] {
        Bool(_) | Lt(..) | Le(..) | Eq(..) | And(..) | Or(..) | Not(_) => Type::Bool,
        Select(_, a, _) => type_of(ops, a),
        _ => Type::Int,
    }
}
