//! `y = x W^T`: a product with a weight matrix stored as (N, K), the way checkpoints store it.

use super::gemm::{Matrix, multiply};

/// Sizes of a product: T rows, K inputs, N outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearShape {
    /// T, rows of `x` and `y`.
    pub tokens: usize,
    /// K, columns of `x` and of `w`.
    pub inputs: usize,
    /// N, rows of `w`, columns of `y`.
    pub outputs: usize,
}

/// y (T, N) = x (T, K) * w (N, K)^T.
pub fn linear_forward(shape: LinearShape, x: &[f32], w: &[f32], y: &mut [f32]) {
    let LinearShape { tokens, inputs, outputs } = shape;
    multiply(Matrix::new(x, tokens, inputs), Matrix::new(w, outputs, inputs).transposed(), 0.0, y);
}

/// dx (T, K) = beta * dx + dy (T, N) * w (N, K). With `beta` 1 several products that share an input add up.
pub fn linear_backward_input(shape: LinearShape, d_y: &[f32], w: &[f32], beta: f32, d_x: &mut [f32]) {
    let LinearShape { tokens, inputs, outputs } = shape;
    multiply(Matrix::new(d_y, tokens, outputs), Matrix::new(w, outputs, inputs), beta, d_x);
}

/// dw (N, K) += dy (T, N)^T * x (T, K).
pub fn linear_backward_weight(shape: LinearShape, d_y: &[f32], x: &[f32], d_w: &mut [f32]) {
    let LinearShape { tokens, inputs, outputs } = shape;
    multiply(Matrix::new(d_y, tokens, outputs).transposed(), Matrix::new(x, tokens, inputs), 1.0, d_w);
}
