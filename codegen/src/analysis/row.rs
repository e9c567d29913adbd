//! The visible keys of one query: as maximal runs, by sweeping the points where a constraint changes, or only a bound on their tiles.

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

/// At least as many tiles of `tile` keys as hold a key below `keys` that query `i` sees under KV head `g`. Each term is
/// counted alone and predicates count as true, so it takes the same time whatever the length.
pub fn tiles_at_most(ir: &MaskIr, g: u32, i: u64, keys: u64, tile: u32) -> u64 {
    let (row, end, tile) = (i as i64, keys.min(i + 1) as i64, i64::from(tile));
    let of_term = |term: &Term| {
        let from = term.lower.iter().map(|bound| bound.at(row)).fold(0, i64::max);
        let to = term.upper.iter().map(|bound| bound.at(row)).fold(end, i64::min);
        let span = if from < to { (to - 1) / tile - from / tile + 1 } else { 0 };
        let classes = term.residues.iter().filter(|class| !class.negated);
        classes
            .map(|class| ((to - from).max(0) / class.period() + 2) * tiles_of_block(class.block, tile))
            .fold(span, i64::min)
    };
    let tiles: i64 = ir.terms(g).iter().map(of_term).sum();
    tiles.min((end + tile - 1) / tile) as u64
}

/// The most tiles that a block of keys touches.
fn tiles_of_block(block: i64, tile: i64) -> i64 {
    if block % tile == 0 { block / tile } else { (block - 1) / tile + 2 }
}
