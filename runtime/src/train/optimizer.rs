//! AdamW over all parameters: fp32 masters, clipping by the global norm, and the refusal of numbers that are not finite.

use std::sync::Arc;

use half::{bf16, f16};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::model::{ParamEntry, ParamTable, Params};
use crate::ops::adamw::{AdamW, adamw_update, squared_norm};
use crate::problem::DType;

/// The constants of the optimiser.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Decay of the mean of the gradients.
    pub beta1: f32,
    /// Decay of the mean of their squares.
    pub beta2: f32,
    /// Added to the root of the mean of the squares.
    pub eps: f32,
    /// Decoupled decay of matrices; norms do not decay.
    pub weight_decay: f32,
    /// Gradients are scaled down to this global L2 norm.
    pub clip_norm: Option<f32>,
    /// What the weights of the forward pass are rounded to; the masters stay fp32.
    pub weights: DType,
}

impl Default for OptimizerConfig {
    fn default() -> OptimizerConfig {
        OptimizerConfig {
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            clip_norm: Some(1.0),
            weights: DType::F32,
        }
    }
}

/// Masters, moments and the number of updates made.
#[derive(Clone, Debug, PartialEq)]
pub struct Optimizer {
    config: OptimizerConfig,
    pub(super) masters: Params,
    pub(super) mean: Params,
    pub(super) square: Params,
    pub(super) updates: u64,
}

/// A tensor with a gradient that is not finite: nothing was updated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the gradient of `{tensor}` is not finite")]
pub struct NotFinite {
    /// The tensor's name.
    pub tensor: String,
}

impl Optimizer {
    /// Starts from `weights`.
    pub fn new(config: OptimizerConfig, weights: &Params) -> Optimizer {
        let zeros = || Params::zeros(weights.table().clone());
        Optimizer { config, masters: weights.clone(), mean: zeros(), square: zeros(), updates: 0 }
    }

    /// The table of the parameters.
    pub fn table(&self) -> &Arc<ParamTable> {
        self.masters.table()
    }

    /// Updates made so far.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// One update: masters move, `weights` become their rounded form. Returns the global norm before clipping.
    ///
    /// # Errors
    /// A gradient that is not finite.
    pub fn update(
        &mut self,
        weights: &mut Params,
        gradients: &Params,
        learning_rate: f32,
    ) -> Result<f64, NotFinite> {
        let norm = squared_norm(gradients.data()).sqrt();
        if !norm.is_finite() {
            // The norm may also overflow without any such tensor.
            let tensor = gradients.first_not_finite().unwrap_or("all tensors together").to_owned();
            return Err(NotFinite { tensor });
        }
        let adam = self.next_update(norm, learning_rate);
        let table = self.table().clone();
        for entry in table.entries() {
            let weight_decay = if Optimizer::decays(entry) { adam.weight_decay } else { 0.0 };
            let at = entry.range();
            adamw_update(
                &AdamW { weight_decay, ..adam },
                &mut self.masters.data_mut()[at.clone()],
                &gradients.data()[at.clone()],
                &mut self.mean.data_mut()[at.clone()],
                &mut self.square.data_mut()[at],
            );
        }
        self.round_into(weights);
        Ok(norm)
    }

    /// The constants of the next update, for gradients of this global norm; counts it.
    pub(super) fn next_update(&mut self, norm: f64, learning_rate: f32) -> AdamW {
        self.updates += 1;
        // The 1e-6 is PyTorch's, so that a step can be compared with it.
        let clip = self.config.clip_norm.map_or(1.0, |limit| (f64::from(limit) / (norm + 1e-6)).min(1.0));
        AdamW {
            learning_rate,
            beta1: self.config.beta1,
            beta2: self.config.beta2,
            eps: self.config.eps,
            weight_decay: self.config.weight_decay,
            step: self.updates,
            gradient_scale: clip as f32,
        }
    }

    /// Whether weight decay is for this tensor: matrices decay, norms do not.
    pub(super) fn decays(entry: &ParamEntry) -> bool {
        entry.shape.len() > 1
    }

    /// The constants.
    pub fn config(&self) -> &OptimizerConfig {
        &self.config
    }

    /// The same constants and count of updates, for masters and moments that are elsewhere.
    pub(super) fn without_state(&self) -> Optimizer {
        let none = || Params::none(self.table().clone());
        Optimizer {
            config: self.config,
            masters: none(),
            mean: none(),
            square: none(),
            updates: self.updates,
        }
    }

    /// The same constants and count of updates with these masters and moments.
    pub(super) fn with_state(&self, masters: Params, mean: Params, square: Params) -> Optimizer {
        Optimizer { config: self.config, masters, mean, square, updates: self.updates }
    }

    /// Sets `weights` to the masters, rounded.
    pub fn round_into(&self, weights: &mut Params) {
        let round = match self.config.weights {
            DType::F32 => |x: f32| x,
            DType::Bf16 => |x: f32| bf16::from_f32(x).to_f32(),
            DType::F16 => |x: f32| f16::from_f32(x).to_f32(),
        };
        let elements = weights.data_mut().par_iter_mut().zip(self.masters.data());
        elements.with_min_len(1 << 14).for_each(|(weight, master)| *weight = round(*master));
    }
}
