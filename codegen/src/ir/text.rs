//! The text form of the mask IR, which parses back.
//!
//! ```text
//! heads all:
//!   j < i + 1 and j >= i - 4095
//!   j < i + 1 and j < 4
//! heads 0..=3:
//!   j < i + 1 and (j/64 + 1*g + 0) % 8 == 0
//!   j < i + 1 and j >= (i + 0)/64*64 - 1984 and not where(q - k > 3)
//! ```
//! A class may hold no term: then its heads see nothing.

use std::fmt;

use thiserror::Error;

use super::{Bound, Condition, HeadClass, IrDefect, MaskIr, Residue, Term};
use crate::pattern::{IndexSet, Predicate};

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Bound::Const(value) => write!(f, "{value}"),
            Bound::Step { shift: 0, step: 1, offset } => write!(f, "i{}", signed(offset)),
            Bound::Step { shift, step, offset } => {
                write!(f, "(i + {shift})/{step}*{step}{}", signed(offset))
            }
        }
    }
}

fn signed(offset: i64) -> String {
    match offset {
        0 => String::new(),
        _ if offset < 0 => format!(" - {}", -offset),
        _ => format!(" + {offset}"),
    }
}

impl fmt::Display for Residue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.negated { "!=" } else { "==" };
        write!(f, "(j/{} + {}*g + {}) % {} {sign} 0", self.block, self.step, self.offset, self.every)
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = self.upper.iter().map(|b| format!("j < {b}")).collect();
        parts.extend(self.lower.iter().map(|b| format!("j >= {b}")));
        parts.extend(self.residues.iter().map(Residue::to_string));
        parts.extend(self.conditions.iter().map(|c| {
            let not = if c.negated { "not " } else { "" };
            format!("{not}where({})", c.predicate.source())
        }));
        f.write_str(&parts.join(" and "))
    }
}

impl fmt::Display for MaskIr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for class in &self.classes {
            writeln!(f, "heads {}:", class.heads)?;
            for term in &class.terms {
                writeln!(f, "  {term}")?;
            }
        }
        Ok(())
    }
}

/// Why a listing is not a mask IR.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ParseIrError {
    /// A line that is neither a class nor a term.
    #[error("line {line}: `{found}` is not {expected}")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// The text found.
        found: String,
        /// What may stand there.
        expected: &'static str,
    },
    /// A listing that reads well but breaks an invariant.
    #[error(transparent)]
    Defect(#[from] IrDefect),
}

impl std::str::FromStr for MaskIr {
    type Err = ParseIrError;

    fn from_str(text: &str) -> Result<MaskIr, ParseIrError> {
        let mut classes: Vec<HeadClass> = Vec::new();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let syntax = |found: &str, expected| ParseIrError::Syntax {
                line: index + 1,
                found: found.trim().to_string(),
                expected,
            };
            if let Some(heads) = line.trim().strip_prefix("heads ").and_then(|rest| rest.strip_suffix(':')) {
                let heads = parse_heads(heads).ok_or_else(|| syntax(heads, "a set of heads"))?;
                classes.push(HeadClass { heads, terms: Vec::new() });
                continue;
            }
            let class = classes.last_mut().ok_or_else(|| syntax(line, "`heads SET:`"))?;
            let mut term = Term::default();
            for part in conjuncts(line) {
                add(&mut term, part.trim()).ok_or_else(|| syntax(part, "a constraint on `j`"))?;
            }
            class.terms.push(term);
        }
        let ir = MaskIr { classes };
        ir.verify()?;
        Ok(ir)
    }
}

/// Splits at ` and ` outside parentheses.
fn conjuncts(line: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0i32, 0);
    for (at, c) in line.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ' ' if depth == 0 && at >= start && line[at..].starts_with(" and ") => {
                parts.push(&line[start..at]);
                start = at + " and ".len();
            }
            _ => {}
        }
    }
    parts.push(&line[start..]);
    parts
}

fn add(term: &mut Term, part: &str) -> Option<()> {
    if let Some(bound) = part.strip_prefix("j < ") {
        term.upper.push(parse_bound(bound)?);
    } else if let Some(bound) = part.strip_prefix("j >= ") {
        term.lower.push(parse_bound(bound)?);
    } else if part.starts_with("(j/") {
        term.residues.push(parse_residue(part)?);
    } else {
        let (negated, rest) = part.strip_prefix("not ").map_or((false, part), |rest| (true, rest));
        let source = rest.strip_prefix("where(")?.strip_suffix(')')?;
        let predicate = source.parse::<Predicate>().ok()?;
        term.conditions.push(Condition { predicate, negated });
    }
    Some(())
}

fn parse_bound(text: &str) -> Option<Bound> {
    if let Some(offset) = text.strip_prefix('i') {
        return Some(Bound::sliding(parse_signed(offset)?));
    }
    let Some(rest) = text.strip_prefix("(i + ") else { return text.parse().ok().map(Bound::Const) };
    let (shift, rest) = rest.split_once(")/")?;
    let (step, rest) = rest.split_once('*')?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (again, offset) = rest.split_at(digits);
    if again != step {
        return None;
    }
    Some(Bound::Step { shift: shift.parse().ok()?, step: step.parse().ok()?, offset: parse_signed(offset)? })
}

fn parse_signed(text: &str) -> Option<i64> {
    match text {
        "" => Some(0),
        _ => match text.strip_prefix(" - ") {
            Some(digits) => digits.parse::<i64>().ok().map(|x| -x),
            None => text.strip_prefix(" + ")?.parse().ok(),
        },
    }
}

fn parse_residue(text: &str) -> Option<Residue> {
    let (block, rest) = text.strip_prefix("(j/")?.split_once(" + ")?;
    let (step, rest) = rest.split_once("*g + ")?;
    let (offset, rest) = rest.split_once(") % ")?;
    let (every, verdict) = rest.split_once(' ')?;
    let negated = match verdict {
        "== 0" => false,
        "!= 0" => true,
        _ => return None,
    };
    let number = |text: &str| text.parse::<i64>().ok();
    Some(Residue {
        block: number(block)?,
        every: number(every)?,
        step: number(step)?,
        offset: number(offset)?,
        negated,
    })
}

fn parse_heads(text: &str) -> Option<IndexSet> {
    text.parse().ok()
}
