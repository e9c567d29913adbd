//! Liveness: how long a key is needed, and whether its slot may be freed.

use super::periodic::{Periodicity, sum};
use super::row::visible_runs;
use crate::ir::{Bound, MaskIr, Programs, Term};
use crate::plan::Cover;

/// Column patterns longer than this are not searched for gaps; the mask then counts as not monotone.
const SEARCHED_COLUMNS: u64 = 1 << 21;

/// What is known of the columns of one KV head.
#[derive(Clone, Debug)]
pub struct Liveness<'a> {
    ir: &'a MaskIr,
    g: u32,
    monotone: bool,
}

impl<'a> Liveness<'a> {
    /// Of KV head `g`.
    pub fn new(ir: &'a MaskIr, g: u32) -> Liveness<'a> {
        let monotone = !has_conditions(ir.terms(g)) && columns_have_no_gap(ir, g);
        Liveness { ir, g, monotone }
    }

    /// Whether a key that stops being seen is never seen again: only then may its slot be freed. Masks with
    /// predicates count as not monotone: nothing is proven about them.
    pub fn monotone(&self) -> bool {
        self.monotone
    }

    /// How many of the first `tokens` keys the query at `tokens - 1` or any later one may see.
    pub fn kept_keys(&self, tokens: u32) -> u64 {
        if has_conditions(self.ir.terms(self.g)) {
            return tokens.into();
        }
        let Some(last) = u64::from(tokens).checked_sub(1) else { return 0 };
        let permanent = |j: u64| death(self.terms(), self.g, j).is_none();
        let repeats = Periodicity::of(self.ir);
        let kept = sum(tokens.into(), repeats, |j| u64::from(permanent(j))) as u64;
        let windowed = (u64::from(tokens).saturating_sub(self.longest_life())..u64::from(tokens))
            .filter(|&j| death(self.terms(), self.g, j).is_some_and(|end| end > last))
            .count() as u64;
        kept + windowed
    }

    /// The longest a key that is not kept for ever may be needed, in queries from its own on: the slots of a ring.
    pub fn longest_life(&self) -> u64 {
        let life = |term: &Term| {
            let least = |bound: &Bound| bound.drift().map(|(least, _)| (1 - least).unsigned_abs());
            term.lower.iter().filter_map(least).min()
        };
        self.terms().iter().filter_map(life).max().unwrap_or(0)
    }

    fn terms(&self) -> &[Term] {
        self.ir.terms(self.g)
    }
}

fn has_conditions(terms: &[Term]) -> bool {
    terms.iter().any(|term| !term.conditions.is_empty())
}

/// The queries that see key `j` by this term: from the first to one before the second (`None`: for ever).
fn rows(term: &Term, g: u32, j: u64) -> Option<(u64, Option<u64>)> {
    let key = j as i64;
    let admitted = term.residues.iter().all(|r| r.holds(g.into(), key))
        && term.upper.iter().all(|u| !matches!(u, Bound::Const(c) if key >= *c))
        && term.lower.iter().all(|l| !matches!(l, Bound::Const(c) if key < *c));
    if !admitted {
        return None;
    }
    let first = term.upper.iter().filter_map(|u| u.first_above(key)).max().unwrap_or(0).max(key) as u64;
    let end = term.lower.iter().filter_map(|l| l.first_above(key)).min().map(|row| row.max(0) as u64);
    if end.is_some_and(|end| end <= first) { None } else { Some((first, end)) }
}

/// One past the last query that sees key `j`; `None` when there is always a later one. 0 for a key never seen.
fn death(terms: &[Term], g: u32, j: u64) -> Option<u64> {
    let ends = terms.iter().filter_map(|term| rows(term, g, j)).map(|(_, end)| end);
    ends.max_by_key(|end| end.unwrap_or(u64::MAX)).unwrap_or(Some(0))
}

fn columns_have_no_gap(ir: &MaskIr, g: u32) -> bool {
    let terms = ir.terms(g);
    if terms.len() < 2 {
        return true;
    }
    let Periodicity { start, period } = Periodicity::of(ir);
    if period > SEARCHED_COLUMNS {
        return false;
    }
    // Between two constants columns repeat with the period, so one period after each constant is enough.
    let constants = terms.iter().flat_map(|t| t.lower.iter().chain(&t.upper)).filter_map(|b| match b {
        Bound::Const(c) => Some(c.unsigned_abs()),
        Bound::Step { .. } => None,
    });
    let starts = [0, start].into_iter().chain(constants);
    starts.into_iter().all(|from| (from..from + period).all(|j| column_has_no_gap(terms, g, j)))
}

fn column_has_no_gap(terms: &[Term], g: u32, j: u64) -> bool {
    let mut seen: Vec<_> = terms.iter().filter_map(|term| rows(term, g, j)).collect();
    seen.sort_unstable_by_key(|(first, _)| *first);
    let mut reach: Option<Option<u64>> = None;
    for (first, end) in seen {
        match reach {
            None => reach = Some(end),
            Some(None) => return true,
            Some(Some(so_far)) if first > so_far => return false,
            Some(Some(so_far)) => reach = Some(end.map(|end| end.max(so_far))),
        }
    }
    true
}

/// Rows of a predicate mask that are looked at one by one.
const SEARCHED_ROWS: u32 = 1 << 14;

/// Whether some query below `tokens` sees no key at all under KV head `g`; `None` when that was not established.
pub fn empty_rows(ir: &MaskIr, g: u32, tokens: u32) -> Option<bool> {
    if !has_conditions(ir.terms(g)) {
        let Periodicity { start, period } = Periodicity::of(ir);
        let own_key = |term: &Term| {
            let sees_itself = |b: &Bound| b.drift().is_some_and(|(_, most)| most <= 0);
            term.residues.is_empty() && term.lower.iter().all(sees_itself) && term.upper == [Bound::CAUSAL]
        };
        let checked = u64::from(tokens).min(start.saturating_add(period));
        let empty = |i: u64| visible_runs(ir, g, i, i + 1).is_empty();
        return Some(!ir.terms(g).iter().any(own_key) && (0..checked).any(empty));
    }
    let programs = Programs::new(ir);
    let empty = |i: i64| crate::plan::cover(&programs, g.into(), (i, i + 1), (0, i + 1)) == Cover::Nothing;
    let found = (0..i64::from(tokens.min(SEARCHED_ROWS))).any(empty);
    if found || tokens <= SEARCHED_ROWS { Some(found) } else { None }
}
