//! The visible keys of one query as maximal runs, by sweeping the points where a constraint changes.

use crate::ir::{MaskIr, Term};

/// Maximal runs `[begin, end)` of keys below `keys` that query `i` sees under KV head `g`, ascending.
///
/// Between two consecutive breakpoints (a bound of some term, a block edge of some residue) no constraint changes.
/// The mask must hold no predicates.
pub fn visible_runs(ir: &MaskIr, g: u32, i: u64, keys: u64) -> Vec<(u64, u64)> {
    let terms = ir.terms(g);
    let row = i as i64;
    let end = keys.min(i + 1) as i64;
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let mut j = 0i64;
    while j < end {
        let next = terms.iter().fold(end, |next, term| next.min(next_change(term, row, j, end)));
        if terms.iter().any(|term| term.sees(g.into(), row, j)) {
            match runs.last_mut() {
                Some(run) if run.1 == j as u64 => run.1 = next as u64,
                _ => runs.push((j as u64, next as u64)),
            }
        }
        j = next;
    }
    runs
}

/// The first key after `j` where a constraint of the term may change its verdict.
fn next_change(term: &Term, i: i64, j: i64, end: i64) -> i64 {
    let bounds = term.lower.iter().chain(&term.upper).map(|bound| bound.at(i));
    // Outside its bounds a term stays hidden until the next bound, whatever its residues say.
    let inside = term.lower.iter().all(|b| b.at(i) <= j) && term.upper.iter().all(|b| j < b.at(i));
    let blocks = term.residues.iter().filter(|_| inside).map(|r| (j / r.block + 1) * r.block);
    bounds.chain(blocks).filter(|&at| at > j).min().unwrap_or(end)
}
