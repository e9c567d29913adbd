//! The runtime: kernels on the CPU and on the GPU, and the Llama engine that runs on them.
//!
//! In order, each using only what stands before it: [`store`] (what is kept between runs), [`problem`], [`tensor`],
//! [`oracle`] (attention and its meaning), [`ops`] (operations, forward and backward), [`model`] (Llama), [`train`].
//! On a GPU [`gpu_ops`] and [`blas`] stand beside the operations, and [`gpu_model`] beside the model.

pub mod blas;
pub mod cpu;
pub mod driver;
pub mod eval;
pub mod generate;
pub mod gpu;
pub mod gpu_model;
pub mod gpu_ops;
pub mod model;
pub mod ops;
pub mod oracle;
pub mod plain;
pub mod problem;
pub mod random;
pub mod read;
pub mod store;
pub mod tensor;
pub mod train;
pub mod tune;
