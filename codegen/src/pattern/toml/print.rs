//! Prints a pattern as TOML that reads back to the same pattern.

use std::fmt::Write;

use crate::pattern::flat::{Flat, Value};
use crate::pattern::{IndexSet, LayerPlan, Mask, Pattern, Softmax};

pub(super) fn document(pattern: &Pattern) -> String {
    let mut lines = Vec::new();
    if let Some(name) = pattern.name() {
        lines.push(format!("name = {}", quoted(name)));
    }
    lines.extend(keys(pattern.mask()));
    lines.extend(layers(pattern.layers()));
    lines.extend(softmax(pattern.softmax()));
    for rule in pattern.rules() {
        lines.extend([String::new(), "[[heads]]".to_string()]);
        for (key, set) in [("heads", &rule.heads), ("layers", &rule.layers)] {
            if *set != IndexSet::All {
                lines.push(format!("{key} = {}", quoted(&set.to_string())));
            }
        }
        lines.extend(keys(&rule.mask));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn layers(plan: &LayerPlan) -> Vec<String> {
    let count = plan.count.map(|count| format!("count = {count}"));
    let full = (!plan.full.is_empty()).then(|| format!("full = {}", quoted(&plan.full.to_string())));
    section("[layers]", count.into_iter().chain(full))
}

fn softmax(softmax: Softmax) -> Vec<String> {
    let cap = softmax.softcap.map(|cap| format!("softcap = {cap:?}"));
    let sink = softmax.sink_logit.then(|| "sink_logit = true".to_string());
    section("[softmax]", cap.into_iter().chain(sink))
}

fn section(head: &str, lines: impl Iterator<Item = String>) -> Vec<String> {
    let lines: Vec<String> = lines.collect();
    if lines.is_empty() {
        lines
    } else {
        [String::new(), head.to_string()].into_iter().chain(lines).collect()
    }
}

/// A mask as the keys of a table.
fn keys(mask: &Mask) -> Vec<String> {
    let members = match mask {
        Mask::Union(masks) => masks.as_slice(),
        Mask::Clause(_) => std::slice::from_ref(mask),
        Mask::Intersection(masks) => return vec![array("intersection", masks.iter().map(inline))],
        Mask::Difference(kept, removed) => {
            return vec![array("difference", [kept, removed].into_iter().map(|mask| inline(mask)))];
        }
    };
    let parts = Flat::split(members);
    match parts.as_slice() {
        [Ok(flat)] => flat_keys(flat),
        parts => {
            let tables = parts.iter().map(|part| match part {
                Ok(flat) => format!("{{ {} }}", flat_keys(flat).join(", ")),
                Err(mask) => inline(mask),
            });
            vec![array("union", tables)]
        }
    }
}

fn inline(mask: &Mask) -> String {
    format!("{{ {} }}", keys(mask).join(", "))
}

fn array(key: &str, tables: impl Iterator<Item = String>) -> String {
    let mut line = format!("{key} = [");
    for (n, table) in tables.enumerate() {
        // Writing to a String cannot fail.
        let _ = write!(line, "{}{table}", if n == 0 { "" } else { ", " });
    }
    line + "]"
}

fn flat_keys(flat: &Flat) -> Vec<String> {
    flat.entries()
        .map(|(key, value)| match value {
            Value::Count(count) => format!("{} = {count}", key.name()),
            Value::Flag => format!("{} = true", key.name()),
            Value::Predicate(predicate) => format!("{} = {}", key.name(), quoted(predicate.source())),
        })
        .collect()
}

fn quoted(text: &str) -> String {
    ::toml::Value::String(text.to_string()).to_string()
}
