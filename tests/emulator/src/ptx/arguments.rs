//! The operands of a statement as they are written.

use super::names::Names;
use super::{Address, Operand};

/// One operand.
#[derive(Clone, Debug, PartialEq)]
pub enum Argument {
    One(Operand),
    /// `!%p1`
    Negated(Operand),
    /// `%r1|%p1`
    Either(Operand, Operand),
    /// `{%r1, %r2}`
    Vector(Vec<Operand>),
    /// `[%rd1+8]`, and the coordinates in `[%rd1, {%r1, %r2}]`
    Memory(Address, Vec<Operand>),
}

/// Reads all operands of a statement.
pub fn arguments(words: &[&str], names: &Names) -> Result<Vec<Argument>, String> {
    let mut reader = Reader { words, at: 0, names };
    let mut found = Vec::new();
    while reader.at < words.len() {
        found.push(reader.argument()?);
        if reader.at < words.len() {
            reader.expect(",")?;
        }
    }
    Ok(found)
}

struct Reader<'a> {
    words: &'a [&'a str],
    at: usize,
    names: &'a Names,
}

impl Reader<'_> {
    fn accept(&mut self, word: &str) -> bool {
        let found = self.words.get(self.at) == Some(&word);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, word: &str) -> Result<(), String> {
        if self.accept(word) { Ok(()) } else { Err(format!("`{word}` expected")) }
    }

    fn argument(&mut self) -> Result<Argument, String> {
        if self.accept("!") {
            return Ok(Argument::Negated(self.operand()?));
        }
        if self.accept("{") {
            return Ok(Argument::Vector(self.vector()?));
        }
        if self.accept("[") {
            let base = self.operand()?;
            let mut offset = 0;
            if self.accept("+")
                && let Operand::Constant(found) = self.operand()?
            {
                offset = found as i64;
            }
            let coordinates = if self.accept(",") {
                self.expect("{")?;
                self.vector()?
            } else {
                Vec::new()
            };
            self.expect("]")?;
            return Ok(Argument::Memory(Address { base, offset }, coordinates));
        }
        let first = self.operand()?;
        if self.accept("|") {
            return Ok(Argument::Either(first, self.operand()?));
        }
        Ok(Argument::One(first))
    }

    /// The rest of a vector, from behind its opening brace.
    fn vector(&mut self) -> Result<Vec<Operand>, String> {
        let mut found = Vec::new();
        while !self.accept("}") {
            found.push(self.operand()?);
            self.accept(",");
        }
        Ok(found)
    }

    fn operand(&mut self) -> Result<Operand, String> {
        let sign = if self.accept("-") { "-" } else { "" };
        let word = self.words.get(self.at).ok_or("an operand is missing")?;
        self.at += 1;
        self.names.operand(&format!("{sign}{word}")).ok_or_else(|| format!("`{sign}{word}` is not known"))
    }
}
