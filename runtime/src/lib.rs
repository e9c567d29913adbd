//! The runtime: kernels on the CPU and on the GPU.

pub mod cpu;
pub mod driver;
pub mod gpu;
pub mod oracle;
pub mod plain;
pub mod problem;
pub mod tensor;
