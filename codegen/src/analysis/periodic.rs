//! Sums of functions that repeat, up to a constant rise, from some point on.

use crate::ir::{Bound, MaskIr, lcm};

/// Where a mask starts to repeat and how often: `f(x + period) = f(x) + rise` for `x >= start`, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Periodicity {
    /// The first index from which it repeats.
    pub start: u64,
    /// The distance after which it does.
    pub period: u64,
}

impl Periodicity {
    /// Of the rows of a mask without predicates. Past every constant and every window the row of query
    /// `i + period` is the row of `i`, moved by a period, with one more period in its middle.
    pub fn of(ir: &MaskIr) -> Periodicity {
        let (mut period, mut constant, mut reach) = (1u64, 0u64, 1u64);
        for term in ir.classes.iter().flat_map(|class| &class.terms) {
            for bound in term.lower.iter().chain(&term.upper) {
                match *bound {
                    Bound::Const(value) => constant = constant.max(value.unsigned_abs()),
                    Bound::Step { shift, step, offset } => {
                        period = lcm(period, step.unsigned_abs());
                        reach = reach.max(shift.unsigned_abs() + step.unsigned_abs() + offset.unsigned_abs());
                    }
                }
            }
            for residue in &term.residues {
                period = lcm(period, residue.period().unsigned_abs());
            }
        }
        Periodicity { start: constant.saturating_add(reach).saturating_add(period), period }
    }
}

impl Periodicity {
    /// The same in blocks of `tokens`: for a function of the number of the block.
    pub fn in_blocks(self, tokens: u64) -> Periodicity {
        Periodicity { start: self.start.div_ceil(tokens), period: lcm(self.period, tokens) / tokens }
    }

    /// How many values [`sum`] looks at to add up `count`.
    pub fn evaluations(self, count: u64) -> u64 {
        count.min(self.start.saturating_add(self.period.saturating_mul(2)))
    }
}

/// The sum of `f(x)` for `x` in `0..count`, where `f(x + period) = f(x) + rise` for `x >= start` with one rise for all
/// `x`. Evaluates `f` at most `start + 2 * period` times, or `count` times when that is less.
pub fn sum(count: u64, Periodicity { start, period }: Periodicity, f: impl Fn(u64) -> u64) -> u128 {
    let direct = start.saturating_add(period.saturating_mul(2));
    if count <= direct {
        return (0..count).map(|x| u128::from(f(x))).sum();
    }
    let head: u128 = (0..start).map(|x| u128::from(f(x))).sum();
    let rise = i128::from(f(start + period)) - i128::from(f(start));
    let tail: i128 = (start..start + period)
        .map(|x| {
            let terms = i128::from((count - x).div_ceil(period));
            terms * i128::from(f(x)) + rise * (terms * (terms - 1) / 2)
        })
        .sum();
    head + tail.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_equal_the_plain_sum() {
        let f = |x: u64| if x < 10 { x * x } else { (x % 7) * 3 + x / 7 * 5 };
        for count in [0, 1, 9, 10, 23, 24, 25, 100, 1001] {
            let plain: u128 = (0..count).map(|x| u128::from(f(x))).sum();
            assert_eq!(sum(count, Periodicity { start: 14, period: 7 }, f), plain, "{count}");
        }
    }
}
