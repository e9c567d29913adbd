//! The KV cache, laid out by the pattern: each KV head of each layer has exactly the slots its mask needs.

use longgen_codegen::analysis::KvLayout;

use crate::ops::attention::CachedKeys;

use super::Llama;

/// The keys and values of one sequence that later queries may still see.
#[derive(Clone, Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    head_dim: usize,
    tokens: usize,
    max_tokens: usize,
    chunk_tokens: usize,
}

/// The slots of all KV heads of a layer, head after head.
#[derive(Clone, Debug)]
struct LayerCache {
    layouts: Vec<KvLayout>,
    /// (G)
    slots: Vec<usize>,
    /// (all slots, D)
    keys: Vec<f32>,
    /// (all slots, D)
    values: Vec<f32>,
    /// Which key each slot holds; -1 for none.
    slot_key: Vec<i32>,
}

impl KvCache {
    /// An empty cache for sequences of up to `max_tokens` tokens, filled at most `chunk_tokens` (at least 1) at a time.
    pub fn new(model: &Llama, max_tokens: usize, chunk_tokens: usize) -> KvCache {
        let chunk_tokens = chunk_tokens.clamp(1, max_tokens.max(1));
        let (kv_heads, head_dim) = (model.config().kv_heads, model.config().head_dim);
        let layer = |layer: usize| {
            let layouts: Vec<_> = (0..kv_heads).map(|g| model.attention(layer).layout(g)).collect();
            let slots = slots(model, layer, max_tokens, chunk_tokens);
            let all: usize = slots.iter().sum();
            LayerCache {
                layouts,
                slots,
                keys: vec![0.0; all * head_dim],
                values: vec![0.0; all * head_dim],
                slot_key: vec![-1; all],
            }
        };
        let layers = (0..model.config().layers).map(layer).collect();
        KvCache { layers, head_dim, tokens: 0, max_tokens, chunk_tokens }
    }

    /// What [`KvCache::bytes`] of such a cache will be.
    pub fn bytes_for(model: &Llama, max_tokens: usize, chunk_tokens: usize) -> u128 {
        let chunk_tokens = chunk_tokens.clamp(1, max_tokens.max(1));
        let of_layer =
            |layer: usize| slots(model, layer, max_tokens, chunk_tokens).iter().sum::<usize>() as u128;
        let all: u128 = (0..model.config().layers).map(of_layer).sum();
        4 * all * (2 * model.config().head_dim as u128 + 1)
    }

    /// Tokens of the sequence so far.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The longest sequence.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// The most tokens that may be added at once.
    pub fn chunk_tokens(&self) -> usize {
        self.chunk_tokens
    }

    /// Slots of KV head `g` in a layer.
    pub fn slots(&self, layer: usize, g: usize) -> usize {
        self.layers[layer].slots[g]
    }

    /// Bytes of keys, values and slot tables.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(|l| 4 * (l.keys.len() + l.values.len() + l.slot_key.len())).sum()
    }

    /// Stores k and v (T, G, D) of the next T tokens in a layer. A ring is long enough that no key of a query of the
    /// same chunk is overwritten.
    pub(super) fn store(&mut self, layer: usize, k: &[f32], v: &[f32]) {
        let LayerCache { layouts, slots, keys, values, slot_key } = &mut self.layers[layer];
        let (d, kv_heads) = (self.head_dim, slots.len());
        let (max_tokens, chunk) = (self.max_tokens as u64, self.chunk_tokens as u64);
        let rows = k.chunks_exact(d).zip(v.chunks_exact(d));
        let starts: Vec<usize> = (0..kv_heads).map(|g| slots[..g].iter().sum()).collect();
        for (row, (k, v)) in rows.enumerate() {
            let (g, key) = (row % kv_heads, self.tokens + row / kv_heads);
            let slot = layouts[g].slot(g as u32, key as u64, max_tokens, chunk);
            let Some(slot) = slot else { continue };
            let slot = starts[g] + slot as usize;
            keys[slot * d..][..d].copy_from_slice(k);
            values[slot * d..][..d].copy_from_slice(v);
            slot_key[slot] = key as i32;
        }
    }

    /// The cached keys of a layer.
    pub(super) fn layer(&self, layer: usize) -> CachedKeys<'_> {
        let LayerCache { slots, keys, values, slot_key, .. } = &self.layers[layer];
        // A layout that would not be smaller than the sequence keeps key `j` in slot `j`.
        let in_order = slots.iter().all(|&slots| slots == self.max_tokens);
        CachedKeys { keys, values, slot_key, slots, in_order }
    }

    pub(super) fn advance(&mut self, tokens: usize) {
        self.tokens += tokens;
    }
}

/// Slots of every KV head of a layer.
fn slots(model: &Llama, layer: usize, max_tokens: usize, chunk_tokens: usize) -> Vec<usize> {
    let of_head = |g: usize| {
        model.attention(layer).layout(g).slots(g as u32, max_tokens as u64, chunk_tokens as u64) as usize
    };
    (0..model.config().kv_heads).map(of_head).collect()
}
