//! Products of few rows with weights, for decoding: bound by reading the weights once.

use half::bf16;

use super::{Ops, int};
use crate::driver::{Argument, GpuError, Span};
use crate::ops::linear::LinearShape;

/// What becomes of the sums.
#[derive(Clone, Copy, Debug)]
pub enum MatvecOutput<'a> {
    /// y (T, N).
    Store(Span<'a, bf16>),
    /// y (T, N) is added to.
    Add(Span<'a, bf16>),
    /// y (T, N / 2) = silu(gate) * up, the halves of the outputs.
    Swiglu(Span<'a, bf16>),
    /// y (T, N).
    Float(Span<'a, f32>),
}

/// Rows of x that one kernel takes.
const SIZES: [(usize, &str); 4] = [(1, "matvec_1"), (2, "matvec_2"), (4, "matvec_4"), (8, "matvec_8")];
/// Warps of a block, a pair of weight rows each.
const WARPS: usize = 8;

impl Ops {
    /// y (T, N) = x (T, K) w (N, K)^T; with `norm` (w, eps) x passes through RMSNorm first. N is even unless y is float.
    /// More than 8 rows read the weights once for each 8. The first weights are read before the operation submitted just
    /// before is done: it must not be one that writes them.
    ///
    /// # Errors
    /// Spans that are too small.
    pub fn matvec(
        &self,
        shape: LinearShape,
        x: Span<'_, bf16>,
        w: Span<'_, bf16>,
        norm: Option<(Span<'_, bf16>, f32)>,
        output: MatvecOutput<'_>,
    ) -> Result<(), GpuError> {
        const MOST: usize = SIZES[SIZES.len() - 1].0;
        for first in (0..shape.tokens).step_by(MOST) {
            let tokens = MOST.min(shape.tokens - first);
            let part = LinearShape { tokens, ..shape };
            let x = x.part(first * shape.inputs, tokens * shape.inputs)?;
            self.matvec_part(part, x, w, norm, output.rows(first, part)?)?;
        }
        Ok(())
    }

    fn matvec_part(
        &self,
        shape: LinearShape,
        x: Span<'_, bf16>,
        w: Span<'_, bf16>,
        norm: Option<(Span<'_, bf16>, f32)>,
        output: MatvecOutput<'_>,
    ) -> Result<(), GpuError> {
        let (LinearShape { tokens, inputs, outputs }, stream) = (shape, &self.stream);
        let fits = |&(size, _): &(usize, &'static str)| tokens <= size;
        let (_, kernel) = *SIZES.iter().find(|size| fits(size)).unwrap_or(&SIZES[SIZES.len() - 1]);
        let (kind, y) = match output {
            MatvecOutput::Store(y) => (0, y.address("y", tokens * outputs, stream)?),
            MatvecOutput::Add(y) => (1, y.address("y", tokens * outputs, stream)?),
            MatvecOutput::Swiglu(y) => (2, y.address("y", tokens * outputs / 2, stream)?),
            MatvecOutput::Float(y) => (3, y.address("y", tokens * outputs, stream)?),
        };
        let (norm, eps) = match norm {
            Some((w, eps)) => (w.address("norm", inputs, stream)?, eps),
            None => (0, 0.0),
        };
        let arguments = [
            Argument::Address(x.address("x", tokens * inputs, stream)?),
            Argument::Address(w.address("w", outputs * inputs, stream)?),
            Argument::Address(norm),
            Argument::Address(y),
            int(inputs),
            int(outputs),
            int(tokens),
            Argument::Int(kind),
            Argument::Float(eps),
        ];
        let blocks = [outputs.div_ceil(2).div_ceil(WARPS), 1, 1];
        self.products.time(|| self.launch_early(kernel, blocks, 32 * WARPS, &arguments))
    }
}

impl<'a> MatvecOutput<'a> {
    /// The rows from `first` on that a product of `shape` writes.
    fn rows(self, first: usize, shape: LinearShape) -> Result<MatvecOutput<'a>, GpuError> {
        let LinearShape { tokens, outputs, .. } = shape;
        Ok(match self {
            MatvecOutput::Store(y) => MatvecOutput::Store(y.part(first * outputs, tokens * outputs)?),
            MatvecOutput::Add(y) => MatvecOutput::Add(y.part(first * outputs, tokens * outputs)?),
            MatvecOutput::Swiglu(y) => {
                MatvecOutput::Swiglu(y.part(first * outputs / 2, tokens * outputs / 2)?)
            }
            MatvecOutput::Float(y) => MatvecOutput::Float(y.part(first * outputs, tokens * outputs)?),
        })
    }
}
