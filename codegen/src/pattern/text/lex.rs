//! Tokens of the text form.

use std::ops::Range;

use crate::pattern::error::{Fault, shorten};

/// What a token is. Punctuation is its own text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Word,
    Number,
    /// In quotes, which belong to the text.
    Quoted,
    Mark,
    /// The inside of `where(...)`, without the parentheses.
    Predicate,
    End,
}

#[derive(Debug, Clone)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind,
    pub(super) text: &'a str,
    pub(super) bytes: Range<usize>,
}

impl Token<'_> {
    pub(super) fn is(&self, mark: &str) -> bool {
        matches!(self.kind, Kind::Mark | Kind::Word) && self.text == mark
    }

    /// The token as an error message names it.
    pub(super) fn named(&self) -> String {
        match self.kind {
            Kind::End => "the end".to_string(),
            _ => format!("`{}`", shorten(self.text)),
        }
    }
}

const MARKS: [&str; 11] = ["..=", ",", ";", ":", "=", "|", "&", "-", "(", ")", "["];

/// Cuts the whole text into tokens; the last one is [`Kind::End`].
pub(super) fn tokens(text: &str) -> Result<Vec<Token<'_>>, Fault> {
    let mut found: Vec<Token<'_>> = Vec::new();
    let mut at = 0;
    loop {
        at += text[at..].len() - text[at..].trim_start().len();
        let rest = &text[at..];
        let Some(first) = rest.chars().next() else {
            found.push(Token { kind: Kind::End, text: "", bytes: at..at });
            return Ok(found);
        };
        let (kind, length) = if first == '(' && found.last().is_some_and(|token| token.is("where")) {
            found.push(Token { kind: Kind::Mark, text: "(", bytes: at..at + 1 });
            at += 1;
            (Kind::Predicate, predicate_length(&text[at..]).ok_or_else(|| unclosed(at - 1..at))?)
        } else {
            next(rest).ok_or_else(|| {
                let shown = shorten(&first.to_string());
                Fault::syntax(format!("unexpected character `{shown}`"), at..at + first.len_utf8())
            })?
        };
        found.push(Token { kind, text: &text[at..at + length], bytes: at..at + length });
        at += length;
    }
}

fn next(rest: &str) -> Option<(Kind, usize)> {
    let first = rest.chars().next()?;
    if first.is_ascii_digit() {
        return Some((Kind::Number, number_length(rest)));
    }
    if first.is_ascii_alphabetic() || first == '_' {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        return Some((Kind::Word, rest.find(|c| !word(c)).unwrap_or(rest.len())));
    }
    if first == '"' {
        return rest[1..].find('"').map(|length| (Kind::Quoted, length + 2));
    }
    if first == ']' {
        return Some((Kind::Mark, 1));
    }
    MARKS.iter().find(|mark| rest.starts_with(**mark)).map(|mark| (Kind::Mark, mark.len()))
}

/// Digits and letters (so that `12x` is one wrong number), a fraction where a digit follows the point, an exponent.
fn number_length(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let part = |c: &u8| c.is_ascii_alphanumeric() || *c == b'_';
    let mut length = 0;
    while let Some(byte) = bytes.get(length) {
        let fraction = *byte == b'.' && bytes.get(length + 1).is_some_and(u8::is_ascii_digit);
        let sign = matches!(byte, b'-' | b'+')
            && matches!(bytes[length - 1], b'e' | b'E')
            && bytes.get(length + 1).is_some_and(u8::is_ascii_digit);
        if !(part(byte) || fraction || sign) {
            break;
        }
        length += 1;
    }
    length
}

/// The length of the text before the parenthesis that closes the one just opened.
fn predicate_length(text: &str) -> Option<usize> {
    let mut open = 1_usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => open += 1,
            b')' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some(at);
        }
    }
    None
}

fn unclosed(bytes: Range<usize>) -> Fault {
    Fault::syntax("this parenthesis is never closed", bytes)
}
