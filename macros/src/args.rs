//! Checks the attribute's text: the same grammar as the compiler's text form, every mistake reported at its token.

use proc_macro2::Span;
use quote::quote;
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Result};
use syn::{Error, Ident, LitInt, Token, parenthesized};

use crate::names::{DEFAULT_BLOCK, KEYS, Key, Takes, unknown};
use crate::out::Out;
use crate::{predicate, sets};

/// What later checks need to know of a mask.
#[derive(Clone, Copy)]
struct Shape {
    /// Levels of unions, intersections and differences, the clause included.
    depth: u64,
    /// Deepest parentheses and longest chains of `-`, as the compiler's reader counts them.
    nesting: u64,
    clauses: u64,
    /// A comma outside parentheses, which `&` and `-` refuse.
    comma: Option<Span>,
}

/// The whole attribute. Errors go to `out`; only one that leaves nothing to go on from is returned.
pub(crate) fn args(input: ParseStream<'_>, out: &mut Out) -> Result<()> {
    if input.is_empty() {
        let message = "the pattern is missing: write at least one clause, like `window = 4096`";
        return Err(Error::new(Span::call_site(), message));
    }
    let preset = input.fork().call(Ident::parse_any).is_ok_and(|word| word == "preset");
    if preset {
        sets::preset(input, out)?
    } else {
        mask(input, out, 0)
    }
    sets::sections(input, out, preset)
}

/// A mask, with the assertions for its size.
pub(crate) fn mask(input: ParseStream<'_>, out: &mut Out, nesting: u64) {
    let span = input.span();
    let shape = union(input, out, nesting);
    out.rule(span, "clauses", shape.clauses);
    out.rule(span, "depth", shape.depth.max(shape.nesting));
}

fn union(input: ParseStream<'_>, out: &mut Out, nesting: u64) -> Shape {
    let mut members = vec![intersection(input, out, nesting)];
    while eat_mark(input, '|') {
        members.push(intersection(input, out, nesting));
    }
    joined(members)
}

fn intersection(input: ParseStream<'_>, out: &mut Out, nesting: u64) -> Shape {
    let mut members = vec![difference(input, out, nesting)];
    while eat_mark(input, '&') {
        members.push(difference(input, out, nesting));
    }
    refuse_bare_lists(&members, out);
    joined(members)
}

fn difference(input: ParseStream<'_>, out: &mut Out, nesting: u64) -> Shape {
    let mut members = vec![atom(input, out, nesting)];
    while eat_mark(input, '-') {
        members.push(atom(input, out, nesting));
    }
    refuse_bare_lists(&members, out);
    let chain = nesting + members.len() as u64;
    let shape = members.into_iter().reduce(below).unwrap_or(EMPTY);
    Shape { nesting: shape.nesting.max(chain), ..shape }
}

/// What is left where nothing could be read.
const EMPTY: Shape = Shape { depth: 1, nesting: 1, clauses: 1, comma: None };

/// Two members under a new level.
fn below(a: Shape, b: Shape) -> Shape {
    Shape {
        depth: 1 + a.depth.max(b.depth),
        nesting: a.nesting.max(b.nesting),
        clauses: a.clauses + b.clauses,
        comma: None,
    }
}

/// Members of one union or intersection, which is one level however many there are.
fn joined(members: Vec<Shape>) -> Shape {
    let one = members.len() == 1;
    let depth = members.iter().map(|member| member.depth).max().unwrap_or(1);
    let first = members.first().and_then(|member| member.comma);
    let shape = members.into_iter().reduce(below).unwrap_or(EMPTY);
    if one { Shape { comma: first, ..shape } } else { Shape { depth: 1 + depth, ..shape } }
}

/// `a=1, b=2 - c=3` reads two ways; parentheses say which.
fn refuse_bare_lists(members: &[Shape], out: &mut Out) {
    if members.len() > 1 {
        for comma in members.iter().filter_map(|member| member.comma) {
            out.error(comma, "put parentheses around the list: `(sink = 4, window = 8) & stride = 2`");
        }
    }
}

fn atom(input: ParseStream<'_>, out: &mut Out, nesting: u64) -> Shape {
    if !input.peek(syn::token::Paren) {
        return list(input, out, nesting);
    }
    let inside = |input: ParseStream<'_>, out: &mut Out| {
        let content;
        parenthesized!(content in input);
        let shape = union(&content, out, nesting + 1);
        if !content.is_empty() {
            out.push(content.error("expected `,`, `|`, `&`, `-` or the closing parenthesis"));
            skip(&content, |_| false);
        }
        Ok(Shape { comma: None, ..shape })
    };
    inside(input, out).unwrap_or_else(|error| {
        out.push(error);
        EMPTY
    })
}

/// One key of a list, as far as it could be read.
struct Item {
    key: &'static Key,
    name: Ident,
    count: Option<(u64, Span)>,
}

/// `key = value, key = value`.
fn list(input: ParseStream<'_>, out: &mut Out, nesting: u64) -> Shape {
    let mut items: Vec<Item> = Vec::new();
    let mut comma = None;
    loop {
        match item(input, out) {
            Ok(item) if items.iter().any(|other| other.key.name == item.key.name) => {
                out.error(item.name.span(), format!("`{}` is given twice", item.key.name));
            }
            Ok(item) => items.push(item),
            Err(error) => {
                out.push(error);
                skip(input, |input| [',', ';', '|', '&', '-'].iter().any(|mark| at_mark(input, *mark)));
            }
        }
        let span = input.span();
        if !eat_mark(input, ',') {
            break;
        }
        comma = comma.or(Some(span));
        if !input.peek(Ident::peek_any) {
            break;
        }
    }
    options(&items, out);
    let clauses = items.iter().filter(|item| item.key.owners.is_empty()).count().max(1) as u64;
    Shape { depth: 1 + u64::from(clauses > 1), nesting: nesting + 1, clauses, comma }
}

fn item(input: ParseStream<'_>, out: &mut Out) -> Result<Item> {
    if !input.peek(Ident::peek_any) {
        return Err(input.error("expected a clause like `window = 4096`"));
    }
    let name = input.call(Ident::parse_any)?;
    let Some(key) = KEYS.iter().find(|key| name == key.name) else {
        return Err(Error::new(name.span(), unknown(&name.to_string(), &KEYS.map(|key| key.name))));
    };
    let mut count = None;
    match key.takes {
        Takes::Flag => flag(input)?,
        Takes::Count => {
            input.parse::<Token![=]>()?;
            let (value, span) = integer(input)?;
            out.rule(span, key.name, quote!(#value));
            count = Some((value, span));
        }
        Takes::Predicate => {
            let content;
            parenthesized!(content in input);
            predicate::check_condition(&content, out)?;
        }
    }
    Ok(Item { key, name, count })
}

/// Options need a clause they belong to; blocks must not span too much.
fn options(items: &[Item], out: &mut Out) {
    let named = |name: &str| items.iter().find(|item| item.key.name == name);
    for item in items {
        let owners = item.key.owners;
        if !owners.is_empty() && !owners.iter().any(|owner| named(owner).is_some()) {
            let owners: Vec<String> = owners.iter().map(|owner| format!("`{owner}`")).collect();
            let message =
                format!("`{}` has no effect here: it belongs to {}", item.key.name, owners.join(", "));
            out.error(item.name.span(), message);
        }
    }
    let block = named("block").and_then(|item| item.count).map_or(DEFAULT_BLOCK, |(block, _)| block);
    for name in ["stride", "sink_blocks", "window_blocks"] {
        if let Some((blocks, span)) = named(name).and_then(|item| item.count) {
            out.rule(span, "span", quote!(#blocks, #block));
        }
    }
}

/// A flag stands alone or is `true`.
pub(crate) fn flag(input: ParseStream<'_>) -> Result<()> {
    if !input.peek(Token![=]) {
        return Ok(());
    }
    input.parse::<Token![=]>()?;
    let value: syn::LitBool = input.parse().map_err(|error| Error::new(error.span(), "expected `true`"))?;
    if value.value { Ok(()) } else { Err(Error::new(value.span, "leave the flag out in place of `false`")) }
}

/// A plain decimal number.
pub(crate) fn integer(input: ParseStream<'_>) -> Result<(u64, Span)> {
    if at_mark(input, '-') {
        let error = input.error("must not be negative");
        skip_one(input);
        skip_one(input);
        return Err(error);
    }
    let number: LitInt =
        input.parse().map_err(|error| Error::new(error.span(), "expected a whole number"))?;
    let plain = number.token().to_string().bytes().all(|byte| byte.is_ascii_digit() || byte == b'_');
    if !plain {
        return Err(Error::new(number.span(), "write a plain decimal number, without suffix"));
    }
    match number.base10_parse() {
        Ok(value) => Ok((value, number.span())),
        Err(_) => Err(Error::new(number.span(), "this number does not fit 64 bits")),
    }
}

/// Whether the next token is this mark.
pub(crate) fn at_mark(input: ParseStream<'_>, mark: char) -> bool {
    input.cursor().punct().is_some_and(|(punct, _)| punct.as_char() == mark)
}

pub(crate) fn eat_mark(input: ParseStream<'_>, mark: char) -> bool {
    let found = at_mark(input, mark);
    if found {
        skip_one(input);
    }
    found
}

/// Goes past tokens until `stop` holds or nothing is left.
pub(crate) fn skip(input: ParseStream<'_>, stop: impl Fn(ParseStream<'_>) -> bool) {
    while !input.is_empty() && !stop(input) {
        skip_one(input);
    }
}

fn skip_one(input: ParseStream<'_>) {
    // Fails only at the end, where there is nothing to go past.
    let _ = input.parse::<proc_macro2::TokenTree>();
}
