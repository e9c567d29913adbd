//! A pass over a batch: the loss, and with gradients the way back. The counterpart of `model/llama.rs` on the device.
//!
//! Between forward and backward only the input of each layer is kept: the residual stream is written from buffer to buffer.
//! Logits exist for some tokens at a time.

use half::bf16;

use super::backward::BackwardSpace;
use super::layer::Workspace;
use super::{DeviceMemory, DeviceParams, GpuLlama};
use crate::blas::{Product, Values};
use crate::driver::{Buffer, Span};
use crate::gpu::Prepared;
use crate::gpu_ops::TokenRuns;
use crate::model::{Batch, ModelError};
use crate::problem::Sequences;

/// Logits that exist at once.
const LOGITS: usize = 1 << 27;

/// The memory of passes over batches of up to so many tokens.
#[derive(Debug)]
pub struct GpuPass {
    pub(super) space: Workspace,
    /// The residual stream before each layer and after the last; only two without gradients.
    pub(super) stream: Vec<Buffer>,
    pub(super) backward: Option<BackwardSpace>,
    /// (T) each.
    targets: Buffer,
    losses: Buffer,
    /// (chunk, V), in float and in bf16.
    logits: Buffer,
    d_logits: Option<Buffer>,
    chunk: usize,
    /// Attention of each kind, prepared for these sequences.
    pub(super) prepared: Vec<Prepared>,
    sequences: Option<Sequences>,
}

/// Tokens whose logits exist at once.
fn chunk_tokens(model: &GpuLlama, tokens: usize) -> usize {
    (LOGITS / model.config().vocabulary).clamp(1, tokens.max(1))
}

impl GpuPass {
    /// For batches of up to `tokens` tokens.
    ///
    /// # Errors
    /// Too little device memory: says what was needed, and how many tokens would fit.
    pub fn new(model: &GpuLlama, tokens: usize, gradients: bool) -> Result<GpuPass, ModelError> {
        DeviceMemory::new("a pass over a batch")
            .with("activations", GpuPass::bytes(model, tokens, gradients))
            .or_else(model.device(), tokens, "tokens in a batch", |n| GpuPass::bytes(model, n, gradients))?
            .check(model.device())?;
        let (c, vocabulary) = (model.config().width, model.config().vocabulary);
        let chunk = chunk_tokens(model, tokens);
        let count = if gradients { model.config().layers + 1 } else { 1 };
        Ok(GpuPass {
            space: Workspace::new(model, tokens)?,
            stream: (0..count).map(|_| model.buffer::<bf16>(tokens * c)).collect::<Result<_, _>>()?,
            backward: if gradients { Some(BackwardSpace::new(model, tokens)?) } else { None },
            targets: model.buffer::<i32>(tokens)?,
            losses: model.buffer::<f32>(tokens)?,
            logits: model.buffer::<f32>(chunk * vocabulary)?,
            d_logits: if gradients { Some(model.buffer::<bf16>(chunk * vocabulary)?) } else { None },
            chunk,
            prepared: Vec::new(),
            sequences: None,
        })
    }

    /// What it takes.
    pub fn bytes(model: &GpuLlama, tokens: usize, gradients: bool) -> u128 {
        let config = model.config();
        let streams = if gradients { config.layers + 1 } else { 1 };
        let logits = chunk_tokens(model, tokens) * config.vocabulary * if gradients { 6 } else { 4 };
        let own = 2 * streams * tokens * config.width + 8 * tokens + logits;
        // The attention of each kind sums dQ in float.
        let d_q = if gradients { 4 * model.kinds.len() * tokens * model.q_width() } else { 0 };
        let backward = if gradients { BackwardSpace::bytes(model, tokens) } else { 0 };
        Workspace::bytes(model, tokens) + (own + d_q) as u128 + backward
    }

    /// The sum of the losses `-log p(target)` over all targets of the batch.
    ///
    /// # Errors
    /// Tokens outside the vocabulary, a batch larger than the space, faults of the device.
    pub fn loss(
        &mut self,
        model: &GpuLlama,
        weights: &DeviceParams<bf16>,
        batch: &Batch,
    ) -> Result<f64, ModelError> {
        let tokens = batch.tokens().len();
        self.forward(model, weights, batch)?;
        for first in (0..tokens).step_by(self.chunk) {
            self.chunk_loss(model, weights, first, self.chunk.min(tokens - first), None)?;
        }
        self.sum_of_losses(tokens)
    }

    /// The same sum; the gradients of `scale` times it are added to `gradients`.
    ///
    /// # Errors
    /// As [`GpuPass::loss`]; a space without gradients.
    pub fn loss_and_gradients(
        &mut self,
        model: &GpuLlama,
        weights: &DeviceParams<bf16>,
        batch: &Batch,
        scale: f32,
        gradients: &DeviceParams<f32>,
    ) -> Result<f64, ModelError> {
        let (tokens, c) = (batch.tokens().len(), model.config().width);
        let runs = self.forward(model, weights, batch)?;
        let no_space = || ModelError::batch("this space was made without gradients");
        for first in (0..tokens).step_by(self.chunk) {
            let rows = self.chunk.min(tokens - first);
            self.chunk_loss(model, weights, first, rows, Some(scale))?;
            let d_logits = self.d_logits.as_ref().ok_or_else(no_space)?.span();
            let back = self.backward.as_ref().ok_or_else(no_space)?;
            let shape = model.linear(rows, c, model.config().vocabulary);
            let d_normed = Values::Bf16(Workspace::rows(&back.d_normed, first, rows, c)?);
            model.blas.multiply(Product::BackwardInput, shape, d_logits, weights.head()?, None, d_normed)?;
            let normed = Workspace::rows(&self.space.normed, first, rows, c)?;
            model.add_weight_gradient(shape, d_logits, normed, gradients.head()?)?;
        }
        self.backward(model, weights, batch, &runs, gradients)?;
        self.sum_of_losses(tokens)
    }

    /// Logits (T, V) of a batch. Meant for short batches: training never builds them.
    ///
    /// # Errors
    /// As [`GpuPass::loss`].
    pub fn logits(
        &mut self,
        model: &GpuLlama,
        weights: &DeviceParams<bf16>,
        batch: &Batch,
    ) -> Result<Vec<f32>, ModelError> {
        let (tokens, vocabulary) = (batch.tokens().len(), model.config().vocabulary);
        self.forward(model, weights, batch)?;
        let mut all = Vec::with_capacity(tokens * vocabulary);
        for first in (0..tokens).step_by(self.chunk) {
            let rows = self.chunk.min(tokens - first);
            self.chunk_loss(model, weights, first, rows, None)?;
            all.extend_from_slice(&self.logits.to_vec::<f32>()?[..rows * vocabulary]);
        }
        Ok(all)
    }

    /// Through all layers and the final norm.
    fn forward(
        &mut self,
        model: &GpuLlama,
        weights: &DeviceParams<bf16>,
        batch: &Batch,
    ) -> Result<TokenRuns, ModelError> {
        let (tokens, config) = (batch.tokens().len(), model.config());
        batch.check(config.vocabulary)?;
        if tokens > self.space.tokens {
            return Err(ModelError::TooLong { asked: tokens, limit: self.space.tokens });
        }
        self.prepare(model, batch)?;
        let runs = TokenRuns::new(model.stream(), batch.tokens())?;
        self.space.set_positions(model, batch.positions())?;
        let targets: Vec<i32> = batch.targets().iter().map(|t| t.map_or(-1, |t| t as i32)).collect();
        self.targets.write(&targets)?;
        let (table, x) = (weights.embedding()?, self.stream[0].span());
        model.ops.embedding_forward(tokens, config.width, table, runs.tokens(), x)?;
        for layer in 0..config.layers {
            self.forward_layer(model, weights, layer, tokens)?;
        }
        let x = self.stream[self.stream.len() - 1].span();
        let (normed, scales) = (self.space.normed.span(), self.space.scales.span());
        model.ops.rmsnorm_forward(tokens, x, weights.norm()?, config.norm_eps, normed, scales)?;
        Ok(runs)
    }

    fn forward_layer(
        &mut self,
        model: &GpuLlama,
        weights: &DeviceParams<bf16>,
        layer: usize,
        tokens: usize,
    ) -> Result<(), ModelError> {
        let (w, kind) = (weights.layer(layer)?, model.plan[layer]);
        let last = self.stream.len() - 1;
        let (x, y) = (&self.stream[layer.min(last)], &self.stream[(layer + 1).min(last)]);
        model.project(tokens, &w, x.span(), &self.space)?;
        let (qkv, tables) = (self.space.qkv.span(), self.space.tables());
        model.ops.rope_forward(tokens, model.heads(), qkv, tables)?;
        model.attend(kind, tokens, &mut self.prepared[kind], None, &mut self.space)?;
        model.add_attention(tokens, &w, self.space.o.span(), x.span(), y.span())?;
        model.add_mlp(tokens, &w, y, &self.space)
    }

    /// Logits and losses of some tokens; with `scale` their gradients too.
    fn chunk_loss(
        &self,
        model: &GpuLlama,
        weights: &DeviceParams<bf16>,
        first: usize,
        rows: usize,
        scale: Option<f32>,
    ) -> Result<(), ModelError> {
        let (c, vocabulary) = (model.config().width, model.config().vocabulary);
        let normed = Workspace::rows(&self.space.normed, first, rows, c)?;
        let logits: Span<'_, f32> = self.logits.span();
        let shape = model.linear(rows, c, vocabulary);
        model.blas.multiply(Product::Forward, shape, normed, weights.head()?, None, Values::F32(logits))?;
        let d_logits = self.d_logits.as_ref().filter(|_| scale.is_some()).map(|d| d.span());
        let targets = self.targets.span().part(first, rows)?;
        let losses = self.losses.span().part(first, rows)?;
        let scale = scale.unwrap_or(0.0);
        Ok(model.ops.cross_entropy(rows, vocabulary, logits, targets, losses, d_logits, scale)?)
    }

    fn sum_of_losses(&self, tokens: usize) -> Result<f64, ModelError> {
        Ok(self.losses.to_vec::<f32>()?[..tokens].iter().map(|&loss| f64::from(loss)).sum())
    }

    /// Prepares attention for the sequences of a batch, unless those of the batch before were the same.
    fn prepare(&mut self, model: &GpuLlama, batch: &Batch) -> Result<(), ModelError> {
        if self.sequences.as_ref() == Some(batch.sequences()) {
            return Ok(());
        }
        self.prepared.clear();
        self.sequences = None;
        for kind in 0..model.kinds.len() {
            let problem = model.problem(kind, batch.sequences().clone())?;
            self.prepared.push(model.kinds[kind].attention.prepare(&problem)?);
        }
        self.sequences = Some(batch.sequences().clone());
        Ok(())
    }
}
