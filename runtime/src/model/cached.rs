//! The forward pass of decoding: new tokens of several sequences against their caches.

use crate::model::batch::check_tokens;

use super::block::Context;
use super::kv_cache::KvCache;
use super::{Llama, ModelError, Params};

/// The next tokens of one sequence.
#[derive(Debug)]
pub struct Chunk<'a> {
    /// Tokens (T), at least 1 and at most the cache's chunk.
    pub tokens: &'a [u32],
    /// Their RoPE positions (T).
    pub positions: &'a [f32],
    /// Where the sequence's keys lie.
    pub cache: &'a mut KvCache,
}

impl Llama {
    /// Adds a chunk to each sequence and returns the logits (V) after the last token of each. Products run over the
    /// tokens of all sequences at once; memory grows with the chunks and never with the sequences.
    ///
    /// # Errors
    /// Chunks that are empty or larger than their cache allows, tokens outside the vocabulary, sequences that outgrow
    /// their cache. Nothing has been stored then.
    pub fn extend(&self, weights: &Params, chunks: &mut [Chunk<'_>]) -> Result<Vec<Vec<f32>>, ModelError> {
        chunks.iter().try_for_each(|chunk| self.check_chunk(chunk))?;
        let positions: Vec<f32> = chunks.iter().flat_map(|c| c.positions.iter().copied()).collect();
        let tokens: Vec<u32> = chunks.iter().flat_map(|c| c.tokens.iter().copied()).collect();
        let angles = self.angles(&positions);
        let context = Context { config: self.config(), angles: &angles, tokens: tokens.len() };
        let mut x = self.embed(weights, &tokens);
        for layer in 0..self.config().layers {
            let w = weights.layer(layer);
            let projected = context.project(&w, &x);
            let o = self.attend(layer, chunks, &projected.q, &projected.k, &projected.v)?;
            context.finish(&w, &o, &mut x);
        }
        chunks.iter_mut().for_each(|chunk| chunk.cache.advance(chunk.tokens.len()));
        let last: Vec<f32> = ends(chunks)
            .flat_map(|end| x[(end - 1) * self.config().width..][..self.config().width].to_vec())
            .collect();
        let (normed, _) = self.final_norm(weights, &last);
        let logits = self.head(weights, &normed);
        Ok(logits.chunks_exact(self.config().vocabulary).map(<[f32]>::to_vec).collect())
    }

    fn check_chunk(&self, chunk: &Chunk<'_>) -> Result<(), ModelError> {
        let (tokens, limit) = (chunk.tokens.len(), chunk.cache.chunk_tokens());
        if tokens == 0 || tokens > limit {
            return Err(ModelError::batch(format!(
                "a chunk of {tokens} tokens, where 1 to {limit} are allowed"
            )));
        }
        if chunk.positions.len() != tokens {
            return Err(ModelError::batch(format!(
                "{} positions for {tokens} tokens",
                chunk.positions.len()
            )));
        }
        let (asked, limit) = (chunk.cache.tokens() + tokens, chunk.cache.max_tokens());
        if asked > limit {
            return Err(ModelError::TooLong { asked, limit });
        }
        check_tokens(chunk.tokens.iter().copied(), self.config().vocabulary)
    }

    /// o (T, H, D): each sequence's queries over its own cache, after its own keys have been stored.
    fn attend(
        &self,
        layer: usize,
        chunks: &mut [Chunk<'_>],
        q: &[f32],
        k: &[f32],
        v: &[f32],
    ) -> Result<Vec<f32>, ModelError> {
        let q_width = self.config().heads * self.config().head_dim;
        let kv_width = self.config().kv_heads * self.config().head_dim;
        let mut o = Vec::with_capacity(q.len());
        let mut start = 0;
        for chunk in chunks {
            let end = start + chunk.tokens.len();
            let own = start * kv_width..end * kv_width;
            chunk.cache.store(layer, &k[own.clone()], &v[own]);
            let q = &q[start * q_width..end * q_width];
            let first = chunk.cache.tokens();
            o.extend(self.attention(layer).forward_cached(first, q, chunk.cache.layer(layer))?);
            start = end;
        }
        Ok(o)
    }
}

/// One past the last row of each chunk.
fn ends(chunks: &[Chunk<'_>]) -> impl Iterator<Item = usize> {
    chunks.iter().scan(0, |end, chunk| {
        *end += chunk.tokens.len();
        Some(*end)
    })
}
