//! Exact counts of visible and of computed pairs, and what they cost.

use thiserror::Error;

use super::periodic::{Periodicity, sum};
use super::row::visible_runs;
use crate::ir::{Bound, MaskIr, Programs, Term, lcm};
use crate::plan::{Extent, TilePlan};
use crate::scalar::Interval;

/// Why a cost could not be counted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CostError {
    /// A mask so irregular that its pairs would have to be counted one by one or row by row.
    #[error("the mask is too irregular to count exactly at {tokens} tokens; try a shorter length")]
    TooIrregular {
        /// The length asked for.
        tokens: u32,
    },
}

/// The arithmetic of one attention layer over one sequence, all query heads together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Pairs (query head, query, key) that are visible.
    pub visible_pairs: u128,
    /// The same under full causal attention.
    pub dense_pairs: u128,
    /// Floating-point operations of the forward pass: 4 * pairs * D.
    pub flops_forward: u128,
    /// Floating-point operations of the backward pass: 10 * pairs * D.
    pub flops_backward: u128,
}

impl Cost {
    /// The cost of `tokens` tokens with this many query and KV heads of dimension `head_dim`.
    ///
    /// # Errors
    /// [`CostError::TooIrregular`] for a predicate that cannot be counted at this length.
    pub fn new(
        ir: &MaskIr,
        tokens: u32,
        heads: u32,
        kv_heads: u32,
        head_dim: u32,
    ) -> Result<Cost, CostError> {
        let group = u128::from(heads / kv_heads.max(1));
        let visible = sum_over_heads(ir, kv_heads, |g| visible_pairs(ir, g, tokens))? * group;
        let dense = u128::from(tokens) * u128::from(tokens + 1) / 2 * u128::from(heads);
        let flops = |per_pair: u128| visible * per_pair * u128::from(head_dim);
        Ok(Cost {
            visible_pairs: visible,
            dense_pairs: dense,
            flops_forward: flops(4),
            flops_backward: flops(10),
        })
    }
}

/// For each KV head the first head with the same mask. With residues the mask of head `g` depends on `g` only modulo
/// the stride, so that few masks need to be looked at.
pub fn head_twins(ir: &MaskIr, kv_heads: u32) -> Vec<u32> {
    let mut shapes: Vec<(Vec<Term>, u32)> = Vec::new();
    let mut twin = |g: u32| {
        let shape = head_shape(ir, g);
        if let Some((_, first)) = shapes.iter().find(|(seen, _)| *seen == shape) {
            return *first;
        }
        shapes.push((shape, g));
        g
    };
    (0..kv_heads).map(&mut twin).collect()
}

/// The sum over all KV heads of something that heads with the same mask have in common.
///
/// # Errors
/// The first error of `of_head`.
pub fn sum_over_heads<E>(
    ir: &MaskIr,
    kv_heads: u32,
    of_head: impl Fn(u32) -> Result<u128, E>,
) -> Result<u128, E> {
    let twins = head_twins(ir, kv_heads);
    let first = (0..kv_heads).filter(|&g| twins[g as usize] == g);
    first.map(|g| Ok(of_head(g)? * twins.iter().filter(|&&twin| twin == g).count() as u128)).sum()
}

/// The terms of a head with the head index folded into their residues: equal for heads with equal masks.
fn head_shape(ir: &MaskIr, g: u32) -> Vec<Term> {
    let mut terms = ir.terms(g).to_vec();
    for term in &mut terms {
        for residue in &mut term.residues {
            residue.offset = residue.phase(g.into(), 0);
            residue.step = 0;
        }
        // Heads stay apart under a predicate that names the head.
        if term.conditions.iter().any(|condition| condition.predicate.source().contains("head")) {
            term.lower.push(Bound::Const(-i64::from(g) - 1));
        }
    }
    terms
}

/// Visible pairs of a sequence of `tokens` tokens under KV head `g`, for one query head.
///
/// # Errors
/// [`CostError::TooIrregular`] for a predicate that cannot be counted at this length.
pub fn visible_pairs(ir: &MaskIr, g: u32, tokens: u32) -> Result<u128, CostError> {
    if ir.has_predicates() {
        let programs = Programs::new(ir);
        let (side, mut budget) = ((0, i64::from(tokens)), COUNTED_BOXES);
        return count_by_distance(ir, &programs, g, tokens.into(), &mut budget)
            .or_else(|| count(&programs, g.into(), side, side, &mut budget))
            .ok_or(CostError::TooIrregular { tokens });
    }
    let repeats = Periodicity::of(ir);
    let rows = repeats.evaluations(tokens.into());
    let residues = ir.terms(g).iter().flat_map(|term| &term.residues);
    let blocks = residues.map(|residue| rows / residue.period().unsigned_abs().max(1)).max().unwrap_or(0);
    if rows > COUNTED_ROWS || rows.saturating_mul(blocks) > 64 * COUNTED_ROWS {
        return Err(CostError::TooIrregular { tokens });
    }
    let row = |i: u64| visible_runs(ir, g, i, i + 1).iter().map(|(begin, end)| end - begin).sum();
    Ok(sum(tokens.into(), repeats, row))
}

/// Rows, or distances, looked at before a mask counts as too irregular: some seconds of work.
const COUNTED_ROWS: u64 = 1 << 23;

/// Boxes looked at before a predicate counts as too irregular: some seconds of work.
const COUNTED_BOXES: u64 = 1 << 24;

/// Counts a mask that behind its sinks looks only at the distance between query and key: the sinks by bisection, the rest by
/// one pair for each distance. `None` for another mask, or when it takes too long: what is spent is gone.
fn count_by_distance(ir: &MaskIr, p: &Programs, g: u32, tokens: i64, budget: &mut u64) -> Option<u128> {
    let bounds = ir.terms(g).iter().flat_map(|term| term.lower.iter().chain(&term.upper));
    let sinks = bounds.map(|bound| if let Bound::Const(key) = *bound { key } else { 0 }).fold(0, i64::max);
    let rest = (sinks < tokens && tokens - sinks <= COUNTED_ROWS as i64)
        .then(|| Interval::new(sinks, tokens - 1))?;
    let g = i64::from(g);
    if p.visible.rises(&[Interval::point(g), rest, rest], &[0, 1, 1]) != [Some(0)] {
        return None;
    }
    let in_sinks = count(p, g, (0, tokens), (0, sinks), budget)?;
    let seen = (sinks..tokens).filter(|&query| p.visible(g, query, sinks));
    Some(in_sinks + seen.map(|query| (tokens - query) as u128).sum::<u128>())
}

/// Counts by bisection, as [`crate::plan::Cover`] decides; `None` when the budget runs out.
fn count(p: &Programs, g: i64, (i0, i1): (i64, i64), (j0, j1): (i64, i64), budget: &mut u64) -> Option<u128> {
    if i0 >= i1 || j0 >= j1 || j0 >= i1 {
        return Some(0);
    }
    *budget = budget.checked_sub(1)?;
    let seen =
        p.visible.bounds(&[Interval::point(g), Interval::new(i0, i1 - 1), Interval::new(j0, j1 - 1)])[0];
    if seen.low == 1 {
        return Some((i1 - i0) as u128 * (j1 - j0) as u128);
    }
    if seen.high == 0 {
        return Some(0);
    }
    if i1 - i0 == 1 && j1 - j0 == 1 {
        return Some(u128::from(p.visible(g, i0, j0)));
    }
    if i1 - i0 >= j1 - j0 {
        let middle = i0 + (i1 - i0) / 2;
        Some(count(p, g, (i0, middle), (j0, j1), budget)? + count(p, g, (middle, i1), (j0, j1), budget)?)
    } else {
        let middle = j0 + (j1 - j0) / 2;
        Some(count(p, g, (i0, i1), (j0, middle), budget)? + count(p, g, (i0, i1), (middle, j1), budget)?)
    }
}

/// Pairs that kernels with this plan compute for a sequence of `tokens` tokens under KV head `g`: whole tiles,
/// whatever share of them is visible. `visible_pairs / tile_pairs` is the tile efficiency.
pub fn tile_pairs(ir: &MaskIr, plan: &TilePlan, g: u32, tokens: u32) -> u128 {
    let shape = plan.shape();
    let area = u128::from(shape.queries) * u128::from(shape.keys);
    let extent = Extent::square(tokens);
    let tiles: u128 = if plan.programs().closed.is_none() {
        (0..extent.query_tiles(shape)).map(|m| plan.key_tiles(g, extent, m).count() as u128).sum()
    } else {
        let rows = Periodicity::of(ir);
        let side = u64::from(shape.queries);
        // Tiles repeat where rows, query tiles and key tiles line up again.
        let period = lcm(lcm(rows.period, side), u64::from(shape.keys)) / side;
        let start = rows.start.saturating_add(u64::from(shape.keys)).div_ceil(side) + 1;
        let whole = u64::from(tokens) / side;
        let unbounded = Extent::square(crate::pattern::MAX_TOKENS);
        let count = |m: u64| u64::from(plan.count_key_tiles(g, unbounded, m as u32));
        let rest =
            if u64::from(tokens) % side > 0 { plan.count_key_tiles(g, extent, whole as u32) } else { 0 };
        sum(whole, Periodicity { start, period }, count) + u128::from(rest)
    };
    tiles * area
}
