//! The KV caches of a batch, laid out by the pattern: each layer has exactly the slots its mask needs, for each sequence.
//!
//! One layer's keys are (G, slots of all sequences, D), and so are its values; a sequence owns a run of slots. The heads of a
//! layer have the same number of slots, that of the head that needs most. Layers that share a mask share the table of
//! which key lies in which slot.

use half::bf16;
use longgen_codegen::analysis::KvLayout;

use super::GpuLlama;
use crate::driver::{Buffer, Span};
use crate::gpu::{Layout, View};
use crate::gpu_ops::CacheRows;
use crate::model::ModelError;
use crate::tensor::TensorShape;

use super::layer::Keys;

/// A ring must hold the window of one query: chunks of a prefill are attended from keys in order, not from the ring.
const CHUNK: u64 = 1;

/// The caches of a batch of sequences.
#[derive(Debug)]
pub struct GpuCache {
    /// Keys and values of each layer.
    layers: Vec<[Buffer; 2]>,
    pub(super) kinds: Vec<KindCache>,
    /// The longest that each sequence may become.
    limits: Vec<usize>,
    tokens: Vec<usize>,
    kv_heads: usize,
    head_dim: usize,
}

/// What the layers of one mask share.
#[derive(Debug)]
pub(super) struct KindCache {
    layouts: Vec<KvLayout>,
    /// First slot of each sequence, and the end.
    pub starts: Vec<usize>,
    /// The key in each slot, (G, slots), -1 for none; `None` where key `j` lies in slot `j`.
    pub table: Option<SlotTable>,
}

/// Which key lies in which slot: on the device for the kernels, on the host to follow prefills.
#[derive(Debug)]
pub(super) struct SlotTable {
    host: Vec<i32>,
    pub device: Buffer,
}

impl GpuCache {
    /// Empty caches for sequences of up to so many tokens.
    ///
    /// # Errors
    /// Too little device memory.
    pub fn new(model: &GpuLlama, limits: &[usize]) -> Result<GpuCache, ModelError> {
        let (kv_heads, head_dim) = (model.config().kv_heads, model.config().head_dim);
        let mut kinds = Vec::with_capacity(model.kinds.len());
        for kind in &model.kinds {
            let mut starts = vec![0];
            let mut ordered = true;
            for &limit in limits {
                let slots = slots(&kind.layouts, limit);
                ordered &= slots == limit;
                starts.push(starts[starts.len() - 1] + slots);
            }
            let all = starts[limits.len()];
            let table = if ordered {
                None
            } else {
                let host = vec![-1; kv_heads * all];
                Some(SlotTable { device: Buffer::from_slice(model.stream(), &host)?, host })
            };
            kinds.push(KindCache { layouts: kind.layouts.clone(), starts, table });
        }
        let layer = |&kind: &usize| {
            let elements = kv_heads * kinds[kind].slots() * head_dim;
            Ok::<_, ModelError>([model.buffer::<bf16>(elements)?, model.buffer::<bf16>(elements)?])
        };
        let layers = model.plan.iter().map(layer).collect::<Result<_, _>>()?;
        let tokens = vec![0; limits.len()];
        Ok(GpuCache { layers, kinds, limits: limits.to_vec(), tokens, kv_heads, head_dim })
    }

    /// What [`GpuCache::bytes`] of such caches will be.
    pub fn bytes_for(model: &GpuLlama, limits: &[usize]) -> u128 {
        let config = model.config();
        let all =
            |kind: usize| limits.iter().map(|&limit| slots(&model.kinds[kind].layouts, limit)).sum::<usize>();
        let rows: usize = model.plan.iter().map(|&kind| all(kind)).sum();
        let tables: usize = (0..model.kinds.len())
            .filter(|&kind| limits.iter().any(|&limit| slots(&model.kinds[kind].layouts, limit) != limit))
            .map(all)
            .sum();
        (config.kv_heads * (4 * rows * config.head_dim + 4 * tables)) as u128
    }

    /// Whether such caches keep the keys of some layer out of order.
    pub(super) fn would_be_compact(model: &GpuLlama, limits: &[usize]) -> bool {
        let shrinks = |layouts: &[KvLayout]| limits.iter().any(|&limit| slots(layouts, limit) != limit);
        model.kinds.iter().any(|kind| shrinks(&kind.layouts))
    }

    /// Bytes of keys, values and slot tables, as allocated.
    pub fn bytes(&self) -> usize {
        let keys: usize = self.layers.iter().flatten().map(Buffer::bytes).sum();
        let tables = self.kinds.iter().filter_map(|kind| kind.table.as_ref());
        keys + tables.map(|table| table.device.bytes()).sum::<usize>()
    }

    /// Sequences.
    pub fn sequences(&self) -> usize {
        self.limits.len()
    }

    /// Tokens of a sequence so far.
    pub fn tokens(&self, sequence: usize) -> usize {
        self.tokens[sequence]
    }

    /// The longest that a sequence may become.
    pub fn limit(&self, sequence: usize) -> usize {
        self.limits[sequence]
    }

    /// Whether some layer keeps its keys out of order.
    pub(super) fn is_compact(&self) -> bool {
        self.kinds.iter().any(|kind| kind.table.is_some())
    }

    pub(super) fn advance(&mut self, sequence: usize, tokens: usize) {
        self.tokens[sequence] += tokens;
    }

    /// Takes every sequence for one of `tokens` tokens whose keys are zeros.
    pub(super) fn assume_tokens(&mut self, tokens: usize) -> Result<(), ModelError> {
        for sequence in 0..self.sequences() {
            if tokens > self.limits[sequence] {
                return Err(ModelError::TooLong { asked: tokens, limit: self.limits[sequence] });
            }
            self.tokens[sequence] = 0;
            for kind in 0..self.kinds.len() {
                let slots = self.next_slots(kind, sequence, tokens);
                self.note(kind, sequence, &slots, true)?;
            }
            self.tokens[sequence] = tokens;
        }
        Ok(())
    }

    /// The rows of a sequence in a layer.
    pub(super) fn rows(
        &self,
        layer: usize,
        kind: usize,
        sequence: usize,
    ) -> Result<CacheRows<'_>, ModelError> {
        let KindCache { starts, .. } = &self.kinds[kind];
        let head_stride = self.kinds[kind].slots() * self.head_dim;
        let (start, rows) = (starts[sequence] * self.head_dim, starts[sequence + 1] - starts[sequence]);
        let [keys, values] = &self.layers[layer];
        let from = |buffer: &'_ Buffer| -> Result<_, ModelError> { Ok(start..buffer.span::<bf16>().len()) };
        let (k, v) = (from(keys)?, from(values)?);
        Ok(CacheRows {
            keys: keys.span().part(k.start, k.len())?,
            values: values.span().part(v.start, v.len())?,
            rows,
            head_stride,
        })
    }

    /// The rows of all sequences in a layer.
    pub(super) fn all_rows(&self, layer: usize, kind: usize) -> CacheRows<'_> {
        let rows = self.kinds[kind].slots();
        let [keys, values] = &self.layers[layer];
        CacheRows { keys: keys.span(), values: values.span(), rows, head_stride: rows * self.head_dim }
    }

    /// The first `keys` rows of a sequence from slot `start` on, as attention reads them.
    pub(super) fn views(&self, layer: usize, kind: usize, start: usize, keys: usize) -> Keys<'_> {
        let [k, v] = &self.layers[layer];
        ordered_views([k, v], start, keys, self.kinds[kind].slots(), self.kv_heads, self.head_dim)
    }

    /// Where each of the next `tokens` keys of a sequence goes, (G, tokens), relative to the sequence's first slot; -1 for
    /// keys that no later query sees, or that another of these keys replaces.
    pub(super) fn next_slots(&self, kind: usize, sequence: usize, tokens: usize) -> Vec<i32> {
        let layouts = &self.kinds[kind].layouts;
        let mut all: Vec<i32> = Vec::with_capacity(self.kv_heads * tokens);
        for (g, layout) in layouts.iter().enumerate() {
            // Only a stride tells heads of one layout apart.
            let is_same = |before: usize| layouts[before] == *layout && !layout.depends_on_head();
            match g.checked_sub(1).filter(|&before| is_same(before)) {
                Some(before) => all.extend_from_within(before * tokens..g * tokens),
                None => all.extend(self.head_slots(kind, sequence, g, tokens)),
            }
        }
        all
    }

    fn head_slots(&self, kind: usize, sequence: usize, g: usize, tokens: usize) -> Vec<i32> {
        let (first, limit) = (self.tokens[sequence], self.limits[sequence] as u64);
        let KindCache { layouts, starts, .. } = &self.kinds[kind];
        let mut taken = vec![false; starts[sequence + 1] - starts[sequence]];
        let mut slots = vec![-1; tokens];
        for (t, place) in slots.iter_mut().enumerate().rev() {
            let slot = layouts[g].slot(g as u32, (first + t) as u64, limit, CHUNK);
            let Some(slot) = slot.map(|slot| slot as usize).filter(|&slot| !taken[slot]) else { continue };
            taken[slot] = true;
            *place = slot as i32;
        }
        slots
    }

    /// Notes that the next keys of a sequence went to `slots`, those of [`GpuCache::next_slots`].
    pub(super) fn note(
        &mut self,
        kind: usize,
        sequence: usize,
        slots: &[i32],
        upload: bool,
    ) -> Result<(), ModelError> {
        let first = self.tokens[sequence];
        let KindCache { starts, table, .. } = &mut self.kinds[kind];
        let (all, start) = (starts[starts.len() - 1], starts[sequence]);
        let Some(table) = table else { return Ok(()) };
        let tokens = slots.len() / self.kv_heads;
        for (g, slots) in slots.chunks_exact(tokens).enumerate() {
            for (t, &slot) in slots.iter().enumerate().filter(|(_, slot)| **slot >= 0) {
                table.host[g * all + start + slot as usize] = (first + t) as i32;
            }
        }
        if upload {
            table.device.write(&table.host)?;
        }
        Ok(())
    }
}

impl KindCache {
    /// Slots of all sequences.
    pub fn slots(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }

    /// The table from the first slot of a sequence on, and the distance of its heads.
    pub fn table_of(&self, sequence: usize) -> Result<Option<(Span<'_, i32>, usize)>, ModelError> {
        let Some(table) = &self.table else { return Ok(None) };
        let (start, span) = (self.starts[sequence], table.device.span());
        Ok(Some((span.part(start, span.len() - start)?, self.slots())))
    }
}

/// Keys in order as attention reads them: (S, G, D) in a buffer of (G, rows, D).
pub(super) fn ordered_views<'a>(
    [k, v]: [&'a Buffer; 2],
    start: usize,
    keys: usize,
    rows: usize,
    kv_heads: usize,
    head_dim: usize,
) -> Keys<'a> {
    let layout = Layout {
        shape: TensorShape { tokens: keys, heads: kv_heads, head_dim },
        offset: start * head_dim,
        token_stride: head_dim,
        head_stride: rows * head_dim,
    };
    Keys { k: View { buffer: k, layout }, v: View { buffer: v, layout } }
}

/// Slots of the head that needs most.
fn slots(layouts: &[KvLayout], limit: usize) -> usize {
    let of_head = |(g, layout): (usize, &KvLayout)| layout.slots(g as u32, limit as u64, CHUNK) as usize;
    layouts.iter().enumerate().map(of_head).max().unwrap_or(0)
}
