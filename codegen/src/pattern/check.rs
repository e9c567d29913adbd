//! Checks a whole pattern against the rules and says which part is at fault; readers turn the part into a place.

use super::flat::{Flat, Value};
use super::{Clause, HeadRule, IndexSet, LayerPlan, Mask, Pattern, Problem, Softmax, rules};

/// The part of a pattern that is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Name,
    Mask,
    Rules,
    RuleMask(usize),
    RuleHeads(usize),
    RuleLayers(usize),
    LayerCount,
    FullLayers,
    Softcap,
}

impl Pattern {
    /// A pattern as far as a builder or a reader has come.
    pub(super) fn unchecked(mask: Mask) -> Self {
        let (layers, softmax) = (LayerPlan::default(), Softmax::default());
        Self { name: None, mask, rules: Vec::new(), layers, softmax }
    }

    /// The pattern in canonical order, if it keeps every rule.
    pub(super) fn checked(self) -> Result<Self, (Part, Problem)> {
        check(&self)?;
        let Self { name, mask, rules, layers, softmax } = self;
        let rules = rules.into_iter().map(|rule| HeadRule {
            heads: rule.heads.normalised(),
            layers: rule.layers.normalised(),
            mask: rule.mask.normalised(),
        });
        let layers = LayerPlan { count: layers.count, full: layers.full.normalised() };
        Ok(Self { name, mask: mask.normalised(), rules: rules.collect(), layers, softmax })
    }
}

/// Holds a pattern to every rule.
fn check(pattern: &Pattern) -> Result<(), (Part, Problem)> {
    if let Some(name) = &pattern.name {
        rules::name(name).map_err(|allowed| (Part::Name, Problem::value("name", name, allowed)))?;
    }
    check_mask(&pattern.mask).map_err(|problem| (Part::Mask, problem))?;
    let count = pattern.layers.count;
    if let Some(count) = count {
        rules::layer_count(count.into())
            .map_err(|allowed| (Part::LayerCount, Problem::value("layers", count, allowed)))?;
    }
    check_layers("full", &pattern.layers.full, count).map_err(|problem| (Part::FullLayers, problem))?;
    let rules = pattern.rules.len();
    rules::rules(rules as u64).map_err(|allowed| (Part::Rules, Problem::value("rules", rules, allowed)))?;
    for (n, rule) in pattern.rules.iter().enumerate() {
        check_set("heads", &rule.heads, rules::head).map_err(|problem| (Part::RuleHeads(n), problem))?;
        check_layers("layers", &rule.layers, count).map_err(|problem| (Part::RuleLayers(n), problem))?;
        check_mask(&rule.mask).map_err(|problem| (Part::RuleMask(n), problem))?;
    }
    if let Some(cap) = pattern.softmax.softcap {
        rules::softcap(cap).map_err(|allowed| (Part::Softcap, Problem::value("softcap", cap, allowed)))?;
    }
    Ok(())
}

fn check_layers(key: &str, set: &IndexSet, count: Option<u32>) -> Result<(), Problem> {
    check_set(key, set, rules::layer)?;
    match (set.largest_named(), count) {
        (Some(last), Some(count)) => rules::layer_in_plan(last.into(), count.into()).map_err(|_| {
            Problem::value(key, set, &format!("the plan has layers 0 to {}", count.saturating_sub(1)))
        }),
        _ => Ok(()),
    }
}

fn check_set(key: &str, set: &IndexSet, index: fn(u64) -> rules::Checked) -> Result<(), Problem> {
    match set {
        IndexSet::All => Ok(()),
        IndexSet::List(spans) => spans.iter().try_for_each(|span| {
            rules::range(span.first.into(), span.last.into())
                .and(index(span.last.into()))
                .map_err(|allowed| Problem::value(key, span, allowed))
        }),
        IndexSet::Every { every, from } => rules::every((*every).into())
            .and(index((*from).into()))
            .map_err(|allowed| Problem::value(key, set, allowed)),
    }
}

fn check_mask(mask: &Mask) -> Result<(), Problem> {
    let mut clauses = 0;
    walk(mask, rules::MAX_DEPTH, &mut clauses)?;
    rules::clauses(clauses as u64).map_err(|allowed| Problem::value("clauses", clauses, allowed))
}

fn walk(mask: &Mask, depth: usize, clauses: &mut usize) -> Result<(), Problem> {
    if depth == 0 {
        let what = "the nesting of unions, intersections and differences".to_string();
        return Err(Problem::Limit { what, limit: format!("{} levels", rules::MAX_DEPTH) });
    }
    match mask {
        Mask::Clause(clause) => {
            *clauses += 1;
            check_clause(clause)
        }
        Mask::Union(masks) | Mask::Intersection(masks) => {
            if masks.is_empty() {
                return Err(Problem::Missing {
                    what: "a clause",
                    how: "a mask needs at least one, `full` for all keys",
                });
            }
            masks.iter().try_for_each(|mask| walk(mask, depth - 1, clauses))
        }
        Mask::Difference(kept, removed) => {
            walk(kept, depth - 1, clauses)?;
            walk(removed, depth - 1, clauses)
        }
    }
}

/// A clause goes through the same door as one that was read: as a flat list. Defaults are legal.
fn check_clause(clause: &Clause) -> Result<(), Problem> {
    let flat = Flat::of(clause);
    for (key, value) in flat.entries() {
        if let Value::Count(count) = value {
            key.check(u64::from(*count), &count.to_string())?;
        }
    }
    flat.clauses().map(drop).map_err(|(_, problem)| problem)
}
