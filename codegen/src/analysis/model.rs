//! The cost of a whole model under a hybrid plan: FLOPs, bytes and the ideal speed-ups over full attention.

use thiserror::Error;

use super::{Cost, CostError, Liveness, sum_over_heads};
use crate::ir::MaskIr;

/// The shape of a Llama-like model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelShape {
    /// Name, for reports.
    pub name: String,
    /// Layers, L.
    pub layers: u32,
    /// Model width, C.
    pub width: u32,
    /// Hidden width of the MLP, F.
    pub hidden: u32,
    /// Query heads, H.
    pub heads: u32,
    /// KV heads, G.
    pub kv_heads: u32,
    /// Head dimension, D.
    pub head_dim: u32,
    /// Vocabulary, V.
    pub vocabulary: u32,
    /// Bytes of one weight and of one KV element.
    pub element_bytes: u32,
    /// Whether embedding and output head share their weights.
    pub tied: bool,
}

impl ModelShape {
    /// Llama-2-7B: 32 layers, 32 heads of 128, no GQA.
    pub fn llama_2_7b() -> ModelShape {
        ModelShape {
            name: "llama-2-7b".into(),
            layers: 32,
            width: 4096,
            hidden: 11008,
            heads: 32,
            kv_heads: 32,
            head_dim: 128,
            vocabulary: 32000,
            element_bytes: 2,
            tied: false,
        }
    }

    /// Llama-3-8B: 32 layers, 32 query heads and 8 KV heads of 128.
    pub fn llama_3_8b() -> ModelShape {
        ModelShape {
            name: "llama-3-8b".into(),
            hidden: 14336,
            kv_heads: 8,
            vocabulary: 128256,
            ..ModelShape::llama_2_7b()
        }
    }

    /// Weights of the dense products of one layer.
    fn layer_weights(&self) -> u128 {
        let (c, f) = (u128::from(self.width), u128::from(self.hidden));
        let (q, kv) = (
            u128::from(self.heads) * u128::from(self.head_dim),
            u128::from(self.kv_heads) * u128::from(self.head_dim),
        );
        c * q + 2 * c * kv + q * c + 3 * c * f
    }

    /// Weights that a forward pass multiplies by, the output head included.
    fn product_weights(&self) -> u128 {
        u128::from(self.layers) * self.layer_weights() + u128::from(self.vocabulary) * u128::from(self.width)
    }

    /// Bytes of all weights.
    pub fn weight_bytes(&self) -> u128 {
        let embedding = if self.tied { 0 } else { u128::from(self.vocabulary) * u128::from(self.width) };
        (self.product_weights() + embedding) * u128::from(self.element_bytes)
    }

    /// Bytes of K and V of one token of one KV head in one layer.
    fn kv_bytes_per_key(&self) -> u128 {
        2 * u128::from(self.head_dim) * u128::from(self.element_bytes)
    }
}

/// Ideal speed-ups over the same model with full attention: what arithmetic and bytes allow, nothing lost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct IdealSpeedup {
    /// Prefill, by FLOPs of products and attention.
    pub prefill: f64,
    /// Training with activation recompute, by FLOPs (forward twice, backward once).
    pub train: f64,
    /// Decoding the next token at batch 1, by bytes of weights and KV.
    pub decode: f64,
}

/// The cost of a model at a length.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelCost {
    /// Attention, all layers.
    pub attention: Cost,
    /// KV-cache bytes if every layer kept every key.
    pub kv_bytes_dense: u128,
    /// KV-cache bytes of the keys that may still be seen.
    pub kv_bytes_kept: u128,
    /// The same, layer by layer.
    pub kv_bytes_by_layer: Vec<u128>,
    /// Ideal speed-ups.
    pub ideal_speedup: IdealSpeedup,
}

/// Why a model's cost could not be told.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ModelCostError {
    /// The masks given are not one per layer.
    #[error("{given} layer masks for a model of {layers} layers")]
    LayerCount {
        /// Masks given.
        given: usize,
        /// Layers of the model.
        layers: u32,
    },
    /// A mask could not be counted.
    #[error(transparent)]
    Cost(#[from] CostError),
}

impl ModelCost {
    /// The cost of one sequence of `tokens` tokens; `masks[l]` is the mask of layer `l`.
    ///
    /// # Errors
    /// [`ModelCostError`] when the masks do not fit the model or cannot be counted.
    pub fn new(model: &ModelShape, masks: &[MaskIr], tokens: u32) -> Result<ModelCost, ModelCostError> {
        if masks.len() != model.layers as usize {
            return Err(ModelCostError::LayerCount { given: masks.len(), layers: model.layers });
        }
        let mut known: Vec<(&MaskIr, Cost, u128)> = Vec::new();
        let mut attention = Cost { visible_pairs: 0, dense_pairs: 0, flops_forward: 0, flops_backward: 0 };
        let mut kv_bytes_by_layer = Vec::with_capacity(masks.len());
        for mask in masks {
            let at = match known.iter().position(|(seen, ..)| *seen == mask) {
                Some(at) => at,
                None => {
                    let cost = Cost::new(mask, tokens, model.heads, model.kv_heads, model.head_dim)?;
                    let kept = |g| Ok::<_, CostError>(u128::from(Liveness::new(mask, g).kept_keys(tokens)));
                    let keys = sum_over_heads(mask, model.kv_heads, kept)?;
                    known.push((mask, cost, keys * model.kv_bytes_per_key()));
                    known.len() - 1
                }
            };
            let (_, cost, kv_bytes) = &known[at];
            attention.visible_pairs += cost.visible_pairs;
            attention.dense_pairs += cost.dense_pairs;
            attention.flops_forward += cost.flops_forward;
            attention.flops_backward += cost.flops_backward;
            kv_bytes_by_layer.push(*kv_bytes);
        }
        let kv_bytes_kept = kv_bytes_by_layer.iter().sum();
        let kv_bytes_dense = u128::from(model.layers)
            * u128::from(model.kv_heads)
            * u128::from(tokens)
            * model.kv_bytes_per_key();
        let ideal_speedup = ideal(model, &attention, kv_bytes_dense, kv_bytes_kept, tokens);
        Ok(ModelCost { attention, kv_bytes_dense, kv_bytes_kept, kv_bytes_by_layer, ideal_speedup })
    }
}

fn ideal(model: &ModelShape, attention: &Cost, kv_dense: u128, kv_kept: u128, tokens: u32) -> IdealSpeedup {
    let d = f64::from(model.head_dim);
    let products = 2.0 * model.product_weights() as f64 * f64::from(tokens);
    let (dense, sparse) = (attention.dense_pairs as f64 * d, attention.visible_pairs as f64 * d);
    // Forward 4, and in training forward twice (recompute) and backward 10; products 1, 1 and 2.
    let ratio = |product_passes: f64, per_pair: f64| {
        (product_passes * products + per_pair * dense) / (product_passes * products + per_pair * sparse)
    };
    // Decoding one token reads every product's weights, and of the embedding one row.
    let weights = model.product_weights() as f64 * f64::from(model.element_bytes);
    IdealSpeedup {
        prefill: ratio(1.0, 4.0),
        train: ratio(4.0, 18.0),
        decode: (weights + kv_dense as f64) / (weights + kv_kept as f64),
    }
}
