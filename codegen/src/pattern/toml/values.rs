//! Single TOML values, with errors that name the key and say what it takes.

use std::ops::Range;

use ::toml::Spanned;
use ::toml::de::{DeTable, DeValue};

use crate::pattern::error::{Fault, shorten};
use crate::pattern::index_set::Span;
use crate::pattern::{IndexSet, Problem, rules};

/// A key, its value, and where both stand.
pub(super) struct Entry<'a> {
    pub(super) key: &'a str,
    pub(super) key_bytes: Range<usize>,
    pub(super) value: &'a DeValue<'a>,
    pub(super) bytes: Range<usize>,
}

/// A table's entries in the order of the text, so that the first mistake is the one reported.
pub(super) fn entries<'a>(table: &'a DeTable<'a>) -> Vec<Entry<'a>> {
    let mut entries: Vec<Entry<'a>> = table
        .iter()
        .map(|(key, value)| Entry {
            key: key.get_ref(),
            key_bytes: key.span(),
            value: value.get_ref(),
            bytes: value.span(),
        })
        .collect();
    entries.sort_by_key(|entry| entry.key_bytes.start);
    entries
}

impl<'a> Entry<'a> {
    /// The same key for one element of its array.
    pub(super) fn element(&self, element: &'a Spanned<DeValue<'a>>) -> Self {
        Self {
            key: self.key,
            key_bytes: self.key_bytes.clone(),
            value: element.get_ref(),
            bytes: element.span(),
        }
    }

    pub(super) fn fault(&self, problem: Problem) -> Fault {
        Fault::new(problem, self.bytes.clone())
    }

    pub(super) fn unknown(&self, allowed: &[&str]) -> Fault {
        Fault::new(Problem::unknown_key(self.key, allowed), self.key_bytes.clone())
    }

    pub(super) fn wrong_kind(&self, expected: &'static str) -> Fault {
        self.fault(Problem::Kind { key: self.key.to_string(), expected, found: kind(self.value) })
    }

    /// The value held to a rule; the number as the file writes it goes into the message.
    pub(super) fn integer(&self, rule: impl Fn(u64) -> rules::Checked) -> Result<u32, Fault> {
        let DeValue::Integer(integer) = self.value else {
            return Err(self.wrong_kind("a whole number"));
        };
        let refused = |allowed: &str| self.fault(Problem::value(self.key, integer, allowed));
        if integer.as_str().starts_with('-') {
            return Err(refused("must not be negative"));
        }
        // What does not fit counts as the largest number, which every rule refuses.
        let value = u64::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(u64::MAX);
        rule(value).map_err(refused)?;
        u32::try_from(value).map_err(|_| refused("must fit 32 bits"))
    }

    pub(super) fn boolean(&self) -> Result<bool, Fault> {
        match self.value {
            DeValue::Boolean(value) => Ok(*value),
            _ => Err(self.wrong_kind("`true` or `false`")),
        }
    }

    pub(super) fn string(&self) -> Result<&'a str, Fault> {
        match self.value {
            DeValue::String(text) => Ok(text),
            _ => Err(self.wrong_kind("a string")),
        }
    }

    pub(super) fn table(&self) -> Result<&'a DeTable<'a>, Fault> {
        match self.value {
            DeValue::Table(table) => Ok(table),
            _ => Err(self.wrong_kind("a table")),
        }
    }

    pub(super) fn array(&self, expected: &'static str) -> Result<Vec<Entry<'a>>, Fault> {
        match self.value {
            DeValue::Array(array) => Ok(array.iter().map(|element| self.element(element)).collect()),
            _ => Err(self.wrong_kind(expected)),
        }
    }

    pub(super) fn float(&self) -> Result<f32, Fault> {
        let digits = match self.value {
            DeValue::Float(float) => float.as_str(),
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str(),
            _ => return Err(self.wrong_kind("a number")),
        };
        digits.parse().map_err(|_| self.wrong_kind("a number"))
    }

    /// A fault in the text of a string value, moved to where that text stands in the file.
    pub(super) fn inside(&self, fault: Fault, string: &str, file: &str) -> Fault {
        let raw = file.get(self.bytes.clone()).unwrap_or_default();
        match raw.find(string) {
            Some(start) if !string.is_empty() => fault.moved(self.bytes.start + start),
            // Escapes: the text is not in the file as it is. The whole value is the closest place.
            _ => Fault::new(fault.problem, self.bytes.clone()),
        }
    }

    /// A number, a string in the text form, an array of both, or a table with `every` and `from`.
    pub(super) fn index_set(&self, file: &str) -> Result<IndexSet, Fault> {
        match self.value {
            DeValue::Integer(_) => Ok(IndexSet::List(vec![self.index()?])),
            DeValue::String(text) => {
                crate::pattern::text::index_set(text).map_err(|fault| self.inside(fault, text, file))
            }
            DeValue::Array(_) => {
                let mut spans = Vec::new();
                for element in self.array("indices")? {
                    match (element.value, element.index_set(file)?) {
                        (DeValue::Integer(_) | DeValue::String(_), IndexSet::List(list)) => {
                            spans.extend(list)
                        }
                        _ => return Err(element.wrong_kind("numbers and ranges like \"4..=7\" in an array")),
                    }
                }
                Ok(IndexSet::List(spans))
            }
            DeValue::Table(table) => self.every(table),
            _ => Err(self.wrong_kind("indices: 5, \"4..=7\", [0, 5], \"every 6 from 5\" or \"all\"")),
        }
    }

    fn index(&self) -> Result<Span, Fault> {
        self.integer(rules::index).map(|index| Span { first: index, last: index })
    }

    fn every(&self, table: &'a DeTable<'a>) -> Result<IndexSet, Fault> {
        let (mut every, mut from) = (None, 0);
        for entry in entries(table) {
            match entry.key {
                "every" => every = Some(entry.integer(rules::every)?),
                "from" => from = entry.integer(rules::index)?,
                _ => return Err(entry.unknown(&["every", "from"])),
            }
        }
        let missing = Problem::Missing { what: "`every`", how: "write `{ every = 6, from = 5 }`" };
        Ok(IndexSet::Every { every: every.ok_or_else(|| self.fault(missing))?, from })
    }
}

/// A value as an error message names it.
fn kind(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the string \"{}\"", shorten(text)),
        DeValue::Integer(integer) => format!("the number {}", shorten(&integer.to_string())),
        DeValue::Float(float) => format!("the number {}", shorten(&float.to_string())),
        DeValue::Boolean(value) => format!("`{value}`"),
        DeValue::Datetime(_) => "a date".to_string(),
        DeValue::Array(_) => "an array".to_string(),
        DeValue::Table(_) => "a table".to_string(),
    }
}
