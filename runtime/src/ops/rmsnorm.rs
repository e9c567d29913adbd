//! RMSNorm: `y = w * x / sqrt(mean(x^2) + eps)`.

use rayon::prelude::*;

/// y (T, C) from x (T, C) and w (C); `scales` (T) receives `1 / sqrt(mean(x^2) + eps)` for the backward pass.
pub fn rmsnorm_forward(x: &[f32], w: &[f32], eps: f32, y: &mut [f32], scales: &mut [f32]) {
    let width = w.len();
    let rows = x.par_chunks_exact(width).zip(y.par_chunks_exact_mut(width)).zip(scales.par_iter_mut());
    rows.with_min_len(64).for_each(|((x, y), scale)| {
        let squares: f32 = x.iter().map(|x| x * x).sum();
        *scale = 1.0 / (squares / width as f32 + eps).sqrt();
        for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
            *y = w * (x * *scale);
        }
    });
}

/// Adds the gradient of the input to `d_x` (T, C), which holds that of the residual branch, and that of the weights to
/// `d_w` (C).
///
/// With r the scale of a row: `dx = r * (w * dy - x * r^2 * mean(w * dy * x))`, `dw = sum over rows of dy * x * r`.
pub fn rmsnorm_backward(x: &[f32], w: &[f32], scales: &[f32], d_y: &[f32], d_x: &mut [f32], d_w: &mut [f32]) {
    let width = w.len();
    let rows = x.par_chunks_exact(width).zip(d_y.par_chunks_exact(width)).zip(scales);
    rows.zip(d_x.par_chunks_exact_mut(width)).with_min_len(64).for_each(|(((x, d_y), &r), d_x)| {
        let product: f32 = x.iter().zip(w).zip(d_y).map(|((x, w), d)| x * w * d).sum();
        let mean = product * r * r / width as f32;
        for (((d_x, x), w), d) in d_x.iter_mut().zip(x).zip(w).zip(d_y) {
            *d_x += r * (w * d - x * mean);
        }
    });
    for ((x, d_y), &r) in x.chunks_exact(width).zip(d_y.chunks_exact(width)).zip(scales) {
        for ((d_w, x), d) in d_w.iter_mut().zip(x).zip(d_y) {
            *d_w += d * (x * r);
        }
    }
}
