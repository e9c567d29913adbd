//! Masks in TOML tables: clause keys and the three combinations.

use std::ops::Range;

use ::toml::de::DeTable;

use super::values::{Entry, entries};
use crate::pattern::error::Fault;
use crate::pattern::flat::{Flat, Key, Takes, Value};
use crate::pattern::{Mask, Pattern, Predicate, Problem, rules};

pub(super) const COMBINATIONS: [&str; 3] = ["union", "intersection", "difference"];

/// The mask that a table's keys make, all of them united; keys in `others` belong to the caller.
/// With a `base`, the clause keys replace single keys of it and combinations are refused.
pub(super) fn mask(
    table: &DeTable<'_>,
    others: &[&'static str],
    base: Option<Flat>,
    file: &str,
) -> Result<Option<Mask>, Fault> {
    Reading { file, clauses: 0 }.mask(table, others, base)
}

/// One mask being read. Clauses are counted on the way, so that a hostile file is refused before it takes long to read
/// or nests too deep to be dropped.
struct Reading<'a> {
    file: &'a str,
    clauses: u64,
}

impl Reading<'_> {
    fn mask(
        &mut self,
        table: &DeTable<'_>,
        others: &[&'static str],
        base: Option<Flat>,
    ) -> Result<Option<Mask>, Fault> {
        let mut keys = Keys::default();
        let mut masks = Vec::new();
        for entry in entries(table) {
            if others.contains(&entry.key) {
                continue;
            }
            match (Key::named(entry.key), entry.key) {
                (Some(key), _) => {
                    self.count(key, &entry)?;
                    keys.add(key, &entry, self.file)?;
                }
                (None, "union" | "intersection" | "difference") if base.is_some() => {
                    let message = format!("`{}` cannot change a preset: only single keys can", entry.key);
                    return Err(Fault::syntax(message, entry.key_bytes));
                }
                (None, "union" | "intersection" | "difference") => masks.push(self.combination(&entry)?),
                _ => return Err(entry.unknown(&allowed(others))),
            }
        }
        masks.extend(keys.masks(base.unwrap_or_default())?);
        Ok(match masks.len() {
            0 => None,
            1 => masks.pop(),
            _ => Some(Mask::Union(masks)),
        })
    }

    fn count(&mut self, key: Key, entry: &Entry<'_>) -> Result<(), Fault> {
        self.clauses += u64::from(key.is_clause());
        let problem = |allowed| Problem::value("clauses", self.clauses, allowed);
        rules::clauses(self.clauses.max(1))
            .map_err(|allowed| Fault::new(problem(allowed), entry.key_bytes.clone()))
    }

    /// `union = [..]`, `intersection = [..]` or `difference = [..]`; a difference of more than two takes all later
    /// ones from the first.
    fn combination(&mut self, entry: &Entry<'_>) -> Result<Mask, Fault> {
        let mut masks = Vec::new();
        for element in entry.array("an array of tables, like [{ sink = 4 }, { window = 8 }]")? {
            let how = "every table needs at least one, like `window = 4096`";
            let empty = Problem::Missing { what: "a clause", how };
            let mask = self.mask(element.table()?, &[], None)?;
            masks.push(mask.ok_or_else(|| element.fault(empty))?);
        }
        let (least, how) = match entry.key {
            "difference" => (2, "`difference` takes a mask and what to remove from it"),
            _ => (1, "the array needs at least one table"),
        };
        if masks.len() < least {
            return Err(entry.fault(Problem::Missing { what: "a mask", how }));
        }
        Ok(match entry.key {
            "union" => Mask::Union(masks),
            "intersection" => Mask::Intersection(masks),
            _ => masks.into_iter().reduce(|kept, removed| kept - removed).unwrap_or(Mask::Union(Vec::new())),
        })
    }
}

fn allowed(others: &[&'static str]) -> Vec<&'static str> {
    Pattern::KEYS.into_iter().chain(COMBINATIONS).chain(others.iter().copied()).collect()
}

/// The flat keys of one table, and where they stand.
#[derive(Default)]
struct Keys {
    flat: Flat,
    places: Vec<(Key, Range<usize>)>,
}

impl Keys {
    fn add(&mut self, key: Key, entry: &Entry<'_>, file: &str) -> Result<(), Fault> {
        let value = match key.takes() {
            Takes::Count => Value::Count(entry.integer(|value| key.rule(value))?),
            Takes::Flag => {
                if !entry.boolean()? {
                    return Ok(());
                }
                Value::Flag
            }
            Takes::Predicate => {
                let text = entry.string()?;
                Value::Predicate(Predicate::read(text).map_err(|fault| entry.inside(fault, text, file))?)
            }
        };
        self.flat.insert(key, value);
        self.places.push((key, entry.key_bytes.start..entry.bytes.end));
        Ok(())
    }

    fn masks(self, mut all: Flat) -> Result<impl Iterator<Item = Mask>, Fault> {
        let Self { flat, places } = self;
        all.overlay(flat);
        let place = |key: Key| places.iter().find(|(other, _)| *other == key).map(|(_, bytes)| bytes.clone());
        let clauses =
            all.clauses().map_err(|(key, problem)| Fault::new(problem, place(key).unwrap_or(0..0)))?;
        Ok(clauses.into_iter().map(Mask::Clause))
    }
}
