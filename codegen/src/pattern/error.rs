//! What can be wrong with a pattern.

/// Why a pattern was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// A value breaks a rule of the pattern language.
    #[error("`{key} = {value}`: {allowed}")]
    Value {
        /// The key, as every text form spells it.
        key: &'static str,
        /// The value given.
        value: String,
        /// What the rule allows.
        allowed: &'static str,
    },
}
