//! The invariants of the mask IR, checked after lowering and after parsing.

use thiserror::Error;

use super::{Bound, MaskIr, Residue, Term};
use crate::pattern::{IndexSet, MAX_TOKENS};

/// A broken invariant. From the lowering it is our bug; from a hand-written listing it is the author's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IrDefect {
    /// There is no class, or the first does not hold every head.
    #[error("the first class must hold every head")]
    NoBaseClass,
    /// A term without the causal bound.
    #[error("term `{0}` lacks the causal bound `j < i + 1`")]
    NotCausal(String),
    /// A bound whose step or offset is out of range.
    #[error("term `{0}` has a bound with a step or an offset out of range")]
    BoundOutOfRange(String),
    /// A lower bound that exceeds the query itself, or an upper bound that exceeds the causal one.
    #[error("term `{0}` has a bound past the query")]
    BoundPastQuery(String),
    /// A residue whose numbers are out of range.
    #[error("term `{0}` has a stride out of range")]
    ResidueOutOfRange(String),
}

impl MaskIr {
    /// Checks every invariant that the closed forms rely on.
    ///
    /// # Errors
    /// The first [`IrDefect`] found.
    pub fn verify(&self) -> Result<(), IrDefect> {
        if self.classes.first().is_none_or(|class| class.heads != IndexSet::All) {
            return Err(IrDefect::NoBaseClass);
        }
        self.classes.iter().flat_map(|class| &class.terms).try_for_each(verify_term)
    }
}

fn verify_term(term: &Term) -> Result<(), IrDefect> {
    let name = || term.to_string();
    let mut bounds = term.lower.iter().chain(&term.upper);
    if !bounds.all(|b| bound_in_range(*b)) {
        return Err(IrDefect::BoundOutOfRange(name()));
    }
    if !term.upper.iter().any(|u| u.never_exceeds(Bound::CAUSAL)) {
        return Err(IrDefect::NotCausal(name()));
    }
    let past_query = |b: &Bound| b.drift().is_some_and(|(_, most)| most > 1);
    let own_key_hidden = |b: &Bound| b.drift().is_some_and(|(_, most)| most > 0);
    if term.upper.iter().any(past_query) || term.lower.iter().any(own_key_hidden) {
        return Err(IrDefect::BoundPastQuery(name()));
    }
    if !term.residues.iter().all(residue_in_range) {
        return Err(IrDefect::ResidueOutOfRange(name()));
    }
    Ok(())
}

fn bound_in_range(bound: Bound) -> bool {
    let limit = i64::from(MAX_TOKENS);
    match bound {
        Bound::Const(value) => (0..=limit).contains(&value),
        Bound::Step { shift, step, offset } => {
            (1..=limit).contains(&step) && (0..=limit).contains(&shift) && (-limit..=limit).contains(&offset)
        }
    }
}

fn residue_in_range(r: &Residue) -> bool {
    let limit = i64::from(MAX_TOKENS);
    r.block >= 1
        && r.every >= 2
        && r.block.checked_mul(r.every).is_some_and(|period| period <= limit)
        && (0..r.every).contains(&r.step)
        && (0..r.every).contains(&r.offset)
}
