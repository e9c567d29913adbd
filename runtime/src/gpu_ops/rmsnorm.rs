//! RMSNorm: see [`crate::ops::rmsnorm`] for the formulas.

use half::bf16;

use super::{Ops, int, row_threads};
use crate::driver::{Argument, GpuError, Span};

/// Strips of rows whose weight gradients are summed apart.
pub(crate) const STRIPS: usize = 128;

impl Ops {
    /// y (T, C) from x (T, C) and w (C); `scales` (T) receives `1 / sqrt(mean(x^2) + eps)`.
    ///
    /// # Errors
    /// Spans that are too small.
    pub fn rmsnorm_forward(
        &self,
        rows: usize,
        x: Span<'_, bf16>,
        w: Span<'_, bf16>,
        eps: f32,
        y: Span<'_, bf16>,
        scales: Span<'_, f32>,
    ) -> Result<(), GpuError> {
        let width = w.len();
        let arguments = [
            Argument::Address(x.address("x", rows * width, &self.stream)?),
            Argument::Address(w.address("w", width, &self.stream)?),
            Argument::Address(y.address("y", rows * width, &self.stream)?),
            Argument::Address(scales.address("scales", rows, &self.stream)?),
            int(width),
            Argument::Float(eps),
        ];
        self.launch("rmsnorm_forward", [rows, 1, 1], row_threads(width), &arguments)
    }

    /// Adds the gradient of the input to `d_x` (T, C) and that of the weights to `d_w` (C). `partial` (128, C) is
    /// workspace.
    ///
    /// # Errors
    /// Spans that are too small.
    #[allow(clippy::too_many_arguments)] // The operands of the formula.
    pub fn rmsnorm_backward(
        &self,
        rows: usize,
        x: Span<'_, bf16>,
        w: Span<'_, bf16>,
        scales: Span<'_, f32>,
        d_y: Span<'_, bf16>,
        d_x: Span<'_, bf16>,
        d_w: Span<'_, f32>,
        partial: Span<'_, f32>,
    ) -> Result<(), GpuError> {
        let (width, stream) = (w.len(), &self.stream);
        let x = Argument::Address(x.address("x", rows * width, stream)?);
        let scales = Argument::Address(scales.address("scales", rows, stream)?);
        let d_y = Argument::Address(d_y.address("d_y", rows * width, stream)?);
        let partial = Argument::Address(partial.address("partial", STRIPS * width, stream)?);
        let w = Argument::Address(w.address("w", width, stream)?);
        let d_x = Argument::Address(d_x.address("d_x", rows * width, stream)?);
        let d_w = Argument::Address(d_w.address("d_w", width, stream)?);
        self.launch(
            "rmsnorm_backward",
            [rows, 1, 1],
            row_threads(width),
            &[x, w, scales, d_y, d_x, int(width)],
        )?;
        let strips = [x, scales, d_y, partial, int(rows), int(width)];
        self.launch("rmsnorm_weight_gradient", [(width / 8).div_ceil(64), STRIPS, 1], 64, &strips)?;
        self.launch("add_strips", [width.div_ceil(128), 1, 1], 128, &[partial, d_w, int(STRIPS), int(width)])
    }
}
