//! The `#[sparse_pattern]` attribute.
