//! What becomes of a scalar program's results when its arguments move together.

use super::interval::step;
use super::{Interval, Op, Program, Value};

impl Program {
    /// How much each result rises when every argument `n` rises by `by[n]`, before and after inside the box `args`. `None`
    /// when that is not the same everywhere, or not known to be. Truth values that stay the same rise by 0.
    pub fn rises(&self, args: &[Interval], by: &[i64]) -> Vec<Option<i64>> {
        assert_eq!(by.len(), self.params.len(), "arguments for `{}`", self.name);
        let mut bounds: Vec<Interval> = Vec::with_capacity(self.ops.len());
        let mut rises: Vec<Option<i64>> = Vec::with_capacity(self.ops.len());
        for op in &self.ops {
            let bound = step(op, args, &bounds);
            let constant = bound.low == bound.high;
            let rise = if constant { Some(0) } else { rise(op, by, &bounds, &rises) };
            bounds.push(bound);
            rises.push(rise);
        }
        self.results.iter().map(|v| rises[v.index()]).collect()
    }
}

fn rise(op: &Op, by: &[i64], bounds: &[Interval], rises: &[Option<i64>]) -> Option<i64> {
    let of = |value: Value| rises[value.index()];
    let bound = |value: Value| bounds[value.index()];
    // What rises may wrap around, and is then no longer above what it was.
    let rising = |value: Value| of(value).filter(|&rise| rise == 0 || bound(value) != Interval::ALL);
    let both = |a, b| rising(a).filter(|_| rising(a) == rising(b));
    let still = |value: Value| of(value).filter(|&rise| rise == 0);
    match *op {
        Op::Param(index) => Some(by[index as usize]),
        Op::Int(_) | Op::Bool(_) => Some(0),
        Op::Add(a, b) => of(a)?.checked_add(of(b)?),
        Op::Sub(a, b) => of(a)?.checked_sub(of(b)?),
        Op::Mul(a, b) => match (bound(a), bound(b)) {
            (x, _) if x.low == x.high => of(b)?.checked_mul(x.low),
            (_, y) if y.low == y.high => of(a)?.checked_mul(y.low),
            _ => still(a).and(still(b)),
        },
        Op::Min(a, b) | Op::Max(a, b) => both(a, b),
        Op::Div(a, _) | Op::Rem(a, _) | Op::Not(a) => still(a),
        Op::FloorDiv(a, d) => rising(a).filter(|rise| rise % d == 0).map(|rise| rise / d),
        Op::FloorMod(a, d) => rising(a).filter(|rise| rise % d == 0).map(|_| 0),
        Op::Lt(a, b) | Op::Le(a, b) | Op::Eq(a, b) => both(a, b).map(|_| 0),
        Op::And(a, b) | Op::Or(a, b) => still(a).and(still(b)),
        Op::Select(c, a, b) => still(c).and(of(a).filter(|_| of(a) == of(b))),
    }
}
