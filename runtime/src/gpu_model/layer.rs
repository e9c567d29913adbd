//! The pieces of a layer that every forward pass over many tokens shares: the formulas stand at the head of
//! `model/block.rs`.

use half::bf16;

use super::{DeviceLayer, DeviceParams, GpuLlama};
use crate::blas::{Product, Values};
use crate::driver::{Buffer, Span};
use crate::gpu::{ForwardTensors, Layout, Prepared, View, ViewMut};
use crate::gpu_ops::RopeTables;
use crate::model::ModelError;
use crate::ops::linear::LinearShape;
use crate::tensor::TensorShape;

/// Tokens that pass through the MLP at once: its activations are several times wider than the model.
pub(super) const MLP_TOKENS: usize = 8192;

/// Activations of a pass over up to `tokens` tokens.
#[derive(Debug)]
pub(super) struct Workspace {
    pub tokens: usize,
    /// (T, C)
    pub normed: Buffer,
    /// (T)
    pub scales: Buffer,
    /// (T, H + 2 G, D)
    pub qkv: Buffer,
    /// (T, H, D)
    pub o: Buffer,
    /// (H, T)
    pub lse: Buffer,
    /// (MLP tokens, 2 F)
    pub gate_up: Buffer,
    /// (MLP tokens, F)
    pub product: Buffer,
    /// (T), (T, D/2), (T, D/2)
    pub positions: Buffer,
    cosines: Buffer,
    sines: Buffer,
}

impl Workspace {
    pub fn new(model: &GpuLlama, tokens: usize) -> Result<Workspace, ModelError> {
        let config = model.config();
        let (c, f) = (config.width, config.hidden);
        let mlp = tokens.min(MLP_TOKENS);
        Ok(Workspace {
            tokens,
            normed: model.buffer::<bf16>(tokens * c)?,
            scales: model.buffer::<f32>(tokens)?,
            qkv: model.buffer::<bf16>(tokens * model.qkv_width())?,
            o: model.buffer::<bf16>(tokens * model.q_width())?,
            lse: model.buffer::<f32>(tokens * config.heads)?,
            gate_up: model.buffer::<bf16>(mlp * 2 * f)?,
            product: model.buffer::<bf16>(mlp * f)?,
            positions: model.buffer::<f32>(tokens)?,
            cosines: model.buffer::<f32>(tokens * config.head_dim / 2)?,
            sines: model.buffer::<f32>(tokens * config.head_dim / 2)?,
        })
    }

    pub fn bytes(model: &GpuLlama, tokens: usize) -> u128 {
        let config = model.config();
        let halves = config.width + model.qkv_width() + model.q_width();
        let floats = 2 + config.heads + config.head_dim;
        (tokens * (2 * halves + 4 * floats) + tokens.min(MLP_TOKENS) * 6 * config.hidden) as u128
    }

    pub fn tables(&self) -> RopeTables<'_> {
        RopeTables { cosines: self.cosines.span(), sines: self.sines.span() }
    }

    /// Cosines and sines for these positions.
    pub fn set_positions(&mut self, model: &GpuLlama, positions: &[f32]) -> Result<(), ModelError> {
        self.positions.write(positions)?;
        self.fill_tables(model, positions.len())
    }

    /// Cosines and sines for the positions that lie on the device.
    pub fn fill_tables(&self, model: &GpuLlama, tokens: usize) -> Result<(), ModelError> {
        let factor = model.config().rope.attention_factor();
        let (positions, frequencies) = (self.positions.span(), model.frequencies.span());
        Ok(model.ops.rope_angles(tokens, positions, frequencies, factor, self.tables())?)
    }

    /// (T, C), the first `tokens` rows of a buffer of that width.
    pub fn rows(
        buffer: &Buffer,
        first: usize,
        tokens: usize,
        width: usize,
    ) -> Result<Span<'_, bf16>, ModelError> {
        Ok(buffer.span::<bf16>().part(first * width, tokens * width)?)
    }
}

/// Keys and values that attention reads: views of (S, G, D).
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys<'a> {
    pub k: View<'a>,
    pub v: View<'a>,
}

impl GpuLlama {
    pub(super) fn linear(&self, tokens: usize, inputs: usize, outputs: usize) -> LinearShape {
        LinearShape { tokens, inputs, outputs }
    }

    /// qkv = rmsnorm(x) Wqkv^T, not yet turned.
    pub(super) fn project(
        &self,
        tokens: usize,
        w: &DeviceLayer<'_, bf16>,
        x: Span<'_, bf16>,
        space: &Workspace,
    ) -> Result<(), ModelError> {
        let (c, eps) = (self.config().width, self.config().norm_eps);
        let (normed, scales) = (space.normed.span(), space.scales.span());
        self.ops.rmsnorm_forward(tokens, x, w.input_norm, eps, normed, scales)?;
        let shape = self.linear(tokens, c, self.qkv_width());
        let qkv = Values::Bf16(space.qkv.span());
        Ok(self.blas.multiply(Product::Forward, shape, normed, w.qkv, None, qkv)?)
    }

    /// o from the queries of qkv and these keys.
    pub(super) fn attend(
        &self,
        kind: usize,
        tokens: usize,
        prepared: &mut Prepared,
        keys: Option<Keys<'_>>,
        space: &mut Workspace,
    ) -> Result<(), ModelError> {
        let own = self.own_keys(tokens, &space.qkv);
        let Keys { k, v } = keys.unwrap_or(own);
        let tensors = ForwardTensors {
            q: View { buffer: &space.qkv, layout: self.q_layout(tokens) },
            k,
            v,
            sink_logit: None,
            o: ViewMut { buffer: &mut space.o, layout: Layout::contiguous(self.q_shape(tokens)) },
            lse: &mut space.lse,
        };
        Ok(self.attention_watch.time(|| self.kinds[kind].attention.forward(prepared, tensors))?)
    }

    pub(super) fn q_shape(&self, tokens: usize) -> TensorShape {
        TensorShape { tokens, heads: self.config().heads, head_dim: self.config().head_dim }
    }

    pub(super) fn kv_shape(&self, tokens: usize) -> TensorShape {
        TensorShape { tokens, heads: self.config().kv_heads, head_dim: self.config().head_dim }
    }

    /// The queries of fused rows.
    pub(super) fn q_layout(&self, tokens: usize) -> Layout {
        let d = self.config().head_dim;
        Layout { shape: self.q_shape(tokens), offset: 0, token_stride: self.qkv_width(), head_stride: d }
    }

    /// The keys and values of fused rows.
    pub(super) fn own_keys<'a>(&self, tokens: usize, qkv: &'a Buffer) -> Keys<'a> {
        let (shape, d) = (self.kv_shape(tokens), self.config().head_dim);
        let layout = |offset| Layout { shape, offset, token_stride: self.qkv_width(), head_stride: d };
        let (k, v) = (self.q_width(), self.q_width() + self.config().kv_heads * d);
        Keys { k: View { buffer: qkv, layout: layout(k) }, v: View { buffer: qkv, layout: layout(v) } }
    }

    /// y = x + o Wo^T; y may be x.
    pub(super) fn add_attention(
        &self,
        tokens: usize,
        w: &DeviceLayer<'_, bf16>,
        o: Span<'_, bf16>,
        x: Span<'_, bf16>,
        y: Span<'_, bf16>,
    ) -> Result<(), ModelError> {
        let shape = self.linear(tokens, self.q_width(), self.config().width);
        Ok(self.blas.multiply(Product::Forward, shape, o, w.o, Some(Values::Bf16(x)), Values::Bf16(y))?)
    }

    /// x += (silu(n Wg^T) * n Wu^T) Wd^T with n = rmsnorm(x), some tokens at a time.
    pub(super) fn add_mlp(
        &self,
        tokens: usize,
        w: &DeviceLayer<'_, bf16>,
        x: &Buffer,
        space: &Workspace,
    ) -> Result<(), ModelError> {
        let (c, f, eps) = (self.config().width, self.config().hidden, self.config().norm_eps);
        let (normed, scales) = (space.normed.span(), space.scales.span());
        let (gate_up, product) = (space.gate_up.span(), space.product.span());
        for first in (0..tokens).step_by(MLP_TOKENS) {
            let rows = MLP_TOKENS.min(tokens - first);
            let x = Workspace::rows(x, first, rows, c)?;
            self.ops.rmsnorm_forward(rows, x, w.post_norm, eps, normed, scales)?;
            let up = self.linear(rows, c, 2 * f);
            self.blas.multiply(Product::Forward, up, normed, w.gate_up, None, Values::Bf16(gate_up))?;
            self.ops.swiglu_forward(rows, f, gate_up, product)?;
            let (down, x) = (self.linear(rows, f, c), Values::Bf16(x));
            self.blas.multiply(Product::Forward, down, product, w.down, Some(x), x)?;
        }
        Ok(())
    }

    /// logits (T, V) = rmsnorm(x) Whead^T.
    pub(super) fn logits(
        &self,
        tokens: usize,
        weights: &DeviceParams<bf16>,
        x: Span<'_, bf16>,
        space: &Workspace,
        logits: Span<'_, f32>,
    ) -> Result<(), ModelError> {
        let (normed, scales) = (space.normed.span(), space.scales.span());
        let (norm, head) = (weights.norm()?, weights.head()?);
        self.ops.rmsnorm_forward(tokens, x, norm, self.config().norm_eps, normed, scales)?;
        let shape = self.linear(tokens, self.config().width, self.config().vocabulary);
        Ok(self.blas.multiply(Product::Forward, shape, normed, head, None, Values::F32(logits))?)
    }
}
