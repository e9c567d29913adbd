//! The loss of a chunk of logits: see [`crate::ops::cross_entropy`].

use half::bf16;

use super::{Ops, int};
use crate::driver::{Argument, GpuError, Span};

impl Ops {
    /// `loss` (T) of logits (T, V) against `targets` (T, below V; -1 for none), and with `d_logits` (T, V) the gradient of
    /// `scale` times their sum.
    ///
    /// # Errors
    /// Spans that are too small.
    #[allow(clippy::too_many_arguments)] // The operands of the formula.
    pub fn cross_entropy(
        &self,
        rows: usize,
        vocabulary: usize,
        logits: Span<'_, f32>,
        targets: Span<'_, i32>,
        loss: Span<'_, f32>,
        d_logits: Option<Span<'_, bf16>>,
        scale: f32,
    ) -> Result<(), GpuError> {
        let stream = &self.stream;
        let d_logits = d_logits.map(|d| d.address("d_logits", rows * vocabulary, stream)).transpose()?;
        let arguments = [
            Argument::Address(logits.address("logits", rows * vocabulary, stream)?),
            Argument::Address(targets.address("targets", rows, stream)?),
            Argument::Address(loss.address("loss", rows, stream)?),
            Argument::Address(d_logits.unwrap_or(0)),
            int(vocabulary),
            Argument::Float(scale),
        ];
        self.launch("cross_entropy", [rows, 1, 1], 512, &arguments)
    }
}
