//! Names: of the operators and functions a predicate may use, and of the Rust constructs it may not.

use std::ops::Range;

use syn::{BinOp, Expr as Rust, Lit, Stmt};

use super::ast::{Op, Type};
use super::scan::{bytes, refused};
use crate::pattern::error::{Fault, shorten};

/// What a predicate may be made of.
pub(super) const ALLOWED: &str =
    "allowed are comparisons, + - * / %, min, max, abs, && || !, let, if/else and blocks";

impl Op {
    /// The type of the result.
    pub(super) const fn result(self) -> Type {
        match self {
            Self::Add | Self::Sub | Self::Mul | Self::Div | Self::Rem | Self::Min | Self::Max => Type::Int,
            _ => Type::Bool,
        }
    }
}

pub(super) fn operator(op: &BinOp) -> Option<Op> {
    Some(match op {
        BinOp::Add(_) => Op::Add,
        BinOp::Sub(_) => Op::Sub,
        BinOp::Mul(_) => Op::Mul,
        BinOp::Div(_) => Op::Div,
        BinOp::Rem(_) => Op::Rem,
        BinOp::And(_) => Op::And,
        BinOp::Or(_) => Op::Or,
        BinOp::Eq(_) => Op::Eq,
        BinOp::Ne(_) => Op::Ne,
        BinOp::Lt(_) => Op::Lt,
        BinOp::Le(_) => Op::Le,
        BinOp::Gt(_) => Op::Gt,
        BinOp::Ge(_) => Op::Ge,
        _ => return None,
    })
}

pub(super) fn refused_operator(op: &BinOp) -> &'static str {
    match op {
        BinOp::BitXor(_) | BinOp::BitAnd(_) | BinOp::BitOr(_) => "a bit operation",
        BinOp::Shl(_) | BinOp::Shr(_) => "a shift",
        _ => "a compound assignment",
    }
}

/// `min` or `max`, by any of their usual paths.
pub(super) fn function(called: &Rust) -> Result<Op, Fault> {
    let Rust::Path(path) = called else {
        return Err(refused("a call of an expression", ALLOWED, bytes(called)));
    };
    let segments: Vec<String> = path.path.segments.iter().map(|segment| segment.ident.to_string()).collect();
    let name = segments.join("::");
    let plain = path.qself.is_none() && path.path.segments.iter().all(|segment| segment.arguments.is_empty());
    let (home, last) = name.rsplit_once("::").unwrap_or(("", &name));
    let known = plain && ["", "cmp", "std::cmp", "core::cmp", "i64"].contains(&home);
    match last {
        "min" if known => Ok(Op::Min),
        "max" if known => Ok(Op::Max),
        _ => Err(refused(format!("a call of `{}`", shorten(&name)), ALLOWED, bytes(called))),
    }
}

/// Exactly two arguments.
pub(super) fn two<'a>(
    args: impl Iterator<Item = &'a Rust>,
    op: Op,
    place: Range<usize>,
) -> Result<[&'a Rust; 2], Fault> {
    let args: Vec<&Rust> = args.collect();
    let name = if op == Op::Min { "min" } else { "max" };
    args.try_into()
        .map_err(|args: Vec<_>| Fault::syntax(format!("`{name}` takes 2 numbers, not {}", args.len()), place))
}

/// The type that stands after a `let`.
pub(super) fn annotation(ty: &syn::Type) -> Result<Type, Fault> {
    let name = match ty {
        syn::Type::Path(path) => path.path.get_ident().map(ToString::to_string),
        _ => None,
    };
    match name.as_deref() {
        Some("i64") => Ok(Type::Int),
        Some("bool") => Ok(Type::Bool),
        _ => Err(refused("this type", "values are `i64` or `bool`", bytes(ty))),
    }
}

pub(super) fn statement(statement: &Stmt) -> &'static str {
    match statement {
        Stmt::Item(_) => "an item",
        Stmt::Macro(_) => "a macro",
        Stmt::Expr(Rust::Return(_), _) => "`return`",
        Stmt::Expr(Rust::If(_), _) => "`if` as a statement",
        Stmt::Expr(expr, None) => construct(expr),
        _ => "a statement without effect",
    }
}

pub(super) fn literal(literal: &Lit) -> &'static str {
    match literal {
        Lit::Float(_) => "a floating-point number",
        Lit::Int(_) => "a number of another type",
        Lit::Char(_) | Lit::Byte(_) => "a character",
        _ => "a string",
    }
}

pub(super) fn construct(expr: &Rust) -> &'static str {
    match expr {
        Rust::Array(_) | Rust::Repeat(_) => "an array",
        Rust::Assign(_) => "an assignment",
        Rust::Async(_) | Rust::Await(_) => "`async`",
        Rust::Break(_) | Rust::Continue(_) => "`break` or `continue`",
        Rust::Block(_) => "a label",
        Rust::Cast(_) => "a cast",
        Rust::Closure(_) => "a closure",
        Rust::Field(_) => "a field",
        Rust::ForLoop(_) | Rust::Loop(_) | Rust::While(_) => "a loop",
        Rust::Index(_) => "indexing",
        Rust::Let(_) => "`let` in a condition",
        Rust::Macro(_) => "a macro",
        Rust::Match(_) => "`match`",
        Rust::Range(_) => "a range",
        Rust::Reference(_) | Rust::RawAddr(_) => "a reference",
        Rust::Return(_) => "`return`",
        Rust::Struct(_) => "a struct",
        Rust::Try(_) | Rust::TryBlock(_) => "`?`",
        Rust::Tuple(_) => "a tuple",
        Rust::Unsafe(_) => "`unsafe`",
        _ => "this construct",
    }
}
