//! The Llama engine on a GPU: the same configuration, parameter table, masks, caches' layouts, sampling, data, schedule and
//! checkpoints as on the CPU; the passes run on device memory, in bf16.
//!
//! Follow a token: [`GpuDecoder`] in `decoder.rs` (prefill in chunks, then one captured step per token) -> each layer in
//! `layer.rs` -> [`crate::gpu_ops`], [`crate::blas`] and [`crate::gpu`]. Follow a gradient: [`GpuTrainState`] in `state.rs`
//! -> `train.rs` -> `backward.rs` -> the same three.

mod backward;
mod cache;
mod decoder;
mod layer;
mod llama;
mod load;
mod memory;
mod params;
mod prefill;
mod single;
mod state;
mod step;
mod train;

pub use cache::GpuCache;
pub use decoder::GpuDecoder;
pub use llama::{GpuLlama, GpuUse, TimeSplit};
pub use load::{load_device_weights, random_device_weights};
pub use memory::DeviceMemory;
pub use params::{DeviceLayer, DeviceParams};
pub use state::GpuTrainState;
pub use train::GpuPass;
