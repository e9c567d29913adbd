//! Operations on scalars, all lanes of a warp at once.

use half::{bf16, f16};

use super::registers::{LANES, Registers, Wides, Words, lanes};
use crate::ptx::{Alu, Comparison, Float, Operand, Rounding, Type};

/// An operation that has no meaning for its type.
#[derive(Debug)]
pub struct Meaningless;

/// Executes one operation in the lanes of `mask`.
pub fn compute(
    registers: &mut Registers,
    mask: u32,
    (op, kind): (Alu, Type),
    to: Operand,
    from: [Operand; 3],
) -> Result<(), Meaningless> {
    if op == Alu::Select {
        return select(registers, mask, kind, to, from);
    }
    if op == Alu::Pack {
        let (low, high) = (registers.words(from[0]), registers.words(from[1]));
        if kind.bytes() == 8 {
            let packed: Wides =
                std::array::from_fn(|lane| u64::from(low[lane]) | u64::from(high[lane]) << 32);
            registers.set_wides(to, mask, &packed);
        } else {
            let packed: Words = std::array::from_fn(|lane| low[lane] & 0xffff | high[lane] << 16);
            registers.set_words(to, mask, &packed);
        }
        return Ok(());
    }
    match kind {
        Type::F32 => {
            let result = float32(op, from.map(|source| registers.words(source)))?;
            registers.set_words(to, mask, &result);
        }
        Type::F64 => {
            let result = float64(op, from.map(|source| registers.wides(source)))?;
            registers.set_wides(to, mask, &result);
        }
        Type::U64 | Type::S64 => wide(registers, mask, (op, kind), to, from)?,
        _ => narrow(registers, mask, (op, kind), to, from)?,
    }
    Ok(())
}

fn select(
    registers: &mut Registers,
    mask: u32,
    kind: Type,
    to: Operand,
    from: [Operand; 3],
) -> Result<(), Meaningless> {
    let first = registers.predicate(from[2]);
    let chooses = |lane: usize| first >> lane & 1 == 1;
    if kind.bytes() == 8 {
        let (a, b) = (registers.wides(from[0]), registers.wides(from[1]));
        registers.set_wides(
            to,
            mask,
            &std::array::from_fn(|lane| if chooses(lane) { a[lane] } else { b[lane] }),
        );
    } else {
        let (a, b) = (registers.words(from[0]), registers.words(from[1]));
        registers.set_words(
            to,
            mask,
            &std::array::from_fn(|lane| if chooses(lane) { a[lane] } else { b[lane] }),
        );
    }
    Ok(())
}

fn each<T: Copy, R: Copy + Default>(a: &[T; LANES], f: impl Fn(T) -> R) -> [R; LANES] {
    std::array::from_fn(|lane| f(a[lane]))
}

fn pairs<T: Copy, R: Copy + Default>(a: &[T; LANES], b: &[T; LANES], f: impl Fn(T, T) -> R) -> [R; LANES] {
    std::array::from_fn(|lane| f(a[lane], b[lane]))
}

/// Integers of up to 32 bits, and products of twice the width.
fn narrow(
    registers: &mut Registers,
    mask: u32,
    (op, kind): (Alu, Type),
    to: Operand,
    from: [Operand; 3],
) -> Result<(), Meaningless> {
    let bits = kind.bytes() as u32 * 8;
    // As numbers: 32 bits, extended by the sign or by zeros.
    let number = |x: u32| match (bits, kind.is_signed()) {
        (16, true) => x as u16 as i16 as i32 as u32,
        (8, true) => x as u8 as i8 as i32 as u32,
        (16, false) => x & 0xffff,
        (8, false) => x & 0xff,
        _ => x,
    };
    let read = |index: usize| {
        let words = registers.words(from[index]);
        if bits == 32 { words } else { each(&words, number) }
    };
    let a = read(0);
    let signed = kind.is_signed();
    if matches!(op, Alu::MultiplyWide | Alu::MultiplyWideAdd) {
        let b = read(1);
        let product = |lane: usize| {
            if signed {
                (i64::from(a[lane] as i32) * i64::from(b[lane] as i32)) as u64
            } else {
                u64::from(a[lane]) * u64::from(b[lane])
            }
        };
        if bits == 32 {
            let c = if op == Alu::MultiplyWideAdd { registers.wides(from[2]) } else { [0; LANES] };
            registers.set_wides(to, mask, &std::array::from_fn(|lane| product(lane).wrapping_add(c[lane])));
        } else {
            let c = if op == Alu::MultiplyWideAdd { registers.words(from[2]) } else { [0; LANES] };
            registers.set_words(
                to,
                mask,
                &std::array::from_fn(|lane| (product(lane) as u32).wrapping_add(c[lane])),
            );
        }
        return Ok(());
    }
    let shift = |x: u32| x.min(bits);
    let result: Words = match op {
        Alu::Move => a,
        Alu::Add => pairs(&a, &read(1), u32::wrapping_add),
        Alu::Sub => pairs(&a, &read(1), u32::wrapping_sub),
        Alu::Multiply => pairs(&a, &read(1), u32::wrapping_mul),
        Alu::MultiplyAdd => {
            let (b, c) = (read(1), read(2));
            std::array::from_fn(|lane| a[lane].wrapping_mul(b[lane]).wrapping_add(c[lane]))
        }
        Alu::MultiplyHigh if signed => {
            pairs(&a, &read(1), |x, y| ((i64::from(x as i32) * i64::from(y as i32)) >> bits) as u32)
        }
        Alu::MultiplyHigh => pairs(&a, &read(1), |x, y| ((u64::from(x) * u64::from(y)) >> bits) as u32),
        Alu::Divide if signed => {
            pairs(
                &a,
                &read(1),
                |x, y| if y == 0 { u32::MAX } else { (x as i32).wrapping_div(y as i32) as u32 },
            )
        }
        Alu::Divide => pairs(&a, &read(1), |x, y| x.checked_div(y).unwrap_or(u32::MAX)),
        Alu::Remainder if signed => {
            pairs(&a, &read(1), |x, y| if y == 0 { x } else { (x as i32).wrapping_rem(y as i32) as u32 })
        }
        Alu::Remainder => pairs(&a, &read(1), |x, y| x.checked_rem(y).unwrap_or(x)),
        Alu::Min if signed => pairs(&a, &read(1), |x, y| (x as i32).min(y as i32) as u32),
        Alu::Max if signed => pairs(&a, &read(1), |x, y| (x as i32).max(y as i32) as u32),
        Alu::Min => pairs(&a, &read(1), u32::min),
        Alu::Max => pairs(&a, &read(1), u32::max),
        Alu::Negate => each(&a, u32::wrapping_neg),
        Alu::Absolute => each(&a, |x| (x as i32).wrapping_abs() as u32),
        Alu::Not => each(&a, |x| !x),
        Alu::And => pairs(&a, &read(1), |x, y| x & y),
        Alu::Or => pairs(&a, &read(1), |x, y| x | y),
        Alu::Xor => pairs(&a, &read(1), |x, y| x ^ y),
        Alu::ShiftLeft => pairs(&a, &registers.words(from[1]), |x, y| x.checked_shl(shift(y)).unwrap_or(0)),
        Alu::ShiftRight if signed => {
            pairs(&a, &registers.words(from[1]), |x, y| ((x as i32) >> shift(y).min(31)) as u32)
        }
        Alu::ShiftRight => pairs(&a, &registers.words(from[1]), |x, y| x.checked_shr(shift(y)).unwrap_or(0)),
        Alu::Population => each(&a, u32::count_ones),
        Alu::LeadingZeros => each(&a, u32::leading_zeros),
        Alu::Reverse => each(&a, u32::reverse_bits),
        Alu::HighestBit(shift) => {
            let magnitude = |x: u32| if signed && (x as i32) < 0 { !x } else { x };
            let place = |x: u32| magnitude(x).checked_ilog2();
            each(&a, |x| place(x).map_or(u32::MAX, |place| if shift { 31 - place } else { place }))
        }
        Alu::BitInsert { start, length } => {
            let field = (1u64 << length).wrapping_sub(1) as u32;
            pairs(&a, &read(1), |x, y| y & !(field << start) | (x & field) << start)
        }
        Alu::BitExtract if !signed => {
            let (start, length) = (read(1), read(2));
            let field = |lane: usize| (1u64 << (length[lane] & 0xff).min(32)) - 1;
            std::array::from_fn(|lane| {
                (u64::from(a[lane]) >> (start[lane] & 0xff).min(63) & field(lane)) as u32
            })
        }
        Alu::Permute => {
            let (b, selector) = (read(1), read(2));
            std::array::from_fn(|lane| permute(a[lane], b[lane], selector[lane]))
        }
        _ => return Err(Meaningless),
    };
    let result = if bits == 16 { each(&result, |x| x & 0xffff) } else { result };
    registers.set_words(to, mask, &result);
    Ok(())
}

/// `prmt`: each byte of the result is chosen among the eight of two words; the highest bit of a choice spreads its sign.
fn permute(low: u32, high: u32, selector: u32) -> u32 {
    let bytes = (u64::from(high) << 32 | u64::from(low)).to_le_bytes();
    let chosen = |n: u32| {
        let choice = selector >> (4 * n) & 0xf;
        let byte = bytes[(choice & 7) as usize];
        if choice & 8 == 0 { byte } else { ((byte as i8) >> 7) as u8 }
    };
    u32::from_le_bytes([chosen(0), chosen(1), chosen(2), chosen(3)])
}

/// Integers of 64 bits; what counts bits gives a word.
fn wide(
    registers: &mut Registers,
    mask: u32,
    (op, kind): (Alu, Type),
    to: Operand,
    from: [Operand; 3],
) -> Result<(), Meaningless> {
    let a = registers.wides(from[0]);
    let b = registers.wides(from[1]);
    let signed = kind.is_signed();
    let shifts = each(&registers.words(from[1]), |x| x.min(64));
    let result: Wides = match op {
        Alu::Move => a,
        Alu::Add => pairs(&a, &b, u64::wrapping_add),
        Alu::Sub => pairs(&a, &b, u64::wrapping_sub),
        Alu::Multiply => pairs(&a, &b, u64::wrapping_mul),
        Alu::MultiplyAdd => {
            let c = registers.wides(from[2]);
            std::array::from_fn(|lane| a[lane].wrapping_mul(b[lane]).wrapping_add(c[lane]))
        }
        Alu::MultiplyHigh if signed => {
            pairs(&a, &b, |x, y| ((i128::from(x as i64) * i128::from(y as i64)) >> 64) as u64)
        }
        Alu::MultiplyHigh => pairs(&a, &b, |x, y| ((u128::from(x) * u128::from(y)) >> 64) as u64),
        Alu::Divide if signed => {
            pairs(&a, &b, |x, y| if y == 0 { u64::MAX } else { (x as i64).wrapping_div(y as i64) as u64 })
        }
        Alu::Divide => pairs(&a, &b, |x, y| x.checked_div(y).unwrap_or(u64::MAX)),
        Alu::Remainder if signed => {
            pairs(&a, &b, |x, y| if y == 0 { x } else { (x as i64).wrapping_rem(y as i64) as u64 })
        }
        Alu::Remainder => pairs(&a, &b, |x, y| x.checked_rem(y).unwrap_or(x)),
        Alu::Min if signed => pairs(&a, &b, |x, y| (x as i64).min(y as i64) as u64),
        Alu::Max if signed => pairs(&a, &b, |x, y| (x as i64).max(y as i64) as u64),
        Alu::Min => pairs(&a, &b, u64::min),
        Alu::Max => pairs(&a, &b, u64::max),
        Alu::Negate => each(&a, u64::wrapping_neg),
        Alu::Absolute => each(&a, |x| (x as i64).wrapping_abs() as u64),
        Alu::Not => each(&a, |x| !x),
        Alu::And => pairs(&a, &b, |x, y| x & y),
        Alu::Or => pairs(&a, &b, |x, y| x | y),
        Alu::Xor => pairs(&a, &b, |x, y| x ^ y),
        Alu::ShiftLeft => std::array::from_fn(|lane| a[lane].checked_shl(shifts[lane]).unwrap_or(0)),
        Alu::ShiftRight if signed => {
            std::array::from_fn(|lane| ((a[lane] as i64) >> shifts[lane].min(63)) as u64)
        }
        Alu::ShiftRight => std::array::from_fn(|lane| a[lane].checked_shr(shifts[lane]).unwrap_or(0)),
        Alu::Population | Alu::LeadingZeros => {
            let count = |x: u64| if op == Alu::Population { x.count_ones() } else { x.leading_zeros() };
            registers.set_words(to, mask, &each(&a, count));
            return Ok(());
        }
        Alu::Reverse => each(&a, u64::reverse_bits),
        Alu::BitInsert { start, length } => {
            let field = (1u128 << length).wrapping_sub(1) as u64;
            pairs(&a, &b, |x, y| y & !(field << start) | (x & field) << start)
        }
        _ => return Err(Meaningless),
    };
    registers.set_wides(to, mask, &result);
    Ok(())
}

fn float32(op: Alu, from: [Words; 3]) -> Result<Words, Meaningless> {
    let [a, b, c] = &from;
    let one = |f: fn(f32) -> f32| each(a, |x| f(f32::from_bits(x)).to_bits());
    let two = |f: fn(f32, f32) -> f32| pairs(a, b, |x, y| f(f32::from_bits(x), f32::from_bits(y)).to_bits());
    Ok(match op {
        Alu::Move => *a,
        Alu::Add => two(|x, y| x + y),
        Alu::Sub => two(|x, y| x - y),
        Alu::Multiply => two(|x, y| x * y),
        Alu::Divide => two(|x, y| x / y),
        Alu::Min => two(f32::min),
        Alu::Max => two(f32::max),
        Alu::MultiplyAdd => std::array::from_fn(|lane| {
            f32::from_bits(a[lane]).mul_add(f32::from_bits(b[lane]), f32::from_bits(c[lane])).to_bits()
        }),
        Alu::Negate => one(|x| -x),
        Alu::Absolute => one(f32::abs),
        Alu::Float(Float::Exp2) => one(f32::exp2),
        Alu::Float(Float::Log2) => one(f32::log2),
        Alu::Float(Float::Reciprocal) => one(f32::recip),
        Alu::Float(Float::Root) => one(f32::sqrt),
        Alu::Float(Float::ReciprocalRoot) => one(|x| 1.0 / x.sqrt()),
        Alu::Float(Float::Sine) => one(f32::sin),
        Alu::Float(Float::Cosine) => one(f32::cos),
        _ => return Err(Meaningless),
    })
}

fn float64(op: Alu, from: [Wides; 3]) -> Result<Wides, Meaningless> {
    let [a, b, c] = &from;
    let two = |f: fn(f64, f64) -> f64| pairs(a, b, |x, y| f(f64::from_bits(x), f64::from_bits(y)).to_bits());
    Ok(match op {
        Alu::Move => *a,
        Alu::Add => two(|x, y| x + y),
        Alu::Sub => two(|x, y| x - y),
        Alu::Multiply => two(|x, y| x * y),
        Alu::Divide => two(|x, y| x / y),
        Alu::MultiplyAdd => std::array::from_fn(|lane| {
            f64::from_bits(a[lane]).mul_add(f64::from_bits(b[lane]), f64::from_bits(c[lane])).to_bits()
        }),
        Alu::Negate => each(a, |x| (-f64::from_bits(x)).to_bits()),
        Alu::Absolute => each(a, |x| f64::from_bits(x).abs().to_bits()),
        Alu::Float(Float::Root) => each(a, |x| f64::from_bits(x).sqrt().to_bits()),
        _ => return Err(Meaningless),
    })
}

/// The lanes for which a comparison holds.
pub fn compare(registers: &Registers, comparison: Comparison, kind: Type, from: [Operand; 2]) -> u32 {
    let mut holds = 0;
    let mut set = |lane: usize, truth: bool| holds |= u32::from(truth) << lane;
    let float = |x: f64, y: f64| holds_for(comparison, x.partial_cmp(&y));
    if kind.bytes() == 8 {
        let (a, b) = (registers.wides(from[0]), registers.wides(from[1]));
        for lane in 0..LANES {
            let truth = match kind {
                Type::F64 => float(f64::from_bits(a[lane]), f64::from_bits(b[lane])),
                Type::S64 => holds_for(comparison, Some((a[lane] as i64).cmp(&(b[lane] as i64)))),
                _ => holds_for(comparison, Some(a[lane].cmp(&b[lane]))),
            };
            set(lane, truth);
        }
    } else {
        let (a, b) = (registers.words(from[0]), registers.words(from[1]));
        for lane in 0..LANES {
            let (x, y) = (a[lane], b[lane]);
            let truth = match kind {
                Type::F32 => float(f64::from(f32::from_bits(x)), f64::from(f32::from_bits(y))),
                Type::S32 => holds_for(comparison, Some((x as i32).cmp(&(y as i32)))),
                Type::S16 => holds_for(comparison, Some((x as u16 as i16).cmp(&(y as u16 as i16)))),
                Type::U16 => holds_for(comparison, Some((x as u16).cmp(&(y as u16)))),
                _ => holds_for(comparison, Some(x.cmp(&y))),
            };
            set(lane, truth);
        }
    }
    holds
}

/// `order` is `None` where one of the two is a NaN.
fn holds_for(comparison: Comparison, order: Option<std::cmp::Ordering>) -> bool {
    let when = |unordered: bool, f: fn(std::cmp::Ordering) -> bool| order.map_or(unordered, f);
    match comparison {
        Comparison::Equal { unordered } => when(unordered, std::cmp::Ordering::is_eq),
        Comparison::NotEqual { unordered } => when(unordered, std::cmp::Ordering::is_ne),
        Comparison::Less { unordered } => when(unordered, std::cmp::Ordering::is_lt),
        Comparison::LessOrEqual { unordered } => when(unordered, std::cmp::Ordering::is_le),
        Comparison::Greater { unordered } => when(unordered, std::cmp::Ordering::is_gt),
        Comparison::GreaterOrEqual { unordered } => when(unordered, std::cmp::Ordering::is_ge),
        Comparison::Ordered(ordered) => order.is_some() == ordered,
    }
}

/// Two floats to a word of two halves.
pub fn convert_pair(registers: &mut Registers, mask: u32, half: Type, to: Operand, from: [Operand; 2]) {
    let (upper, lower) = (registers.words(from[0]), registers.words(from[1]));
    let round = |x: u32| u32::from(half_bits(half, f32::from_bits(x)));
    registers.set_words(to, mask, &pairs(&upper, &lower, |u, l| round(u) << 16 | round(l)));
}

fn half_bits(half: Type, x: f32) -> u16 {
    if half == Type::Bf16 { bf16::from_f32(x).to_bits() } else { f16::from_f32(x).to_bits() }
}

/// `cvt`: between any two types of numbers.
pub fn convert(
    registers: &mut Registers,
    mask: u32,
    (to_kind, from_kind, rounding): (Type, Type, Rounding),
    (to, from): (Operand, Operand),
) {
    let bits = registers.wides(from);
    for lane in lanes(mask) {
        let value = convert_one(bits[lane], from_kind, to_kind, rounding);
        registers.set_lane(to, lane, value);
    }
}

fn convert_one(bits: u64, from: Type, to: Type, rounding: Rounding) -> u64 {
    let float = match from {
        Type::F64 => f64::from_bits(bits),
        Type::F32 => f64::from(f32::from_bits(bits as u32)),
        Type::F16 => f64::from(f16::from_bits(bits as u16)),
        Type::Bf16 => f64::from(bf16::from_bits(bits as u16)),
        Type::U8 => return integer(i128::from(bits as u8), to),
        Type::S8 => return integer(i128::from(bits as u8 as i8), to),
        Type::U16 => return integer(i128::from(bits as u16), to),
        Type::S16 => return integer(i128::from(bits as u16 as i16), to),
        Type::U32 => return integer(i128::from(bits as u32), to),
        Type::S32 => return integer(i128::from(bits as u32 as i32), to),
        Type::U64 => return integer(i128::from(bits), to),
        Type::S64 => return integer(i128::from(bits as i64), to),
    };
    let float = match rounding {
        Rounding::None => float,
        Rounding::Nearest => float.round_ties_even(),
        Rounding::Zero => float.trunc(),
        Rounding::Down => float.floor(),
        Rounding::Up => float.ceil(),
    };
    match to {
        Type::F64 => float.to_bits(),
        Type::F32 => u64::from((float as f32).to_bits()),
        Type::F16 | Type::Bf16 => u64::from(half_bits(to, float as f32)),
        Type::S8 => u64::from(float as i8 as u8),
        Type::U8 => u64::from(float as u8),
        Type::S16 => u64::from(float as i16 as u16),
        Type::U16 => u64::from(float as u16),
        Type::S32 => u64::from(float as i32 as u32),
        Type::U32 => u64::from(float as u32),
        Type::S64 => float as i64 as u64,
        Type::U64 => float as u64,
    }
}

/// An integer in another type; integers too large keep their lowest bits.
fn integer(value: i128, to: Type) -> u64 {
    match to {
        Type::F64 => (value as f64).to_bits(),
        Type::F32 => u64::from((value as f32).to_bits()),
        Type::F16 | Type::Bf16 => u64::from(half_bits(to, value as f32)),
        Type::S8 => value as i8 as i64 as u64,
        Type::S16 => value as i16 as i64 as u64,
        Type::U8 => value as u8 as u64,
        Type::U16 => value as u16 as u64,
        Type::U32 | Type::S32 => value as u32 as u64,
        Type::U64 | Type::S64 => value as u64,
    }
}
