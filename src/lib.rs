//! LongGen.

pub mod picture;
