//! The compiler: pattern, mask IR, plan, schedule, CUDA and Cranelift.

pub mod analysis;
pub mod artifact;
pub mod build;
pub mod bundle;
pub mod cpu;
pub mod cuda;
pub mod ir;
pub mod model;
pub mod pattern;
pub mod plan;
pub mod scalar;
pub mod schedule;
pub mod spec;
pub mod target;
