//! `where` predicates: an expression over `q`, `k` and `head`.

use std::str::FromStr;

use crate::scalar::Program;

/// A condition on the query index, the key index and the KV head.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Predicate {
    source: String,
    never: std::convert::Infallible,
}

impl Predicate {
    /// The canonical text of the expression.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The predicate as a scalar program over `i`, `j`, `g`.
    pub fn program(&self) -> &Program {
        match self.never {}
    }

    /// Whether the condition holds for query `i`, key `j`, KV head `g`.
    pub fn holds(&self, _i: i64, _j: i64, _g: i64) -> bool {
        match self.never {}
    }
}

impl FromStr for Predicate {
    type Err = ();

    fn from_str(_: &str) -> Result<Self, ()> {
        Err(())
    }
}
