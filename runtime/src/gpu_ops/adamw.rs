//! AdamW and the norm of the gradients: see [`crate::ops::adamw`] for the formulas.

use half::bf16;

use super::{Ops, long};
use crate::driver::{Argument, GpuError, Span};
use crate::ops::adamw::AdamW;

const THREADS: usize = 256;
/// Partial sums of a norm.
pub(crate) const NORM_PARTS: usize = 1024;

/// The state of the optimiser for a run of weights, all of one length.
#[derive(Clone, Copy, Debug)]
pub struct Moments<'a> {
    /// Masters.
    pub master: Span<'a, f32>,
    /// Mean of the gradients.
    pub mean: Span<'a, f32>,
    /// Mean of their squares.
    pub square: Span<'a, f32>,
}

impl Ops {
    /// Updates `state` from `gradient`; `weight` becomes the rounded masters.
    ///
    /// # Errors
    /// Spans that are too small.
    pub fn adamw(
        &self,
        adam: &AdamW,
        state: Moments<'_>,
        weight: Span<'_, bf16>,
        gradient: Span<'_, f32>,
    ) -> Result<(), GpuError> {
        let (n, stream) = (state.master.len(), &self.stream);
        let correction = |beta: f32| 1.0 - f64::from(beta).powf(adam.step as f64);
        let arguments = [
            Argument::Address(state.master.address("master", n, stream)?),
            Argument::Address(weight.address("weight", n, stream)?),
            Argument::Address(gradient.address("gradient", n, stream)?),
            Argument::Address(state.mean.address("mean", n, stream)?),
            Argument::Address(state.square.address("square", n, stream)?),
            long(n),
            Argument::Float((f64::from(adam.learning_rate) / correction(adam.beta1)) as f32),
            Argument::Float(correction(adam.beta2).sqrt() as f32),
            Argument::Float(1.0 - adam.learning_rate * adam.weight_decay),
            Argument::Float(adam.beta1),
            Argument::Float(adam.beta2),
            Argument::Float(adam.eps),
            Argument::Float(adam.gradient_scale),
        ];
        self.launch("adamw", [n.div_ceil(THREADS), 1, 1], THREADS, &arguments)
    }

    /// Partial sums (1024) of the squares of `x`.
    ///
    /// # Errors
    /// Spans that are too small.
    pub fn squared_norm(&self, x: Span<'_, f32>, partial: Span<'_, f64>) -> Result<(), GpuError> {
        let arguments = [
            Argument::Address(x.address("x", x.len(), &self.stream)?),
            Argument::Address(partial.address("partial", NORM_PARTS, &self.stream)?),
            long(x.len()),
        ];
        self.launch("squared_norm", [NORM_PARTS, 1, 1], 512, &arguments)
    }

    /// Weights from masters.
    ///
    /// # Errors
    /// Spans that are too small.
    pub fn round_weights(&self, master: Span<'_, f32>, weight: Span<'_, bf16>) -> Result<(), GpuError> {
        let n = master.len();
        let arguments = [
            Argument::Address(master.address("master", n, &self.stream)?),
            Argument::Address(weight.address("weight", n, &self.stream)?),
            long(n),
        ];
        self.launch("round_weights", [n.div_ceil(THREADS), 1, 1], THREADS, &arguments)
    }

    /// Masters from weights.
    ///
    /// # Errors
    /// Spans that are too small.
    pub fn widen_weights(&self, weight: Span<'_, bf16>, master: Span<'_, f32>) -> Result<(), GpuError> {
        let n = weight.len();
        let arguments = [
            Argument::Address(weight.address("weight", n, &self.stream)?),
            Argument::Address(master.address("master", n, &self.stream)?),
            long(n),
        ];
        self.launch("widen_weights", [n.div_ceil(THREADS), 1, 1], THREADS, &arguments)
    }
}
