//! The compiler: pattern, mask IR, plan, schedule, CUDA and Cranelift.

pub mod pattern;
pub mod scalar;
