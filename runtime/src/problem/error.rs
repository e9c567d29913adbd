//! What can be wrong with a problem.

use thiserror::Error;

use super::DType;

/// What can be wrong with an attention problem. Every variant is the caller's to mend.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProblemError {
    /// A head count of zero.
    #[error("`{name}` must be at least 1")]
    Zero {
        /// Which count.
        name: &'static str,
    },
    /// Query heads that do not divide evenly over the KV heads.
    #[error("{heads} query heads cannot be shared among {kv_heads} KV heads: the first must be a multiple")]
    HeadsNotDivisible {
        /// Query heads.
        heads: usize,
        /// KV heads.
        kv_heads: usize,
    },
    /// A head dimension a backend has no kernel for.
    #[error("head dimension {head_dim} is not supported: {allowed}")]
    HeadDim {
        /// The dimension asked for.
        head_dim: usize,
        /// What is supported, in words.
        allowed: &'static str,
    },
    /// Cumulative lengths that do not start at 0.
    #[error("`{name}` must start with 0, found {first}")]
    CuStart {
        /// `cu_q` or `cu_k`.
        name: &'static str,
        /// The first entry found.
        first: usize,
    },
    /// Cumulative lengths without any entry.
    #[error("`{name}` is empty: it needs one entry more than there are sequences")]
    CuEmpty {
        /// `cu_q` or `cu_k`.
        name: &'static str,
    },
    /// Cumulative lengths that go down.
    #[error("`{name}` decreases from {before} to {after} at entry {index}")]
    CuDecreases {
        /// `cu_q` or `cu_k`.
        name: &'static str,
        /// The entry that is too small.
        index: usize,
        /// The entry before it.
        before: usize,
        /// Its value.
        after: usize,
    },
    /// Two lists that describe the same sequences differ in length.
    #[error("`{name}` describes {found} sequences where {expected} are expected")]
    SequenceCount {
        /// The list that differs.
        name: &'static str,
        /// Sequences it describes.
        found: usize,
        /// Sequences the other list describes.
        expected: usize,
    },
    /// More tokens, or a larger offset, than kernels can index.
    #[error("`{name}` is {value}: token indices must stay below 2^30")]
    TooLong {
        /// What is too large.
        name: &'static str,
        /// Its value.
        value: i64,
    },
    /// A softmax scale or softcap that is no usable number.
    #[error("`{name}` must be {allowed}, found {value}")]
    Number {
        /// `scale` or `softcap`.
        name: &'static str,
        /// What is allowed, in words.
        allowed: &'static str,
        /// The value, as text.
        value: String,
    },
    /// A tensor whose shape is not the problem's.
    #[error("`{name}` has shape {found}, expected {expected}")]
    Shape {
        /// The tensor.
        name: &'static str,
        /// Its shape.
        found: String,
        /// The problem's shape.
        expected: String,
    },
    /// A tensor whose element type is not that of its fellows.
    #[error("`{name}` holds {found}, expected {expected}")]
    DType {
        /// The tensor.
        name: &'static str,
        /// Its type.
        found: DType,
        /// The expected type.
        expected: DType,
    },
    /// Strides that leave the buffer or let rows overlap.
    #[error("`{name}`: {problem}")]
    Layout {
        /// The tensor.
        name: &'static str,
        /// What is wrong, in words.
        problem: String,
    },
}
