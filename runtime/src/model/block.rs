//! One layer, forward and backward:
//!
//! ```text
//! n1 = rmsnorm(x)          q, k, v = n1 Wq^T, n1 Wk^T, n1 Wv^T     q, k turned by RoPE
//! a  = attention(q, k, v)  m = x + a Wo^T
//! n2 = rmsnorm(m)          y = m + (silu(n2 Wg^T) * n2 Wu^T) Wd^T
//! ```

use crate::cpu::CpuAttentionError;
use crate::ops::attention::{Attention, AttentionOutput};
use crate::ops::linear::{LinearShape, linear_backward_input, linear_backward_weight, linear_forward};
use crate::ops::rmsnorm::{rmsnorm_backward, rmsnorm_forward};
use crate::ops::rope::{RopeAngles, rope_backward, rope_forward};
use crate::ops::swiglu::{swiglu_backward, swiglu_forward};
use crate::problem::Sequences;

use super::LlamaConfig;
use super::params::Layer;

/// What every layer of a pass shares.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'a> {
    pub config: &'a LlamaConfig,
    pub angles: &'a RopeAngles,
    /// T, tokens of the pass.
    pub tokens: usize,
}

/// Who sees whom in a layer, over packed sequences.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight<'a> {
    pub attention: &'a Attention,
    pub sequences: &'a Sequences,
}

/// The inputs of attention and what led to them.
#[derive(Debug)]
pub(super) struct Projected {
    /// (T, C)
    normed: Vec<f32>,
    /// (T)
    scales: Vec<f32>,
    /// (T, H, D), turned.
    pub q: Vec<f32>,
    /// (T, G, D), turned.
    pub k: Vec<f32>,
    /// (T, G, D)
    pub v: Vec<f32>,
}

/// What follows attention.
#[derive(Debug)]
struct Mixed {
    /// x + attention, (T, C)
    mid: Vec<f32>,
    /// (T, C)
    normed: Vec<f32>,
    /// (T)
    scales: Vec<f32>,
    /// (T, F)
    gate: Vec<f32>,
    /// (T, F)
    up: Vec<f32>,
    /// silu(gate) * up, (T, F)
    product: Vec<f32>,
}

/// Everything a backward pass through a layer needs beside its input.
#[derive(Debug)]
pub(super) struct Activations {
    projected: Projected,
    attention: AttentionOutput,
    mixed: Mixed,
}

impl Activations {
    /// Numbers for each token, in the order of the fields.
    pub fn numbers(config: &LlamaConfig) -> usize {
        let (c, f) = (config.width, config.hidden);
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        (c + 1 + q + 2 * kv) + (q + config.heads) + (2 * c + 1 + 3 * f)
    }
}

impl Context<'_> {
    fn product(&self, inputs: usize, outputs: usize) -> LinearShape {
        LinearShape { tokens: self.tokens, inputs, outputs }
    }

    fn q_width(&self) -> usize {
        self.config.heads * self.config.head_dim
    }

    fn kv_width(&self) -> usize {
        self.config.kv_heads * self.config.head_dim
    }

    fn linear(&self, inputs: usize, outputs: usize, x: &[f32], w: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; self.tokens * outputs];
        linear_forward(self.product(inputs, outputs), x, w, &mut y);
        y
    }

    fn rmsnorm(&self, x: &[f32], w: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let (mut y, mut scales) = (vec![0.0; x.len()], vec![0.0; self.tokens]);
        rmsnorm_forward(x, w, self.config.norm_eps, &mut y, &mut scales);
        (y, scales)
    }

    /// From the residual stream x (T, C) to q, k and v.
    pub fn project(&self, w: &Layer<&[f32]>, x: &[f32]) -> Projected {
        let c = self.config.width;
        let (normed, scales) = self.rmsnorm(x, w.input_norm);
        let mut q = self.linear(c, self.q_width(), &normed, w.q);
        let mut k = self.linear(c, self.kv_width(), &normed, w.k);
        let v = self.linear(c, self.kv_width(), &normed, w.v);
        rope_forward(self.angles, self.config.heads, &mut q);
        rope_forward(self.angles, self.config.kv_heads, &mut k);
        Projected { normed, scales, q, k, v }
    }

    /// From the output o (T, H, D) of attention to that of the layer, which `x` (T, C) becomes in place.
    pub fn finish(&self, w: &Layer<&[f32]>, o: &[f32], x: &mut [f32]) {
        self.mix(w, o, x);
    }

    fn mix(&self, w: &Layer<&[f32]>, o: &[f32], x: &mut [f32]) -> Mixed {
        let (c, f) = (self.config.width, self.config.hidden);
        add(x, &self.linear(self.q_width(), c, o, w.o));
        let mid = x.to_vec();
        let (normed, scales) = self.rmsnorm(&mid, w.post_norm);
        let gate = self.linear(c, f, &normed, w.gate);
        let up = self.linear(c, f, &normed, w.up);
        let mut product = vec![0.0; gate.len()];
        swiglu_forward(&gate, &up, &mut product);
        add(x, &self.linear(f, c, &product, w.down));
        Mixed { mid, normed, scales, gate, up, product }
    }

    /// The whole layer over packed sequences: x (T, C) becomes its output.
    pub fn forward(
        &self,
        w: &Layer<&[f32]>,
        sight: Sight<'_>,
        x: &mut [f32],
    ) -> Result<Activations, CpuAttentionError> {
        let projected = self.project(w, x);
        let Projected { q, k, v, .. } = &projected;
        let output = sight.attention.forward(sight.sequences, q, k, v)?;
        let mixed = self.mix(w, &output.o, x);
        Ok(Activations { projected, attention: output, mixed })
    }

    /// d_x (T, C) comes in as the gradient of the layer's output and goes out as that of its input `x` (T, C).
    pub fn backward(
        &self,
        w: &Layer<&[f32]>,
        sight: Sight<'_>,
        x: &[f32],
        activations: Activations,
        d_x: &mut [f32],
        d_w: &mut Layer<&mut [f32]>,
    ) -> Result<(), CpuAttentionError> {
        let Activations { projected, attention: output, mixed } = activations;
        self.backward_mlp(w, mixed, d_x, d_w);
        let (c, q_width) = (self.config.width, self.q_width());
        let mut d_o = vec![0.0; self.tokens * q_width];
        linear_backward_input(self.product(q_width, c), d_x, w.o, 0.0, &mut d_o);
        linear_backward_weight(self.product(q_width, c), d_x, &output.o, d_w.o);
        let inputs = [&projected.q[..], &projected.k, &projected.v];
        let mut gradients = sight.attention.backward(sight.sequences, inputs, &output, &d_o)?;
        rope_backward(self.angles, self.config.heads, &mut gradients.dq);
        rope_backward(self.angles, self.config.kv_heads, &mut gradients.dk);
        let mut d_normed = vec![0.0; x.len()];
        let kv_width = self.kv_width();
        let products = [
            (&gradients.dq, w.q, &mut *d_w.q, q_width),
            (&gradients.dk, w.k, &mut *d_w.k, kv_width),
            (&gradients.dv, w.v, &mut *d_w.v, kv_width),
        ];
        for (d_y, w, d_w, outputs) in products {
            linear_backward_input(self.product(c, outputs), d_y, w, 1.0, &mut d_normed);
            linear_backward_weight(self.product(c, outputs), d_y, &projected.normed, d_w);
        }
        rmsnorm_backward(x, w.input_norm, &projected.scales, &d_normed, d_x, d_w.input_norm);
        Ok(())
    }

    /// Through the MLP and its residual: d_x (T, C) becomes the gradient of `mid`.
    fn backward_mlp(&self, w: &Layer<&[f32]>, mixed: Mixed, d_x: &mut [f32], d_w: &mut Layer<&mut [f32]>) {
        let (c, f) = (self.config.width, self.config.hidden);
        let Mixed { mid, normed, scales, mut gate, mut up, product } = mixed;
        let mut d_product = vec![0.0; product.len()];
        linear_backward_input(self.product(f, c), d_x, w.down, 0.0, &mut d_product);
        linear_backward_weight(self.product(f, c), d_x, &product, d_w.down);
        swiglu_backward(&mut gate, &mut up, &d_product);
        let mut d_normed = vec![0.0; mid.len()];
        linear_backward_input(self.product(c, f), &gate, w.gate, 0.0, &mut d_normed);
        linear_backward_input(self.product(c, f), &up, w.up, 1.0, &mut d_normed);
        linear_backward_weight(self.product(c, f), &gate, &normed, d_w.gate);
        linear_backward_weight(self.product(c, f), &up, &normed, d_w.up);
        rmsnorm_backward(&mid, w.post_norm, &scales, &d_normed, d_x, d_w.post_norm);
    }
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
