//! Rotary position embedding: pairs `(x[d], x[d + D/2])` turn by `position * frequency[d]`.

use rayon::prelude::*;

/// Cosines and sines of a batch, (T, D/2) each, times the factor that YaRN puts on the attention scores.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeAngles {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

impl RopeAngles {
    /// The angles at `positions` (T), which are the caller's and may be fractional or repeat; they never move the mask.
    pub fn new(frequencies: &[f32], factor: f32, positions: &[f32]) -> RopeAngles {
        // In f32 as transformers computes them: models are trained with these roundings.
        let angle = |p: &f32| frequencies.iter().map(|f| p * f).collect::<Vec<f32>>();
        let angles: Vec<f32> = positions.iter().flat_map(angle).collect();
        RopeAngles {
            cos: angles.iter().map(|a| a.cos() * factor).collect(),
            sin: angles.iter().map(|a| a.sin() * factor).collect(),
            half: frequencies.len(),
        }
    }
}

/// Rotates x (T, heads, D) in place.
pub fn rope_forward(angles: &RopeAngles, heads: usize, x: &mut [f32]) {
    rotate(angles, heads, x, 1.0);
}

/// Turns the gradient of the output of [`rope_forward`] into that of its input, in place: the transposed rotation.
pub fn rope_backward(angles: &RopeAngles, heads: usize, d_x: &mut [f32]) {
    rotate(angles, heads, d_x, -1.0);
}

fn rotate(angles: &RopeAngles, heads: usize, x: &mut [f32], sign: f32) {
    let half = angles.half;
    let rows = x.par_chunks_exact_mut(heads * 2 * half);
    let tokens = rows.zip(angles.cos.par_chunks_exact(half)).zip(angles.sin.par_chunks_exact(half));
    tokens.with_min_len(16).for_each(|((x, cos), sin)| {
        for head in x.chunks_exact_mut(2 * half) {
            let (low, high) = head.split_at_mut(half);
            for d in 0..half {
                let (a, b) = (low[d], high[d]);
                low[d] = a * cos[d] - sign * b * sin[d];
                high[d] = b * cos[d] + sign * a * sin[d];
            }
        }
    });
}
