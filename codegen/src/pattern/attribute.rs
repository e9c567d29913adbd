//! What `#[sparse_pattern]` expands to: the trait it implements, and functions that only expanded code calls.

pub use super::rules;
use super::{Pattern, Predicate};

/// A type that stands for a pattern; `#[sparse_pattern]` implements it.
pub trait SparsePattern {
    /// The pattern.
    fn pattern() -> Pattern;
}

/// The pattern of an attribute's text.
///
/// # Panics
/// If the attribute let a text through that it must refuse: its checks are at fault, not the caller.
#[doc(hidden)]
pub fn from_text(text: &str) -> Pattern {
    text.parse().unwrap_or_else(|error| panic!("`#[sparse_pattern]` accepted what it must refuse: {error}"))
}

/// The pattern of a function's body, its parameters in order.
///
/// # Panics
/// As [`from_text`].
#[doc(hidden)]
pub fn from_function(params: [&str; 3], body: &str) -> Pattern {
    Predicate::of_function(params, body)
        .and_then(|predicate| Pattern::builder(predicate).build())
        .unwrap_or_else(|error| panic!("`#[sparse_pattern]` accepted what it must refuse: {error}"))
}
