//! Checks that a Rust expression is one that the compiler can lower: the same language as its predicates, with every
//! mistake reported at its token. The compiler's rules in words: `codegen/src/pattern/predicate`.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::parse::{ParseStream, Result};
use syn::spanned::Spanned;
use syn::{BinOp, Block, Expr, ExprMethodCall, Lit, Local, Pat, Stmt, UnOp};

use crate::out::Out;

mod refused;

use refused::{ALLOWED, construct, operator, statement};

/// The compiler's limits on a predicate.
const MAX_BYTES: usize = 16 * 1024;
const MAX_NESTING: usize = 64;
const MAX_LITERAL_BYTES: usize = 128;
const MAX_DEPTH: usize = 256;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    Int,
    Bool,
    /// Already reported: fits everywhere.
    Unknown,
}

/// `where(...)` over `q`, `k` and `head`.
pub(crate) fn check_condition(input: ParseStream<'_>, out: &mut Out) -> Result<()> {
    let span = input.span();
    let statements = input.call(Block::parse_within)?;
    check(["q", "k", "head"].map(str::to_string), &statements, span, out);
    Ok(())
}

/// The body of a function.
pub(crate) fn check_body(params: &[String; 3], body: &Block, out: &mut Out) {
    check(params.clone(), &body.stmts, body.brace_token.span.close(), out);
}

fn check(params: [String; 3], statements: &[Stmt], end: Span, out: &mut Out) {
    let text = quote!(#(#statements)*);
    if text.to_string().len() > MAX_BYTES {
        out.error(end, format!("the predicate is longer than {MAX_BYTES} bytes"));
        return;
    }
    scan(text, 0, out);
    let mut checker = Checker { params, locals: Vec::new(), depth: 0, out };
    let ty = checker.body(statements, end);
    let span = statements.last().map_or(end, Spanned::span);
    checker.expect(ty, Type::Bool, span);
}

/// Refuses attributes, which could switch code off, and brackets nested too deep.
fn scan(tokens: TokenStream, nesting: usize, out: &mut Out) {
    for tree in tokens {
        match tree {
            proc_macro2::TokenTree::Punct(punct) if punct.as_char() == '#' => {
                out.error(punct.span(), "an attribute cannot be used in a predicate");
            }
            proc_macro2::TokenTree::Literal(literal) if literal.to_string().len() > MAX_LITERAL_BYTES => {
                out.error(
                    literal.span(),
                    "so long a literal cannot be used in a predicate; numbers fit 64 bits",
                );
            }
            proc_macro2::TokenTree::Group(group) if is_open(&group) => {
                let message = "a macro's argument of several tokens needs parentheses around it here";
                out.error(group.span(), message);
            }
            proc_macro2::TokenTree::Group(group) if nesting == MAX_NESTING => {
                out.error(group.span(), format!("brackets nest at most {MAX_NESTING} deep in a predicate"));
            }
            proc_macro2::TokenTree::Group(group) => scan(group.stream(), nesting + 1, out),
            _ => {}
        }
    }
}

/// A group that a macro left around several tokens. It has no text, so the compiler would read another expression.
fn is_open(group: &proc_macro2::Group) -> bool {
    group.delimiter() == proc_macro2::Delimiter::None && group.stream().into_iter().nth(1).is_some()
}

/// A `let` in scope and, where that is known, its value.
struct LocalName {
    name: String,
    ty: Type,
    constant: Option<i64>,
}

/// The type of an expression and, where that is known, its value.
#[derive(Clone, Copy)]
struct Typed {
    ty: Type,
    constant: Option<i64>,
}

impl Typed {
    const UNKNOWN: Self = Self { ty: Type::Unknown, constant: None };
    const INT: Self = Self { ty: Type::Int, constant: None };
    const BOOL: Self = Self { ty: Type::Bool, constant: None };
}

struct Checker<'a> {
    params: [String; 3],
    locals: Vec<LocalName>,
    depth: usize,
    out: &'a mut Out,
}

impl Checker<'_> {
    fn refuse(&mut self, span: Span, construct: &str, allowed: &str) -> Typed {
        self.out.error(span, format!("{construct} cannot be used in a predicate; {allowed}"));
        Typed::UNKNOWN
    }

    fn expect(&mut self, found: Typed, ty: Type, span: Span) {
        let name = |ty| if ty == Type::Int { "a number" } else { "a condition" };
        if found.ty != Type::Unknown && ty != Type::Unknown && found.ty != ty {
            self.out.error(span, format!("expected {}, found {}", name(ty), name(found.ty)));
        }
    }

    fn body(&mut self, statements: &[Stmt], end: Span) -> Typed {
        let outer = (self.locals.len(), self.depth);
        let mut result = None;
        for (n, statement_here) in statements.iter().enumerate() {
            match statement_here {
                Stmt::Local(local) => self.binding(local),
                Stmt::Expr(expr, None) if n + 1 == statements.len() => {
                    self.depth += self.locals.len() - outer.0;
                    result = Some(self.expr(expr));
                }
                other => result = Some(self.refuse(other.span(), statement(other), ALLOWED)),
            }
        }
        let lets = self.locals.len() - outer.0;
        self.locals.truncate(outer.0);
        self.depth = outer.1;
        result.map(|typed| Typed { constant: typed.constant.filter(|_| lets == 0), ..typed }).unwrap_or_else(
            || {
                self.out.error(end, "expected an expression at the end, without `;`");
                Typed::UNKNOWN
            },
        )
    }

    fn binding(&mut self, local: &Local) {
        let (pattern, annotation) = match &local.pat {
            Pat::Type(typed) => (&*typed.pat, Some(&*typed.ty)),
            pattern => (pattern, None),
        };
        let plain = matches!(pattern, Pat::Ident(ident)
            if ident.by_ref.is_none() && ident.mutability.is_none() && ident.subpat.is_none());
        if !plain {
            self.refuse(pattern.span(), "this pattern", "`let` takes a plain name");
        }
        let value = self.initial(local, annotation);
        if let Pat::Ident(ident) = pattern {
            let name = ident.ident.to_string();
            self.locals.push(LocalName { name, ty: value.ty, constant: value.constant });
        }
    }

    fn initial(&mut self, local: &Local, annotation: Option<&syn::Type>) -> Typed {
        let Some(init) = &local.init else {
            return self.refuse(local.span(), "`let` without a value", "write `let name = value;`");
        };
        if let Some((word, _)) = &init.diverge {
            self.refuse(word.span(), "`let ... else`", ALLOWED);
        }
        let value = self.expr(&init.expr);
        if let Some(ty) = annotation {
            let ty = self.annotation(ty);
            self.expect(value, ty, init.expr.span());
        }
        value
    }

    fn annotation(&mut self, ty: &syn::Type) -> Type {
        match ty {
            syn::Type::Path(path) if path.path.is_ident("i64") => Type::Int,
            syn::Type::Path(path) if path.path.is_ident("bool") => Type::Bool,
            _ => self.refuse(ty.span(), "this type", "values are `i64` or `bool`").ty,
        }
    }

    fn expr(&mut self, expr: &Expr) -> Typed {
        if self.depth == MAX_DEPTH {
            self.out.error(expr.span(), format!("a predicate is at most {MAX_DEPTH} levels deep"));
            return Typed::UNKNOWN;
        }
        self.depth += 1;
        let typed = match expr {
            Expr::Lit(literal) => self.literal(&literal.lit),
            Expr::Path(path) => self.name(path),
            Expr::Paren(inner) => self.expr(&inner.expr),
            Expr::Group(inner) => self.expr(&inner.expr),
            Expr::Block(block) if block.label.is_none() => {
                self.body(&block.block.stmts, block.block.brace_token.span.close())
            }
            Expr::Unary(unary) => self.unary(&unary.op, &unary.expr),
            Expr::Binary(binary) => self.binary(&binary.op, &binary.left, &binary.right),
            Expr::If(choice) => self.choice(choice),
            Expr::MethodCall(call) => self.method(call),
            Expr::Call(call) => self.call(call),
            other => self.refuse(other.span(), construct(other), ALLOWED),
        };
        self.depth -= 1;
        typed
    }

    fn typed(&mut self, expr: &Expr, ty: Type) -> Typed {
        let found = self.expr(expr);
        self.expect(found, ty, expr.span());
        found
    }

    fn literal(&mut self, literal: &Lit) -> Typed {
        match literal {
            Lit::Bool(_) => Typed::BOOL,
            Lit::Int(number) if ["", "i64"].contains(&number.suffix()) => match number.base10_parse() {
                Ok(value) => Typed { ty: Type::Int, constant: Some(value) },
                Err(_) => self.refuse(
                    literal.span(),
                    "a number beyond 64 bits",
                    "the largest is 9223372036854775807",
                ),
            },
            other => self.refuse(other.span(), refused::literal(other), "numbers are `i64`"),
        }
    }

    fn name(&mut self, path: &syn::ExprPath) -> Typed {
        let Some(name) = path.path.get_ident().filter(|_| path.qself.is_none()).map(ToString::to_string)
        else {
            return self.refuse(path.span(), "a path", ALLOWED);
        };
        if let Some(local) = self.locals.iter().rfind(|local| local.name == name) {
            return Typed { ty: local.ty, constant: local.constant };
        }
        if self.params.contains(&name) {
            return Typed::INT;
        }
        let known: Vec<String> = self.params.iter().map(|param| format!("`{param}`")).collect();
        let allowed = format!("it knows {} and the names of `let` before it", known.join(", "));
        self.refuse(path.span(), &format!("the name `{name}`"), &allowed)
    }

    fn unary(&mut self, op: &UnOp, of: &Expr) -> Typed {
        match op {
            UnOp::Neg(_) => {
                let constant = self.typed(of, Type::Int).constant.map(i64::wrapping_neg);
                Typed { ty: Type::Int, constant }
            }
            UnOp::Not(_) => {
                self.typed(of, Type::Bool);
                Typed::BOOL
            }
            other => self.refuse(other.span(), "a dereference", ALLOWED),
        }
    }

    fn binary(&mut self, op: &BinOp, left: &Expr, right: &Expr) -> Typed {
        match op {
            BinOp::And(_) | BinOp::Or(_) => self.pair(left, right, Type::Bool, Typed::BOOL),
            BinOp::Lt(_) | BinOp::Le(_) | BinOp::Gt(_) | BinOp::Ge(_) => {
                self.pair(left, right, Type::Int, Typed::BOOL)
            }
            BinOp::Eq(_) | BinOp::Ne(_) => {
                let ty = self.expr(left).ty;
                self.typed(right, ty);
                Typed::BOOL
            }
            BinOp::Add(_) | BinOp::Sub(_) | BinOp::Mul(_) | BinOp::Div(_) | BinOp::Rem(_) => {
                self.arithmetic(op, left, right)
            }
            other => self.refuse(other.span(), operator(other), ALLOWED),
        }
    }

    fn arithmetic(&mut self, op: &BinOp, left: &Expr, right: &Expr) -> Typed {
        let a = self.typed(left, Type::Int);
        let b = self.typed(right, Type::Int);
        let divides = matches!(op, BinOp::Div(_) | BinOp::Rem(_));
        if divides && b.ty != Type::Unknown && b.constant.is_none_or(|divisor| divisor <= 0) {
            self.refuse(right.span(), "this divisor", "a divisor must be a positive constant");
            return Typed::INT;
        }
        let constant = a.constant.zip(b.constant).and_then(|(a, b)| match op {
            BinOp::Add(_) => Some(a.wrapping_add(b)),
            BinOp::Sub(_) => Some(a.wrapping_sub(b)),
            BinOp::Mul(_) => Some(a.wrapping_mul(b)),
            BinOp::Div(_) => a.checked_div(b),
            _ => a.checked_rem(b),
        });
        Typed { ty: Type::Int, constant }
    }

    fn pair(&mut self, left: &Expr, right: &Expr, operands: Type, result: Typed) -> Typed {
        self.typed(left, operands);
        self.typed(right, operands);
        result
    }

    fn choice(&mut self, choice: &syn::ExprIf) -> Typed {
        self.typed(&choice.cond, Type::Bool);
        let yes = self.body(&choice.then_branch.stmts, choice.then_branch.brace_token.span.close());
        if let Some((_, otherwise)) = &choice.else_branch {
            self.typed(otherwise, yes.ty);
        } else {
            self.refuse(choice.if_token.span(), "`if` without `else`", "both sides need a value");
        }
        Typed { constant: None, ..yes }
    }

    fn method(&mut self, call: &ExprMethodCall) -> Typed {
        if let Some(turbofish) = &call.turbofish {
            return self.refuse(turbofish.span(), "a type argument", ALLOWED);
        }
        let name = call.method.to_string();
        let args: Vec<&Expr> = std::iter::once(&*call.receiver).chain(&call.args).collect();
        match name.as_str() {
            "min" | "max" => self.numbers(&name, &args, 2, call.span()),
            "abs" => self.numbers(&name, &args, 1, call.span()),
            _ => self.refuse(call.method.span(), &format!("the method `{name}`"), ALLOWED),
        }
    }

    fn call(&mut self, call: &syn::ExprCall) -> Typed {
        match refused::function(&call.func) {
            Ok(name) => self.numbers(&name, &call.args.iter().collect::<Vec<_>>(), 2, call.span()),
            Err(construct) => self.refuse(call.func.span(), &construct, ALLOWED),
        }
    }

    fn numbers(&mut self, name: &str, args: &[&Expr], takes: usize, span: Span) -> Typed {
        let typed: Vec<Typed> = args.iter().map(|arg| self.typed(arg, Type::Int)).collect();
        if args.len() != takes {
            self.out.error(span, format!("`{name}` takes {takes} numbers, not {}", args.len()));
        }
        let constant = match (name, typed.as_slice()) {
            ("min", [a, b]) => a.constant.zip(b.constant).map(|(a, b)| a.min(b)),
            ("max", [a, b]) => a.constant.zip(b.constant).map(|(a, b)| a.max(b)),
            _ => None,
        };
        Typed { ty: Type::Int, constant }
    }
}
