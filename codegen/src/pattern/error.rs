//! What can be wrong with a pattern, and where.

use std::fmt;
use std::ops::Range;

use super::place::Place;

/// Why a pattern was refused; for a text or a file, also where.
///
/// `Display` reads like a compiler's message: the problem, the place, the line and a caret.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{problem}{}", quoted(.place))]
pub struct PatternError {
    problem: Problem,
    place: Option<Box<Place>>,
}

/// What is wrong, apart from the place.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// A value breaks a rule.
    #[error("`{key} = {value}`: {allowed}")]
    Value {
        /// The key, as every text form spells it.
        key: String,
        /// The value given.
        value: String,
        /// What the rule allows.
        allowed: String,
    },
    /// A value is of the wrong kind.
    #[error("`{key}` takes {expected}, not {found}")]
    Kind {
        /// The key.
        key: String,
        /// What the key takes.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// No such key.
    #[error("unknown key `{key}`{}; allowed here: {allowed}", did_you_mean(.nearest))]
    UnknownKey {
        /// The key given.
        key: String,
        /// The allowed key closest to it, where one is close.
        nearest: Option<String>,
        /// All keys allowed in this place.
        allowed: String,
    },
    /// No such preset.
    #[error("unknown preset `{name}`{}; there are: {allowed}", did_you_mean(.nearest))]
    UnknownPreset {
        /// The name given.
        name: String,
        /// The preset closest to it, where one is close.
        nearest: Option<String>,
        /// All presets.
        allowed: String,
    },
    /// A key stands twice in one list.
    #[error("`{key}` is given twice")]
    Duplicate {
        /// The key.
        key: String,
    },
    /// An option without the clause it belongs to.
    #[error("`{option}` has no effect here: it belongs to {owner}")]
    Option {
        /// The option.
        option: &'static str,
        /// The clauses that take it.
        owner: &'static str,
    },
    /// Something that must be there is not.
    #[error("{what} is missing: {how}")]
    Missing {
        /// What is missing.
        what: &'static str,
        /// What to write.
        how: &'static str,
    },
    /// The text does not follow the grammar.
    #[error("{message}")]
    Syntax {
        /// What was expected and what stands there.
        message: String,
    },
    /// A predicate uses something that cannot become a kernel.
    #[error("{construct} cannot be used in a predicate; {allowed}")]
    Predicate {
        /// The construct, by name.
        construct: String,
        /// What can be used in its place.
        allowed: String,
    },
    /// The input is larger or deeper than any pattern needs.
    #[error("{what} is more than the limit of {limit}")]
    Limit {
        /// What is too large.
        what: String,
        /// The limit with its unit.
        limit: String,
    },
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|nearest| format!(", did you mean `{nearest}`?")).unwrap_or_default()
}

fn quoted(place: &Option<Box<Place>>) -> String {
    place.as_ref().map(|place| format!("\n{place}")).unwrap_or_default()
}

/// A problem and the bytes of the text that it concerns.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fault {
    pub(super) problem: Problem,
    pub(super) bytes: Range<usize>,
}

impl Fault {
    pub(super) fn new(problem: Problem, bytes: Range<usize>) -> Self {
        Self { problem, bytes }
    }

    /// A sentence about the grammar.
    pub(super) fn syntax(message: impl Into<String>, bytes: Range<usize>) -> Self {
        Self::new(Problem::Syntax { message: message.into() }, bytes)
    }

    /// The fault moved by `bytes`, for a text inside a text.
    pub(super) fn moved(mut self, bytes: usize) -> Self {
        self.bytes = self.bytes.start + bytes..self.bytes.end + bytes;
        self
    }

    pub(super) fn in_text(self, source_name: &str, text: &str) -> PatternError {
        PatternError::at(self.problem, Place::new(source_name, text, self.bytes))
    }
}

impl PatternError {
    pub(crate) fn at(problem: Problem, place: Place) -> Self {
        Self { problem, place: Some(Box::new(place)) }
    }

    /// What is wrong.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// Where, for a pattern that was read from a text; none for one that was built in Rust.
    pub fn place(&self) -> Option<&Place> {
        self.place.as_deref()
    }
}

impl From<Problem> for PatternError {
    fn from(problem: Problem) -> Self {
        Self { problem, place: None }
    }
}

impl Problem {
    pub(crate) fn value(key: &str, value: impl fmt::Display, allowed: &str) -> Self {
        Self::Value { key: key.to_string(), value: shorten(&value.to_string()), allowed: allowed.to_string() }
    }

    pub(crate) fn unknown_key(key: &str, allowed: &[&str]) -> Self {
        Self::UnknownKey { key: shorten(key), nearest: nearest(key, allowed), allowed: allowed.join(", ") }
    }

    pub(crate) fn unknown_preset(name: &str, allowed: &[&str]) -> Self {
        Self::UnknownPreset {
            name: shorten(name),
            nearest: nearest(name, allowed),
            allowed: allowed.join(", "),
        }
    }
}

/// Quoted input, cut where it would flood a terminal, without control characters.
pub(crate) fn shorten(text: &str) -> String {
    const MOST: usize = 60;
    let visible = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut short: String = text.chars().take(MOST).map(visible).collect();
    if text.chars().nth(MOST).is_some() {
        short.push('…');
    }
    short
}

/// The candidate closest to `word`, if a slip of the fingers could have made one of the other.
fn nearest(word: &str, candidates: &[&str]) -> Option<String> {
    if word.len() > 32 {
        return None;
    }
    let close = |candidate: &&&str| distance(word, candidate) <= 1 + candidate.len() / 4;
    candidates.iter().filter(close).min_by_key(|candidate| distance(word, candidate)).map(|c| c.to_string())
}

/// Levenshtein distance, case and the difference between `-` and `_` aside.
fn distance(a: &str, b: &str) -> usize {
    let fold = |c: char| if c == '-' { '_' } else { c.to_ascii_lowercase() };
    let b: Vec<char> = b.chars().map(fold).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (n, x) in a.chars().map(fold).enumerate() {
        let mut diagonal = row[0];
        row[0] = n + 1;
        for (m, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[m + 1];
            row[m + 1] = replaced.min(row[m] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typos_find_their_key() {
        let keys = ["sink", "window", "window_blocks", "stride"];
        assert_eq!(nearest("windw", &keys).as_deref(), Some("window"));
        assert_eq!(nearest("Window-Blocks", &keys).as_deref(), Some("window_blocks"));
        assert_eq!(nearest("banana", &keys), None);
    }
}
