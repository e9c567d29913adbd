//! The model: from tokens to the last hidden state, to logits and losses, and back to gradients.

use std::sync::Arc;

use longgen_codegen::ir::MaskIr;
use longgen_codegen::pattern::Pattern;

use crate::ops::attention::Attention;
use crate::ops::cross_entropy::{self, cross_entropy_backward, cross_entropy_forward};
use crate::ops::embedding::{embedding_backward, embedding_forward};
use crate::ops::linear::{LinearShape, linear_forward};
use crate::ops::rmsnorm::{rmsnorm_backward, rmsnorm_forward};
use crate::ops::rope::RopeAngles;
use crate::problem::HeadShape;
use crate::store::Store;

use super::block::{Activations, Context, Sight};
use super::{Batch, LlamaConfig, ModelError, ParamTable, Params};

/// A Llama model whose layers attend under a compiled pattern. It holds no weights: the same model runs the weights of
/// a checkpoint, those in training, or an average of them.
#[derive(Clone, Debug)]
pub struct Llama {
    config: LlamaConfig,
    attention: Vec<Arc<Attention>>,
}

/// What the backward pass keeps of the forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recompute {
    /// The input of each layer; the rest is computed again (a third more work, memory of one layer).
    Layers,
    /// Everything.
    Nothing,
}

/// The state after the last layer.
struct Hidden {
    /// Input of the final norm, (T, C).
    x: Vec<f32>,
    /// Its output, (T, C).
    normed: Vec<f32>,
    /// (T)
    scales: Vec<f32>,
}

impl Llama {
    /// A model whose layer `l` attends under `pattern`'s mask for that layer.
    ///
    /// # Errors
    /// A pattern for another number of layers, with learned sink logits (which Llama weights do not have), or too
    /// complex to lower.
    pub fn new(config: LlamaConfig, pattern: &Pattern) -> Result<Llama, ModelError> {
        let layers = config.layers as u32;
        if let Some(count) = pattern.layers().count.filter(|&count| count != layers) {
            let problem = format!("its layer plan is for {count} layers, the model has {layers}");
            return Err(ModelError::Pattern { problem });
        }
        if pattern.softmax().sink_logit {
            let problem = "it asks for learned sink logits, which Llama weights do not have".into();
            return Err(ModelError::Pattern { problem });
        }
        let shape = HeadShape::new(config.heads, config.kv_heads, config.head_dim)?;
        let mut attention: Vec<Arc<Attention>> = Vec::with_capacity(config.layers);
        for layer in 0..layers {
            let ir = MaskIr::lower(pattern, Some(layer))?;
            let known = attention.iter().find(|known| *known.ir() == ir).cloned();
            attention.push(match known {
                Some(known) => known,
                None => Arc::new(Attention::new(ir, shape, pattern.softmax().softcap)?),
            });
        }
        Ok(Llama { config, attention })
    }

    /// Takes what was tuned for the masks of its layers on this CPU. Results change in their last bits, so a training that is to
    /// be resumed to the bit does not.
    pub fn use_tuned(&self, store: &Store) {
        self.attention.iter().for_each(|attention| attention.use_tuned(store));
    }

    /// The shape.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// The attention of a layer.
    pub fn attention(&self, layer: usize) -> &Attention {
        &self.attention[layer]
    }

    /// Weights in all.
    pub fn parameters(&self) -> usize {
        ParamTable::new(&self.config).len()
    }

    /// Weights that a token is multiplied by on its way through the model: those of all products, the head included.
    pub fn product_weights(&self) -> usize {
        let LlamaConfig { layers, width: c, hidden: f, heads, kv_heads, head_dim: d, vocabulary, .. } =
            self.config;
        layers * (2 * c * heads * d + 2 * c * kv_heads * d + 3 * c * f) + vocabulary * c
    }

    /// Bytes of gradients and activations in [`Llama::loss_and_gradients`] of so many tokens.
    pub fn gradient_bytes(&self, tokens: u128, recompute: Recompute) -> u128 {
        let LlamaConfig { layers, width, hidden, .. } = self.config;
        let kept = if recompute == Recompute::Nothing { layers } else { 1 };
        // The inputs of all layers, the last output, its norm, and the gradients of both.
        let stream = (layers + 4) * width;
        // The way back takes most in an MLP: the gradients of its product and of its norm's output.
        let of_token = stream + kept * Activations::numbers(&self.config) + hidden + width;
        4 * (self.parameters() as u128 + tokens * of_token as u128)
    }

    /// Logits (T, V) of a batch. Meant for short batches: training never builds them.
    ///
    /// # Errors
    /// Tokens outside the vocabulary.
    pub fn logits(&self, weights: &Params, batch: &Batch) -> Result<Vec<f32>, ModelError> {
        let hidden = self.forward(weights, batch, |_, _| ())?;
        Ok(self.head(weights, &hidden.normed))
    }

    /// The sum of the losses `-log p(target)` over all targets of the batch.
    ///
    /// # Errors
    /// Tokens outside the vocabulary.
    pub fn loss(&self, weights: &Params, batch: &Batch) -> Result<f64, ModelError> {
        let hidden = self.forward(weights, batch, |_, _| ())?;
        Ok(cross_entropy_forward(self.head_shape(), &hidden.normed, weights.head(), batch.targets()))
    }

    /// The same sum; the gradients of `scale` times it are added to `gradients`.
    ///
    /// # Errors
    /// Tokens outside the vocabulary.
    pub fn loss_and_gradients(
        &self,
        weights: &Params,
        batch: &Batch,
        scale: f32,
        recompute: Recompute,
        gradients: &mut Params,
    ) -> Result<f64, ModelError> {
        let mut inputs = Vec::with_capacity(self.config.layers);
        let mut kept: Vec<Option<Activations>> = Vec::with_capacity(self.config.layers);
        let Hidden { x, normed, scales } = self.forward(weights, batch, |input, activations| {
            inputs.push(input);
            kept.push((recompute == Recompute::Nothing).then_some(activations));
        })?;
        let mut d_normed = vec![0.0; normed.len()];
        let (w, targets) = (weights.head(), batch.targets());
        let d_head = gradients.head_mut();
        let loss =
            cross_entropy_backward(self.head_shape(), &normed, w, targets, scale, &mut d_normed, d_head);
        drop(normed);
        let mut d_x = vec![0.0; x.len()];
        rmsnorm_backward(&x, weights.norm(), &scales, &d_normed, &mut d_x, gradients.norm_mut());
        drop((x, d_normed));
        let angles = self.angles(batch.positions());
        let context = Context { config: &self.config, angles: &angles, tokens: batch.tokens().len() };
        while let (Some(input), Some(kept)) = (inputs.pop(), kept.pop()) {
            let layer = inputs.len();
            let w = weights.layer(layer);
            let sight = Sight { attention: &self.attention[layer], sequences: batch.sequences() };
            let activations = match kept {
                Some(activations) => activations,
                None => context.forward(&w, sight, &mut input.clone())?,
            };
            let d_w = &mut gradients.layer_mut(layer);
            context.backward(&w, sight, &input, activations, &mut d_x, d_w)?;
        }
        embedding_backward(&d_x, self.config.width, batch.tokens(), gradients.embedding_mut());
        Ok(loss)
    }

    /// Through all layers; `visit` gets each layer's input and activations.
    fn forward(
        &self,
        weights: &Params,
        batch: &Batch,
        mut visit: impl FnMut(Vec<f32>, Activations),
    ) -> Result<Hidden, ModelError> {
        batch.check(self.config.vocabulary)?;
        let angles = self.angles(batch.positions());
        let context = Context { config: &self.config, angles: &angles, tokens: batch.tokens().len() };
        let mut x = self.embed(weights, batch.tokens());
        for (layer, attention) in self.attention.iter().enumerate() {
            let input = x.clone();
            let sight = Sight { attention, sequences: batch.sequences() };
            let activations = context.forward(&weights.layer(layer), sight, &mut x)?;
            visit(input, activations);
        }
        let (normed, scales) = self.final_norm(weights, &x);
        Ok(Hidden { x, normed, scales })
    }

    pub(super) fn angles(&self, positions: &[f32]) -> RopeAngles {
        RopeAngles::new(&self.config.rope.frequencies, self.config.rope.attention_factor(), positions)
    }

    pub(super) fn embed(&self, weights: &Params, tokens: &[u32]) -> Vec<f32> {
        let mut x = vec![0.0; tokens.len() * self.config.width];
        embedding_forward(weights.embedding(), self.config.width, tokens, &mut x);
        x
    }

    /// The final norm of x (T, C), and its scales (T).
    pub(super) fn final_norm(&self, weights: &Params, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let (mut normed, mut scales) = (vec![0.0; x.len()], vec![0.0; x.len() / self.config.width]);
        rmsnorm_forward(x, weights.norm(), self.config.norm_eps, &mut normed, &mut scales);
        (normed, scales)
    }

    /// Logits (T, V) of normed hidden states (T, C).
    pub(super) fn head(&self, weights: &Params, normed: &[f32]) -> Vec<f32> {
        let (width, vocabulary) = (self.config.width, self.config.vocabulary);
        let tokens = normed.len() / width;
        let mut logits = vec![0.0; tokens * vocabulary];
        let shape = LinearShape { tokens, inputs: width, outputs: vocabulary };
        linear_forward(shape, normed, weights.head(), &mut logits);
        logits
    }

    fn head_shape(&self) -> cross_entropy::HeadShape {
        cross_entropy::HeadShape { width: self.config.width, vocabulary: self.config.vocabulary }
    }
}
