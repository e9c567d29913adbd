//! AdamW with decoupled weight decay, on fp32 masters.

use rayon::prelude::*;

/// The constants of one update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub learning_rate: f32,
    /// Decay of the mean of the gradients.
    pub beta1: f32,
    /// Decay of the mean of their squares.
    pub beta2: f32,
    /// Added to the root of the mean of the squares.
    pub eps: f32,
    /// Decoupled weight decay; 0 for vectors such as norm weights.
    pub weight_decay: f32,
    /// Number of this update, from 1.
    pub step: u64,
    /// Factor on the gradients (clipping).
    pub gradient_scale: f32,
}

/// Updates masters `w`, moments `m` and `v` from the gradient `g`; all have one length.
pub fn adamw_update(adam: &AdamW, w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
    let correction = |beta: f32| 1.0 - f64::from(beta).powf(adam.step as f64);
    let step_size = (f64::from(adam.learning_rate) / correction(adam.beta1)) as f32;
    let root_correction = correction(adam.beta2).sqrt() as f32;
    let keep = 1.0 - adam.learning_rate * adam.weight_decay;
    let elements = w.par_iter_mut().zip(g).zip(m.par_iter_mut()).zip(v.par_iter_mut());
    elements.with_min_len(1 << 14).for_each(|(((w, g), m), v)| {
        let g = g * adam.gradient_scale;
        *m += (1.0 - adam.beta1) * (g - *m);
        *v = adam.beta2 * *v + (1.0 - adam.beta2) * g * g;
        *w = *w * keep - step_size * *m / (v.sqrt() / root_correction + adam.eps);
    });
}

/// The square of the L2 norm of `g`, summed in f64 in a fixed order.
pub fn squared_norm(g: &[f32]) -> f64 {
    let parts: Vec<f64> =
        g.par_chunks(1 << 14).map(|part| part.iter().map(|&x| f64::from(x) * f64::from(x)).sum()).collect();
    parts.iter().sum()
}
