//! PTX text to tokens.

use super::PtxError;

/// A piece of text that means something, and its line.
#[derive(Clone, Debug, PartialEq)]
pub struct Token<'a> {
    pub text: &'a str,
    pub line: u32,
}

/// Splits text into words (names, opcodes, directives, numbers), quoted strings and single characters. Comments are left out.
pub fn tokens(text: &str) -> Result<Vec<Token<'_>>, PtxError> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        let start = at;
        match bytes[at] {
            b'\n' => {
                line += 1;
                at += 1;
            }
            c if c.is_ascii_whitespace() || c == 0 => at += 1,
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                at += bytes[at..].iter().position(|&c| c == b'\n').unwrap_or(bytes.len() - at);
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                let end = text[at..].find("*/").map_or(bytes.len(), |end| at + end + 2);
                line += bytes[at..end].iter().filter(|&&c| c == b'\n').count() as u32;
                at = end;
            }
            b'"' => {
                let end = text[at + 1..].find('"');
                let end =
                    end.ok_or_else(|| PtxError { line, message: "a string without an end".to_owned() })?;
                at += end + 2;
                found.push(Token { text: &text[start..at], line });
            }
            c if is_word(c) => {
                while at < bytes.len() && is_word_at(bytes, at) {
                    at += 1;
                }
                found.push(Token { text: &text[start..at], line });
            }
            _ => {
                at += 1;
                found.push(Token { text: &text[start..at], line });
            }
        }
    }
    Ok(found)
}

fn is_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'%' | b'.')
}

/// `::` is part of an opcode, `:` alone ends a label.
fn is_word_at(bytes: &[u8], at: usize) -> bool {
    let double = |first: usize| bytes.get(first) == Some(&b':') && bytes.get(first + 1) == Some(&b':');
    is_word(bytes[at]) || double(at) || (at > 0 && double(at - 1) && bytes[at] == b':')
}

#[cfg(test)]
mod tests {
    use super::tokens;

    #[test]
    fn opcodes_are_words_and_labels_are_not() {
        let text = "a: /* two\nlines */ ld.shared::cta.b64 _, [%rd1+-8]; // rest\n.file 1 \"x y\"";
        let found = tokens(text).unwrap();
        let words: Vec<&str> = found.iter().map(|token| token.text).collect();
        let expected = [
            "a",
            ":",
            "ld.shared::cta.b64",
            "_",
            ",",
            "[",
            "%rd1",
            "+",
            "-",
            "8",
            "]",
            ";",
            ".file",
            "1",
            "\"x y\"",
        ];
        assert_eq!(words, expected);
        assert_eq!((found[2].line, found[12].line), (2, 3));
    }
}
