//! The closed forms: a mask as five integer functions that know neither lengths nor tile sizes.
//!
//! | function | answer |
//! |---|---|
//! | `visible(g, i, j)` | whether query `i` sees key `j` |
//! | `next_keys(g, i0, i1, x)` | the next run of keys, at or after `x`, each seen by some query of `[i0, i1)` |
//! | `next_queries(g, j0, j1, x)` | the next run of queries, at or after `x`, that may see a key of `[j0, j1)` |
//! | `all_visible(g, i0, i1, j0, j1)` | true only if every pair of the box is visible |
//! | `edge_only(g, i0, i1, j0, j1)` | true only if in the box "visible" is just `j <= i` |
//!
//! Why `next_keys` is exact. Bounds never decrease, so some query of `[i0, i1)` has `j >= lower(i)` iff
//! `j >= lower(i0)`, and some has `j < upper(i)` iff `j < upper(i1 - 1)`. Each of the two holds for a range of
//! queries; that the ranges meet is [`super::Term::is_closed_form`]: no column is hidden by a pair of bounds.
//! `next_queries` is a hull: a query tile inside it is confirmed by `next_keys`.

use super::{Bound, HeadClass, MaskIr, NONE, Residue, Term};
use crate::pattern::IndexSet;
use crate::scalar::{Builder, Program, Value};

/// A run of token indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first index; [`NONE`] when there is none.
    pub begin: i64,
    /// One past the last.
    pub end: i64,
}

/// The tile questions of a closed-form mask.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClosedForm {
    /// `next_keys(g, i0, i1, x) -> (begin, end)`
    pub next_keys: Program,
    /// `next_queries(g, j0, j1, x) -> (begin, end)`
    pub next_queries: Program,
    /// `all_visible(g, i0, i1, j0, j1) -> bool`
    pub all_visible: Program,
    /// `edge_only(g, i0, i1, j0, j1) -> bool`
    pub edge_only: Program,
}

/// All functions of a mask.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Programs {
    /// `visible(g, i, j) -> bool`
    pub visible: Program,
    /// `None` for a listed mask, whose tiles the host finds.
    pub closed: Option<ClosedForm>,
}

impl Programs {
    /// The functions of a mask.
    pub fn new(ir: &MaskIr) -> Programs {
        let closed = ir.is_closed_form().then(|| ClosedForm {
            next_keys: run_program("next_keys", ["g", "i0", "i1", "x"], ir, next_keys),
            next_queries: run_program("next_queries", ["g", "j0", "j1", "x"], ir, next_queries),
            all_visible: cover_program("all_visible", ir, true),
            edge_only: cover_program("edge_only", ir, false),
        });
        Programs { visible: visible_program(ir), closed }
    }

    /// Whether the query at `i` sees the key at `j` under KV head `g`.
    pub fn visible(&self, g: i64, i: i64, j: i64) -> bool {
        let [seen] = self.visible.eval(&[g, i, j]);
        seen != 0
    }
}

impl ClosedForm {
    /// The next run of keys at or after `x`, each seen by some query of `[i0, i1)`.
    pub fn next_keys(&self, g: i64, i0: i64, i1: i64, x: i64) -> Run {
        let [begin, end] = self.next_keys.eval(&[g, i0, i1, x]);
        Run { begin, end }
    }

    /// The next run of queries at or after `x` that may see a key of `[j0, j1)`.
    pub fn next_queries(&self, g: i64, j0: i64, j1: i64, x: i64) -> Run {
        let [begin, end] = self.next_queries.eval(&[g, j0, j1, x]);
        Run { begin, end }
    }

    /// True only if every pair of the box is visible.
    pub fn all_visible(&self, g: i64, i0: i64, i1: i64, j0: i64, j1: i64) -> bool {
        let [all] = self.all_visible.eval(&[g, i0, i1, j0, j1]);
        all != 0
    }

    /// True only if in the box "visible" is just `j <= i`.
    pub fn edge_only(&self, g: i64, i0: i64, i1: i64, j0: i64, j1: i64) -> bool {
        let [edge] = self.edge_only.eval(&[g, i0, i1, j0, j1]);
        edge != 0
    }
}

fn visible_program(ir: &MaskIr) -> Program {
    let mut b = Builder::new(&["g", "i", "j"]);
    let (g, i, j) = (b.param(0), b.param(1), b.param(2));
    let seen = by_class(&mut b, ir, g, |b, class| {
        let none = b.bool(false);
        vec![class.terms.iter().fold(none, |any, term| {
            let this = term_visible(b, term, g, i, j);
            b.or(any, this)
        })]
    });
    b.finish("visible", &seen)
}

fn term_visible(b: &mut Builder, term: &Term, g: Value, i: Value, j: Value) -> Value {
    let mut all = b.bool(true);
    for &upper in &term.upper {
        let bound = bound_at(b, upper, i);
        let below = b.lt(j, bound);
        all = b.and(all, below);
    }
    for &lower in &term.lower {
        let bound = bound_at(b, lower, i);
        let above = b.le(bound, j);
        all = b.and(all, above);
    }
    for residue in &term.residues {
        let block = b.floor_div(j, residue.block);
        let phase = phase(b, residue, g, block);
        let zero = b.int(0);
        let inside = b.eq(phase, zero);
        let holds = if residue.negated { b.not(inside) } else { inside };
        all = b.and(all, holds);
    }
    for condition in &term.conditions {
        let result = b.inline(condition.predicate.program(), &[i, j, g]);
        let holds = if condition.negated { b.not(result[0]) } else { result[0] };
        all = b.and(all, holds);
    }
    all
}

type RunOfTerm = fn(&mut Builder, &Term, Value, [Value; 3]) -> (Value, Value);

fn run_program(name: &str, params: [&str; 4], ir: &MaskIr, run_of_term: RunOfTerm) -> Program {
    let mut b = Builder::new(&params);
    let g = b.param(0);
    let args = [b.param(1), b.param(2), b.param(3)];
    let results = by_class(&mut b, ir, g, |b, class| {
        let none = b.int(NONE);
        let (begin, end) = class.terms.iter().fold((none, none), |runs, term| {
            let run = run_of_term(b, term, g, args);
            first_of(b, runs, run)
        });
        vec![begin, end]
    });
    b.finish(name, &results)
}

/// The earlier of two runs, lengthened by the later one where they touch.
fn first_of(b: &mut Builder, (b0, e0): (Value, Value), (b1, e1): (Value, Value)) -> (Value, Value) {
    let none = b.int(NONE);
    if b0 == none {
        return (b1, e1);
    }
    let later = b.lt(b1, b0);
    let begin = b.min(b0, b1);
    let second = b.max(b0, b1);
    let first_end = b.select(later, e1, e0);
    let second_end = b.select(later, e0, e1);
    let touch = b.le(second, first_end);
    let longer = b.max(first_end, second_end);
    let end = b.select(touch, longer, first_end);
    (begin, end)
}

fn next_keys(b: &mut Builder, term: &Term, g: Value, [i0, i1, x]: [Value; 3]) -> (Value, Value) {
    let last = b.add_const(i1, -1);
    let low = strictest(b, &term.lower, i0, x, Builder::max);
    let first_upper = bound_at(b, term.upper[0], last);
    let high = strictest(b, &term.upper[1..], last, first_upper, Builder::min);
    let (begin, end) = match term.residues.first() {
        Some(residue) => {
            let (begin, end) = next_in_class(b, residue, g, low);
            (begin, b.min(end, high))
        }
        None => (low, high),
    };
    none_unless_ordered(b, begin, end)
}

/// Keys of `[j0, j1)` that the constants and the class leave, and for those the rows between the inverse bounds.
fn next_queries(b: &mut Builder, term: &Term, g: Value, [j0, j1, x]: [Value; 3]) -> (Value, Value) {
    let constant = |bounds: &[Bound]| -> Vec<Bound> {
        bounds.iter().copied().filter(|bound| matches!(bound, Bound::Const(_))).collect()
    };
    let low = strictest(b, &constant(&term.lower), j0, j0, Builder::max);
    let high = strictest(b, &constant(&term.upper), j1, j1, Builder::min);
    let mut last = b.add_const(high, -1);
    let mut first = low;
    if let Some(residue) = term.residues.first() {
        first = next_in_class(b, residue, g, low).0;
        last = last_in_class(b, residue, g, last);
    }
    let mut begin = x;
    for upper in &term.upper {
        if let Some(row) = first_above(b, *upper, first) {
            begin = b.max(begin, row);
        }
    }
    let mut end = b.int(NONE);
    for lower in &term.lower {
        if let Some(row) = first_above(b, *lower, last) {
            end = b.min(end, row);
        }
    }
    let some_key = b.le(first, last);
    let none = b.int(NONE);
    let begin = b.select(some_key, begin, none);
    none_unless_ordered(b, begin, end)
}

fn none_unless_ordered(b: &mut Builder, begin: Value, end: Value) -> (Value, Value) {
    let none = b.int(NONE);
    let some = b.lt(begin, end);
    (b.select(some, begin, none), b.select(some, end, none))
}

/// The run of keys at or after `x` whose blocks satisfy the residue; `x >= 0`.
fn next_in_class(b: &mut Builder, residue: &Residue, g: Value, x: Value) -> (Value, Value) {
    let block = b.floor_div(x, residue.block);
    let phase = phase(b, residue, g, block);
    let zero = b.int(0);
    let inside = b.eq(phase, zero);
    // Blocks until the next one of the class, 1..=every.
    let every = b.int(residue.every);
    let ahead = b.sub(every, phase);
    let next = b.add(block, ahead);
    let size = b.int(residue.block);
    let next_start = b.mul(next, size);
    let after = b.add_const(block, 1);
    let after_start = b.mul(after, size);
    if residue.negated {
        (b.select(inside, after_start, x), next_start)
    } else {
        let next_end = b.add(next_start, size);
        (b.select(inside, x, next_start), b.select(inside, after_start, next_end))
    }
}

/// The last key at or before `y` whose block satisfies the residue; may be negative.
fn last_in_class(b: &mut Builder, residue: &Residue, g: Value, y: Value) -> Value {
    let block = b.floor_div(y, residue.block);
    let phase = phase(b, residue, g, block);
    let zero = b.int(0);
    let inside = b.eq(phase, zero);
    let size = b.int(residue.block);
    if residue.negated {
        let start = b.mul(block, size);
        let before = b.add_const(start, -1);
        b.select(inside, before, y)
    } else {
        let class_block = b.sub(block, phase);
        let after = b.add_const(class_block, 1);
        let end = b.mul(after, size);
        let last = b.add_const(end, -1);
        b.select(inside, y, last)
    }
}

/// Blocks since the last one of the class, `0..every`.
fn phase(b: &mut Builder, residue: &Residue, g: Value, block: Value) -> Value {
    let step = b.int(residue.step);
    let head = b.mul(g, step);
    let shifted = b.add(block, head);
    let shifted = b.add_const(shifted, residue.offset);
    b.floor_mod(shifted, residue.every)
}

/// Whether a term covers the box; without `causal`, the causal bound itself is left out.
fn cover_program(name: &str, ir: &MaskIr, causal: bool) -> Program {
    let mut b = Builder::new(&["g", "i0", "i1", "j0", "j1"]);
    let g = b.param(0);
    let results = by_class(&mut b, ir, g, |b, class| {
        let none = b.bool(false);
        vec![class.terms.iter().fold(none, |any, term| {
            let covers = term_covers(b, term, g, causal);
            b.or(any, covers)
        })]
    });
    b.finish(name, &results)
}

fn term_covers(b: &mut Builder, term: &Term, g: Value, causal: bool) -> Value {
    let (i0, i1, j0, j1) = (b.param(1), b.param(2), b.param(3), b.param(4));
    let last_query = b.add_const(i1, -1);
    let mut all = b.bool(true);
    for &upper in term.upper.iter().filter(|&&u| causal || u != Bound::CAUSAL) {
        let bound = bound_at(b, upper, i0);
        let below = b.le(j1, bound);
        all = b.and(all, below);
    }
    for &lower in &term.lower {
        let bound = bound_at(b, lower, last_query);
        let above = b.le(bound, j0);
        all = b.and(all, above);
    }
    for residue in &term.residues {
        // The run of the class that starts at j0 must start there and reach j1.
        let (begin, end) = next_in_class(b, residue, g, j0);
        let starts = b.le(begin, j0);
        let reaches = b.le(j1, end);
        let covers = b.and(starts, reaches);
        all = b.and(all, covers);
    }
    all
}

/// Folds the bounds at row `i` into `start` with `max` or `min`.
fn strictest(
    b: &mut Builder,
    bounds: &[Bound],
    i: Value,
    start: Value,
    pick: fn(&mut Builder, Value, Value) -> Value,
) -> Value {
    bounds.iter().fold(start, |so_far, &bound| {
        let here = bound_at(b, bound, i);
        pick(b, so_far, here)
    })
}

fn bound_at(b: &mut Builder, bound: Bound, i: Value) -> Value {
    match bound {
        Bound::Const(value) => b.int(value),
        Bound::Step { shift, step: 1, offset } => b.add_const(i, shift + offset),
        Bound::Step { shift, step, offset } => {
            let shifted = b.add_const(i, shift);
            let index = b.floor_div(shifted, step);
            let size = b.int(step);
            let start = b.mul(index, size);
            b.add_const(start, offset)
        }
    }
}

fn first_above(b: &mut Builder, bound: Bound, j: Value) -> Option<Value> {
    match bound {
        Bound::Const(_) => None,
        Bound::Step { shift, step: 1, offset } => Some(b.add_const(j, 1 - offset - shift)),
        Bound::Step { shift, step, offset } => {
            let moved = b.add_const(j, -offset);
            let index = b.floor_div(moved, step);
            let next = b.add_const(index, 1);
            let size = b.int(step);
            let start = b.mul(next, size);
            Some(b.add_const(start, -shift))
        }
    }
}

/// Values for each class of heads, selected by `g`: the last class that holds it counts.
fn by_class(
    b: &mut Builder,
    ir: &MaskIr,
    g: Value,
    mut values: impl FnMut(&mut Builder, &HeadClass) -> Vec<Value>,
) -> Vec<Value> {
    let mut classes = ir.classes.iter();
    let Some(base) = classes.next() else { unreachable!("a verified IR has a base class") };
    let mut chosen = values(b, base);
    for class in classes {
        let here = values(b, class);
        let member = membership(b, &class.heads, g);
        chosen = chosen.iter().zip(&here).map(|(&old, &new)| b.select(member, new, old)).collect();
    }
    chosen
}

fn membership(b: &mut Builder, heads: &IndexSet, g: Value) -> Value {
    match heads {
        IndexSet::All => b.bool(true),
        IndexSet::List(spans) => {
            let none = b.bool(false);
            spans.iter().fold(none, |any, span| {
                let (first, last) = (b.int(span.first.into()), b.int(span.last.into()));
                let from = b.le(first, g);
                let to = b.le(g, last);
                let inside = b.and(from, to);
                b.or(any, inside)
            })
        }
        IndexSet::Every { every, from } => {
            let start = b.int((*from).into());
            let reached = b.le(start, g);
            let moved = b.sub(g, start);
            let phase = b.floor_mod(moved, (*every).into());
            let zero = b.int(0);
            let due = b.eq(phase, zero);
            b.and(reached, due)
        }
    }
}
