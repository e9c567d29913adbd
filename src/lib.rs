//! LongGen.
