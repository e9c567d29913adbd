//! Products of one row with weights, for decoding: bound by reading the weights once.

use half::bf16;

use super::{Ops, int};
use crate::driver::{Argument, GpuError, Span};

/// What becomes of the sums.
#[derive(Clone, Copy, Debug)]
pub enum MatvecOutput<'a> {
    /// y (N).
    Store(Span<'a, bf16>),
    /// y (N) is added to.
    Add(Span<'a, bf16>),
    /// y (N / 2) = silu(gate) * up, the halves of the outputs.
    Swiglu(Span<'a, bf16>),
    /// y (N).
    Float(Span<'a, f32>),
}

/// Warps of a block, a pair of weight rows each.
const WARPS: usize = 8;

impl Ops {
    /// y (N) = x (K) w (N, K)^T; with `norm` (w, eps) x passes through RMSNorm first. N is even unless y is float. The first
    /// weights are read before the operation submitted just before is done: it must not be one that writes them.
    ///
    /// # Errors
    /// Spans that are too small.
    pub fn matvec(
        &self,
        [inputs, outputs]: [usize; 2],
        x: Span<'_, bf16>,
        w: Span<'_, bf16>,
        norm: Option<(Span<'_, bf16>, f32)>,
        output: MatvecOutput<'_>,
    ) -> Result<(), GpuError> {
        let stream = &self.stream;
        let (kind, y) = match output {
            MatvecOutput::Store(y) => (0, y.address("y", outputs, stream)?),
            MatvecOutput::Add(y) => (1, y.address("y", outputs, stream)?),
            MatvecOutput::Swiglu(y) => (2, y.address("y", outputs / 2, stream)?),
            MatvecOutput::Float(y) => (3, y.address("y", outputs, stream)?),
        };
        let (norm, eps) = match norm {
            Some((w, eps)) => (w.address("norm", inputs, stream)?, eps),
            None => (0, 0.0),
        };
        let arguments = [
            Argument::Address(x.address("x", inputs, stream)?),
            Argument::Address(w.address("w", outputs * inputs, stream)?),
            Argument::Address(norm),
            Argument::Address(y),
            int(inputs),
            int(outputs),
            Argument::Int(kind),
            Argument::Float(eps),
        ];
        let blocks = [outputs.div_ceil(2).div_ceil(WARPS), 1, 1];
        self.products.time(|| self.launch_early("matvec", blocks, 32 * WARPS, &arguments))
    }
}
