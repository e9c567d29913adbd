//! The output head and its loss, a chunk of tokens at a time: logits of length x vocabulary never exist.

use super::linear::{LinearShape, linear_backward_input, linear_backward_weight, linear_forward};

/// Tokens whose logits exist at once.
pub const CHUNK_TOKENS: usize = 128;

/// Sizes of the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadShape {
    /// C, model width.
    pub width: usize,
    /// V, vocabulary.
    pub vocabulary: usize,
}

/// The sum of `-log p(target)` over the tokens that have a target. h is (T, C), w (V, C), targets (T).
pub fn cross_entropy_forward(shape: HeadShape, h: &[f32], w: &[f32], targets: &[Option<u32>]) -> f64 {
    let mut sum = 0.0;
    for_chunks(shape, h, w, targets, |_, logits, targets| sum += softmax_loss(shape, logits, targets));
    sum
}

/// The same sum; `d_h` (T, C) receives and `d_w` (V, C) is added the gradient of `scale` times it.
pub fn cross_entropy_backward(
    shape: HeadShape,
    h: &[f32],
    w: &[f32],
    targets: &[Option<u32>],
    scale: f32,
    d_h: &mut [f32],
    d_w: &mut [f32],
) -> f64 {
    let HeadShape { width, vocabulary } = shape;
    let mut sum = 0.0;
    for_chunks(shape, h, w, targets, |first, logits, targets| {
        sum += softmax_loss(shape, logits, targets);
        for (row, target) in logits.chunks_exact_mut(vocabulary).zip(targets) {
            match target {
                Some(target) => {
                    row[*target as usize] -= 1.0;
                    row.iter_mut().for_each(|p| *p *= scale);
                }
                None => row.fill(0.0),
            }
        }
        let product = LinearShape { tokens: targets.len(), inputs: width, outputs: vocabulary };
        let at = first * width..(first + targets.len()) * width;
        linear_backward_input(product, logits, w, 0.0, &mut d_h[at.clone()]);
        linear_backward_weight(product, logits, &h[at], d_w);
    });
    sum
}

fn for_chunks(
    shape: HeadShape,
    h: &[f32],
    w: &[f32],
    targets: &[Option<u32>],
    mut visit: impl FnMut(usize, &mut [f32], &[Option<u32>]),
) {
    let HeadShape { width, vocabulary } = shape;
    let mut logits = vec![0.0; CHUNK_TOKENS.min(targets.len()) * vocabulary];
    for (n, targets) in targets.chunks(CHUNK_TOKENS).enumerate() {
        let first = n * CHUNK_TOKENS;
        let logits = &mut logits[..targets.len() * vocabulary];
        let product = LinearShape { tokens: targets.len(), inputs: width, outputs: vocabulary };
        linear_forward(product, &h[first * width..][..targets.len() * width], w, logits);
        visit(first, logits, targets);
    }
}

/// Turns logits into probabilities, in place, and sums the losses.
fn softmax_loss(shape: HeadShape, logits: &mut [f32], targets: &[Option<u32>]) -> f64 {
    let mut loss = 0.0;
    for (row, target) in logits.chunks_exact_mut(shape.vocabulary).zip(targets) {
        let Some(target) = target else { continue };
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let at_target = row[*target as usize];
        row.iter_mut().for_each(|x| *x = (*x - largest).exp());
        let sum: f64 = row.iter().map(|&x| f64::from(x)).sum();
        loss += sum.ln() - f64::from(at_target - largest);
        let inverse = (1.0 / sum) as f32;
        row.iter_mut().for_each(|x| *x *= inverse);
    }
    loss
}
