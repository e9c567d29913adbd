//! Decoding on the device, as [`crate::generate`] asks for it.

use half::bf16;

use super::prefill::PrefillSpace;
use super::step::Step;
use super::{DeviceMemory, DeviceParams, GpuCache, GpuLlama};
use crate::generate::{Decoder, Room};
use crate::model::{LlamaConfig, ModelError, check_tokens};

/// A model with its weights on the device and the caches of the sequences at hand.
#[derive(Debug)]
pub struct GpuDecoder<'a> {
    model: &'a GpuLlama,
    weights: &'a DeviceParams<bf16>,
    batch: Option<Batch>,
}

#[derive(Debug)]
struct Batch {
    cache: GpuCache,
    chunk_tokens: usize,
    /// There until the first step.
    prefill: Option<PrefillSpace>,
    longest: usize,
    step: Option<Step>,
}

impl<'a> GpuDecoder<'a> {
    /// A decoder of these weights, which must be of the model's table and on its stream.
    pub fn new(model: &'a GpuLlama, weights: &'a DeviceParams<bf16>) -> GpuDecoder<'a> {
        GpuDecoder { model, weights, batch: None }
    }

    /// Runs a step and does not wait for it: the next token of each sequence.
    ///
    /// # Errors
    /// As [`Decoder::step`].
    pub fn submit_step(&mut self, tokens: &[Option<u32>]) -> Result<(), ModelError> {
        check_tokens(tokens.iter().flatten().copied(), self.model.config().vocabulary)?;
        let batch = self.batch.as_mut().ok_or_else(not_open)?;
        for (s, _) in tokens.iter().enumerate().filter(|(_, token)| token.is_some()) {
            let (asked, limit) = (batch.cache.tokens(s) + 1, batch.cache.limit(s));
            if asked > limit {
                return Err(ModelError::TooLong { asked, limit });
            }
        }
        // Prompts are read: their memory is free for what follows.
        batch.prefill = None;
        let mut step = match batch.step.take() {
            Some(step) => step,
            None => Step::new(self.model, &batch.cache)?,
        };
        let ran = step.run(self.model, self.weights, &mut batch.cache, tokens);
        batch.step = Some(step);
        ran
    }

    /// Takes each sequence of the open batch for one of `tokens` tokens, whose keys are zeros: for timings, which do not depend
    /// on what lies in a cache, without the prefill.
    ///
    /// # Errors
    /// A sequence that outgrows its room.
    pub fn assume_tokens(&mut self, tokens: usize) -> Result<(), ModelError> {
        let batch = self.batch.as_mut().ok_or_else(not_open)?;
        batch.cache.assume_tokens(tokens)
    }

    /// The caches of the open batch.
    pub fn cache(&self) -> Option<&GpuCache> {
        self.batch.as_ref().map(|batch| &batch.cache)
    }
}

impl Decoder for GpuDecoder<'_> {
    fn config(&self) -> &LlamaConfig {
        self.model.config()
    }

    fn open(&mut self, rooms: &[Room]) -> Result<(), ModelError> {
        self.batch = None;
        let limits: Vec<usize> = rooms.iter().map(|room| room.max_tokens).collect();
        let chunk_tokens = rooms.iter().map(|room| room.chunk_tokens).max().unwrap_or(1).max(1);
        let longest = limits.iter().copied().max().unwrap_or(0);
        let model = self.model;
        let compact = GpuCache::would_be_compact(model, &limits);
        let space = |longest: usize| PrefillSpace::bytes(model, chunk_tokens, longest, compact);
        let share = |n: usize| limits.iter().map(|&limit| limit.min(n)).collect::<Vec<_>>();
        let needed = |n: usize| GpuCache::bytes_for(model, &share(n)) + space(longest.min(n));
        DeviceMemory::new("decoding")
            .with("KV caches", GpuCache::bytes_for(model, &limits))
            .with("activations of a chunk", space(longest))
            .or_else(model.device(), longest, "tokens in each sequence", needed)?
            .check(model.device())?;
        let cache = GpuCache::new(model, &limits)?;
        let prefill = Some(PrefillSpace::new(model, chunk_tokens, longest, cache.is_compact())?);
        self.batch = Some(Batch { cache, chunk_tokens, prefill, longest, step: None });
        Ok(())
    }

    fn tokens(&self, sequence: usize) -> usize {
        self.batch.as_ref().map_or(0, |batch| batch.cache.tokens(sequence))
    }

    fn extend(&mut self, sequence: usize, tokens: &[u32]) -> Result<Vec<f32>, ModelError> {
        check_tokens(tokens.iter().copied(), self.model.config().vocabulary)?;
        let batch = self.batch.as_mut().ok_or_else(not_open)?;
        let Batch { cache, chunk_tokens, prefill, longest, .. } = batch;
        if tokens.is_empty() || tokens.len() > *chunk_tokens {
            let (count, most) = (tokens.len(), chunk_tokens);
            return Err(ModelError::batch(format!(
                "a chunk of {count} tokens, where 1 to {most} are allowed"
            )));
        }
        let (asked, limit) = (cache.tokens(sequence) + tokens.len(), cache.limit(sequence));
        if asked > limit {
            return Err(ModelError::TooLong { asked, limit });
        }
        let space = match prefill {
            Some(space) => space,
            None => {
                prefill.insert(PrefillSpace::new(self.model, *chunk_tokens, *longest, cache.is_compact())?)
            }
        };
        self.model.prefill(self.weights, cache, sequence, tokens, space)?;
        Ok(space.logits.to_vec()?)
    }

    fn step(&mut self, tokens: &[Option<u32>]) -> Result<Vec<Vec<f32>>, ModelError> {
        self.submit_step(tokens)?;
        let step = self.batch.as_ref().and_then(|batch| batch.step.as_ref()).ok_or_else(not_open)?;
        let logits = step.logits()?;
        Ok(logits.chunks_exact(self.model.config().vocabulary).map(<[f32]>::to_vec).collect())
    }

    fn cache_bytes(&self, sequence: usize) -> usize {
        let Some(batch) = &self.batch else { return 0 };
        GpuCache::bytes_for(self.model, &[batch.cache.limit(sequence)]) as usize
    }
}

fn not_open() -> ModelError {
    ModelError::batch("no sequences are open")
}
