//! Reads a pattern from a TOML document.

use std::ops::Range;

use ::toml::de::DeTable;

use super::mask::mask;
use super::values::{Entry, entries};
use crate::pattern::check::Part;
use crate::pattern::error::Fault;
use crate::pattern::{HeadRule, IndexSet, LayerPlan, Mask, Pattern, Problem, Softmax, presets, rules};

const TOP: [&str; 5] = ["name", "preset", "heads", "layers", "softmax"];

/// The whole document.
pub(super) fn document(text: &str) -> Result<Pattern, Fault> {
    let table = DeTable::parse(text).map_err(|error| {
        let message = error.message().lines().collect::<Vec<_>>().join("; ");
        Fault::syntax(format!("not valid TOML: {message}"), error.span().unwrap_or(0..0))
    })?;
    let table = table.get_ref();
    if table.is_empty() {
        let how = "write at least one clause, for example `window = 4096`";
        return Err(Fault::new(Problem::Missing { what: "the pattern", how }, 0..0));
    }
    let entries = entries(table);
    let mut reader =
        Reader { text, pattern: Pattern::unchecked(Mask::Union(Vec::new())), places: Vec::new() };
    reader.start(table, entries.iter().find(|entry| entry.key == "preset"))?;
    for entry in &entries {
        reader.top(entry)?;
    }
    let Reader { pattern, places, .. } = reader;
    let place = |part: Part| places.iter().find(|(other, _)| *other == part).map(|(_, bytes)| bytes.clone());
    pattern.checked().map_err(|(part, problem)| Fault::new(problem, place(part).unwrap_or(0..0)))
}

/// A pattern under construction, and where its parts stand.
struct Reader<'a> {
    text: &'a str,
    pattern: Pattern,
    places: Vec<(Part, Range<usize>)>,
}

impl Reader<'_> {
    /// The base mask: a preset with single keys replaced, or the clauses at the top.
    fn start(&mut self, table: &DeTable<'_>, preset: Option<&Entry<'_>>) -> Result<(), Fault> {
        let mut base = None;
        if let Some(entry) = preset {
            self.pattern = presets::preset(entry.string()?).map_err(|problem| entry.fault(problem))?;
            base = Some(presets::flat(&self.pattern));
        }
        if let Some(mask) = mask(table, &TOP, base, self.text)? {
            self.pattern.mask = mask;
        }
        Ok(())
    }

    fn top(&mut self, entry: &Entry<'_>) -> Result<(), Fault> {
        match entry.key {
            "name" => {
                self.places.push((Part::Name, entry.bytes.clone()));
                self.pattern.name = Some(entry.string()?.to_string());
            }
            "layers" => self.layers(entry)?,
            "softmax" => self.softmax(entry)?,
            "heads" => {
                self.places.push((Part::Rules, entry.key_bytes.clone()));
                let rules = entry.array("tables, each under `[[heads]]`")?;
                let (key, count) = (entry.key_bytes.clone(), rules.len());
                rules::rules(count as u64)
                    .map_err(|allowed| Fault::new(Problem::value("rules", count, allowed), key))?;
                let rules = rules.iter().enumerate().map(|(n, rule)| self.head_rule(n, rule));
                self.pattern.rules = rules.collect::<Result<_, _>>()?;
            }
            _ => {}
        }
        Ok(())
    }

    fn layers(&mut self, entry: &Entry<'_>) -> Result<(), Fault> {
        let LayerPlan { count, full } = &mut self.pattern.layers;
        for entry in entries(entry.table()?) {
            match entry.key {
                "count" => {
                    *count = Some(entry.integer(rules::layer_count)?);
                    self.places.push((Part::LayerCount, entry.bytes));
                }
                "full" => {
                    *full = entry.index_set(self.text)?;
                    self.places.push((Part::FullLayers, entry.bytes));
                }
                _ => return Err(entry.unknown(&["count", "full"])),
            }
        }
        Ok(())
    }

    fn softmax(&mut self, entry: &Entry<'_>) -> Result<(), Fault> {
        let Softmax { softcap, sink_logit } = &mut self.pattern.softmax;
        for entry in entries(entry.table()?) {
            match entry.key {
                "softcap" => {
                    *softcap = Some(entry.float()?);
                    self.places.push((Part::Softcap, entry.bytes));
                }
                "sink_logit" => *sink_logit = entry.boolean()?,
                _ => return Err(entry.unknown(&["softcap", "sink_logit"])),
            }
        }
        Ok(())
    }

    fn head_rule(&mut self, n: usize, rule: &Entry<'_>) -> Result<HeadRule, Fault> {
        let table = rule.table()?;
        let (mut heads, mut layers) = (IndexSet::All, IndexSet::All);
        for entry in entries(table) {
            match entry.key {
                "heads" => {
                    heads = entry.index_set(self.text)?;
                    self.places.push((Part::RuleHeads(n), entry.bytes));
                }
                "layers" => {
                    layers = entry.index_set(self.text)?;
                    self.places.push((Part::RuleLayers(n), entry.bytes));
                }
                _ => {}
            }
        }
        self.places.push((Part::RuleMask(n), rule.bytes.clone()));
        let missing =
            Problem::Missing { what: "a clause", how: "a rule needs a mask, `full = true` for all keys" };
        let mask = mask(table, &["heads", "layers"], None, self.text)?;
        Ok(HeadRule { heads, layers, mask: mask.ok_or_else(|| rule.fault(missing))? })
    }
}
