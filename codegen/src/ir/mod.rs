//! The mask IR: a pattern as set algebra over query `i`, key `j` and KV head `g`.
//!
//! A mask is a union of *terms* for each class of heads. Under causality every clause of the pattern language, and
//! the negation of every clause, is one constraint on `j`, so a term is just a conjunction:
//!
//! ```text
//! lower bounds(i) <= j < upper bounds(i)   and   block(j) in a residue class   and   predicates(i, j, g)
//! ```
//!
//! All bounds are non-decreasing step functions of `i`, which is why tiles, their transpose, liveness and cost have
//! closed forms ([`programs`]) that know no length. Terms with predicates, with several residues, or with a pair of
//! bounds that hides a column from every row have none and are *listed* instead ([`MaskIr::is_closed_form`]).

mod bound;
mod linear;
mod lower;
pub mod programs;
mod recognise;
mod residue;
mod simplify;
mod text;
mod verify;

pub use bound::Bound;
pub(crate) use bound::lcm;
pub use lower::{LowerError, MAX_TERMS};
pub use programs::Programs;
pub use residue::Residue;
pub use text::ParseIrError;
pub use verify::IrDefect;

use crate::pattern::{IndexSet, Predicate};

/// "No such token": the `begin` and `end` of an empty [`programs::ClosedForm::next_keys`] answer.
pub const NONE: i64 = i32::MAX as i64;

/// A predicate, or its negation.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// The expression over `i`, `j` and `g`.
    pub predicate: Predicate,
    /// Whether the predicate must be false.
    pub negated: bool,
}

/// A conjunction of constraints on key `j` for query `i`.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Term {
    /// `j >= bound(i)`, each.
    pub lower: Vec<Bound>,
    /// `j < bound(i)`, each; the causal bound `i + 1` is always among them.
    pub upper: Vec<Bound>,
    /// Which blocks of keys, each.
    pub residues: Vec<Residue>,
    /// User predicates, each.
    pub conditions: Vec<Condition>,
}

impl Term {
    /// Keys up to and including the query itself: the term of `full`.
    pub fn causal() -> Term {
        Term { upper: vec![Bound::CAUSAL], ..Term::default() }
    }

    /// Whether the query at `i` sees the key at `j` under KV head `g` by this term.
    pub fn sees(&self, g: i64, i: i64, j: i64) -> bool {
        self.lower.iter().all(|b| b.at(i) <= j)
            && self.upper.iter().all(|b| j < b.at(i))
            && self.residues.iter().all(|r| r.holds(g, j))
            && self.conditions.iter().all(|c| c.predicate.holds(i, j, g) != c.negated)
    }

    /// Whether every question about tiles of this term has a closed form.
    pub fn is_closed_form(&self) -> bool {
        self.conditions.is_empty()
            && self.residues.len() <= 1
            && self.lower.iter().all(|l| self.upper.iter().all(|u| bound::every_column_is_seen(*l, *u)))
    }
}

/// The mask of a set of KV heads.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadClass {
    /// The heads it applies to.
    pub heads: IndexSet,
    /// A key is seen when any of these terms admits it.
    pub terms: Vec<Term>,
}

/// The mask of one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct MaskIr {
    /// For a KV head the *last* class that holds it counts; the first class holds every head.
    pub classes: Vec<HeadClass>,
}

impl MaskIr {
    /// The terms that apply to KV head `g`.
    pub fn terms(&self, g: u32) -> &[Term] {
        let class = self.classes.iter().rev().find(|class| class.heads.contains(g));
        class.map_or(&[], |class| &class.terms)
    }

    /// Whether the query at `i` sees the key at `j` under KV head `g`.
    pub fn sees(&self, g: u32, i: u32, j: u32) -> bool {
        self.terms(g).iter().any(|term| term.sees(g.into(), i.into(), j.into()))
    }

    /// Whether kernels can compute their tiles; else the host lists them.
    pub fn is_closed_form(&self) -> bool {
        self.classes.iter().all(|class| class.terms.iter().all(Term::is_closed_form))
    }

    /// Whether any term holds a user predicate (whose arithmetic is 64-bit).
    pub fn has_predicates(&self) -> bool {
        self.classes.iter().flat_map(|class| &class.terms).any(|term| !term.conditions.is_empty())
    }
}
