//! Bounds on the key index: non-decreasing step functions of the query index, and their inverses.

use crate::pattern::MAX_TOKENS;

/// A bound on `j` as a function of `i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bound {
    /// The same for every query.
    Const(i64),
    /// `floor((i + shift) / step) * step + offset`, step >= 1. A sliding bound has step 1 and shift 0.
    Step {
        /// Added to the query before rounding.
        shift: i64,
        /// Rounding, in tokens.
        step: i64,
        /// Added after rounding.
        offset: i64,
    },
}

/// Periods up to this length are searched column by column; longer ones are decided by interval only.
const SEARCHED_PERIOD: u64 = 1 << 16;

impl Bound {
    /// `i + 1`: no key after the query itself.
    pub const CAUSAL: Bound = Bound::sliding(1);

    /// `i + offset`
    pub const fn sliding(offset: i64) -> Bound {
        Bound::Step { shift: 0, step: 1, offset }
    }

    /// The bound for query `i`.
    pub fn at(self, i: i64) -> i64 {
        match self {
            Bound::Const(value) => value,
            Bound::Step { shift, step, offset } => (i + shift).div_euclid(step) * step + offset,
        }
    }

    /// The first query `i` (possibly negative) whose bound exceeds `j`; `None` for a constant.
    pub fn first_above(self, j: i64) -> Option<i64> {
        match self {
            Bound::Const(_) => None,
            Bound::Step { shift, step, offset } => Some(((j - offset).div_euclid(step) + 1) * step - shift),
        }
    }

    /// The smallest and the largest value of `at(i) - i`; `None` for a constant.
    pub fn drift(self) -> Option<(i64, i64)> {
        match self {
            Bound::Const(_) => None,
            Bound::Step { shift, step, offset } => Some((shift + offset - step + 1, shift + offset)),
        }
    }

    /// The period of `at(i) - i`, in tokens.
    pub fn period(self) -> i64 {
        match self {
            Bound::Const(_) => 1,
            Bound::Step { step, .. } => step,
        }
    }

    /// Whether this bound is at most `other` for every query.
    pub fn never_exceeds(self, other: Bound) -> bool {
        match (self, other) {
            (Bound::Const(a), Bound::Const(b)) => a <= b,
            (Bound::Step { shift: a, step: m, offset: x }, Bound::Step { shift: b, step: n, offset: y })
                if (a, m) == (b, n) =>
            {
                x <= y
            }
            _ => match (self.drift(), other.drift()) {
                (Some((_, most)), Some((least, _))) => most <= least,
                // Queries start at 0, and a step function never falls below its first value.
                (None, Some(_)) => self.at(0) <= other.at(0),
                _ => false,
            },
        }
    }
}

/// What a lower and an upper bound together leave of the columns `j`, over all queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Columns {
    /// Every column is admitted for some query (constants aside, which cut columns off by themselves).
    All,
    /// No column is ever admitted.
    None,
    /// Some are, some are not.
    Some,
}

/// Whether each column that the constants allow is seen by some query: the condition for closed-form tiles.
pub fn every_column_is_seen(lower: Bound, upper: Bound) -> bool {
    columns(lower, upper) == Columns::All
}

/// Column `j` is seen from the first query with `upper(i) > j` to the one before the first with `lower(i) > j`.
pub fn columns(lower: Bound, upper: Bound) -> Columns {
    let (Bound::Step { step: m, .. }, Bound::Step { step: n, .. }) = (lower, upper) else {
        return match (lower, upper) {
            (Bound::Const(a), Bound::Const(b)) if a >= b => Columns::None,
            _ => Columns::All,
        };
    };
    let height = |j: i64| {
        let opened = upper.first_above(j).unwrap_or(0).max(0);
        lower.first_above(j).unwrap_or(NEVER) - opened
    };
    let (low_least, low_most) = lower.drift().unwrap_or((0, 0));
    let (up_least, up_most) = upper.drift().unwrap_or((0, 0));
    // first_above(j) - j lies in [1 - most, 1 - least].
    if 1 - up_least < 1 - low_most && 1 - low_most > 0 {
        return Columns::All;
    }
    if 1 - up_most >= 1 - low_least {
        return Columns::None;
    }
    let period = lcm(m.unsigned_abs(), n.unsigned_abs());
    if period > SEARCHED_PERIOD {
        return Columns::Some;
    }
    let period = period as i64;
    let seen = (0..period).filter(|&j| height(j) > 0).count() as i64;
    let later = (0..period).filter(|&j| height(j + NEVER / period * period) > 0).count() as i64;
    match (seen, later) {
        (a, b) if a == period && b == period => Columns::All,
        (0, 0) => Columns::None,
        _ => Columns::Some,
    }
}

/// Later than any token.
const NEVER: i64 = 4 * MAX_TOKENS as i64;

/// Least common multiple of two positive numbers, or the largest number when it is larger.
pub fn lcm(a: u64, b: u64) -> u64 {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    (a / x).saturating_mul(b)
}
