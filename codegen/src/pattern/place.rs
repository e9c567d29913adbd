//! A place in a text, quoted with its line and a caret.

use std::fmt;
use std::ops::Range;

/// A stretch of one line of a named text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    source_name: String,
    line: usize,
    column: usize,
    excerpt: String,
    caret: Range<usize>,
}

impl Place {
    /// The place of `bytes` in `text`; out-of-range ends are moved to the nearest character.
    pub(crate) fn new(source_name: &str, text: &str, bytes: Range<usize>) -> Self {
        let start = floor_char(text, bytes.start);
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |length| start + length);
        let end = floor_char(text, bytes.end).clamp(start, line_end);
        let column = text[line_start..start].chars().count() + 1;
        let line = text[..start].matches('\n').count() + 1;
        let (excerpt, caret) =
            excerpt(&text[line_start..line_end], column - 1, text[start..end].chars().count());
        Self { source_name: source_name.to_string(), line, column, excerpt, caret }
    }

    /// The name of the text: a file's path, or what it is.
    pub fn source_name(&self) -> &str {
        &self.source_name
    }

    /// Line, from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// Column in characters, from 1.
    pub fn column(&self) -> usize {
        self.column
    }
}

/// At most 100 characters of a line around the caret, and where the caret lies in them.
fn excerpt(line: &str, column: usize, width: usize) -> (String, Range<usize>) {
    const MOST: usize = 100;
    let first = column.saturating_sub(MOST / 2);
    let visible = |c: char| if c.is_control() { ' ' } else { c };
    let shown: String = line.chars().skip(first).take(MOST).map(visible).collect();
    let shown = shown.trim_end().to_string();
    let start = column - first;
    let end = (start + width.max(1)).min(shown.chars().count().max(start + 1));
    (shown, start..end)
}

fn floor_char(text: &str, byte: usize) -> usize {
    let mut byte = byte.min(text.len());
    while !text.is_char_boundary(byte) {
        byte -= 1;
    }
    byte
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        writeln!(f, "{margin}--> {}:{}:{}", self.source_name, self.line, self.column)?;
        writeln!(f, "{margin} |")?;
        writeln!(f, "{number} | {}", self.excerpt)?;
        write!(f, "{margin} | {}{}", " ".repeat(self.caret.start), "^".repeat(self.caret.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_at_the_characters() {
        let place = Place::new("a.toml", "x = 1\nß = wrong\n", 11..16);
        assert_eq!((place.line(), place.column()), (2, 5));
        assert_eq!(place.to_string(), " --> a.toml:2:5\n  |\n2 | ß = wrong\n  |     ^^^^^");
        // Past the end, inside a character, and in an empty text.
        for (text, bytes) in [("ab", 9..12), ("ß", 1..1), ("", 0..0), ("a\n", 2..2)] {
            assert!(Place::new("t", text, bytes).to_string().contains('^'));
        }
    }
}
