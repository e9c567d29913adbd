//! Reads the mask language out of a predicate: `q - k < 300 || k % 7 == 0` is a window and a stride, and gets their closed
//! forms. One pass over the predicate's program gives every number as a linear form and every condition as two unions
//! of terms, where it holds and where it does not. A predicate with any part beyond that stays a predicate.

use super::linear::{Atom, Linear, only};
use super::lower::{product, sum};
use super::simplify::simplify_term;
use super::{Bound, Residue, Term};
use crate::pattern::{MAX_TOKENS, Predicate};
use crate::scalar::{Op, Value};

/// Terms of one condition beyond which the predicate stays as it is.
const MAX_RECOGNISED: usize = 16;

/// Where a condition holds and where it does not, each as a union of terms under causality.
#[derive(Clone, Debug)]
pub struct Truth {
    /// The pairs that satisfy it.
    pub yes: Vec<Term>,
    /// All others.
    pub no: Vec<Term>,
}

#[derive(Clone, Debug)]
enum Known {
    Number(Linear),
    Condition(Truth),
    Nothing,
}

/// The predicate in terms of bounds and residues, if it is made of those.
pub fn recognise(predicate: &Predicate) -> Option<Truth> {
    let program = predicate.program();
    let mut known: Vec<Known> = Vec::with_capacity(program.ops().len());
    for op in program.ops() {
        let this = Reader { known: &known }.read(*op).unwrap_or(Known::Nothing);
        known.push(this);
    }
    let [result] = program.results() else { return None };
    match known.swap_remove(result.index()) {
        Known::Condition(truth) => Some(truth),
        _ => None,
    }
}

struct Reader<'a> {
    known: &'a [Known],
}

impl Reader<'_> {
    fn number(&self, value: Value) -> Option<&Linear> {
        match &self.known[value.index()] {
            Known::Number(form) => Some(form),
            _ => None,
        }
    }

    fn condition(&self, value: Value) -> Option<&Truth> {
        match &self.known[value.index()] {
            Known::Condition(truth) => Some(truth),
            _ => None,
        }
    }

    fn read(&self, op: Op) -> Option<Known> {
        let number = |form: Option<Linear>| form.map(Known::Number);
        let condition = |truth: Option<Truth>| truth.map(Known::Condition);
        match op {
            Op::Param(n) => {
                number([Atom::Query, Atom::Key, Atom::Head].into_iter().nth(n as usize).map(Linear::atom))
            }
            Op::Int(value) => number(Linear::default().plus(1, &Linear::constant(value))),
            Op::Add(a, b) => number(self.number(a)?.plus(1, self.number(b)?)),
            Op::Sub(a, b) => number(self.number(a)?.plus(-1, self.number(b)?)),
            Op::Mul(a, b) => number(times(self.number(a)?, self.number(b)?)),
            Op::Max(a, b) => number(larger(self.number(a)?, self.number(b)?).map(|(larger, _)| larger)),
            Op::Min(a, b) => number(larger(self.number(a)?, self.number(b)?).map(|(_, smaller)| smaller)),
            Op::Div(a, divisor) | Op::FloorDiv(a, divisor) => number(self.number(a)?.quotient(divisor)),
            Op::Rem(a, divisor) | Op::FloorMod(a, divisor) => number(self.number(a)?.remainder(divisor)),
            Op::Bool(holds) => condition(Some(Truth::of(holds))),
            Op::Lt(a, b) => condition(at_most(&self.number(a)?.plus(-1, self.number(b)?)?, -1)),
            Op::Le(a, b) => condition(at_most(&self.number(a)?.plus(-1, self.number(b)?)?, 0)),
            Op::Eq(a, b) => condition(zero(&self.number(a)?.plus(-1, self.number(b)?)?)),
            Op::And(a, b) => condition(self.condition(a)?.and(self.condition(b)?)),
            Op::Or(a, b) => condition(self.condition(a)?.or(self.condition(b)?)),
            Op::Not(a) => condition(Some(self.condition(a)?.clone().negated())),
            Op::Select(c, a, b) => {
                let (choice, yes, no) = (self.condition(c)?, self.condition(a)?, self.condition(b)?);
                condition(choice.and(yes)?.or(&choice.clone().negated().and(no)?))
            }
        }
    }
}

/// A product with a constant.
fn times(a: &Linear, b: &Linear) -> Option<Linear> {
    match (a.factors.is_empty(), b.factors.is_empty()) {
        (true, _) => b.times(a.constant),
        (_, true) => a.times(b.constant),
        _ => None,
    }
}

/// The larger and the smaller of two forms, where that is the same for all pairs.
fn larger(a: &Linear, b: &Linear) -> Option<(Linear, Linear)> {
    if a.plus(-1, b)?.is_never_negative() {
        Some((a.clone(), b.clone()))
    } else if b.plus(-1, a)?.is_never_negative() {
        Some((b.clone(), a.clone()))
    } else {
        None
    }
}

impl Truth {
    fn of(holds: bool) -> Truth {
        let (all, none) = (vec![Term::causal()], Vec::new());
        if holds { Truth { yes: all, no: none } } else { Truth { yes: none, no: all } }
    }

    fn negated(self) -> Truth {
        Truth { yes: self.no, no: self.yes }
    }

    fn and(&self, other: &Truth) -> Option<Truth> {
        let yes = product(self.yes.clone(), other.yes.clone()).ok()?;
        let no = sum(vec![self.no.clone(), other.no.clone()]).ok()?;
        (yes.len().max(no.len()) <= MAX_RECOGNISED).then_some(Truth { yes, no })
    }

    fn or(&self, other: &Truth) -> Option<Truth> {
        Some(self.clone().negated().and(&other.clone().negated())?.negated())
    }

    fn below(bound: Bound) -> Truth {
        let with = |upper: Vec<Bound>, lower: Vec<Bound>| {
            let mut term = Term::causal();
            term.upper.extend(upper);
            term.lower.extend(lower);
            simplify_term(term).into_iter().collect()
        };
        Truth { yes: with(vec![bound], vec![]), no: with(vec![], vec![bound]) }
    }

    fn residue(residue: Residue) -> Truth {
        let with = |residue| {
            let mut term = Term::causal();
            term.residues.push(residue);
            simplify_term(term).into_iter().collect()
        };
        Truth { yes: with(residue), no: with(residue.negate()) }
    }
}

/// `form <= limit`
fn at_most(form: &Linear, limit: i64) -> Option<Truth> {
    if form.factors.is_empty() {
        return Some(Truth::of(form.constant <= limit));
    }
    let (form, limit) = reduced(form, limit)?;
    if let Some(phase) = Phase::of(&form) {
        return phase.at_most(limit);
    }
    let (key, sign) =
        form.factors.iter().find(|(atom, _)| mentions_key(atom)).map(|(a, f)| (a.clone(), *f))?;
    // `key <= limit - rest`, or `key >= rest - limit`.
    let mut rest = form;
    rest.factors.remove(&key);
    match sign {
        1 => bounded(&key, &rest.times(-1)?.plus(1, &Linear::constant(limit + 1))?),
        -1 => Some(bounded(&key, &rest.plus(-1, &Linear::constant(limit))?)?.negated()),
        _ => None,
    }
}

/// `form == 0`
fn zero(form: &Linear) -> Option<Truth> {
    if form.constant % common_factor(form) != 0 {
        return Some(Truth::of(false));
    }
    let (whole, value) = reduced(form, 0)?;
    match Phase::of(&whole) {
        Some(phase) => phase.equals(value),
        None => at_most(form, 0)?.and(&at_most(&form.times(-1)?, 0)?),
    }
}

/// The form without its constant and without a factor common to all atoms, and the limit that means the same.
fn reduced(form: &Linear, limit: i64) -> Option<(Linear, i64)> {
    let common = common_factor(form);
    let mut reduced = Linear { constant: 0, ..form.clone() };
    reduced.factors.values_mut().for_each(|factor| *factor /= common);
    Some((reduced, limit.checked_sub(form.constant)?.div_euclid(common)))
}

/// The greatest common divisor of the factors; 1 when there are none.
fn common_factor(form: &Linear) -> i64 {
    let common = form.factors.values().fold(0, |so_far, factor| gcd(so_far, factor.unsigned_abs()));
    common.max(1) as i64
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn mentions_key(atom: &Atom) -> bool {
    match atom {
        Atom::Key => true,
        Atom::Quotient(form, _) => form.factors.keys().any(mentions_key),
        Atom::Query | Atom::Head => false,
    }
}

/// `key < row`, for a key or a quotient of it and a form of the query alone.
fn bounded(key: &Atom, row: &Linear) -> Option<Truth> {
    if let Atom::Quotient(form, block) = key {
        // `floor((k + shift) / block) < row` is `k < row * block - shift`.
        let (key, 1) = only(form)? else { return None };
        return bounded(key, &row.times(*block)?.plus(-1, &Linear::constant(form.constant))?);
    }
    if row.factors.is_empty() {
        return Some(constant(row.constant));
    }
    match only(row)? {
        (Atom::Query, 1) => step(0, 1, row.constant),
        (Atom::Quotient(form, size), factor) if factor == *size && only(form) == Some((&Atom::Query, 1)) => {
            step(form.constant, *size, row.constant)
        }
        _ => None,
    }
}

/// `k < bound`, for every query the same.
fn constant(bound: i64) -> Truth {
    match bound {
        ..=0 => Truth::of(false),
        bound if bound >= i64::from(MAX_TOKENS) => Truth::of(true),
        bound => Truth::below(Bound::Const(bound)),
    }
}

/// `k < floor((q + shift) / size) * size + offset`; a bound that only some queries reach has no place in the IR.
fn step(shift: i64, size: i64, offset: i64) -> Option<Truth> {
    let limit = i64::from(MAX_TOKENS);
    let bound = Bound::Step { shift, step: size, offset };
    let (least, most) = bound.drift()?;
    if least >= 1 {
        Some(Truth::of(true))
    } else if most < -limit {
        Some(Truth::of(false))
    } else {
        let in_range = shift <= limit && size <= limit && offset >= -limit;
        (most <= 0 && in_range).then(|| Truth::below(bound))
    }
}

/// `form mod every`, of blocks of keys that move from head to head.
struct Phase {
    class: Residue,
    /// The remainder itself, or its negative.
    sign: i64,
    /// What the form adds to the signed remainder.
    constant: i64,
}

impl Phase {
    /// Finds `sign * (form - every * floor(form / every)) + constant`.
    fn of(form: &Linear) -> Option<Phase> {
        let quotient = |(atom, factor): (&Atom, &i64)| match atom {
            Atom::Quotient(inner, every) if factor.abs() == *every => {
                let sign = -factor.signum();
                let mut rest = form.clone();
                rest.factors.remove(atom);
                let difference = rest.plus(-sign, inner)?;
                let class = class(inner, *every)?;
                difference.factors.is_empty().then_some(Phase { class, sign, constant: difference.constant })
            }
            _ => None,
        };
        form.factors.iter().find_map(quotient)
    }

    fn equals(&self, value: i64) -> Option<Truth> {
        let remainder = self.sign * value.checked_sub(self.constant)?;
        if !(0..self.class.every).contains(&remainder) {
            return Some(Truth::of(false));
        }
        let offset = (self.class.offset - remainder).rem_euclid(self.class.every);
        self.class_of(Residue { offset, ..self.class })
    }

    /// `remainder < width`, for a width that cuts the period into equal parts: a class of wider blocks.
    fn at_most(&self, limit: i64) -> Option<Truth> {
        let limit = limit.checked_sub(self.constant)?;
        let (width, wanted) = if self.sign > 0 { (limit + 1, true) } else { (-limit, false) };
        let truth = match width {
            ..=0 => Truth::of(false),
            width if width >= self.class.every => Truth::of(true),
            width => self.narrow(width)?,
        };
        Some(if wanted { truth } else { truth.negated() })
    }

    fn narrow(&self, width: i64) -> Option<Truth> {
        let Residue { block, every, step, offset, .. } = self.class;
        let fits = [every, step, offset].iter().all(|number| number % width == 0);
        let class = Residue {
            block: block.checked_mul(width)?,
            every: every / width,
            step: step / width,
            offset: offset / width,
            negated: false,
        };
        if fits { self.class_of(class) } else { None }
    }

    fn class_of(&self, class: Residue) -> Option<Truth> {
        let period = class.block.checked_mul(class.every)?;
        (period <= i64::from(MAX_TOKENS)).then(|| Truth::residue(class))
    }
}

/// The residue class `form mod every == 0`: blocks of keys, a multiple of the head, a constant.
fn class(form: &Linear, every: i64) -> Option<Residue> {
    let mut factors = form.factors.clone();
    let step = factors.remove(&Atom::Head).unwrap_or(0);
    let (atom, factor) = factors.pop_first()?;
    let block = block_of_keys(&atom)?;
    let (step, offset) = (step.rem_euclid(every), form.constant.rem_euclid(every));
    (factor == 1 && factors.is_empty()).then_some(Residue { block, every, step, offset, negated: false })
}

/// The block size, for a key (blocks of one) or its quotient.
fn block_of_keys(atom: &Atom) -> Option<i64> {
    match atom {
        Atom::Key => Some(1),
        Atom::Quotient(form, block) if form.constant == 0 => match only(form)? {
            (inner, 1) => block_of_keys(inner)?.checked_mul(*block),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::ir::MaskIr;
    use crate::pattern::Pattern;

    fn lowered(text: &str) -> MaskIr {
        let pattern: Pattern = text.parse().unwrap();
        MaskIr::lower(&pattern, None).unwrap()
    }

    #[test]
    fn predicates_become_the_clauses_they_spell() {
        for (predicate, clauses) in [
            ("q - k < 300 || k % 7 == 0", "window=300, stride=7, block=1, step=0"),
            ("(q - k).abs() <= 299 && true", "window=300"),
            ("k < 64 || q / 64 - k / 64 < 4", "sink_blocks=1, window_blocks=4"),
            ("q / 100 == k / 100", "group=100"),
            ("(q + 50) / 100 == (k + 50) / 100", "group=100, shifted"),
            ("!(k >= 4) || (k / 64 + head) % 8 == 0", "sink=4 | stride=8, block=64"),
            ("k % 512 < 64", "stride=8, block=64, step=0"),
            ("let near = q - k < 9; if near { k > 3 } else { false }", "(window=9) - (sink=4)"),
            ("max(q, k) - min(q, k) < 8", "window=8"),
            ("k <= q", "full"),
        ] {
            assert_eq!(lowered(&format!("where({{ {predicate} }})")), lowered(clauses), "{predicate}");
        }
    }

    #[test]
    fn what_no_clause_can_say_stays_a_predicate() {
        for predicate in [
            "(q - k) % 4 == 0",
            "q * k < 90",
            "k % 7 == head",
            "head == 0",
            "q < 100",
            "(k - 5) / 64 == 0",
            "k < q / 2",
        ] {
            let ir = lowered(&format!("where({predicate})"));
            assert!(ir.has_predicates(), "{predicate} became\n{ir}");
        }
    }
}
