//! Reads the text form by recursive descent; `-` binds tighter than `&`, `&` tighter than `|`, as in Rust.

use std::ops::Range;

use super::MAX_BYTES;
use super::lex::{Kind, Token, tokens};
use crate::pattern::error::Fault;
use crate::pattern::flat::{Flat, Key, Takes, Value};
use crate::pattern::index_set::Span;
use crate::pattern::{IndexSet, Mask, Pattern, Predicate, Problem, rules};

/// The mask alone.
pub(super) fn mask(text: &str) -> Result<Mask, Fault> {
    let mut parser = Parser::new(text)?;
    let mask = parser.mask()?;
    parser.end("`|`, `&`, `-` or the end")?;
    Ok(mask)
}

/// A set of indices alone; a list needs no brackets here.
pub(super) fn index_set(text: &str) -> Result<IndexSet, Fault> {
    let mut parser = Parser::new(text)?;
    let set = match parser.peek().kind {
        Kind::Number => IndexSet::List(parser.spans(|token| token.kind == Kind::End)?),
        _ => parser.index_set()?,
    };
    parser.end("the end")?;
    Ok(set)
}

/// Walks over the tokens of one text.
pub(super) struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
    /// Clauses read since the mask began: a hostile text is refused before it takes long to read.
    clauses: u64,
}

impl<'a> Parser<'a> {
    pub(super) fn new(text: &'a str) -> Result<Self, Fault> {
        if text.len() > MAX_BYTES {
            let problem = Problem::Limit { what: "the text".to_string(), limit: "1 MiB".to_string() };
            return Err(Fault::new(problem, 0..0));
        }
        Ok(Self { tokens: tokens(text)?, at: 0, clauses: 0 })
    }

    pub(super) fn peek(&self) -> &Token<'a> {
        &self.tokens[self.at]
    }

    pub(super) fn next(&mut self) -> Token<'a> {
        let token = self.tokens[self.at].clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    pub(super) fn take(&mut self, mark: &str) -> bool {
        let found = self.peek().is(mark);
        if found {
            self.next();
        }
        found
    }

    pub(super) fn expect(&mut self, mark: &str) -> Result<(), Fault> {
        if self.take(mark) { Ok(()) } else { Err(self.unexpected(&format!("`{mark}`"))) }
    }

    pub(super) fn end(&self, expected: &str) -> Result<(), Fault> {
        if self.peek().kind == Kind::End { Ok(()) } else { Err(self.unexpected(expected)) }
    }

    pub(super) fn unexpected(&self, expected: &str) -> Fault {
        let token = self.peek();
        Fault::syntax(format!("expected {expected}, found {}", token.named()), token.bytes.clone())
    }

    /// A whole mask.
    pub(super) fn mask(&mut self) -> Result<Mask, Fault> {
        self.clauses = 0;
        self.union(0)
    }

    /// `intersection | intersection | ...`; alone here may lists of several keys stand without parentheses.
    fn union(&mut self, depth: usize) -> Result<Mask, Fault> {
        let mut masks = vec![self.intersection(depth)?];
        while self.take("|") {
            masks.push(self.intersection(depth)?);
        }
        Ok(if masks.len() == 1 { masks.swap_remove(0) } else { Mask::Union(masks) })
    }

    fn intersection(&mut self, depth: usize) -> Result<Mask, Fault> {
        let start = self.at;
        let mut masks = vec![self.difference(depth)?];
        while self.peek().is("&") {
            self.refuse_bare_list(start)?;
            let start = self.next_index();
            masks.push(self.difference(depth)?);
            self.refuse_bare_list(start)?;
        }
        Ok(if masks.len() == 1 { masks.swap_remove(0) } else { Mask::Intersection(masks) })
    }

    fn difference(&mut self, depth: usize) -> Result<Mask, Fault> {
        let start = self.at;
        let mut mask = self.atom(depth)?;
        let mut chain = depth;
        while self.peek().is("-") {
            chain += 1;
            self.limit(chain)?;
            self.refuse_bare_list(start)?;
            let start = self.next_index();
            mask = mask - self.atom(depth)?;
            self.refuse_bare_list(start)?;
        }
        Ok(mask)
    }

    fn next_index(&mut self) -> usize {
        self.next();
        self.at
    }

    /// `a=1, b=2 - c=3` reads two ways; parentheses say which.
    fn refuse_bare_list(&self, start: usize) -> Result<(), Fault> {
        let mut open = 0_usize;
        for token in &self.tokens[start..self.at] {
            match token.text {
                "(" if token.kind == Kind::Mark => open += 1,
                ")" if token.kind == Kind::Mark => open = open.saturating_sub(1),
                "," if open == 0 => {
                    let message = "put parentheses around the list: `(sink=4, window=8) & stride=2`";
                    return Err(Fault::syntax(message, token.bytes.clone()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn limit(&self, depth: usize) -> Result<(), Fault> {
        if depth < rules::MAX_DEPTH {
            return Ok(());
        }
        let what = "the nesting of the mask".to_string();
        let problem = Problem::Limit { what, limit: format!("{} levels", rules::MAX_DEPTH) };
        Err(Fault::new(problem, self.peek().bytes.clone()))
    }

    fn atom(&mut self, depth: usize) -> Result<Mask, Fault> {
        self.limit(depth)?;
        if self.take("(") {
            let mask = self.union(depth + 1)?;
            self.expect(")")?;
            return Ok(mask);
        }
        self.list(Flat::default())
    }

    /// `key=value, key=value`, laid over `base`.
    pub(super) fn list(&mut self, base: Flat) -> Result<Mask, Fault> {
        let mut flat = Flat::default();
        let mut places: Vec<(Key, Range<usize>)> = Vec::new();
        let start = self.peek().bytes.start;
        loop {
            let (key, value, bytes) = self.item()?;
            if flat.insert(key, value).is_some() {
                return Err(Fault::new(Problem::Duplicate { key: key.name().to_string() }, bytes));
            }
            places.push((key, bytes));
            if !self.take(",") || self.peek().kind != Kind::Word {
                break;
            }
        }
        let mut all = base;
        all.overlay(flat);
        let place = |key: Key| places.iter().find(|(other, _)| *other == key).map(|(_, bytes)| bytes.clone());
        let clauses = all
            .clauses()
            .map_err(|(key, problem)| Fault::new(problem, place(key).unwrap_or(start..start)))?;
        let mut masks: Vec<Mask> = clauses.into_iter().map(Mask::Clause).collect();
        Ok(if masks.len() == 1 { masks.swap_remove(0) } else { Mask::Union(masks) })
    }

    fn item(&mut self) -> Result<(Key, Value, Range<usize>), Fault> {
        if self.peek().kind != Kind::Word {
            return Err(self.unexpected("a clause like `window=4096`"));
        }
        let name = self.next();
        let Some(key) = Key::named(name.text) else {
            let problem = Problem::unknown_key(name.text, &Pattern::KEYS);
            return Err(Fault::new(problem, name.bytes));
        };
        self.clauses += u64::from(key.is_clause());
        rules::clauses(self.clauses.max(1)).map_err(|allowed| {
            Fault::new(Problem::value("clauses", self.clauses, allowed), name.bytes.clone())
        })?;
        let value = match key.takes() {
            Takes::Flag => {
                self.flag()?;
                Value::Flag
            }
            Takes::Count => {
                self.expect("=")?;
                let shown = self.peek().text;
                let (value, bytes) = self.integer(key.name())?;
                Value::Count(key.check(value, shown).map_err(|problem| Fault::new(problem, bytes))?)
            }
            Takes::Predicate => {
                self.expect("(")?;
                let inside = self.next();
                let predicate =
                    Predicate::read(inside.text).map_err(|fault| fault.moved(inside.bytes.start))?;
                self.expect(")")?;
                Value::Predicate(predicate)
            }
        };
        Ok((key, value, name.bytes))
    }

    /// A flag stands alone or is `true`.
    pub(super) fn flag(&mut self) -> Result<(), Fault> {
        if self.take("=") { self.expect("true") } else { Ok(()) }
    }

    /// A whole number; one that does not fit 64 bits counts as the largest, which every rule refuses.
    pub(super) fn integer(&mut self, key: &str) -> Result<(u64, Range<usize>), Fault> {
        let token = self.peek().clone();
        if token.is("-") {
            let problem = Problem::value(key, "a negative number", "must not be negative");
            return Err(Fault::new(problem, token.bytes));
        }
        let digits: String = token.text.chars().filter(|c| *c != '_').collect();
        if token.kind != Kind::Number || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            let kind =
                Problem::Kind { key: key.to_string(), expected: "a whole number", found: token.named() };
            return Err(Fault::new(kind, token.bytes));
        }
        self.next();
        Ok((digits.parse().unwrap_or(u64::MAX), token.bytes))
    }

    /// `all`, `none`, `3`, `0..=3`, `[0, 4..=7]`, `every 6 from 5`.
    pub(super) fn index_set(&mut self) -> Result<IndexSet, Fault> {
        if self.take("all") {
            return Ok(IndexSet::All);
        }
        if self.take("none") {
            return Ok(IndexSet::none());
        }
        if self.take("every") {
            let every = self.index("every")?;
            let from = if self.take("from") { self.index("from")? } else { 0 };
            return Ok(IndexSet::Every { every, from });
        }
        if self.take("[") {
            let spans = self.spans(|token| token.is("]"))?;
            self.expect("]")?;
            return Ok(IndexSet::List(spans));
        }
        match self.peek().kind {
            Kind::Number => Ok(IndexSet::List(vec![self.span()?])),
            _ => {
                Err(self
                    .unexpected("indices like `3`, `0..=3`, `[0, 4..=7]`, `every 6 from 5`, `all` or `none`"))
            }
        }
    }

    fn spans(&mut self, ends: fn(&Token<'_>) -> bool) -> Result<Vec<Span>, Fault> {
        let mut spans = Vec::new();
        while !ends(self.peek()) {
            spans.push(self.span()?);
            if !self.take(",") {
                break;
            }
        }
        Ok(spans)
    }

    fn span(&mut self) -> Result<Span, Fault> {
        let start = self.peek().bytes.start;
        let first = self.index("index")?;
        let last = if self.take("..=") { self.index("index")? } else { first };
        let end = self.tokens[self.at - 1].bytes.end;
        rules::range(first.into(), last.into()).map_err(|allowed| {
            Fault::new(Problem::value("index", format!("{first}..={last}"), allowed), start..end)
        })?;
        Ok(Span { first, last })
    }

    fn index(&mut self, key: &str) -> Result<u32, Fault> {
        let (value, bytes) = self.integer(key)?;
        let most = rules::MAX_HEADS.max(rules::MAX_LAYERS);
        match u32::try_from(value) {
            Ok(index) if index <= most => Ok(index),
            _ => Err(Fault::new(Problem::value(key, value, "must be at most 1024"), bytes)),
        }
    }
}
