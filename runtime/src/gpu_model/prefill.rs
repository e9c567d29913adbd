//! A chunk of a prompt through the model: its keys into the cache, its last token's logits out.
//!
//! Attention over a chunk wants key `j` in row `j`. A layer that keeps every key has that in its cache. One with a compact cache
//! borrows rows for all keys, shared by all layers, into which the keys it still holds are copied back first.

use half::bf16;

use super::cache::ordered_views;
use super::layer::Workspace;
use super::{DeviceParams, GpuCache, GpuLlama};
use crate::driver::Buffer;
use crate::gpu::Prepared;
use crate::gpu_ops::{CacheRows, KeySlots};
use crate::model::ModelError;
use crate::problem::Sequences;

/// What prefills need beside weights and cache.
#[derive(Debug)]
pub(super) struct PrefillSpace {
    /// The residual stream, (T, C).
    x: Buffer,
    pub space: Workspace,
    /// (T)
    tokens: Buffer,
    /// (V)
    pub logits: Buffer,
    /// Keys and values in order, (G, longest prompt, D); only with compact caches.
    ordered: Option<[Buffer; 2]>,
    /// Rows of `ordered`.
    rows: usize,
}

impl PrefillSpace {
    /// For chunks of `tokens` of prompts of up to `longest` tokens.
    pub fn new(
        model: &GpuLlama,
        tokens: usize,
        longest: usize,
        compact: bool,
    ) -> Result<PrefillSpace, ModelError> {
        let config = model.config();
        let elements = config.kv_heads * longest * config.head_dim;
        let ordered = match compact {
            true => Some([model.buffer::<bf16>(elements)?, model.buffer::<bf16>(elements)?]),
            false => None,
        };
        Ok(PrefillSpace {
            x: model.buffer::<bf16>(tokens * config.width)?,
            space: Workspace::new(model, tokens)?,
            tokens: model.buffer::<u32>(tokens)?,
            logits: model.buffer::<f32>(config.vocabulary)?,
            ordered,
            rows: longest,
        })
    }

    pub fn bytes(model: &GpuLlama, tokens: usize, longest: usize, compact: bool) -> u128 {
        let config = model.config();
        let ordered = if compact { 4 * config.kv_heads * longest * config.head_dim } else { 0 };
        Workspace::bytes(model, tokens)
            + (2 * tokens * config.width + 4 * (tokens + config.vocabulary) + ordered) as u128
    }
}

/// What the layers of one mask share in a chunk.
struct KindChunk {
    prepared: Prepared,
    /// Where attention's keys are written: rows of their own index, (G, T).
    rows: Buffer,
    /// Where the cache keeps them, on the host and on the device; compact caches only.
    slots: Option<(Vec<i32>, Buffer)>,
}

impl GpuLlama {
    /// Adds a chunk of tokens, all below the vocabulary, to a sequence. The logits (V) after its last token are left in the
    /// space.
    pub(super) fn prefill(
        &self,
        weights: &DeviceParams<bf16>,
        cache: &mut GpuCache,
        sequence: usize,
        tokens: &[u32],
        space: &mut PrefillSpace,
    ) -> Result<(), ModelError> {
        let (first, count) = (cache.tokens(sequence), tokens.len());
        space.tokens.write(tokens)?;
        let positions: Vec<f32> = (first..first + count).map(|t| t as f32).collect();
        space.space.set_positions(self, &positions)?;
        let mut chunks = (0..self.kinds.len())
            .map(|kind| self.kind_chunk(cache, kind, sequence, count))
            .collect::<Result<Vec<_>, _>>()?;
        let c = self.config().width;
        self.ops.embedding_forward(count, c, weights.embedding()?, space.tokens.span(), space.x.span())?;
        for (layer, &kind) in self.plan.iter().enumerate() {
            let w = weights.layer(layer)?;
            self.project(count, &w, space.x.span(), &space.space)?;
            self.chunk_attention(cache, layer, sequence, (first, count), &mut chunks[kind], space)?;
            let (o, x) = (space.space.o.span(), space.x.span());
            self.add_attention(count, &w, o, x, x)?;
            self.add_mlp(count, &w, &space.x, &space.space)?;
        }
        for (kind, chunk) in chunks.iter().enumerate() {
            if let Some((slots, _)) = &chunk.slots {
                cache.note(kind, sequence, slots, true)?;
            }
        }
        cache.advance(sequence, count);
        let last = Workspace::rows(&space.x, count - 1, 1, c)?;
        self.logits_one(weights, last, space.logits.span())
    }

    fn kind_chunk(
        &self,
        cache: &GpuCache,
        kind: usize,
        sequence: usize,
        count: usize,
    ) -> Result<KindChunk, ModelError> {
        let first = cache.tokens(sequence);
        let sequences = Sequences::new(vec![0, count], vec![0, first + count], None)?;
        let prepared = self.kinds[kind].attention.prepare(&self.problem(kind, sequences)?)?;
        let of_head = || (first..first + count).map(|row| row as i32);
        let rows: Vec<i32> = (0..self.config().kv_heads).flat_map(|_| of_head()).collect();
        let slots = match cache.kinds[kind].table {
            Some(_) => {
                let slots = cache.next_slots(kind, sequence, count);
                let device = Buffer::from_slice(self.stream(), &slots)?;
                Some((slots, device))
            }
            None => None,
        };
        Ok(KindChunk { prepared, rows: Buffer::from_slice(self.stream(), &rows)?, slots })
    }

    /// Queries of the chunk over all keys so far, the chunk's own stored on the way.
    fn chunk_attention(
        &self,
        cache: &GpuCache,
        layer: usize,
        sequence: usize,
        (first, count): (usize, usize),
        chunk: &mut KindChunk,
        space: &mut PrefillSpace,
    ) -> Result<(), ModelError> {
        let (kind, shape, d) = (self.plan[layer], self.heads(), self.config().head_dim);
        let slots = KeySlots { slots: chunk.rows.span(), slot_key: None };
        let qkv = space.space.qkv.span();
        let (Some((_, packed)), Some([k, v])) = (&chunk.slots, &space.ordered) else {
            let rows = cache.rows(layer, kind, sequence)?;
            self.ops.rope_store(count, shape, qkv, space.space.tables(), slots, rows)?;
            let keys = cache.views(layer, kind, cache.kinds[kind].starts[sequence], first + count);
            return self.attend(kind, count, &mut chunk.prepared, Some(keys), &mut space.space);
        };
        let ordered =
            CacheRows { keys: k.span(), values: v.span(), rows: space.rows, head_stride: space.rows * d };
        let rows = cache.rows(layer, kind, sequence)?;
        if let (Some(table), true) = (cache.kinds[kind].table_of(sequence)?, first > 0) {
            self.ops.cache_unpack(shape, rows, table, ordered)?;
        }
        self.ops.rope_store(count, shape, qkv, space.space.tables(), slots, ordered)?;
        self.ops.cache_pack(shape, (first, count), ordered, packed.span(), rows)?;
        let keys = ordered_views([k, v], 0, first + count, space.rows, self.config().kv_heads, d);
        self.attend(kind, count, &mut chunk.prepared, Some(keys), &mut space.space)
    }
}
