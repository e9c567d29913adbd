//! `Pattern` to `MaskIr`: set algebra to a union of conjunctions.

use thiserror::Error;

use super::recognise::recognise;
use super::simplify::{simplify_term, simplify_union};
use super::{Bound, Condition, HeadClass, MaskIr, Residue, Term};
use crate::pattern::{Clause, IndexSet, Mask, Pattern, Predicate};

/// More terms than this and a mask is refused: kernels would spend their time deciding what to compute.
pub const MAX_TERMS: usize = 64;

/// Why a pattern could not be lowered.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LowerError {
    /// The set algebra multiplies out to too many conjunctions.
    #[error(
        "the mask multiplies out to more than {MAX_TERMS} terms; intersections and differences of unions multiply: \
         write it with fewer of them"
    )]
    TooManyTerms,
}

impl MaskIr {
    /// The mask of one layer (`None`: of a layer that no rule and no layer plan names).
    ///
    /// # Errors
    /// [`LowerError::TooManyTerms`] when the set algebra multiplies out beyond [`MAX_TERMS`].
    pub fn lower(pattern: &Pattern, layer: Option<u32>) -> Result<MaskIr, LowerError> {
        if layer.is_some_and(|layer| pattern.layers().full.contains(layer)) {
            return Ok(MaskIr { classes: vec![class(IndexSet::All, &Mask::full())?] });
        }
        let mut classes = vec![class(IndexSet::All, pattern.mask())?];
        for rule in pattern.rules() {
            let applies = match layer {
                Some(layer) => rule.layers.contains(layer),
                None => rule.layers == IndexSet::All,
            };
            if applies && rule.heads == IndexSet::All {
                // A later rule wins over all before it.
                classes = vec![class(IndexSet::All, &rule.mask)?];
            } else if applies && !rule.heads.is_empty() {
                classes.push(class(rule.heads.clone(), &rule.mask)?);
            }
        }
        Ok(MaskIr { classes })
    }
}

fn class(heads: IndexSet, mask: &Mask) -> Result<HeadClass, LowerError> {
    Ok(HeadClass { heads, terms: terms_of(mask, true)? })
}

/// The terms of a mask (`wanted`) or of its complement, under causality.
fn terms_of(mask: &Mask, wanted: bool) -> Result<Vec<Term>, LowerError> {
    match (mask, wanted) {
        (Mask::Clause(Clause::Where(predicate)), _) => Ok(predicate_terms(predicate, wanted)),
        (Mask::Clause(clause), _) => Ok(simplify_union(clause_term(clause, wanted).into_iter().collect())),
        (Mask::Union(masks), true) | (Mask::Intersection(masks), false) => either(masks, wanted),
        (Mask::Union(masks), false) | (Mask::Intersection(masks), true) => both(masks, wanted),
        (Mask::Difference(kept, removed), true) => product(terms_of(kept, true)?, terms_of(removed, false)?),
        (Mask::Difference(kept, removed), false) => {
            sum(vec![terms_of(kept, false)?, terms_of(removed, true)?])
        }
    }
}

fn either(masks: &[Mask], wanted: bool) -> Result<Vec<Term>, LowerError> {
    sum(masks.iter().map(|mask| terms_of(mask, wanted)).collect::<Result<_, _>>()?)
}

fn both(masks: &[Mask], wanted: bool) -> Result<Vec<Term>, LowerError> {
    masks.iter().try_fold(vec![Term::causal()], |terms, mask| product(terms, terms_of(mask, wanted)?))
}

pub(super) fn sum(unions: Vec<Vec<Term>>) -> Result<Vec<Term>, LowerError> {
    limited(simplify_union(unions.into_iter().flatten().collect()))
}

pub(super) fn product(left: Vec<Term>, right: Vec<Term>) -> Result<Vec<Term>, LowerError> {
    if left.len() * right.len() > MAX_TERMS * MAX_TERMS {
        return Err(LowerError::TooManyTerms);
    }
    let pairs = left.iter().flat_map(|a| right.iter().map(move |b| a.and(b)));
    limited(simplify_union(pairs.filter_map(simplify_term).collect()))
}

fn limited(terms: Vec<Term>) -> Result<Vec<Term>, LowerError> {
    if terms.len() > MAX_TERMS { Err(LowerError::TooManyTerms) } else { Ok(terms) }
}

impl Term {
    fn and(&self, other: &Term) -> Term {
        let mut both = self.clone();
        both.lower.extend_from_slice(&other.lower);
        both.upper.extend_from_slice(&other.upper);
        both.residues.extend_from_slice(&other.residues);
        both.conditions.extend_from_slice(&other.conditions);
        both
    }
}

/// Bounds and residues where the predicate is made of those, else the predicate as it is.
fn predicate_terms(predicate: &Predicate, wanted: bool) -> Vec<Term> {
    if let Some(truth) = recognise(predicate) {
        return if wanted { truth.yes } else { truth.no };
    }
    let mut term = Term::causal();
    term.conditions.push(Condition { predicate: predicate.clone(), negated: !wanted });
    vec![term]
}

/// One clause is one constraint under causality, and so is its complement; `None` when nothing is left.
fn clause_term(clause: &Clause, wanted: bool) -> Option<Term> {
    let mut term = Term::causal();
    match *clause {
        Clause::Full if wanted => {}
        Clause::Full => return None,
        Clause::Sink { tokens } => term.bound_above(Bound::Const(tokens.into()), wanted),
        Clause::SinkBlocks { blocks, block } => {
            term.bound_above(Bound::Const(i64::from(blocks) * i64::from(block)), wanted)
        }
        Clause::Window { tokens } => term.bound_below(Bound::sliding(1 - i64::from(tokens)), wanted),
        Clause::WindowBlocks { blocks, block } => {
            let (blocks, block) = (i64::from(blocks), i64::from(block));
            term.bound_below(Bound::Step { shift: 0, step: block, offset: (1 - blocks) * block }, wanted)
        }
        Clause::Group { size, shifted } => {
            let size = i64::from(size);
            let shift = if shifted { size / 2 } else { 0 };
            term.bound_below(Bound::Step { shift, step: size, offset: -shift }, wanted)
        }
        Clause::Stride { every, block, step, offset } => term.residues.push(Residue {
            block: block.into(),
            every: every.into(),
            step: step.into(),
            offset: offset.into(),
            negated: !wanted,
        }),
        Clause::Where(_) => unreachable!("predicates go through `predicate_terms`"),
    }
    simplify_term(term)
}

impl Term {
    /// `j < bound`, or its complement `j >= bound`.
    fn bound_above(&mut self, bound: Bound, wanted: bool) {
        if wanted { self.upper.push(bound) } else { self.lower.push(bound) }
    }

    /// `j >= bound`, or its complement `j < bound`.
    fn bound_below(&mut self, bound: Bound, wanted: bool) {
        if wanted { self.lower.push(bound) } else { self.upper.push(bound) }
    }
}
