//! Statements to instructions. An opcode is split at its dots; what is not read in it is a hint.

use super::arguments::{Argument, arguments};
use super::names::Names;
use super::{
    Address, Alu, Atomic, Comparison, Float, LOCAL_WINDOW, MatrixMove, Op, Operand, PARAMETER_WINDOW, Place,
    Rounding, SHARED_WINDOW, Shuffle, Space, Type, Vote,
};

/// A statement, its guard aside.
pub struct Statement<'a> {
    pub opcode: &'a str,
    /// Tokens of the operands.
    pub words: &'a [&'a str],
}

/// What the statement does.
pub fn decode(statement: &Statement<'_>, names: &Names) -> Result<Op, String> {
    let parts: Vec<&str> = statement.opcode.split('.').filter(|part| !part.is_empty()).collect();
    let call = Call { parts: &parts, arguments: arguments(statement.words, names)? };
    match parts[0] {
        "ld" | "ldu" => call.load(),
        "st" => call.store(),
        "atom" | "red" => call.atomic(),
        "cp" => call.copy(),
        "wgmma" => call.wgmma(),
        "mbarrier" => call.mbarrier(),
        "mma" | "ldmatrix" | "stmatrix" => call.matrices(),
        "bar" | "barrier" | "shfl" | "vote" => call.together(),
        "setp" => call.compare(),
        "cvt" => call.convert(),
        "mov" => call.mov(),
        "and" | "or" | "xor" | "not" if call.has("pred") => call.logic(),
        "cvta" => call.convert_address(),
        "bfi" => call.bit_insert(),
        "ret" | "exit" => Ok(Op::Exit),
        "setmaxnreg" => Ok(Op::Together),
        "fence" if call.has("async") || statement.opcode.contains("proxy.async") => Ok(Op::FenceAsyncProxy),
        "fence" | "membar" | "prefetch" | "prefetchu" | "griddepcontrol" | "nanosleep" => Ok(Op::Nothing),
        name => match scalar(name, &call) {
            Some((op, sources)) => call.alu(op, sources),
            None => Err("this instruction is not known here".to_owned()),
        },
    }
}

/// Operations on scalars, by name, and how many operands they take.
fn scalar(name: &str, call: &Call<'_>) -> Option<(Alu, usize)> {
    let wide = call.has("wide");
    Some(match name {
        "add" => (Alu::Add, 2),
        "sub" => (Alu::Sub, 2),
        "mul" | "mul24" if wide => (Alu::MultiplyWide, 2),
        "mul" if call.has("hi") => (Alu::MultiplyHigh, 2),
        "mul" => (Alu::Multiply, 2),
        "mad" if wide => (Alu::MultiplyWideAdd, 3),
        "mad" if call.has("hi") => return None,
        "mad" | "fma" => (Alu::MultiplyAdd, 3),
        "div" => (Alu::Divide, 2),
        "rem" => (Alu::Remainder, 2),
        "min" => (Alu::Min, 2),
        "max" => (Alu::Max, 2),
        "neg" => (Alu::Negate, 1),
        "abs" => (Alu::Absolute, 1),
        "not" => (Alu::Not, 1),
        "and" => (Alu::And, 2),
        "or" => (Alu::Or, 2),
        "xor" => (Alu::Xor, 2),
        "shl" => (Alu::ShiftLeft, 2),
        "shr" => (Alu::ShiftRight, 2),
        "popc" => (Alu::Population, 1),
        "clz" => (Alu::LeadingZeros, 1),
        "brev" => (Alu::Reverse, 1),
        "bfind" => (Alu::HighestBit(call.has("shiftamt")), 1),
        "bfe" => (Alu::BitExtract, 3),
        "prmt" => (Alu::Permute, 3),
        "selp" => (Alu::Select, 3),
        "ex2" => (Alu::Float(Float::Exp2), 1),
        "lg2" => (Alu::Float(Float::Log2), 1),
        "rcp" => (Alu::Float(Float::Reciprocal), 1),
        "sqrt" => (Alu::Float(Float::Root), 1),
        "rsqrt" => (Alu::Float(Float::ReciprocalRoot), 1),
        "sin" => (Alu::Float(Float::Sine), 1),
        "cos" => (Alu::Float(Float::Cosine), 1),
        _ => return None,
    })
}

/// A scalar type by its name in an opcode.
fn type_of(part: &str) -> Option<Type> {
    Some(match part {
        "u8" | "b8" => Type::U8,
        "s8" => Type::S8,
        "u16" | "b16" => Type::U16,
        "s16" => Type::S16,
        "u32" | "b32" => Type::U32,
        "s32" => Type::S32,
        "u64" | "b64" => Type::U64,
        "s64" => Type::S64,
        "f16" => Type::F16,
        "bf16" => Type::Bf16,
        "f32" => Type::F32,
        "f64" => Type::F64,
        _ => return None,
    })
}

/// An opcode's parts and the operands.
pub(super) struct Call<'a> {
    pub(super) parts: &'a [&'a str],
    pub(super) arguments: Vec<Argument>,
}

impl Call<'_> {
    pub(super) fn has(&self, part: &str) -> bool {
        self.parts.contains(&part)
    }

    /// Types in the order of the opcode.
    fn types(&self) -> Vec<Type> {
        self.parts.iter().filter_map(|part| type_of(part)).collect()
    }

    fn kind(&self) -> Result<Type, String> {
        self.types().last().copied().ok_or_else(|| "the type is missing".to_owned())
    }

    pub(super) fn one(&self, index: usize) -> Result<Operand, String> {
        match self.arguments.get(index) {
            Some(Argument::One(operand) | Argument::Negated(operand)) => Ok(*operand),
            _ => Err(format!("operand {index} should be a single value")),
        }
    }

    pub(super) fn constant(&self, index: usize) -> Result<u64, String> {
        match self.one(index)? {
            Operand::Constant(value) => Ok(value),
            _ => Err(format!("operand {index} should be a constant")),
        }
    }

    pub(super) fn negated(&self, index: usize) -> bool {
        matches!(self.arguments.get(index), Some(Argument::Negated(_)))
    }

    /// One register or several in braces.
    pub(super) fn several(&self, index: usize) -> Result<Vec<Operand>, String> {
        match self.arguments.get(index) {
            Some(Argument::One(operand)) => Ok(vec![*operand]),
            Some(Argument::Vector(operands)) => Ok(operands.clone()),
            _ => Err(format!("operand {index} should be registers")),
        }
    }

    pub(super) fn exactly<const N: usize>(&self, index: usize) -> Result<[Operand; N], String> {
        let found = self.several(index)?;
        found.try_into().map_err(|_| format!("operand {index} should be {N} registers"))
    }

    pub(super) fn address(&self, index: usize) -> Result<Address, String> {
        match self.arguments.get(index) {
            Some(Argument::Memory(address, _)) => Ok(*address),
            _ => Err(format!("operand {index} should be an address")),
        }
    }

    fn place(&self, index: usize) -> Result<Place, String> {
        let space = match self.parts.iter().find_map(|part| part.split("::").next().and_then(space_of)) {
            Some(space) => space,
            None => Space::Generic,
        };
        Ok(Place { space, address: self.address(index)? })
    }

    fn alu(&self, op: Alu, sources: usize) -> Result<Op, String> {
        let mut from = [Operand::Constant(0); 3];
        for (index, place) in from.iter_mut().enumerate().take(sources) {
            *place = self.one(index + 1)?;
        }
        Ok(Op::Alu { op, kind: self.kind()?, to: self.one(0)?, from })
    }

    /// Between addresses of a space and generic ones, in which each space has a window.
    fn convert_address(&self) -> Result<Op, String> {
        let window = match self.parts.iter().find_map(|part| part.split("::").next().and_then(space_of)) {
            Some(Space::Shared) => SHARED_WINDOW,
            Some(Space::Local) => LOCAL_WINDOW,
            Some(Space::Parameter) => PARAMETER_WINDOW,
            _ => 0,
        };
        let op = if self.has("to") { Alu::Sub } else { Alu::Add };
        let from = [self.one(1)?, Operand::Constant(window), Operand::Constant(0)];
        Ok(Op::Alu { op, kind: self.kind()?, to: self.one(0)?, from })
    }

    fn bit_insert(&self) -> Result<Op, String> {
        let (start, length) = (self.constant(3)? as u8, self.constant(4)? as u8);
        let from = [self.one(1)?, self.one(2)?, Operand::Constant(0)];
        Ok(Op::Alu { op: Alu::BitInsert { start, length }, kind: self.kind()?, to: self.one(0)?, from })
    }

    fn mov(&self) -> Result<Op, String> {
        if self.has("pred") {
            return Ok(Op::Logic {
                op: Alu::Or,
                to: self.one(0)?,
                from: [self.one(1)?, Operand::Constant(0)],
            });
        }
        let kind = self.kind()?;
        match (&self.arguments[..], self.several(0)?.len()) {
            ([Argument::One(to), Argument::Vector(from)], _) if from.len() == 2 => {
                let from = [from[0], from[1], Operand::Constant(0)];
                Ok(Op::Alu { op: Alu::Pack, kind, to: *to, from })
            }
            ([Argument::Vector(_), Argument::One(from)], 2) => {
                Ok(Op::Unpack { to: self.exactly(0)?, from: *from })
            }
            _ => self.alu(Alu::Move, 1),
        }
    }

    fn logic(&self) -> Result<Op, String> {
        let op = match self.parts[0] {
            "and" => Alu::And,
            "or" => Alu::Or,
            _ => Alu::Xor,
        };
        // not = xor with true
        let second = if self.parts[0] == "not" { Operand::Constant(1) } else { self.one(2)? };
        Ok(Op::Logic { op, to: self.one(0)?, from: [self.one(1)?, second] })
    }

    fn compare(&self) -> Result<Op, String> {
        let comparison = match self.parts[1] {
            "eq" => Comparison::Equal { unordered: false },
            "ne" => Comparison::NotEqual { unordered: false },
            "lt" | "lo" => Comparison::Less { unordered: false },
            "le" | "ls" => Comparison::LessOrEqual { unordered: false },
            "gt" | "hi" => Comparison::Greater { unordered: false },
            "ge" | "hs" => Comparison::GreaterOrEqual { unordered: false },
            "equ" => Comparison::Equal { unordered: true },
            "neu" => Comparison::NotEqual { unordered: true },
            "ltu" => Comparison::Less { unordered: true },
            "leu" => Comparison::LessOrEqual { unordered: true },
            "gtu" => Comparison::Greater { unordered: true },
            "geu" => Comparison::GreaterOrEqual { unordered: true },
            "num" => Comparison::Ordered(true),
            "nan" => Comparison::Ordered(false),
            _ => return Err("this comparison is not known here".to_owned()),
        };
        let and = match (self.has("and"), self.arguments.len()) {
            (true, 4) => Some((self.one(3)?, self.negated(3))),
            (false, 3) => None,
            _ => return Err("this form of a comparison is not known here".to_owned()),
        };
        Ok(Op::Compare {
            comparison,
            kind: self.kind()?,
            to: self.one(0)?,
            from: [self.one(1)?, self.one(2)?],
            and,
        })
    }

    fn convert(&self) -> Result<Op, String> {
        for (name, half) in [("f16x2", Type::F16), ("bf16x2", Type::Bf16)] {
            if self.has(name) {
                return Ok(Op::ConvertPair { half, to: self.one(0)?, from: [self.one(1)?, self.one(2)?] });
            }
        }
        let [to_kind, from_kind] = self.types()[..] else { return Err("two types are needed".to_owned()) };
        let rounding = match self.parts[1] {
            "rni" => Rounding::Nearest,
            "rzi" => Rounding::Zero,
            "rmi" => Rounding::Down,
            "rpi" => Rounding::Up,
            "sat" => return Err("saturation is not known here".to_owned()),
            _ => Rounding::None,
        };
        Ok(Op::Convert { to_kind, from_kind, rounding, to: self.one(0)?, from: self.one(1)? })
    }

    fn load(&self) -> Result<Op, String> {
        Ok(Op::Load { kind: self.kind()?, place: self.place(1)?, to: self.several(0)? })
    }

    fn store(&self) -> Result<Op, String> {
        Ok(Op::Store { kind: self.kind()?, place: self.place(0)?, from: self.several(1)? })
    }

    fn atomic(&self) -> Result<Op, String> {
        let known = [
            ("add", Atomic::Add),
            ("exch", Atomic::Exchange),
            ("cas", Atomic::CompareAndSwap),
            ("min", Atomic::Min),
            ("max", Atomic::Max),
            ("and", Atomic::And),
            ("or", Atomic::Or),
        ];
        let op = known.iter().find(|(name, _)| self.has(name)).ok_or("this operation is not known here")?.1;
        let at = usize::from(self.parts[0] == "atom");
        let to = if at == 1 { Some(self.one(0)?) } else { None };
        let mut from = self.several(at + 1)?;
        if op == Atomic::CompareAndSwap {
            from.push(self.one(at + 2)?);
        }
        Ok(Op::Atomic { op, kind: self.kind()?, place: self.place(at)?, to, from })
    }

    fn together(&self) -> Result<Op, String> {
        match self.parts {
            ["bar", "warp", "sync"] => Ok(Op::WarpSync { members: self.one(0)? }),
            ["bar" | "barrier", kind @ ("sync" | "arrive"), ..]
            | ["barrier", "cta", kind @ ("sync" | "arrive"), ..] => {
                let threads = if self.arguments.len() > 1 { Some(self.one(1)?) } else { None };
                Ok(Op::Barrier { id: self.one(0)?, threads, waits: *kind == "sync" })
            }
            ["bar", "red", mode @ ("or" | "and"), "pred"] if self.arguments.len() == 3 => {
                Ok(Op::BarrierReduce {
                    any: *mode == "or",
                    to: self.one(0)?,
                    id: self.one(1)?,
                    from: self.one(2)?,
                    negated: self.negated(2),
                })
            }
            ["shfl", "sync", mode, ..] => {
                let mode = match *mode {
                    "up" => Shuffle::Up,
                    "down" => Shuffle::Down,
                    "bfly" => Shuffle::Butterfly,
                    _ => Shuffle::Index,
                };
                let (to, valid) = match self.arguments.first() {
                    Some(Argument::Either(to, valid)) => (*to, *valid),
                    _ => (self.one(0)?, Operand::Nowhere),
                };
                let from = [self.one(1)?, self.one(2)?, self.one(3)?, self.one(4)?];
                Ok(Op::Shuffle { mode, to, valid, from })
            }
            ["vote", "sync", mode, ..] => {
                let vote = match *mode {
                    "any" => Vote::Any,
                    "all" => Vote::All,
                    "ballot" => Vote::Ballot,
                    _ => return Err("this vote is not known here".to_owned()),
                };
                let (from, negated) = (self.one(1)?, self.negated(1));
                Ok(Op::Vote { vote, to: self.one(0)?, from, negated, members: self.one(2)? })
            }
            _ => Err("this barrier is not known here".to_owned()),
        }
    }

    fn matrices(&self) -> Result<Op, String> {
        let transposed = self.has("trans");
        let half = if self.has("bf16") { Type::Bf16 } else { Type::F16 };
        match self.parts[0] {
            "mma" if self.has("m16n8k16") && self.has("f32") => Ok(Op::Mma {
                half,
                sums: self.exactly(0)?,
                a: self.exactly(1)?,
                b: self.exactly(2)?,
                c: self.exactly(3)?,
            }),
            "ldmatrix" => {
                let direction = MatrixMove::Load { transposed };
                Ok(Op::Matrices { direction, registers: self.several(0)?, address: self.address(1)? })
            }
            "stmatrix" => {
                let direction = MatrixMove::Store { transposed };
                Ok(Op::Matrices { direction, registers: self.several(1)?, address: self.address(0)? })
            }
            _ => Err("this product is not known here".to_owned()),
        }
    }
}

fn space_of(part: &str) -> Option<Space> {
    Some(match part {
        "global" | "const" => Space::Global,
        "shared" => Space::Shared,
        "local" => Space::Local,
        "param" => Space::Parameter,
        _ => return None,
    })
}
