//! Turns text into Rust statements, within limits that keep hostile input from exhausting the stack.

use std::ops::Range;

use proc_macro2::{TokenStream, TokenTree};
use syn::Stmt;
use syn::parse::Parser;
use syn::spanned::Spanned;

use super::MAX_PREDICATE_BYTES;
use crate::pattern::Problem;
use crate::pattern::error::Fault;

/// Deepest nesting of brackets.
const MAX_NESTING: usize = 64;

/// Longest literal, in bytes.
const MAX_LITERAL_BYTES: usize = 128;

/// Address space for the parser's own stack; only what it touches becomes memory.
const STACK_BYTES: usize = 64 << 20;

/// Parses on a thread of its own and hands the statements to `convert` there. The thread's end frees the source map in
/// which `proc_macro2` keeps every text it has seen, and its stack is deep enough for any text within the limits.
pub(super) fn with_statements<T: Send>(
    text: &str,
    convert: impl FnOnce(&[Stmt]) -> Result<T, Fault> + Send,
) -> Result<T, Fault> {
    limits(text)?;
    std::thread::scope(|scope| {
        let work = move || convert(&statements(text)?);
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work);
        match thread {
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(error) => Err(Fault::syntax(format!("no thread to parse the predicate on: {error}"), 0..0)),
        }
    })
}

fn limits(text: &str) -> Result<(), Fault> {
    if text.len() > MAX_PREDICATE_BYTES {
        let what = "the length of the predicate".to_string();
        return Err(Fault::new(Problem::Limit { what, limit: format!("{MAX_PREDICATE_BYTES} bytes") }, 0..0));
    }
    let mut open = 0_usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' | b'[' | b'{' => open += 1,
            b')' | b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        if open > MAX_NESTING {
            let what = "the nesting of brackets in the predicate".to_string();
            return Err(Fault::new(Problem::Limit { what, limit: format!("{MAX_NESTING}") }, at..at + 1));
        }
    }
    Ok(())
}

fn statements(text: &str) -> Result<Vec<Stmt>, Fault> {
    let tokens: TokenStream = text.parse().map_err(|error: proc_macro2::LexError| {
        Fault::syntax("this is not a Rust expression", error.span().byte_range())
    })?;
    refuse_tokens(tokens.clone())?;
    syn::Block::parse_within.parse2(tokens).map_err(|error| {
        let bytes = error.span().byte_range();
        // An unexpected end has the span of the call site, which is no place in the text.
        let bytes = if bytes.is_empty() { text.len()..text.len() } else { bytes };
        Fault::syntax(error.to_string(), bytes)
    })
}

/// Refuses attributes, which could switch code off, and literals so long that reading them takes noticeable time.
fn refuse_tokens(tokens: TokenStream) -> Result<(), Fault> {
    for tree in tokens {
        match tree {
            TokenTree::Punct(punct) if punct.as_char() == '#' => {
                return Err(refused("an attribute", "remove it", punct.span().byte_range()));
            }
            TokenTree::Literal(literal) if literal.span().byte_range().len() > MAX_LITERAL_BYTES => {
                return Err(refused("so long a literal", "numbers fit 64 bits", literal.span().byte_range()));
            }
            TokenTree::Group(group) => refuse_tokens(group.stream())?,
            _ => {}
        }
    }
    Ok(())
}

/// A construct that cannot become a kernel.
pub(super) fn refused(
    construct: impl Into<String>,
    allowed: impl Into<String>,
    bytes: Range<usize>,
) -> Fault {
    Fault::new(Problem::Predicate { construct: construct.into(), allowed: allowed.into() }, bytes)
}

/// The bytes of a syntax node.
pub(super) fn bytes(node: &impl Spanned) -> Range<usize> {
    node.span().byte_range()
}
