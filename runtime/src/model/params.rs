//! The parameters of a model: one buffer and the table of what lies where in it. Weights, gradients and the moments of
//! the optimiser all have this form, so that an update, a norm or a checkpoint is one pass over the table.

use std::ops::Range;
use std::sync::Arc;

use super::{LlamaConfig, ModelError, check_memory};

/// One tensor of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamEntry {
    /// Its name in checkpoints.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    start: usize,
}

impl ParamEntry {
    /// Where its elements lie in the buffer.
    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.shape.iter().product::<usize>()
    }
}

/// All tensors of a model in the order of the buffer: embedding, layers, final norm, head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamTable {
    entries: Vec<ParamEntry>,
    /// Entries before the first layer, and in each layer.
    layers: usize,
    tied: bool,
}

/// Tensors of a layer, in the order of the buffer.
const LAYER_TENSORS: usize = 9;

/// The tensors of one layer: borrowed weights, or mutably borrowed gradients.
#[derive(Debug)]
pub struct Layer<T> {
    /// (C)
    pub input_norm: T,
    /// (H * D, C)
    pub q: T,
    /// (G * D, C)
    pub k: T,
    /// (G * D, C)
    pub v: T,
    /// (C, H * D)
    pub o: T,
    /// (C)
    pub post_norm: T,
    /// (F, C)
    pub gate: T,
    /// (F, C)
    pub up: T,
    /// (C, F)
    pub down: T,
}

impl<T> From<[T; LAYER_TENSORS]> for Layer<T> {
    fn from([input_norm, q, k, v, o, post_norm, gate, up, down]: [T; LAYER_TENSORS]) -> Layer<T> {
        Layer { input_norm, q, k, v, o, post_norm, gate, up, down }
    }
}

impl ParamTable {
    /// The table of a model.
    pub fn new(config: &LlamaConfig) -> ParamTable {
        let mut table = ParamTable { entries: Vec::new(), layers: config.layers, tied: config.tied };
        let (c, f) = (config.width, config.hidden);
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        table.push("model.embed_tokens.weight".into(), &[config.vocabulary, c]);
        for layer in 0..config.layers {
            let mut push = |name: &str, shape: &[usize]| {
                table.push(format!("model.layers.{layer}.{name}.weight"), shape);
            };
            push("input_layernorm", &[c]);
            push("self_attn.q_proj", &[q, c]);
            push("self_attn.k_proj", &[kv, c]);
            push("self_attn.v_proj", &[kv, c]);
            push("self_attn.o_proj", &[c, q]);
            push("post_attention_layernorm", &[c]);
            push("mlp.gate_proj", &[f, c]);
            push("mlp.up_proj", &[f, c]);
            push("mlp.down_proj", &[c, f]);
        }
        table.push("model.norm.weight".into(), &[c]);
        if !config.tied {
            table.push("lm_head.weight".into(), &[config.vocabulary, c]);
        }
        table
    }

    fn push(&mut self, name: String, shape: &[usize]) {
        let start = self.len();
        self.entries.push(ParamEntry { name, shape: shape.to_vec(), start });
    }

    /// All tensors.
    pub fn entries(&self) -> &[ParamEntry] {
        &self.entries
    }

    /// Elements of all tensors.
    pub fn len(&self) -> usize {
        self.entries.last().map_or(0, |last| last.range().end)
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn layer(&self, layer: usize) -> &[ParamEntry] {
        &self.entries[1 + layer * LAYER_TENSORS..][..LAYER_TENSORS]
    }

    pub(crate) fn norm(&self) -> Range<usize> {
        self.entries[1 + self.layers * LAYER_TENSORS].range()
    }

    pub(crate) fn head(&self) -> Range<usize> {
        let entry = if self.tied { self.entries.first() } else { self.entries.last() };
        entry.map_or(0..0, ParamEntry::range)
    }
}

/// A number for every element of every tensor of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    table: Arc<ParamTable>,
    data: Vec<f32>,
}

impl Params {
    /// Zeros.
    pub fn zeros(table: Arc<ParamTable>) -> Params {
        let data = vec![0.0; table.len()];
        Params { table, data }
    }

    /// The numbers `data`, as many as the table has.
    pub(crate) fn from_data(table: Arc<ParamTable>, data: Vec<f32>) -> Params {
        assert_eq!(data.len(), table.len(), "another number of parameters than the table's");
        Params { table, data }
    }

    /// The table alone, for numbers that are kept elsewhere.
    pub(crate) fn none(table: Arc<ParamTable>) -> Params {
        Params { table, data: Vec::new() }
    }

    /// Random weights: normal with the configuration's deviation, norms 1. The same seed gives the same weights.
    pub fn random(config: &LlamaConfig, seed: u64) -> Params {
        let mut params = Params::zeros(Arc::new(ParamTable::new(config)));
        let mut random = crate::random::Random::new(seed);
        for entry in params.table.entries.iter() {
            let data = &mut params.data[entry.range()];
            match entry.shape.len() {
                1 => data.fill(1.0),
                _ => data.fill_with(|| config.initializer_range * random.normal() as f32),
            }
        }
        params
    }

    /// [`Params::random`], if the machine has the memory.
    ///
    /// # Errors
    /// [`ModelError::Memory`].
    pub fn try_random(config: &LlamaConfig, seed: u64) -> Result<Params, ModelError> {
        check_memory("the weights", 4 * ParamTable::new(config).len() as u128)?;
        Ok(Params::random(config, seed))
    }

    /// The table.
    pub fn table(&self) -> &Arc<ParamTable> {
        &self.table
    }

    /// The whole buffer.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// The whole buffer.
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// The first tensor, in the order of the table, that holds an infinity or a NaN.
    pub fn first_not_finite(&self) -> Option<&str> {
        let bad = |entry: &&ParamEntry| self.data[entry.range()].iter().any(|x| !x.is_finite());
        self.table.entries.iter().find(bad).map(|entry| entry.name.as_str())
    }

    /// Sets every element to 0.
    pub fn clear(&mut self) {
        self.data.fill(0.0);
    }

    /// A tensor by its name in checkpoints.
    pub fn tensor(&self, name: &str) -> Option<&[f32]> {
        let entry = self.table.entries.iter().find(|entry| entry.name == name)?;
        Some(&self.data[entry.range()])
    }

    /// The embedding table, (V, C).
    pub fn embedding(&self) -> &[f32] {
        &self.data[self.table.entries[0].range()]
    }

    /// The embedding table, (V, C).
    pub fn embedding_mut(&mut self) -> &mut [f32] {
        &mut self.data[self.table.entries[0].range()]
    }

    /// The final norm, (C).
    pub fn norm(&self) -> &[f32] {
        &self.data[self.table.norm()]
    }

    /// The final norm, (C).
    pub fn norm_mut(&mut self) -> &mut [f32] {
        &mut self.data[self.table.norm()]
    }

    /// The output head, (V, C): the embedding table itself where they are tied.
    pub fn head(&self) -> &[f32] {
        &self.data[self.table.head()]
    }

    /// The output head, (V, C).
    pub fn head_mut(&mut self) -> &mut [f32] {
        &mut self.data[self.table.head()]
    }

    /// The tensors of a layer.
    pub fn layer(&self, layer: usize) -> Layer<&[f32]> {
        let entries = self.table.layer(layer);
        std::array::from_fn(|n| &self.data[entries[n].range()]).into()
    }

    /// The tensors of a layer.
    pub fn layer_mut(&mut self, layer: usize) -> Layer<&mut [f32]> {
        let entries = self.table.layer(layer);
        let mut rest = &mut self.data[entries[0].start..];
        std::array::from_fn(|n| {
            let (tensor, after) = std::mem::take(&mut rest).split_at_mut(entries[n].range().len());
            rest = after;
            tensor
        })
        .into()
    }
}
