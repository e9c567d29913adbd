//! Turns Rust statements into a typed expression, or names the construct that stands in the way.

use syn::{BinOp, Expr as Rust, ExprMethodCall, Lit, Local, Pat, Stmt, UnOp};

use super::ast::{Expr, Op, Param, Type};
use super::names::{self, ALLOWED};
use super::scan::{bytes, refused, with_statements};
use crate::pattern::error::{Fault, shorten};

/// Deepest expression, in operators and statements: what walks the tree afterwards recurses this deep.
const MAX_DEPTH: usize = 256;

/// Reads the statements of a condition over the parameters `params`: query index, key index, KV head.
pub(super) fn condition(params: [&str; 3], text: &str) -> Result<Expr, Fault> {
    with_statements(text, |statements| {
        let end = text.len()..text.len();
        let mut reader = Reader { params: params.map(str::to_string), locals: Vec::new(), depth: 0 };
        let typed = reader.body(statements, end)?;
        let whole = text.len() - text.trim_start().len()..text.trim_end().len();
        typed.of(Type::Bool, whole)
    })
}

/// An expression and its type.
struct Typed {
    expr: Expr,
    ty: Type,
}

impl Typed {
    fn int(expr: Expr) -> Self {
        Self { expr, ty: Type::Int }
    }

    fn bool(expr: Expr) -> Self {
        Self { expr, ty: Type::Bool }
    }

    fn of(self, ty: Type, place: std::ops::Range<usize>) -> Result<Expr, Fault> {
        if self.ty == ty {
            return Ok(self.expr);
        }
        Err(Fault::syntax(format!("expected {}, found {}", ty.name(), self.ty.name()), place))
    }
}

/// A `let` in scope: its name in the source, its name in the canonical text, its type, its value where that is known.
struct LocalName {
    source: String,
    canonical: String,
    ty: Type,
    constant: Option<i64>,
}

struct Reader {
    params: [String; 3],
    locals: Vec<LocalName>,
    depth: usize,
}

impl Reader {
    /// Statements that end in an expression.
    fn body(&mut self, statements: &[Stmt], end: std::ops::Range<usize>) -> Result<Typed, Fault> {
        let outer = self.locals.len();
        let mut lets: Vec<Expr> = Vec::new();
        for (n, statement) in statements.iter().enumerate() {
            match statement {
                Stmt::Local(local) => lets.push(self.binding(local)?),
                Stmt::Expr(expr, None) if n + 1 == statements.len() => {
                    self.depth += lets.len();
                    let typed = self.expr(expr)?;
                    self.depth -= lets.len();
                    let bindings = lets.into_iter().zip(self.locals.drain(outer..)).rev();
                    let wrap = |body, (value, local): (Expr, LocalName)| {
                        Expr::Let(local.canonical, Box::new(value), Box::new(body))
                    };
                    return Ok(Typed { expr: bindings.fold(typed.expr, wrap), ty: typed.ty });
                }
                other => return Err(refused(names::statement(other), ALLOWED, bytes(other))),
            }
        }
        Err(Fault::syntax("expected an expression at the end, without `;`", end))
    }

    fn binding(&mut self, local: &Local) -> Result<Expr, Fault> {
        let (pattern, annotation) = match &local.pat {
            Pat::Type(typed) => (&*typed.pat, Some(names::annotation(&typed.ty)?)),
            pattern => (pattern, None),
        };
        let Pat::Ident(ident) = pattern else {
            return Err(refused("this pattern", "`let` takes a plain name", bytes(pattern)));
        };
        if ident.by_ref.is_some() || ident.mutability.is_some() || ident.subpat.is_some() {
            return Err(refused("`mut`, `ref` or `@`", "`let` takes a plain name", bytes(pattern)));
        }
        let Some(init) = &local.init else {
            return Err(refused("`let` without a value", "write `let name = value;`", bytes(local)));
        };
        if let Some((word, _)) = &init.diverge {
            return Err(refused("`let ... else`", ALLOWED, bytes(word)));
        }
        let value = self.expr(&init.expr)?;
        let ty = value.ty;
        let expr = value.of(annotation.unwrap_or(ty), bytes(&init.expr))?;
        let constant = self.constant(&expr);
        let source = ident.ident.to_string();
        let canonical = self.canonical(&source);
        self.locals.push(LocalName { source, canonical, ty, constant });
        Ok(expr)
    }

    /// The name, changed where it would hide a parameter's canonical name or, after such a change, another `let`.
    fn canonical(&self, source: &str) -> String {
        let is_param = |name: &str| ["q", "k", "head"].contains(&name);
        if !is_param(source.trim_end_matches('_')) {
            return source.to_string();
        }
        let mut name = source.to_string();
        let in_use =
            |name: &str| self.locals.iter().any(|local| local.canonical == name && local.source != source);
        while is_param(&name) || in_use(&name) {
            name.push('_');
        }
        name
    }

    fn expr(&mut self, expr: &Rust) -> Result<Typed, Fault> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            let limit = format!("{MAX_DEPTH} levels");
            let what = "the depth of the predicate".to_string();
            return Err(Fault::new(crate::pattern::Problem::Limit { what, limit }, bytes(expr)));
        }
        let typed = match expr {
            Rust::Lit(literal) => literal_value(&literal.lit)?,
            Rust::Path(path) => self.name(path)?,
            Rust::Paren(inner) => self.expr(&inner.expr)?,
            Rust::Block(block) if block.label.is_none() => {
                let close = bytes(&block.block.brace_token.span.close());
                self.body(&block.block.stmts, close)?
            }
            Rust::Unary(unary) => self.unary(&unary.op, &unary.expr, expr)?,
            Rust::Binary(binary) => self.binary(&binary.op, &binary.left, &binary.right)?,
            Rust::If(choice) => self.choice(choice)?,
            Rust::MethodCall(call) => self.method(call)?,
            Rust::Call(call) => {
                let op = names::function(&call.func)?;
                let [left, right] = names::two(call.args.iter(), op, bytes(call))?;
                self.infix(op, Type::Int, left, right)?
            }
            other => return Err(refused(names::construct(other), ALLOWED, bytes(other))),
        };
        self.depth -= 1;
        Ok(typed)
    }

    fn int(&mut self, expr: &Rust) -> Result<Expr, Fault> {
        self.expr(expr)?.of(Type::Int, bytes(expr))
    }

    fn bool(&mut self, expr: &Rust) -> Result<Expr, Fault> {
        self.expr(expr)?.of(Type::Bool, bytes(expr))
    }

    fn name(&self, path: &syn::ExprPath) -> Result<Typed, Fault> {
        let name = path.path.get_ident().filter(|_| path.qself.is_none()).map(ToString::to_string);
        let name = name.ok_or_else(|| refused("a path", ALLOWED, bytes(path)))?;
        if let Some((number, local)) = self.locals.iter().enumerate().rfind(|(_, local)| local.source == name)
        {
            return Ok(Typed { expr: Expr::Local(local.canonical.clone(), number), ty: local.ty });
        }
        let params = [Param::Query, Param::Key, Param::Head];
        match params.into_iter().zip(&self.params).find(|(_, param)| **param == name) {
            Some((param, _)) => Ok(Typed::int(Expr::Param(param))),
            None => {
                let [q, k, head] = &self.params;
                let allowed = format!("it knows `{q}`, `{k}`, `{head}` and the names of `let` before it");
                Err(refused(format!("the name `{}`", shorten(&name)), allowed, bytes(path)))
            }
        }
    }

    fn unary(&mut self, op: &UnOp, of: &Rust, whole: &Rust) -> Result<Typed, Fault> {
        match op {
            UnOp::Neg(_) => Ok(Typed::int(match self.int(of)? {
                Expr::Int(value) => Expr::Int(value.wrapping_neg()),
                other => Expr::Neg(Box::new(other)),
            })),
            UnOp::Not(_) => {
                let typed = self.expr(of)?;
                if typed.ty == Type::Int {
                    return Err(refused("`!` of a number", "it negates conditions", bytes(whole)));
                }
                Ok(Typed::bool(Expr::Not(Box::new(typed.expr))))
            }
            _ => Err(refused("a dereference", ALLOWED, bytes(whole))),
        }
    }

    fn binary(&mut self, op: &BinOp, left: &Rust, right: &Rust) -> Result<Typed, Fault> {
        let Some(lowered) = names::operator(op) else {
            return Err(refused(names::refused_operator(op), ALLOWED, bytes(op)));
        };
        match lowered {
            Op::And | Op::Or => self.infix(lowered, Type::Bool, left, right),
            Op::Eq | Op::Ne => {
                let left = self.expr(left)?;
                let right = self.expr(right)?.of(left.ty, bytes(right))?;
                Ok(Typed::bool(Expr::binary(lowered, left.expr, right)))
            }
            Op::Div | Op::Rem => {
                let left = self.int(left)?;
                let divisor = self.int(right)?;
                match self.constant(&divisor) {
                    Some(divisor) if divisor > 0 => {
                        Ok(Typed::int(Expr::binary(lowered, left, Expr::Int(divisor))))
                    }
                    _ => Err(refused("this divisor", "a divisor must be a positive constant", bytes(right))),
                }
            }
            _ => self.infix(lowered, Type::Int, left, right),
        }
    }

    fn infix(&mut self, op: Op, operands: Type, left: &Rust, right: &Rust) -> Result<Typed, Fault> {
        let left = self.expr(left)?.of(operands, bytes(left))?;
        let right = self.expr(right)?.of(operands, bytes(right))?;
        Ok(Typed { expr: Expr::binary(op, left, right), ty: op.result() })
    }

    fn choice(&mut self, choice: &syn::ExprIf) -> Result<Typed, Fault> {
        let condition = self.bool(&choice.cond)?;
        let Some((_, otherwise)) = &choice.else_branch else {
            return Err(refused("`if` without `else`", "both sides need a value", bytes(&choice.if_token)));
        };
        let close = bytes(&choice.then_branch.brace_token.span.close());
        let yes = self.body(&choice.then_branch.stmts, close)?;
        let no = self.expr(otherwise)?.of(yes.ty, bytes(otherwise))?;
        Ok(Typed { expr: Expr::If(Box::new(condition), Box::new(yes.expr), Box::new(no)), ty: yes.ty })
    }

    fn method(&mut self, call: &ExprMethodCall) -> Result<Typed, Fault> {
        if let Some(turbofish) = &call.turbofish {
            return Err(refused("a type argument", ALLOWED, bytes(turbofish)));
        }
        let name = call.method.to_string();
        let op = match name.as_str() {
            "min" => Op::Min,
            "max" => Op::Max,
            "abs" if call.args.is_empty() => {
                return Ok(Typed::int(Expr::Abs(Box::new(self.int(&call.receiver)?))));
            }
            _ => {
                return Err(refused(
                    format!("the method `{}`", shorten(&name)),
                    ALLOWED,
                    bytes(&call.method),
                ));
            }
        };
        let [left, right] = names::two(std::iter::once(&*call.receiver).chain(&call.args), op, bytes(call))?;
        self.infix(op, Type::Int, left, right)
    }

    /// The value of an expression of literals and names of known value.
    fn constant(&self, expr: &Expr) -> Option<i64> {
        match expr {
            Expr::Int(value) => Some(*value),
            Expr::Local(_, number) => self.locals.get(*number)?.constant,
            Expr::Neg(of) => Some(self.constant(of)?.wrapping_neg()),
            Expr::Binary(op, left, right) if op.result() == Type::Int => {
                Some(op.apply(self.constant(left)?, self.constant(right)?))
            }
            _ => None,
        }
    }
}

fn literal_value(literal: &Lit) -> Result<Typed, Fault> {
    match literal {
        Lit::Bool(value) => Ok(Typed::bool(Expr::Bool(value.value))),
        Lit::Int(number) if ["", "i64"].contains(&number.suffix()) => {
            number.base10_parse().map(|value| Typed::int(Expr::Int(value))).map_err(|_| {
                refused("a number beyond 64 bits", "the largest is 9223372036854775807", bytes(literal))
            })
        }
        other => Err(refused(names::literal(other), "numbers are `i64`", bytes(other))),
    }
}
