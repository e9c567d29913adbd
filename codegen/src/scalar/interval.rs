//! Interval arithmetic: what a scalar program can yield over a box of arguments.

use super::{Op, Program, Value};

/// All integers from `low` to `high`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// The smallest value.
    pub low: i64,
    /// The largest value.
    pub high: i64,
}

impl Interval {
    /// Every 64-bit integer: what is left to say after a possible overflow.
    pub const ALL: Interval = Interval { low: i64::MIN, high: i64::MAX };

    /// From `low` to `high`, both included.
    pub fn new(low: i64, high: i64) -> Interval {
        debug_assert!(low <= high, "an empty interval");
        Interval { low, high }
    }

    /// One value.
    pub fn point(value: i64) -> Interval {
        Interval { low: value, high: value }
    }

    fn truth(can_be_false: bool, can_be_true: bool) -> Interval {
        Interval { low: !can_be_false as i64, high: can_be_true as i64 }
    }

    fn hull(self, other: Interval) -> Interval {
        Interval { low: self.low.min(other.low), high: self.high.max(other.high) }
    }

    /// The interval between two exact corners, or everything when they leave 64 bits and may wrap.
    fn exact(low: i128, high: i128) -> Interval {
        match (i64::try_from(low), i64::try_from(high)) {
            (Ok(low), Ok(high)) => Interval { low, high },
            _ => Interval::ALL,
        }
    }
}

impl Program {
    /// For each result, an interval that holds every value it takes over the box of arguments. Sound, not tight:
    /// a truth value of `[1, 1]` is true everywhere, `[0, 0]` false everywhere, `[0, 1]` unknown.
    pub fn bounds(&self, args: &[Interval]) -> Vec<Interval> {
        assert_eq!(args.len(), self.params.len(), "arguments for `{}`", self.name);
        let mut values: Vec<Interval> = Vec::with_capacity(self.ops.len());
        for op in &self.ops {
            let next = step(op, args, &values);
            values.push(next);
        }
        self.results.iter().map(|v| values[v.index()]).collect()
    }
}

/// The interval of one instruction, from those of the instructions before it.
pub(super) fn step(op: &Op, args: &[Interval], values: &[Interval]) -> Interval {
    let v = |value: Value| values[value.index()];
    match *op {
        Op::Param(index) => args[index as usize],
        Op::Int(x) => Interval::point(x),
        Op::Bool(x) => Interval::point(x as i64),
        Op::Add(a, b) => {
            let (a, b) = (v(a), v(b));
            Interval::exact(a.low as i128 + b.low as i128, a.high as i128 + b.high as i128)
        }
        Op::Sub(a, b) if a == b => Interval::point(0),
        Op::Sub(a, b) => {
            let (a, b) = (v(a), v(b));
            Interval::exact(a.low as i128 - b.high as i128, a.high as i128 - b.low as i128)
        }
        Op::Mul(a, b) => product(v(a), v(b)),
        Op::Min(a, b) => Interval::new(v(a).low.min(v(b).low), v(a).high.min(v(b).high)),
        Op::Max(a, b) => Interval::new(v(a).low.max(v(b).low), v(a).high.max(v(b).high)),
        Op::Div(a, d) => Interval::new(v(a).low / d, v(a).high / d),
        Op::FloorDiv(a, d) => Interval::new(v(a).low.div_euclid(d), v(a).high.div_euclid(d)),
        Op::Rem(a, d) => remainder(v(a), d),
        Op::FloorMod(a, d) => floor_mod(v(a), d),
        Op::Lt(a, b) => Interval::truth(v(a).high >= v(b).low, v(a).low < v(b).high),
        Op::Le(a, b) => Interval::truth(v(a).high > v(b).low, v(a).low <= v(b).high),
        Op::Eq(a, b) => equality(v(a), v(b)),
        Op::And(a, b) => Interval::new(v(a).low & v(b).low, v(a).high & v(b).high),
        Op::Or(a, b) => Interval::new(v(a).low | v(b).low, v(a).high | v(b).high),
        Op::Not(a) => Interval::new(1 - v(a).high, 1 - v(a).low),
        Op::Select(c, a, b) => match v(c) {
            Interval { low: 1, .. } => v(a),
            Interval { high: 0, .. } => v(b),
            _ => v(a).hull(v(b)),
        },
    }
}

fn product(a: Interval, b: Interval) -> Interval {
    let corners = [(a.low, b.low), (a.low, b.high), (a.high, b.low), (a.high, b.high)]
        .map(|(x, y)| x as i128 * y as i128);
    let low = corners.iter().copied().min().unwrap_or(0);
    let high = corners.iter().copied().max().unwrap_or(0);
    Interval::exact(low, high)
}

fn floor_mod(a: Interval, d: i64) -> Interval {
    if a.low.div_euclid(d) == a.high.div_euclid(d) {
        Interval::new(a.low.rem_euclid(d), a.high.rem_euclid(d))
    } else {
        Interval::new(0, d - 1)
    }
}

fn remainder(a: Interval, d: i64) -> Interval {
    if a.low >= 0 {
        return floor_mod(a, d);
    }
    let high = if a.high > 0 { a.high.min(d - 1) } else { 0 };
    Interval::new(a.low.max(1 - d), high)
}

fn equality(a: Interval, b: Interval) -> Interval {
    let can_be_true = a.low <= b.high && b.low <= a.high;
    let always = a.low == a.high && a == b;
    Interval::truth(!always, can_be_true)
}
