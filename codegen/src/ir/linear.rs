//! Linear forms over query, key, head and rounded quotients of them: what the numbers of most predicates are.

use std::collections::BTreeMap;

/// A number that is not negative for any pair a causal mask may ask about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Atom {
    /// The query's index.
    Query,
    /// The key's index.
    Key,
    /// The KV head.
    Head,
    /// `floor(form / divisor)` of a form that is not negative.
    Quotient(Box<Linear>, i64),
}

/// `constant + sum of factor * atom`, factors not zero.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Linear {
    /// Factors by atom.
    pub factors: BTreeMap<Atom, i64>,
    /// The rest.
    pub constant: i64,
}

/// Atoms in a form, nested ones counted: shared subexpressions must not grow without end.
const MAX_ATOMS: usize = 16;
/// Factors and constants stay so small that no sum of products of them and of token indices leaves 64 bits, where the
/// predicate itself would wrap.
const MAX_FACTOR: i64 = 1 << 20;
const MAX_CONSTANT: i64 = 1 << 40;

impl Linear {
    /// A constant.
    pub fn constant(constant: i64) -> Linear {
        Linear { constant, ..Linear::default() }
    }

    /// An atom by itself.
    pub fn atom(atom: Atom) -> Linear {
        Linear { factors: BTreeMap::from([(atom, 1)]), constant: 0 }
    }

    /// `self + factor * other`; `None` when that is no small form.
    pub fn plus(&self, factor: i64, other: &Linear) -> Option<Linear> {
        let mut sum = self.clone();
        sum.constant = sum.constant.checked_add(factor.checked_mul(other.constant)?)?;
        for (atom, times) in &other.factors {
            let entry = sum.factors.entry(atom.clone()).or_default();
            *entry = entry.checked_add(factor.checked_mul(*times)?)?;
        }
        sum.factors.retain(|_, times| *times != 0);
        sum.small()
    }

    /// `factor * self`
    pub fn times(&self, factor: i64) -> Option<Linear> {
        Linear::default().plus(factor, self)
    }

    /// `self / divisor`, rounded; `None` when it may be negative, where rounding down and towards zero differ.
    pub fn quotient(&self, divisor: i64) -> Option<Linear> {
        if !self.is_never_negative() {
            return None;
        }
        // Multiples of the divisor leave the quotient whole.
        let mut outside = Linear::constant(self.constant.div_euclid(divisor));
        let mut inside = Linear::constant(self.constant.rem_euclid(divisor));
        for (atom, &factor) in &self.factors {
            let (form, factor) =
                if factor % divisor == 0 { (&mut outside, factor / divisor) } else { (&mut inside, factor) };
            form.factors.insert(atom.clone(), factor);
        }
        if inside.factors.is_empty() {
            return outside.small();
        }
        outside.plus(1, &Linear::atom(Atom::Quotient(Box::new(inside), divisor)))
    }

    /// `self mod divisor`, under the same condition as [`Linear::quotient`].
    pub fn remainder(&self, divisor: i64) -> Option<Linear> {
        self.plus(-divisor, &self.quotient(divisor)?)
    }

    /// Whether the form is proven to be 0 or more wherever `0 <= key <= query`.
    pub fn is_never_negative(&self) -> bool {
        let mut credit = self.factors.clone();
        for (atom, &factor) in self.factors.iter().filter(|(_, factor)| **factor < 0) {
            // What the key takes, the query gives back: it is at least as large.
            let Some(larger) = of_query(atom).and_then(|larger| credit.get_mut(&larger)) else {
                return false;
            };
            *larger += factor;
            credit.remove(atom);
        }
        self.constant >= 0 && credit.values().all(|factor| *factor >= 0)
    }

    fn small(self) -> Option<Linear> {
        let fits = self.atoms() <= MAX_ATOMS
            && self.constant.abs() <= MAX_CONSTANT
            && self.factors.values().all(|factor| factor.abs() <= MAX_FACTOR);
        fits.then_some(self)
    }

    fn atoms(&self) -> usize {
        let size = |atom: &Atom| match atom {
            Atom::Quotient(form, _) => 1 + form.atoms(),
            _ => 1,
        };
        self.factors.keys().map(size).sum()
    }
}

/// The only atom of a form, with its factor.
pub fn only(form: &Linear) -> Option<(&Atom, i64)> {
    let mut factors = form.factors.iter();
    match (factors.next(), factors.next()) {
        (Some((atom, factor)), None) => Some((atom, *factor)),
        _ => None,
    }
}

/// The atom with the query in the key's place.
fn of_query(atom: &Atom) -> Option<Atom> {
    match atom {
        Atom::Key => Some(Atom::Query),
        Atom::Quotient(form, divisor) => {
            let (inner, factor) = only(form)?;
            let factors = BTreeMap::from([(of_query(inner)?, factor)]);
            Some(Atom::Quotient(Box::new(Linear { factors, ..**form }), *divisor))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query() -> Linear {
        Linear::atom(Atom::Query)
    }

    fn key() -> Linear {
        Linear::atom(Atom::Key)
    }

    #[test]
    fn only_what_cannot_be_negative_is_divided() {
        let ahead = query().plus(-1, &key()).unwrap();
        assert!(ahead.quotient(3).is_some());
        assert!(ahead.times(-1).unwrap().quotient(3).is_none());
        assert!(key().plus(-1, &Linear::constant(5)).unwrap().quotient(3).is_none());
        assert!(query().plus(-2, &key()).unwrap().quotient(3).is_none());
    }

    #[test]
    fn whole_multiples_leave_the_quotient() {
        let form =
            key().plus(8, &Linear::atom(Atom::Head)).and_then(|form| form.plus(1, &Linear::constant(21)));
        let expected = key().plus(1, &Linear::constant(5)).unwrap().quotient(8).unwrap();
        let expected = expected.plus(1, &Linear::atom(Atom::Head)).unwrap().plus(1, &Linear::constant(2));
        assert_eq!(form.unwrap().quotient(8), expected);
    }

    #[test]
    fn forms_stay_small() {
        let grow = |form: &Linear| form.quotient(7)?.plus(1, &form.quotient(11)?);
        let mut form = query().plus(1, &key());
        for _ in 0..40 {
            form = form.and_then(|form| grow(&form));
        }
        assert!(form.is_none());
        assert!(query().times(1 << 21).is_none());
        assert!(Linear::constant(i64::MAX).plus(1, &Linear::constant(1)).is_none());
    }
}
