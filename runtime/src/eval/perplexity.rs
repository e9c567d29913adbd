//! Perplexity: the exponential of the mean loss.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::model::{Batch, ModelError};

/// The result over the windows that were read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexity {
    /// Tokens that were predicted.
    pub targets: usize,
    /// Their mean loss, in nats.
    pub loss: f64,
}

impl Perplexity {
    /// exp(loss).
    pub fn perplexity(&self) -> f64 {
        self.loss.exp()
    }
}

/// Loss of consecutive windows of at most `window_tokens` tokens, each read without the ones before it. `progress` gets the
/// tokens read so far; `loss` is the sum of a batch's losses, such as [`crate::model::Llama::loss`]. Setting `stop` ends after a
/// window, with the result so far.
///
/// # Errors
/// Fewer than two tokens, or tokens outside the vocabulary.
pub fn perplexity(
    tokens: &[u32],
    window_tokens: usize,
    stop: &AtomicBool,
    mut loss: impl FnMut(&Batch) -> Result<f64, ModelError>,
    mut progress: impl FnMut(usize),
) -> Result<Perplexity, ModelError> {
    for (what, count) in [("the text", tokens.len()), ("a window", window_tokens)] {
        if count < 2 {
            return Err(ModelError::batch(format!("{what} has {count} tokens; perplexity needs at least 2")));
        }
    }
    let (mut targets, mut sum, mut read) = (0, 0.0, 0);
    for window in tokens.chunks(window_tokens) {
        let batch = Batch::single(window.to_vec())?;
        sum += loss(&batch)?;
        targets += batch.target_count();
        read += window.len();
        progress(read);
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    Ok(Perplexity { targets, loss: sum / targets.max(1) as f64 })
}
