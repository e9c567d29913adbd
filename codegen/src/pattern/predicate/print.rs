//! Prints an expression with as few parentheses as Rust needs, so that it parses back to the same tree.

use std::fmt;

use super::ast::{Expr, Op};

/// How tightly an expression binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Any,
    Or,
    And,
    Compare,
    Sum,
    Product,
    Unary,
    Atom,
}

impl Op {
    /// The operator and its level; none for `min` and `max`, which print as calls.
    fn infix(self) -> Option<(&'static str, Level)> {
        Some(match self {
            Self::Add => ("+", Level::Sum),
            Self::Sub => ("-", Level::Sum),
            Self::Mul => ("*", Level::Product),
            Self::Div => ("/", Level::Product),
            Self::Rem => ("%", Level::Product),
            Self::Lt => ("<", Level::Compare),
            Self::Le => ("<=", Level::Compare),
            Self::Gt => (">", Level::Compare),
            Self::Ge => (">=", Level::Compare),
            Self::Eq => ("==", Level::Compare),
            Self::Ne => ("!=", Level::Compare),
            Self::And => ("&&", Level::And),
            Self::Or => ("||", Level::Or),
            Self::Min | Self::Max => return None,
        })
    }
}

impl Level {
    /// The level an operand on the right needs, one step tighter: operators group to the left.
    const fn tighter(self) -> Self {
        match self {
            Self::Any => Self::Or,
            Self::Or => Self::And,
            Self::And => Self::Compare,
            Self::Compare => Self::Sum,
            Self::Sum => Self::Product,
            Self::Product => Self::Unary,
            Self::Unary | Self::Atom => Self::Atom,
        }
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.body(f)
    }
}

impl Expr {
    /// Statements and a last expression, as inside braces.
    fn body(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut expr = self;
        while let Self::Let(name, value, body) = expr {
            write!(f, "let {name} = ")?;
            value.print(Level::Any, f)?;
            f.write_str("; ")?;
            expr = body;
        }
        expr.print(Level::Any, f)
    }

    fn print(&self, needed: Level, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.level() < needed {
            f.write_str("(")?;
            self.bare(f)?;
            return f.write_str(")");
        }
        self.bare(f)
    }

    fn level(&self) -> Level {
        match self {
            Self::Bool(_) | Self::Param(_) | Self::Local(..) | Self::Abs(_) => Level::Atom,
            Self::Int(value) => {
                if *value < 0 {
                    Level::Unary
                } else {
                    Level::Atom
                }
            }
            Self::Neg(_) | Self::Not(_) => Level::Unary,
            Self::Binary(op, ..) => op.infix().map_or(Level::Atom, |(_, level)| level),
            // At the start of a statement a block would end it, so it stands bare only where it is the whole.
            Self::If(..) | Self::Let(..) => Level::Any,
        }
    }

    fn bare(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(value) => write!(f, "{value}"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Param(param) => f.write_str(param.name()),
            Self::Local(name, _) => f.write_str(name),
            Self::Neg(of) => {
                f.write_str("-")?;
                of.print(Level::Unary, f)
            }
            Self::Not(of) => {
                f.write_str("!")?;
                of.print(Level::Unary, f)
            }
            Self::Abs(of) => {
                of.print(Level::Atom, f)?;
                f.write_str(".abs()")
            }
            Self::Binary(op, left, right) => match op.infix() {
                Some((sign, level)) => {
                    // Comparisons do not chain: both sides bind tighter.
                    let on_left = if level == Level::Compare { level.tighter() } else { level };
                    left.print(on_left, f)?;
                    write!(f, " {sign} ")?;
                    right.print(level.tighter(), f)
                }
                None => {
                    f.write_str(if *op == Op::Min { "min(" } else { "max(" })?;
                    left.print(Level::Any, f)?;
                    f.write_str(", ")?;
                    right.print(Level::Any, f)?;
                    f.write_str(")")
                }
            },
            Self::If(condition, yes, no) => {
                f.write_str("if ")?;
                condition.print(Level::Any.tighter(), f)?;
                f.write_str(" { ")?;
                yes.body(f)?;
                f.write_str(" } else { ")?;
                no.body(f)?;
                f.write_str(" }")
            }
            Self::Let(..) => {
                f.write_str("{ ")?;
                self.body(f)?;
                f.write_str(" }")
            }
        }
    }
}
