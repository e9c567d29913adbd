//! What names stand for in the body of a kernel: registers, by scope, and variables.

use std::collections::HashMap;

use super::{Operand, Special};

/// Sizes of registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Predicate,
    Word,
    Wide,
}

/// Names of one kernel, and how many registers they take.
#[derive(Debug, Default)]
pub struct Names {
    /// Words of 32 bits.
    pub words: u32,
    pub predicates: u32,
    /// Innermost last. A single register under its name; a range `%r<n>` under its prefix with its first and its count.
    scopes: Vec<HashMap<String, Declared>>,
    variables: HashMap<String, u64>,
}

#[derive(Clone, Copy, Debug)]
struct Declared {
    size: Size,
    first: u32,
    /// `None` for a register with just this name.
    count: Option<u32>,
}

impl Names {
    pub fn enter(&mut self) {
        self.scopes.push(HashMap::new());
    }

    /// Whether a scope remains.
    pub fn leave(&mut self) -> bool {
        self.scopes.pop();
        !self.scopes.is_empty()
    }

    /// A variable, which stands for its address.
    pub fn variable(&mut self, name: &str, address: u64) {
        self.variables.insert(name.to_owned(), address);
    }

    /// Declares the register `name`, or `count` of them with this prefix. False for an unknown type.
    pub fn register(&mut self, kind: &str, name: &str, count: Option<u32>) -> bool {
        let size = match kind {
            ".pred" => Size::Predicate,
            ".b16" | ".u16" | ".s16" | ".f16" | ".b8" | ".b32" | ".u32" | ".s32" | ".f32" => Size::Word,
            ".b64" | ".u64" | ".s64" | ".f64" => Size::Wide,
            _ => return false,
        };
        let many = count.unwrap_or(1);
        let (total, taken) = match size {
            Size::Predicate => (&mut self.predicates, many),
            Size::Word => (&mut self.words, many),
            Size::Wide => (&mut self.words, 2 * many),
        };
        let first = *total;
        *total += taken;
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name.to_owned(), Declared { size, first, count });
        }
        true
    }

    /// What a word stands for: a register, a number of the hardware's, a variable's address or a constant.
    pub fn operand(&self, word: &str) -> Option<Operand> {
        if word == "_" {
            return Some(Operand::Nowhere);
        }
        if let Some(constant) = constant(word) {
            return Some(Operand::Constant(constant));
        }
        let digits = word.len() - word.bytes().rev().take_while(u8::is_ascii_digit).count();
        for scope in self.scopes.iter().rev() {
            if let Some(found) = scope.get(word).filter(|found| found.count.is_none()) {
                return Some(found.operand(0));
            }
            let (prefix, number) = word.split_at(digits);
            let range = scope.get(prefix).and_then(|found| Some((found, found.count?)));
            if let (Some((found, count)), Ok(number)) = (range, number.parse::<u32>())
                && number < count
            {
                return Some(found.operand(number));
            }
        }
        special(word)
            .map(Operand::Special)
            .or_else(|| self.variables.get(word).map(|&at| Operand::Constant(at)))
    }
}

impl Declared {
    fn operand(self, number: u32) -> Operand {
        match self.size {
            Size::Predicate => Operand::Predicate(self.first + number),
            Size::Word => Operand::Word(self.first + number),
            Size::Wide => Operand::Wide(self.first + 2 * number),
        }
    }
}

/// Decimal, hexadecimal, and floats by their bits (`0f3F800000`, `0d3FF0000000000000`).
fn constant(word: &str) -> Option<u64> {
    let (negative, digits) = word.strip_prefix('-').map_or((false, word), |rest| (true, rest));
    let digits = digits.strip_suffix('U').unwrap_or(digits);
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let radix_16 = ["0x", "0X", "0f", "0F", "0d", "0D"].iter().find_map(|prefix| digits.strip_prefix(prefix));
    let value = match radix_16 {
        Some(hexadecimal) => u64::from_str_radix(hexadecimal, 16).ok()?,
        None => digits.parse::<u64>().ok()?,
    };
    Some(if negative { value.wrapping_neg() } else { value })
}

fn special(word: &str) -> Option<Special> {
    let axis = |name: &str| ["x", "y", "z"].iter().position(|axis| *axis == name);
    let (name, part) = word.strip_prefix('%')?.split_once('.').unwrap_or((word.strip_prefix('%')?, ""));
    Some(match (name, part) {
        ("tid", "x") => Special::ThreadX,
        ("tid", "y" | "z") => Special::Zero,
        ("ntid", "x") => Special::BlockThreads,
        ("ntid", "y" | "z") => Special::One,
        ("ctaid", _) => Special::Block(axis(part)?),
        ("nctaid", _) => Special::Grid(axis(part)?),
        ("laneid", "") => Special::Lane,
        ("warpid", "") => Special::Warp,
        ("clock" | "clock64" | "globaltimer", "") => Special::Clock,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_found_by_scope() {
        let mut names = Names::default();
        names.enter();
        assert!(names.register(".b32", "%r", Some(3)) && names.register(".b64", "%rd", Some(2)));
        assert!(!names.register(".b128", "%q", None));
        names.enter();
        assert!(names.register(".b64", "%r1", None));
        assert_eq!(names.operand("%r1"), Some(Operand::Wide(7)));
        assert!(names.leave());
        assert_eq!(names.operand("%r1"), Some(Operand::Word(1)));
        assert_eq!(names.operand("%rd1"), Some(Operand::Wide(5)));
        assert_eq!(names.operand("%r3"), None);
        assert_eq!((names.words, names.predicates), (9, 0));
    }

    #[test]
    fn constants_of_every_kind() {
        let found = ["12", "-1", "0x1F", "0f3F800000", "%ctaid.z", "_", "7U"]
            .map(|word| Names::default().operand(word));
        let numbers =
            [Some(12), Some(u64::MAX), Some(31), Some(0x3f80_0000)].map(|n| n.map(Operand::Constant));
        assert_eq!(found[..4], numbers);
        assert_eq!(found[4], Some(Operand::Special(Special::Block(2))));
        assert_eq!(found[5], Some(Operand::Nowhere));
        assert_eq!(found[6], Some(Operand::Constant(7)));
    }
}
