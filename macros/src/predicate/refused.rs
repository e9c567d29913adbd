//! The Rust constructs a predicate may not use, by name.

use syn::{BinOp, Expr, Lit, Stmt};

/// What a predicate may be made of.
pub(super) const ALLOWED: &str =
    "allowed are comparisons, + - * / %, min, max, abs, && || !, let, if/else and blocks";

/// `min` or `max` by one of their usual paths, or what the call is instead.
pub(super) fn function(called: &Expr) -> Result<String, String> {
    let Expr::Path(path) = called else { return Err("a call of an expression".to_string()) };
    let segments: Vec<String> = path.path.segments.iter().map(|segment| segment.ident.to_string()).collect();
    let name = segments.join("::");
    let plain = path.qself.is_none() && path.path.segments.iter().all(|segment| segment.arguments.is_empty());
    let (home, last) = name.rsplit_once("::").unwrap_or(("", &name));
    let known = plain && ["", "cmp", "std::cmp", "core::cmp", "i64"].contains(&home);
    match last {
        "min" | "max" if known => Ok(last.to_string()),
        _ => Err(format!("a call of `{name}`")),
    }
}

pub(super) fn operator(op: &BinOp) -> &'static str {
    match op {
        BinOp::BitXor(_) | BinOp::BitAnd(_) | BinOp::BitOr(_) => "a bit operation",
        BinOp::Shl(_) | BinOp::Shr(_) => "a shift",
        _ => "a compound assignment",
    }
}

pub(super) fn statement(statement: &Stmt) -> &'static str {
    match statement {
        Stmt::Item(_) => "an item",
        Stmt::Macro(_) => "a macro",
        Stmt::Expr(Expr::Return(_), _) => "`return`",
        Stmt::Expr(Expr::If(_), _) => "`if` as a statement",
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

pub(super) fn construct(expr: &Expr) -> &'static str {
    match expr {
        Expr::Array(_) | Expr::Repeat(_) => "an array",
        Expr::Assign(_) => "an assignment",
        Expr::Async(_) | Expr::Await(_) => "`async`",
        Expr::Break(_) | Expr::Continue(_) => "`break` or `continue`",
        Expr::Block(_) => "a label",
        Expr::Cast(_) => "a cast",
        Expr::Closure(_) => "a closure",
        Expr::Field(_) => "a field",
        Expr::ForLoop(_) | Expr::Loop(_) | Expr::While(_) => "a loop",
        Expr::Index(_) => "indexing",
        Expr::Let(_) => "`let` in a condition",
        Expr::Macro(_) => "a macro",
        Expr::Match(_) => "`match`",
        Expr::Range(_) => "a range",
        Expr::Reference(_) | Expr::RawAddr(_) => "a reference",
        Expr::Return(_) => "`return`",
        Expr::Struct(_) => "a struct",
        Expr::Try(_) | Expr::TryBlock(_) => "`?`",
        Expr::Tuple(_) => "a tuple",
        Expr::Unsafe(_) => "`unsafe`",
        _ => "this construct",
    }
}
