//! `where` predicates: an expression over `q`, `k` and `head`, written as Rust and with Rust's meaning, except that
//! 64-bit sums and products wrap where a debug build would stop.
//!
//! | | |
//! |---|---|
//! | numbers | whole numbers, `q`, `k`, `head`, names of `let` |
//! | arithmetic | `+`, `-`, `*`, unary `-`; `/` and `%` by a positive constant, rounded towards zero |
//! | functions | `min`, `max` (`a.min(b)` or `min(a, b)`), `a.abs()` |
//! | conditions | `<`, `<=`, `>`, `>=`, `==`, `!=`, `&&`, `||`, `!`, `true`, `false` |
//! | structure | parentheses, blocks, `let name = ...;`, `if ... { } else { }` |

mod ast;
mod lower;
mod names;
mod parse;
mod print;
mod scan;

use std::cmp::Ordering;
use std::str::FromStr;
use std::sync::Arc;

use self::ast::Expr;
use super::PatternError;
use super::error::Fault;
use crate::scalar::Program;

/// Longest text of a predicate, in bytes.
pub const MAX_PREDICATE_BYTES: usize = 16 * 1024;

/// A condition on the query index `q`, the key index `k` and the KV head `head`.
#[derive(Debug, Clone)]
pub struct Predicate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    source: String,
    condition: Expr,
    program: Program,
}

impl Predicate {
    /// Reads an expression, or the statements of a body that ends in one.
    ///
    /// # Errors
    /// A syntax error, or a construct that cannot become a kernel, with its place.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        Self::read(text).map_err(|fault| fault.in_text("predicate", text))
    }

    /// Reads the body of a function whose parameters have these names: query index, key index, KV head.
    ///
    /// # Errors
    /// As [`Predicate::parse`].
    pub fn of_function(params: [&str; 3], body: &str) -> Result<Self, PatternError> {
        Self::read_with(params, body).map_err(|fault| fault.in_text("predicate", body))
    }

    pub(super) fn read(text: &str) -> Result<Self, Fault> {
        Self::read_with(["q", "k", "head"], text)
    }

    fn read_with(params: [&str; 3], text: &str) -> Result<Self, Fault> {
        let condition = parse::condition(params, text)?;
        let source = condition.to_string();
        let program = lower::program(&condition);
        Ok(Self(Arc::new(Inner { source, condition, program })))
    }

    /// The canonical text of the expression; it parses back to an equal predicate.
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// The predicate as a scalar program with parameters `i`, `j`, `g` (query index, key index, KV head) and one truth
    /// value as its result.
    pub fn program(&self) -> &Program {
        &self.0.program
    }

    /// Whether the condition holds for query `i`, key `j`, KV head `g`. Walks the expression as written, apart from the
    /// program, so that one checks the other.
    pub fn holds(&self, i: i64, j: i64, g: i64) -> bool {
        self.0.condition.holds(i, j, g)
    }
}

impl FromStr for Predicate {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        Self::parse(text)
    }
}

// The canonical text determines everything else.
impl PartialEq for Predicate {
    fn eq(&self, other: &Self) -> bool {
        self.source() == other.source()
    }
}

impl Eq for Predicate {}

impl PartialOrd for Predicate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Predicate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.source().cmp(other.source())
    }
}
