//! Evaluation on the host: the meaning of a scalar program.

use super::{Op, Program};

impl Program {
    /// The results for these arguments; truth values are 0 or 1.
    ///
    /// # Panics
    /// When the number of arguments is not the number of parameters.
    pub fn eval<const RESULTS: usize>(&self, args: &[i64]) -> [i64; RESULTS] {
        assert_eq!(args.len(), self.params.len(), "arguments for `{}`", self.name);
        assert_eq!(RESULTS, self.results.len(), "results of `{}`", self.name);
        // Most programs are short: a stack buffer keeps planning free of allocations.
        let mut short = [0i64; 128];
        let mut long = Vec::new();
        let values: &mut [i64] = if self.ops.len() <= short.len() {
            &mut short
        } else {
            long.resize(self.ops.len(), 0);
            &mut long
        };
        for (index, op) in self.ops.iter().enumerate() {
            values[index] = step(op, args, values);
        }
        std::array::from_fn(|k| values[self.results[k].index()])
    }
}

fn step(op: &Op, args: &[i64], values: &[i64]) -> i64 {
    let v = |value: super::Value| values[value.index()];
    match *op {
        Op::Param(index) => args[index as usize],
        Op::Int(x) => x,
        Op::Bool(x) => x as i64,
        Op::Add(a, b) => v(a).wrapping_add(v(b)),
        Op::Sub(a, b) => v(a).wrapping_sub(v(b)),
        Op::Mul(a, b) => v(a).wrapping_mul(v(b)),
        Op::Min(a, b) => v(a).min(v(b)),
        Op::Max(a, b) => v(a).max(v(b)),
        Op::Div(a, d) => v(a) / d,
        Op::Rem(a, d) => v(a) % d,
        Op::FloorDiv(a, d) => v(a).div_euclid(d),
        Op::FloorMod(a, d) => v(a).rem_euclid(d),
        Op::Lt(a, b) => (v(a) < v(b)) as i64,
        Op::Le(a, b) => (v(a) <= v(b)) as i64,
        Op::Eq(a, b) => (v(a) == v(b)) as i64,
        Op::And(a, b) => v(a) & v(b),
        Op::Or(a, b) => v(a) | v(b),
        Op::Not(a) => 1 - v(a),
        Op::Select(c, a, b) => {
            if v(c) != 0 {
                v(a)
            } else {
                v(b)
            }
        }
    }
}
