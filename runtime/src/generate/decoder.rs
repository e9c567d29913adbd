//! What decodes: a model with its weights and the caches of the sequences at hand, wherever they are.

use crate::model::{Chunk, KvCache, Llama, LlamaConfig, ModelError, Params, check_memory};

/// How long a sequence may become, and how many of its tokens go through the model at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Prompt and new tokens.
    pub max_tokens: usize,
    /// At least 1.
    pub chunk_tokens: usize,
}

/// A model with its weights and the caches of a batch of sequences.
pub trait Decoder {
    /// The model's shape.
    fn config(&self) -> &LlamaConfig;

    /// Makes empty caches for a batch, in place of those before.
    ///
    /// # Errors
    /// Too little memory.
    fn open(&mut self, rooms: &[Room]) -> Result<(), ModelError>;

    /// Tokens of a sequence so far.
    fn tokens(&self, sequence: usize) -> usize;

    /// Adds a chunk of tokens to a sequence, at positions equal to their indices; returns the logits (V) after the last.
    ///
    /// # Errors
    /// A chunk that is empty or larger than agreed, tokens outside the vocabulary, a sequence that outgrows its room.
    fn extend(&mut self, sequence: usize, tokens: &[u32]) -> Result<Vec<f32>, ModelError>;

    /// Adds a token to each sequence, but for those that have ended; returns the logits (V) of each sequence, of which
    /// those of ended ones mean nothing.
    ///
    /// # Errors
    /// As [`Decoder::extend`].
    fn step(&mut self, tokens: &[Option<u32>]) -> Result<Vec<Vec<f32>>, ModelError>;

    /// Bytes of the cache of a sequence.
    fn cache_bytes(&self, sequence: usize) -> usize;
}

/// Decoding on the CPU, in f32.
#[derive(Debug)]
pub struct CpuDecoder<'a> {
    model: &'a Llama,
    weights: &'a Params,
    caches: Vec<KvCache>,
}

impl<'a> CpuDecoder<'a> {
    /// A decoder of these weights.
    pub fn new(model: &'a Llama, weights: &'a Params) -> CpuDecoder<'a> {
        CpuDecoder { model, weights, caches: Vec::new() }
    }
}

impl Decoder for CpuDecoder<'_> {
    fn config(&self) -> &LlamaConfig {
        self.model.config()
    }

    fn open(&mut self, rooms: &[Room]) -> Result<(), ModelError> {
        self.caches.clear();
        let bytes = |room: &Room| KvCache::bytes_for(self.model, room.max_tokens, room.chunk_tokens);
        check_memory("the KV caches", rooms.iter().map(bytes).sum())?;
        let cache = |room: &Room| KvCache::new(self.model, room.max_tokens, room.chunk_tokens);
        self.caches = rooms.iter().map(cache).collect();
        Ok(())
    }

    fn tokens(&self, sequence: usize) -> usize {
        self.caches[sequence].tokens()
    }

    fn extend(&mut self, sequence: usize, tokens: &[u32]) -> Result<Vec<f32>, ModelError> {
        let cache = &mut self.caches[sequence];
        let positions = positions(cache.tokens(), tokens.len());
        let chunk = Chunk { tokens, positions: &positions, cache };
        Ok(self.model.extend(self.weights, &mut [chunk])?.pop().unwrap_or_default())
    }

    fn step(&mut self, tokens: &[Option<u32>]) -> Result<Vec<Vec<f32>>, ModelError> {
        let going: Vec<u32> = tokens.iter().flatten().copied().collect();
        let caches = self.caches.iter_mut().zip(tokens).filter(|(_, token)| token.is_some());
        let mut caches: Vec<&mut KvCache> = caches.map(|(cache, _)| cache).collect();
        let positions: Vec<f32> = caches.iter().map(|cache| cache.tokens() as f32).collect();
        let mut chunks: Vec<Chunk<'_>> = caches
            .iter_mut()
            .zip(going.chunks(1).zip(positions.chunks(1)))
            .map(|(cache, (tokens, positions))| Chunk { tokens, positions, cache })
            .collect();
        let mut logits = self.model.extend(self.weights, &mut chunks)?.into_iter();
        Ok(tokens.iter().map(|token| token.and_then(|_| logits.next()).unwrap_or_default()).collect())
    }

    fn cache_bytes(&self, sequence: usize) -> usize {
        self.caches[sequence].bytes()
    }
}

fn positions(first: usize, count: usize) -> Vec<f32> {
    (first..first + count).map(|t| t as f32).collect()
}
