//! Sets of head or layer indices, as a pattern writes them: all, a list of ranges, or every n-th.

use std::fmt;
use std::ops::RangeInclusive;

/// A set of indices (KV heads or layers), counted from 0.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IndexSet {
    /// Every index.
    All,
    /// The union of these ranges, both ends included. An empty list is the empty set.
    /// In a built [`Pattern`](super::Pattern) the ranges are sorted, disjoint and not adjacent.
    List(Vec<Span>),
    /// `from`, `from + every`, `from + 2 * every`, and so on.
    Every {
        /// Distance between members; at least 1.
        every: u32,
        /// The first member.
        from: u32,
    },
}

/// Indices `first..=last`. A struct and not a [`RangeInclusive`], which has no order and hides a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// The first index of the range.
    pub first: u32,
    /// The last index of the range, included.
    pub last: u32,
}

impl IndexSet {
    /// The set without members.
    pub const fn none() -> Self {
        Self::List(Vec::new())
    }

    /// One range, both ends included.
    pub fn range(range: RangeInclusive<u32>) -> Self {
        Self::List(vec![Span { first: *range.start(), last: *range.end() }])
    }

    /// These indices, in any order.
    pub fn of(indices: impl IntoIterator<Item = u32>) -> Self {
        Self::List(indices.into_iter().map(|index| Span { first: index, last: index }).collect()).normalised()
    }

    /// Whether `index` is a member.
    pub fn contains(&self, index: u32) -> bool {
        match self {
            Self::All => true,
            Self::List(spans) => spans.iter().any(|span| (span.first..=span.last).contains(&index)),
            Self::Every { every, from } => index >= *from && (index - from).is_multiple_of(*every),
        }
    }

    /// Whether no index is a member.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::List(spans) if spans.iter().all(|span| span.first > span.last))
    }

    /// The largest index the set names, where it names one.
    pub fn largest_named(&self) -> Option<u32> {
        match self {
            Self::All => None,
            Self::List(spans) => spans.iter().map(|span| span.last).max(),
            Self::Every { from, .. } => Some(*from),
        }
    }

    /// The same set with its ranges sorted and merged; empty ranges are dropped.
    pub(crate) fn normalised(self) -> Self {
        let Self::List(mut spans) = self else { return self };
        spans.retain(|span| span.first <= span.last);
        spans.sort_unstable();
        let mut merged: Vec<Span> = Vec::with_capacity(spans.len());
        for span in spans {
            match merged.last_mut() {
                Some(last) if span.first <= last.last.saturating_add(1) => {
                    last.last = last.last.max(span.last)
                }
                _ => merged.push(span),
            }
        }
        Self::List(merged)
    }
}

/// `all`, `none`, `0, 3..=5` or `every 6 from 5`: the text form.
impl fmt::Display for IndexSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::List(spans) if spans.is_empty() => f.write_str("none"),
            Self::List(spans) => {
                for (n, span) in spans.iter().enumerate() {
                    f.write_str(if n == 0 { "" } else { ", " })?;
                    span.fmt(f)?;
                }
                Ok(())
            }
            Self::Every { every, from } => write!(f, "every {every} from {from}"),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}..={}", self.first, self.last)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn membership_and_merging() {
        let set = IndexSet::of([7, 3, 4, 5, 9]);
        assert_eq!(set.to_string(), "3..=5, 7, 9");
        assert!(set.contains(4) && !set.contains(6));
        let every = IndexSet::Every { every: 6, from: 5 };
        assert!(every.contains(5) && every.contains(11) && !every.contains(6) && !every.contains(0));
        assert!(IndexSet::none().is_empty() && !IndexSet::none().contains(0));
        assert_eq!(IndexSet::range(2..=4).largest_named(), Some(4));
    }
}
