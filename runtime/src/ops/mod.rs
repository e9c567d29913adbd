//! The operations of the engine on host memory, each forward and backward side by side.
//!
//! Conventions. Tensors are packed row-major `f32` slices; their shapes stand in the docs with the letters T tokens, C
//! model width, F hidden width, H query heads, G KV heads, D head dimension, V vocabulary. `<op>_forward` overwrites its
//! outputs. `<op>_backward` overwrites gradients of activations and *adds* to gradients of parameters, which is what
//! accumulation over micro-batches and tied weights need. Every reduction has a fixed order, whatever the number of
//! threads, so that a run can be repeated to the bit.

pub mod adamw;
pub mod attention;
pub mod cross_entropy;
pub mod embedding;
mod gemm;
pub mod linear;
pub mod rmsnorm;
pub mod rope;
pub mod swiglu;
