//! The way back through the layers, from last to first: the formulas stand at the head of `model/block.rs`. A layer's
//! activations are computed again from its input; those of its MLP exist for some tokens at a time.

use half::bf16;

use super::layer::{MLP_TOKENS, Workspace};
use super::train::GpuPass;
use super::{DeviceLayer, DeviceParams, GpuLlama};
use crate::blas::{Product, Values};
use crate::driver::{Buffer, Span};
use crate::gpu::{BackwardTensors, Layout, View, ViewMut};
use crate::gpu_ops::{STRIPS, TokenRuns};
use crate::model::{Batch, ModelError};
use crate::ops::linear::LinearShape;

/// Gradients of the activations of one layer.
#[derive(Debug)]
pub(super) struct BackwardSpace {
    /// The residual stream between attention and MLP, (T, C).
    mid: Buffer,
    /// Of the residual stream, (T, C).
    d_x: Buffer,
    /// Of the output of a norm, (T, C).
    pub d_normed: Buffer,
    /// (T, H, D), (T, H, D), (T, G, D), (T, G, D)
    d_o: Buffer,
    d_q: Buffer,
    d_k: Buffer,
    d_v: Buffer,
    /// (MLP tokens, F)
    d_product: Buffer,
    /// Partial sums of the gradient of a norm's weights, (128, C).
    partial: Buffer,
}

impl BackwardSpace {
    pub fn new(model: &GpuLlama, tokens: usize) -> Result<BackwardSpace, ModelError> {
        let config = model.config();
        let (c, q, kv) = (config.width, model.q_width(), config.kv_heads * config.head_dim);
        Ok(BackwardSpace {
            mid: model.buffer::<bf16>(tokens * c)?,
            d_x: model.buffer::<bf16>(tokens * c)?,
            d_normed: model.buffer::<bf16>(tokens * c)?,
            d_o: model.buffer::<bf16>(tokens * q)?,
            d_q: model.buffer::<bf16>(tokens * q)?,
            d_k: model.buffer::<bf16>(tokens * kv)?,
            d_v: model.buffer::<bf16>(tokens * kv)?,
            d_product: model.buffer::<bf16>(tokens.min(MLP_TOKENS) * config.hidden)?,
            partial: model.buffer::<f32>(STRIPS * c)?,
        })
    }

    pub fn bytes(model: &GpuLlama, tokens: usize) -> u128 {
        let config = model.config();
        let wide = 3 * config.width + model.q_width() + model.qkv_width();
        (2 * tokens * wide + 2 * tokens.min(MLP_TOKENS) * config.hidden + 4 * STRIPS * config.width) as u128
    }
}

impl GpuLlama {
    /// dW += dy^T x.
    pub(super) fn add_weight_gradient(
        &self,
        shape: LinearShape,
        d_y: Span<'_, bf16>,
        x: Span<'_, bf16>,
        d_w: Span<'_, f32>,
    ) -> Result<(), ModelError> {
        let d_w = Values::F32(d_w);
        Ok(self.blas.multiply(Product::BackwardWeight, shape, d_y, x, Some(d_w), d_w)?)
    }

    /// dx = dy W.
    fn input_gradient(
        &self,
        shape: LinearShape,
        d_y: Span<'_, bf16>,
        w: Span<'_, bf16>,
        d_x: Span<'_, bf16>,
    ) -> Result<(), ModelError> {
        Ok(self.blas.multiply(Product::BackwardInput, shape, d_y, w, None, Values::Bf16(d_x))?)
    }
}

impl GpuPass {
    /// From the gradient of the final norm's output, which lies in `d_normed`, to those of all weights.
    pub(super) fn backward(
        &mut self,
        model: &GpuLlama,
        weights: &DeviceParams<bf16>,
        batch: &Batch,
        runs: &TokenRuns,
        gradients: &DeviceParams<f32>,
    ) -> Result<(), ModelError> {
        let Some(mut back) = self.backward.take() else {
            return Err(ModelError::batch("this space was made without gradients"));
        };
        let done = self.backward_layers(model, weights, batch, runs, gradients, &mut back);
        self.backward = Some(back);
        done
    }

    fn backward_layers(
        &mut self,
        model: &GpuLlama,
        weights: &DeviceParams<bf16>,
        batch: &Batch,
        runs: &TokenRuns,
        gradients: &DeviceParams<f32>,
        back: &mut BackwardSpace,
    ) -> Result<(), ModelError> {
        let (tokens, width) = (batch.tokens().len(), model.config().width);
        back.d_x.fill(0)?;
        let x = self.stream[self.stream.len() - 1].span();
        model.ops.rmsnorm_backward(
            tokens,
            x,
            weights.norm()?,
            self.space.scales.span(),
            back.d_normed.span(),
            back.d_x.span(),
            gradients.norm()?,
            back.partial.span(),
        )?;
        for layer in (0..model.config().layers).rev() {
            let (w, d_w) = (weights.layer(layer)?, gradients.layer(layer)?);
            self.recompute(model, &w, layer, tokens, back)?;
            self.backward_mlp(model, &w, &d_w, tokens, back)?;
            self.backward_attention(model, &w, &d_w, layer, tokens, back)?;
        }
        Ok(model.ops.embedding_backward(width, back.d_x.span(), runs, gradients.embedding()?)?)
    }

    /// qkv, o, the log-sum-exp and `mid` again, from the layer's input.
    fn recompute(
        &mut self,
        model: &GpuLlama,
        w: &DeviceLayer<'_, bf16>,
        layer: usize,
        tokens: usize,
        back: &BackwardSpace,
    ) -> Result<(), ModelError> {
        let (x, kind) = (self.stream[layer].span(), model.plan[layer]);
        model.project(tokens, w, x, &self.space)?;
        let (qkv, tables) = (self.space.qkv.span(), self.space.tables());
        model.ops.rope_forward(tokens, model.heads(), qkv, tables)?;
        model.attend(kind, tokens, &mut self.prepared[kind], None, &mut self.space)?;
        model.add_attention(tokens, w, self.space.o.span(), x, back.mid.span())
    }

    /// Through the MLP and its residual: `d_x` becomes the gradient of `mid`.
    fn backward_mlp(
        &self,
        model: &GpuLlama,
        w: &DeviceLayer<'_, bf16>,
        d_w: &DeviceLayer<'_, f32>,
        tokens: usize,
        back: &BackwardSpace,
    ) -> Result<(), ModelError> {
        let (c, f, eps) = (model.config().width, model.config().hidden, model.config().norm_eps);
        let (normed, scales) = (self.space.normed.span(), self.space.scales.span());
        let (gate_up, product) = (self.space.gate_up.span(), self.space.product.span());
        let (d_product, d_normed) = (back.d_product.span(), back.d_normed.span());
        for first in (0..tokens).step_by(MLP_TOKENS) {
            let rows = MLP_TOKENS.min(tokens - first);
            let mid = Workspace::rows(&back.mid, first, rows, c)?;
            let d_x = Workspace::rows(&back.d_x, first, rows, c)?;
            let (up, down) = (model.linear(rows, c, 2 * f), model.linear(rows, f, c));
            model.ops.rmsnorm_forward(rows, mid, w.post_norm, eps, normed, scales)?;
            model.blas.multiply(Product::Forward, up, normed, w.gate_up, None, Values::Bf16(gate_up))?;
            model.ops.swiglu_forward(rows, f, gate_up, product)?;
            model.input_gradient(down, d_x, w.down, d_product)?;
            model.add_weight_gradient(down, d_x, product, d_w.down)?;
            model.ops.swiglu_backward(rows, f, gate_up, d_product)?;
            model.input_gradient(up, gate_up, w.gate_up, d_normed)?;
            model.add_weight_gradient(up, gate_up, normed, d_w.gate_up)?;
            let partial = back.partial.span();
            let norm = w.post_norm;
            model.ops.rmsnorm_backward(rows, mid, norm, scales, d_normed, d_x, d_w.post_norm, partial)?;
        }
        Ok(())
    }

    /// Through attention and its residual: `d_x` becomes the gradient of the layer's input.
    fn backward_attention(
        &mut self,
        model: &GpuLlama,
        w: &DeviceLayer<'_, bf16>,
        d_w: &DeviceLayer<'_, f32>,
        layer: usize,
        tokens: usize,
        back: &mut BackwardSpace,
    ) -> Result<(), ModelError> {
        let (c, eps) = (model.config().width, model.config().norm_eps);
        let shape = model.linear(tokens, model.q_width(), c);
        model.input_gradient(shape, back.d_x.span(), w.o, back.d_o.span())?;
        model.add_weight_gradient(shape, back.d_x.span(), self.space.o.span(), d_w.o)?;
        self.attention_gradients(model, layer, tokens, back)?;
        let inputs = [back.d_q.span(), back.d_k.span(), back.d_v.span()];
        // qkv is not needed any more: its gradient takes its place.
        let d_qkv = self.space.qkv.span();
        model.ops.rope_backward(tokens, model.heads(), inputs, self.space.tables(), d_qkv)?;
        let (x, normed, scales) =
            (self.stream[layer].span(), self.space.normed.span(), self.space.scales.span());
        // The MLP took the place of the first norm's output.
        model.ops.rmsnorm_forward(tokens, x, w.input_norm, eps, normed, scales)?;
        let shape = model.linear(tokens, c, model.qkv_width());
        let d_normed = back.d_normed.span();
        model.input_gradient(shape, d_qkv, w.qkv, d_normed)?;
        model.add_weight_gradient(shape, d_qkv, normed, d_w.qkv)?;
        let (d_x, partial) = (back.d_x.span(), back.partial.span());
        let norm = w.input_norm;
        Ok(model.ops.rmsnorm_backward(tokens, x, norm, scales, d_normed, d_x, d_w.input_norm, partial)?)
    }

    fn attention_gradients(
        &mut self,
        model: &GpuLlama,
        layer: usize,
        tokens: usize,
        back: &mut BackwardSpace,
    ) -> Result<(), ModelError> {
        let kind = model.plan[layer];
        let (queries, keys) =
            (Layout::contiguous(model.q_shape(tokens)), Layout::contiguous(model.kv_shape(tokens)));
        let own = model.own_keys(tokens, &self.space.qkv);
        let tensors = BackwardTensors {
            q: View { buffer: &self.space.qkv, layout: model.q_layout(tokens) },
            k: own.k,
            v: own.v,
            sink_logit: None,
            o: View { buffer: &self.space.o, layout: queries },
            lse: &self.space.lse,
            d_o: View { buffer: &back.d_o, layout: queries },
            d_lse: None,
            dq: ViewMut { buffer: &mut back.d_q, layout: queries },
            dk: ViewMut { buffer: &mut back.d_k, layout: keys },
            dv: ViewMut { buffer: &mut back.d_v, layout: keys },
            d_sink: None,
        };
        let (attention, prepared) = (&model.kinds[kind].attention, &mut self.prepared[kind]);
        Ok(model.attention_watch.time(|| attention.backward(prepared, tensors))?)
    }
}
