//! The pieces of a layer for a decode step of one sequence: norms, SwiGLU and the sums of the residual stream happen in the
//! products, which read the weights once. From two sequences on the pieces of `layer.rs` are quicker, on the tensor cores.

use half::bf16;

use super::layer::Workspace;
use super::{DeviceLayer, DeviceParams, GpuLlama};
use crate::driver::Span;
use crate::gpu_ops::MatvecOutput;
use crate::model::ModelError;

impl GpuLlama {
    /// qkv = rmsnorm(x) Wqkv^T, not yet turned.
    pub(super) fn project_one(
        &self,
        w: &DeviceLayer<'_, bf16>,
        x: Span<'_, bf16>,
        space: &Workspace,
    ) -> Result<(), ModelError> {
        let shape = [self.config().width, self.qkv_width()];
        let norm = Some((w.input_norm, self.config().norm_eps));
        Ok(self.ops.matvec(shape, x, w.qkv, norm, MatvecOutput::Store(space.qkv.span()))?)
    }

    /// x += o Wo^T, and then the MLP of the sum.
    pub(super) fn add_one(
        &self,
        w: &DeviceLayer<'_, bf16>,
        x: Span<'_, bf16>,
        space: &Workspace,
    ) -> Result<(), ModelError> {
        let (c, f, eps) = (self.config().width, self.config().hidden, self.config().norm_eps);
        let (o, product, sum) = (space.o.span(), space.product.span(), MatvecOutput::Add(x));
        self.ops.matvec([self.q_width(), c], o, w.o, None, sum)?;
        let gated = MatvecOutput::Swiglu(product);
        self.ops.matvec([c, 2 * f], x, w.gate_up, Some((w.post_norm, eps)), gated)?;
        Ok(self.ops.matvec([f, c], product, w.down, None, sum)?)
    }

    /// logits (V) = rmsnorm(x) Whead^T.
    pub(super) fn logits_one(
        &self,
        weights: &DeviceParams<bf16>,
        x: Span<'_, bf16>,
        logits: Span<'_, f32>,
    ) -> Result<(), ModelError> {
        let shape = [self.config().width, self.config().vocabulary];
        let norm = Some((weights.norm()?, self.config().norm_eps));
        Ok(self.ops.matvec(shape, x, weights.head()?, norm, MatvecOutput::Float(logits))?)
    }
}
