//! Local rewrites of terms and unions. Each keeps the set of visible pairs exactly; the identity stands above it.

use super::bound::{Columns, columns};
use super::{Bound, Condition, Residue, Term};

/// The term without redundant constraints, or `None` when no pair satisfies it.
pub fn simplify_term(mut term: Term) -> Option<Term> {
    // j >= 0 always.
    term.lower.retain(|b| !matches!(b, Bound::Const(c) if *c <= 0));
    keep_strictest(&mut term.lower, |weaker, stronger| weaker.never_exceeds(stronger));
    keep_strictest(&mut term.upper, |weaker, stronger| stronger.never_exceeds(weaker));
    simplify_residues(&mut term.residues)?;
    term.conditions.sort_by(|a, b| condition_key(a).cmp(&condition_key(b)));
    term.conditions.dedup();
    let contradicts =
        |c: &Condition| term.conditions.iter().any(|d| d.predicate == c.predicate && d.negated != c.negated);
    if term.conditions.iter().any(contradicts) || is_empty(&term) {
        return None;
    }
    Some(term)
}

fn condition_key(condition: &Condition) -> (&str, bool) {
    (condition.predicate.source(), condition.negated)
}

/// `a and b = b` when b implies a.
fn keep_strictest(bounds: &mut Vec<Bound>, is_weaker: impl Fn(Bound, Bound) -> bool) {
    let mut kept: Vec<Bound> = Vec::with_capacity(bounds.len());
    for &bound in bounds.iter() {
        if kept.iter().any(|&k| is_weaker(bound, k)) {
            continue;
        }
        kept.retain(|&k| !is_weaker(k, bound));
        kept.push(bound);
    }
    *bounds = kept;
}

/// One block in one is every block; a class and its complement share nothing.
fn simplify_residues(residues: &mut Vec<Residue>) -> Option<()> {
    if residues.iter().any(|r| r.every == 1 && r.negated) {
        return None;
    }
    for r in residues.iter_mut() {
        r.step %= r.every;
        r.offset %= r.every;
    }
    residues.retain(|r| r.every > 1);
    residues.sort_by_key(|r| (r.block, r.every, r.step, r.offset, r.negated));
    residues.dedup();
    let clash = |r: &Residue| residues.contains(&r.negate());
    if residues.iter().any(clash) { None } else { Some(()) }
}

/// No pair lies at or above a lower bound and below an upper bound that never opens a column to it.
fn is_empty(term: &Term) -> bool {
    let never = |u: &Bound| matches!(u, Bound::Const(c) if *c <= 0);
    term.upper.iter().any(never)
        || term.lower.iter().any(|&l| term.upper.iter().any(|&u| columns(l, u) == Columns::None))
}

/// `a or b = b` when a implies b.
pub fn simplify_union(terms: Vec<Term>) -> Vec<Term> {
    let mut kept: Vec<Term> = Vec::with_capacity(terms.len());
    for term in terms {
        if kept.iter().any(|k| implies(&term, k)) {
            continue;
        }
        kept.retain(|k| !implies(k, &term));
        kept.push(term);
    }
    kept
}

/// Whether each constraint of `b` follows from a constraint of `a`.
fn implies(a: &Term, b: &Term) -> bool {
    b.lower.iter().all(|&weak| a.lower.iter().any(|&strong| weak.never_exceeds(strong)))
        && b.upper.iter().all(|&weak| a.upper.iter().any(|&strong| strong.never_exceeds(weak)))
        && b.residues.iter().all(|r| a.residues.contains(r))
        && b.conditions.iter().all(|c| a.conditions.contains(c))
}
