//! SwiGLU: `y = silu(gate) * up`, with `silu(x) = x / (1 + exp(-x))`.

use rayon::prelude::*;

/// Elements a task works on.
const CHUNK: usize = 1 << 14;

/// y (T, F) from gate (T, F) and up (T, F).
pub fn swiglu_forward(gate: &[f32], up: &[f32], y: &mut [f32]) {
    let chunks = gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)).zip(y.par_chunks_mut(CHUNK));
    chunks.for_each(|((gate, up), y)| {
        for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
            *y = gate * sigmoid(*gate) * up;
        }
    });
}

/// Turns gate and up (T, F) into their gradients, in place: `d_up = dy * silu(gate)`,
/// `d_gate = dy * up * sigma * (1 + gate * (1 - sigma))`.
pub fn swiglu_backward(gate: &mut [f32], up: &mut [f32], d_y: &[f32]) {
    let chunks = gate.par_chunks_mut(CHUNK).zip(up.par_chunks_mut(CHUNK)).zip(d_y.par_chunks(CHUNK));
    chunks.for_each(|((gate, up), d_y)| {
        for ((gate, up), d) in gate.iter_mut().zip(up).zip(d_y) {
            let sigma = sigmoid(*gate);
            let (d_gate, d_up) = (d * *up * sigma * (1.0 + *gate * (1.0 - sigma)), d * *gate * sigma);
            (*gate, *up) = (d_gate, d_up);
        }
    });
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
