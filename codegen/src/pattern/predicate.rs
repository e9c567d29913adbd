//! `where` predicates: an expression over `q`, `k` and `head`.

/// A condition on the query index, the key index and the KV head.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Predicate {
    source: String,
}

impl Predicate {
    /// The canonical text of the expression.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the condition holds for query `i`, key `j`, KV head `g`.
    pub fn holds(&self, i: i64, j: i64, g: i64) -> bool {
        let _ = (i, j, g);
        self.source.is_empty()
    }
}
