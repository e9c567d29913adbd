//! The compiler: pattern, mask IR, plan, schedule, CUDA and Cranelift.

pub mod analysis;
pub mod ir;
pub mod pattern;
pub mod plan;
pub mod scalar;
