//! The text form of a scalar program: one instruction a line, parameters by name.

use std::fmt;

use super::{Op, Program, Value};

impl Program {
    /// How a value is called in listings and in generated code.
    pub(crate) fn value_name(&self, value: Value) -> String {
        match self.ops[value.index()] {
            Op::Param(index) => self.params[index as usize].clone(),
            Op::Int(x) => x.to_string(),
            Op::Bool(x) => x.to_string(),
            _ => format!("v{}", value.index()),
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "fn {}({}) {{", self.name, self.params.join(", "))?;
        for (index, op) in self.ops.iter().enumerate() {
            if !matches!(op, Op::Param(_) | Op::Int(_) | Op::Bool(_)) {
                writeln!(f, "  v{index} = {}", listing(self, op))?;
            }
        }
        let results: Vec<String> = self.results.iter().map(|&v| self.value_name(v)).collect();
        writeln!(f, "  return {}", results.join(", "))?;
        writeln!(f, "}}")
    }
}

fn listing(program: &Program, op: &Op) -> String {
    let args: Vec<String> = op.args().map(|v| program.value_name(v)).collect();
    let divisor = match op {
        Op::Div(_, d) | Op::Rem(_, d) | Op::FloorDiv(_, d) | Op::FloorMod(_, d) => format!(", {d}"),
        _ => String::new(),
    };
    format!("{} {}{divisor}", mnemonic(op), args.join(", "))
}

fn mnemonic(op: &Op) -> &'static str {
    match op {
        Op::Param(_) => "param",
        Op::Int(_) | Op::Bool(_) => "const",
        Op::Add(..) => "add",
        Op::Sub(..) => "sub",
        Op::Mul(..) => "mul",
        Op::Min(..) => "min",
        Op::Max(..) => "max",
        Op::Div(..) => "div",
        Op::Rem(..) => "rem",
        Op::FloorDiv(..) => "floor_div",
        Op::FloorMod(..) => "floor_mod",
        Op::Lt(..) => "lt",
        Op::Le(..) => "le",
        Op::Eq(..) => "eq",
        Op::And(..) => "and",
        Op::Or(..) => "or",
        Op::Not(_) => "not",
        Op::Select(..) => "select",
    }
}
