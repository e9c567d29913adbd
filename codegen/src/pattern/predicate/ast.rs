//! The expression tree of a predicate and its meaning.

/// A typed expression; the parser lets no other through.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expr {
    Int(i64),
    Bool(bool),
    Param(Param),
    /// A `let`, by its name and its number counted from the outermost one in scope.
    Local(String, usize),
    Neg(Box<Expr>),
    Abs(Box<Expr>),
    Not(Box<Expr>),
    Binary(Op, Box<Expr>, Box<Expr>),
    If(Box<Expr>, Box<Expr>, Box<Expr>),
    Let(String, Box<Expr>, Box<Expr>),
}

/// What a predicate is a function of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Param {
    Query,
    Key,
    Head,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Add,
    Sub,
    Mul,
    /// The right side is a positive constant.
    Div,
    /// The right side is a positive constant.
    Rem,
    Min,
    Max,
    Lt,
    Le,
    Gt,
    Ge,
    /// Of two numbers or of two conditions.
    Eq,
    /// Of two numbers or of two conditions.
    Ne,
    And,
    Or,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Int,
    Bool,
}

impl Param {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Query => "q",
            Self::Key => "k",
            Self::Head => "head",
        }
    }
}

impl Type {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Int => "a number",
            Self::Bool => "a condition",
        }
    }
}

impl Expr {
    pub(super) fn binary(op: Op, left: Self, right: Self) -> Self {
        Self::Binary(op, Box::new(left), Box::new(right))
    }

    /// Whether the condition holds. Truth values are 0 and 1 on the way.
    pub(super) fn holds(&self, q: i64, k: i64, head: i64) -> bool {
        self.value(&[q, k, head], &mut Vec::new()) != 0
    }

    fn value(&self, params: &[i64; 3], locals: &mut Vec<i64>) -> i64 {
        match self {
            Self::Int(value) => *value,
            Self::Bool(value) => i64::from(*value),
            Self::Param(param) => params[*param as usize],
            Self::Local(_, number) => locals[*number],
            Self::Neg(of) => of.value(params, locals).wrapping_neg(),
            Self::Abs(of) => of.value(params, locals).wrapping_abs(),
            Self::Not(of) => i64::from(of.value(params, locals) == 0),
            Self::Binary(op, left, right) => {
                op.apply(left.value(params, locals), right.value(params, locals))
            }
            Self::If(condition, yes, no) => {
                let arm = if condition.value(params, locals) != 0 { yes } else { no };
                arm.value(params, locals)
            }
            Self::Let(_, value, body) => {
                let value = value.value(params, locals);
                locals.push(value);
                let result = body.value(params, locals);
                locals.pop();
                result
            }
        }
    }
}

impl Op {
    /// The operation on two values; a divisor must be positive.
    pub(super) fn apply(self, a: i64, b: i64) -> i64 {
        match self {
            Self::Add => a.wrapping_add(b),
            Self::Sub => a.wrapping_sub(b),
            Self::Mul => a.wrapping_mul(b),
            Self::Div => a / b,
            Self::Rem => a % b,
            Self::Min => a.min(b),
            Self::Max => a.max(b),
            Self::Lt => i64::from(a < b),
            Self::Le => i64::from(a <= b),
            Self::Gt => i64::from(a > b),
            Self::Ge => i64::from(a >= b),
            Self::Eq => i64::from(a == b),
            Self::Ne => i64::from(a != b),
            Self::And => a & b,
            Self::Or => a | b,
        }
    }
}
