//! What a forward pass reads: packed sequences of tokens, their positions and, for training, their targets.

use crate::problem::Sequences;

use super::ModelError;

/// Packed sequences: T tokens in all.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    tokens: Vec<u32>,
    positions: Vec<f32>,
    targets: Vec<Option<u32>>,
    sequences: Sequences,
}

impl Batch {
    /// Sequences given by cumulative lengths (documents: none sees another), with positions from 0 in each and each
    /// token's successor in its sequence as its target.
    ///
    /// # Errors
    /// Cumulative lengths that do not end at the number of tokens.
    pub fn packed(tokens: Vec<u32>, cu_seqlens: Vec<usize>) -> Result<Batch, ModelError> {
        if cu_seqlens.last() != Some(&tokens.len()) {
            return Err(ModelError::batch(format!(
                "cumulative lengths end at {:?}, but there are {} tokens",
                cu_seqlens.last(),
                tokens.len()
            )));
        }
        let sequences = Sequences::packed(cu_seqlens)?;
        let positions = sequences.iter().flat_map(|s| (0..s.q_len).map(|t| t as f32)).collect();
        let last = |t: usize| sequences.cu_q().binary_search(&(t + 1)).is_ok();
        let targets = (0..tokens.len()).map(|t| (!last(t)).then(|| tokens[t + 1])).collect();
        Ok(Batch { tokens, positions, targets, sequences })
    }

    /// One sequence.
    ///
    /// # Errors
    /// More than 2^30 tokens.
    pub fn single(tokens: Vec<u32>) -> Result<Batch, ModelError> {
        let cu_seqlens = vec![0, tokens.len()];
        Batch::packed(tokens, cu_seqlens)
    }

    /// The same tokens at other RoPE positions (T), which may be fractional; the mask stays with the token order.
    ///
    /// # Errors
    /// Another number of positions than tokens, or one that is not finite.
    pub fn with_positions(mut self, positions: Vec<f32>) -> Result<Batch, ModelError> {
        let (found, expected) = (positions.len(), self.tokens.len());
        if found != expected {
            return Err(ModelError::batch(format!("{found} positions for {expected} tokens")));
        }
        if let Some(index) = positions.iter().position(|p| !p.is_finite()) {
            return Err(ModelError::batch(format!("position {index} is not a finite number")));
        }
        self.positions = positions;
        Ok(self)
    }

    /// The same tokens with other targets (T); `None` for a token whose prediction does not count.
    ///
    /// # Errors
    /// Another number of targets than tokens.
    pub fn with_targets(mut self, targets: Vec<Option<u32>>) -> Result<Batch, ModelError> {
        let (found, expected) = (targets.len(), self.tokens.len());
        if found != expected {
            return Err(ModelError::batch(format!("{found} targets for {expected} tokens")));
        }
        self.targets = targets;
        Ok(self)
    }

    /// Tokens (T).
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// RoPE positions (T).
    pub fn positions(&self) -> &[f32] {
        &self.positions
    }

    /// What each token should predict (T).
    pub fn targets(&self) -> &[Option<u32>] {
        &self.targets
    }

    /// Where the sequences lie.
    pub fn sequences(&self) -> &Sequences {
        &self.sequences
    }

    /// Tokens that have a target.
    pub fn target_count(&self) -> usize {
        self.targets.iter().flatten().count()
    }

    /// Checks every token and target against the vocabulary, once, before kernels index with them.
    pub(crate) fn check(&self, vocabulary: usize) -> Result<(), ModelError> {
        check_tokens(self.tokens.iter().copied(), vocabulary)?;
        check_tokens(self.targets.iter().map(|target| target.unwrap_or(0)), vocabulary)
    }
}

pub(crate) fn check_tokens(tokens: impl Iterator<Item = u32>, vocabulary: usize) -> Result<(), ModelError> {
    match tokens.enumerate().find(|(_, token)| *token as usize >= vocabulary) {
        Some((index, token)) => Err(ModelError::Token { token, index, vocabulary }),
        None => Ok(()),
    }
}
