//! Scalar programs as CUDA C++.

use super::{Op, Program, Type, Value};

impl Program {
    /// A `__device__ __forceinline__` function of the program's name.
    ///
    /// `result` is the C++ return type: `bool` or `int` for one result, an aggregate (`Span`) for several. With
    /// `wide`, the arithmetic is 64-bit (user predicates, which may multiply indices); else 32-bit, which is exact
    /// for closed forms because every token index and bound stays below 2^30 in magnitude.
    pub fn to_cuda(&self, result: &str, wide: bool) -> String {
        let int = if wide { "long long" } else { "int" };
        let params: Vec<String> = self.params.iter().map(|name| format!("int {name}")).collect();
        let mut text =
            format!("__device__ __forceinline__ {result} {}({}) {{\n", self.name, params.join(", "));
        for (index, op) in self.ops.iter().enumerate() {
            if matches!(op, Op::Param(_) | Op::Int(_) | Op::Bool(_)) {
                continue;
            }
            let ty = match self.type_of(Value(index as u32)) {
                Type::Int => int,
                Type::Bool => "bool",
            };
            text += &format!("  const {ty} v{index} = {};\n", self.expression(op, wide));
        }
        let results: Vec<String> = self.results.iter().map(|&v| self.operand(v, wide)).collect();
        text += &match results.as_slice() {
            [one] => format!("  return {one};\n}}\n"),
            many => format!("  return {result}{{{}}};\n}}\n", many.join(", ")),
        };
        text
    }

    fn operand(&self, value: Value, wide: bool) -> String {
        match self.ops[value.index()] {
            Op::Param(_) if wide => format!("(long long){}", self.value_name(value)),
            Op::Int(i64::MIN) => "(-9223372036854775807LL - 1)".to_string(),
            Op::Int(x) if wide => format!("{x}LL"),
            _ => self.value_name(value),
        }
    }

    fn expression(&self, op: &Op, wide: bool) -> String {
        let suffix = if wide { "LL" } else { "" };
        let v = |value: Value| self.operand(value, wide);
        // Signed overflow is undefined in C++ and wraps in a predicate: wide sums go through unsigned.
        let wrapping = |a: Value, sign: &str, b: Value| {
            if wide {
                format!("(long long)((unsigned long long){} {sign} (unsigned long long){})", v(a), v(b))
            } else {
                format!("{} {sign} {}", v(a), v(b))
            }
        };
        match *op {
            Op::Param(_) | Op::Int(_) | Op::Bool(_) => unreachable!("constants stand where they are used"),
            Op::Add(a, b) => wrapping(a, "+", b),
            Op::Sub(a, b) => wrapping(a, "-", b),
            Op::Mul(a, b) => wrapping(a, "*", b),
            Op::Min(a, b) => format!("{a} < {b} ? {a} : {b}", a = v(a), b = v(b)),
            Op::Max(a, b) => format!("{a} > {b} ? {a} : {b}", a = v(a), b = v(b)),
            Op::Div(a, d) => format!("{} / {d}{suffix}", v(a)),
            Op::Rem(a, d) => format!("{} % {d}{suffix}", v(a)),
            // An arithmetic shift rounds down and a mask keeps the residue, for negative values too.
            Op::FloorDiv(a, d) if d.count_ones() == 1 => format!("{} >> {}", v(a), d.trailing_zeros()),
            Op::FloorMod(a, d) if d.count_ones() == 1 => format!("{} & {}{suffix}", v(a), d - 1),
            Op::FloorDiv(a, d) => {
                format!("{a} / {d}{suffix} - ({a} % {d}{suffix} < 0 ? 1 : 0)", a = v(a))
            }
            Op::FloorMod(a, d) => {
                format!("{a} % {d}{suffix} + ({a} % {d}{suffix} < 0 ? {d}{suffix} : 0{suffix})", a = v(a))
            }
            Op::Lt(a, b) => format!("{} < {}", v(a), v(b)),
            Op::Le(a, b) => format!("{} <= {}", v(a), v(b)),
            Op::Eq(a, b) => format!("{} == {}", v(a), v(b)),
            // Both sides are there already: `&&` would become a branch for each element of a mask.
            Op::And(a, b) => format!("{} & {}", v(a), v(b)),
            Op::Or(a, b) => format!("{} | {}", v(a), v(b)),
            Op::Not(a) => format!("!{}", v(a)),
            Op::Select(c, a, b) => format!("{} ? {} : {}", v(c), v(a), v(b)),
        }
    }
}
