//! Llama models: configuration, weights, the forward and backward pass, the KV cache.
//!
//! Follow a token: [`Batch`] (tokens, positions, sequences) -> [`Llama::logits`] in `llama.rs` -> each layer in
//! `block.rs` -> the operations in [`crate::ops`]. Follow a gradient: [`Llama::loss_and_gradients`], and the same files
//! from below. Decoding takes [`Llama::extend`] in `cached.rs` instead, with a [`KvCache`] per sequence.

mod batch;
mod block;
mod cached;
mod config;
mod error;
mod kv_cache;
mod llama;
mod load;
mod mapped;
mod memory;
mod params;
mod rope_scaling;
mod save;
mod tokenizer;

pub use batch::Batch;
pub(crate) use batch::check_tokens;
pub use cached::Chunk;
pub use config::LlamaConfig;
pub use error::ModelError;
pub use kv_cache::KvCache;
pub use llama::{Llama, Recompute};
pub use load::{SINGLE_FILE, StoredValues, load_weights, read_weights};
pub(crate) use memory::{check_memory, gib};
pub use params::{Layer, ParamEntry, ParamTable, Params};
pub use rope_scaling::{Rope, RopeScaling};
pub(crate) use save::sync;
pub use save::{SHARD_BYTES, save_model, save_params};
pub use tokenizer::{BYTES_SEPARATOR, TOKENIZER_FILE, TextStream, Tokenizer};
