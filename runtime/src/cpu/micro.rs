//! The micro-kernels between the products, written once over [`Vector`]: online softmax, gradient of the scores.
//!
//! All are `inline(always)`: each instruction set wraps them in functions that enable it (`table.rs`).

use longgen_codegen::cpu::abi::{Item, LANES, STRIP};
use longgen_codegen::cpu::approx::{EXP2, ROUND, TANH, TANH_LIMIT};

use super::vector::Vector;

const LOG2_E: f32 = std::f32::consts::LOG2_E;

/// `2^x` for `x` up to 127; 0 below -126.5, NaN for NaN. Relative error below 2e-7.
///
/// # Safety
/// As every method of [`Vector`].
#[inline(always)]
pub unsafe fn exp2<V: Vector>(x: V) -> V {
    // SAFETY: the caller may use the instructions of `V`.
    unsafe {
        let x = V::splat(-127.0).max(x);
        let shifted = x.add(V::splat(ROUND));
        let fraction = x.sub(shifted.sub(V::splat(ROUND)));
        let mut value = V::splat(EXP2[0]);
        for &coefficient in &EXP2[1..] {
            value = value.mul_add(fraction, V::splat(coefficient));
        }
        value.mul(shifted.power_of_two())
    }
}

/// `tanh x`; relative error below 5e-7.
#[inline(always)]
unsafe fn tanh<V: Vector>(x: V) -> V {
    // SAFETY: the caller may use the instructions of `V`.
    unsafe {
        let zero = V::splat(0.0);
        let one = V::splat(1.0);
        let square = x.mul(x);
        let mut small = V::splat(TANH[0]);
        for &coefficient in &TANH[1..] {
            small = small.mul_add(square, V::splat(coefficient));
        }
        let small = small.mul(x);
        let negated = zero.sub(x);
        let magnitude = x.less_select(zero, negated, x);
        let decay = exp2(magnitude.mul(V::splat(-2.0 * LOG2_E)));
        let large = one.sub(decay).div(one.add(decay));
        let large = x.less_select(zero, zero.sub(large), large);
        magnitude.less_select(V::splat(TANH_LIMIT), small, large)
    }
}

/// A score that is bounded by the softcap, in base 2, and the slope of the bound there; -inf stays -inf.
#[inline(always)]
unsafe fn capped<V: Vector>(score: V, softcap2: f32) -> (V, V) {
    // SAFETY: the caller may use the instructions of `V`.
    unsafe {
        if softcap2 == 0.0 {
            return (score, V::splat(1.0));
        }
        let t = tanh(score);
        let slope = V::splat(1.0).sub(t.mul(t));
        let bounded = t.mul(V::splat(softcap2));
        (score.less_select(V::splat(f32::MIN), score, bounded), slope)
    }
}

/// Independent running maxima and sums: they hide the latency of an operation.
pub const CHAINS: usize = 4;

/// One step of the online softmax.
///
/// # Safety
/// As [`longgen_codegen::cpu::abi::SoftmaxFn`].
#[inline(always)]
pub unsafe fn softmax<V: Vector>(scores: *mut f32, rows: usize, strips: usize, item: &Item, first: usize) {
    for lane in (0..strips * STRIP).step_by(V::WIDTH) {
        // SAFETY: lanes in use lie within the tile and the state, rows within the tile.
        unsafe { softmax_column::<V>(scores.add(lane), rows, first + lane, item) }
    }
}

/// A score, bounded in place where there is a softcap.
#[inline(always)]
unsafe fn load_score<V: Vector>(at: *mut f32, softcap2: f32) -> V {
    // SAFETY: the caller names an element of the tile.
    unsafe {
        let mut score = V::load(at);
        if softcap2 != 0.0 {
            score = capped(score, softcap2).0;
            score.store(at);
        }
        score
    }
}

/// Replaces a score by `2^(score - shift)`.
#[inline(always)]
unsafe fn to_probability<V: Vector>(at: *mut f32, shift: V) -> V {
    // SAFETY: the caller names an element of the tile.
    unsafe {
        let p = exp2(V::load(at).sub(shift));
        p.store(at);
        p
    }
}

/// The softmax of `V::WIDTH` lanes.
#[inline(always)]
unsafe fn softmax_column<V: Vector>(scores: *mut f32, rows: usize, lane: usize, item: &Item) {
    // SAFETY: as `softmax`.
    unsafe {
        let at = |row: usize| scores.add(row * LANES);
        let before = V::load(item.max.add(lane));
        // Four chains hide the latency of a maximum and of an addition; what is left of the rows goes to the first.
        let whole = rows / CHAINS * CHAINS;
        let mut largest = [before; CHAINS];
        for row in (0..whole).step_by(CHAINS) {
            for (chain, largest) in largest.iter_mut().enumerate() {
                *largest = largest.max(load_score(at(row + chain), item.softcap2));
            }
        }
        for row in whole..rows {
            largest[0] = largest[0].max(load_score(at(row), item.softcap2));
        }
        let largest = largest[0].max(largest[1]).max(largest[2].max(largest[3]));
        // A lane that has seen nothing yet: subtract 0, so that exp2(-inf) gives 0 and not NaN.
        let shift = largest.less_select(V::splat(f32::MIN), V::splat(0.0), largest);
        let mut sum = [V::splat(0.0); CHAINS];
        for row in (0..whole).step_by(CHAINS) {
            for (chain, sum) in sum.iter_mut().enumerate() {
                *sum = sum.add(to_probability(at(row + chain), shift));
            }
        }
        for row in whole..rows {
            sum[0] = sum[0].add(to_probability(at(row), shift));
        }
        let sum = sum[0].add(sum[1]).add(sum[2].add(sum[3]));
        let alpha = exp2(before.sub(shift));
        V::load(item.sum.add(lane)).mul_add(alpha, sum).store(item.sum.add(lane));
        alpha.store(item.alpha.add(lane));
        largest.store(item.max.add(lane));
    }
}

/// Scores and dP become P and dS. With `KEY_LANES`, statistics belong to rows and P is kept; else they belong to lanes
/// and dS replaces the scores.
///
/// # Safety
/// As [`longgen_codegen::cpu::abi::GradientFn`].
#[inline(always)]
pub unsafe fn gradient<V: Vector, const KEY_LANES: bool>(
    scores: *mut f32,
    dp: *mut f32,
    rows: usize,
    strips: usize,
    softcap2: f32,
    lse2: *const f32,
    delta: *const f32,
) {
    for lane in (0..strips * STRIP).step_by(V::WIDTH) {
        for row in 0..rows {
            // SAFETY: lanes in use and rows lie within the tiles; statistics cover rows or lanes.
            unsafe {
                let statistic = |from: *const f32| {
                    if KEY_LANES { V::splat(*from.add(row)) } else { V::load(from.add(lane)) }
                };
                let at = row * LANES + lane;
                let (score, slope) = capped(V::load(scores.add(at)), softcap2);
                let p = exp2(score.sub(statistic(lse2)));
                // Explicitly: the statistics of a row that sees a NaN are NaN, and hidden keys must not get it.
                let p = score.less_select(V::splat(f32::MIN), V::splat(0.0), p);
                let ds = p.mul(V::load(dp.add(at)).sub(statistic(delta))).mul(slope);
                // A hidden pair has P = 0 and no gradient, whatever dP holds there.
                let ds = ds.where_nonzero(p);
                if KEY_LANES {
                    p.store(scores.add(at));
                    ds.store(dp.add(at));
                } else {
                    ds.store(scores.add(at));
                }
            }
        }
    }
}

/// `out[l] = sum_d x[d][l] * y[d][l]` over the lanes in use, summed in the order of a rows product: where O is V, the
/// gradient of the scores then cancels exactly.
///
/// # Safety
/// `x` and `y` are tiles of `depth` x LANES, `out` has LANES elements.
#[inline(always)]
pub unsafe fn lane_dots<V: Vector>(x: *const f32, y: *const f32, depth: usize, strips: usize, out: *mut f32) {
    for lane in (0..strips * STRIP).step_by(V::WIDTH) {
        // SAFETY: the lanes in use lie within the tiles and `out`.
        unsafe {
            let mut sum = V::splat(0.0);
            for d in 0..depth {
                let at = d * LANES + lane;
                sum = V::load(x.add(at)).mul_add(V::load(y.add(at)), sum);
            }
            sum.store(out.add(lane));
        }
    }
}
