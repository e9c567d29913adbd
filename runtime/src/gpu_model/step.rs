//! A decode step: one token of every sequence through the model, captured once as a graph and replayed for each token.
//! Whatever changes from token to token lies in device memory and is written between replays.

use half::bf16;

use super::layer::Workspace;
use super::{DeviceParams, GpuCache, GpuLlama};
use crate::driver::{Buffer, Graph};
use crate::gpu::{ForwardTensors, Layout, Prepared, View, ViewMut};
use crate::gpu_ops::KeySlots;
use crate::model::ModelError;
use crate::problem::Sequences;

/// The buffers of a step over B sequences, and its graph.
pub(super) struct Step {
    sequences: usize,
    /// (B)
    tokens: Buffer,
    /// Indices of the tokens (B).
    index: Buffer,
    /// The residual stream, (B, C).
    x: Buffer,
    space: Workspace,
    /// (B, V)
    logits: Buffer,
    kinds: Vec<StepKind>,
    graph: Option<Graph>,
    /// Steps done; the first one runs without a graph, so that all is loaded and planned when the second is captured.
    done: usize,
}

struct StepKind {
    prepared: Prepared,
    /// Where the new keys go among the slots of all sequences, (G, B); -1 for nowhere.
    slots: Buffer,
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Step of {} sequences, {} done", self.sequences, self.done)
    }
}

impl Step {
    pub fn new(model: &GpuLlama, cache: &GpuCache) -> Result<Step, ModelError> {
        let (config, b) = (model.config(), cache.sequences());
        let kinds = (0..model.kinds.len())
            .map(|kind| {
                let problem = model.problem(kind, step_sequences(cache, kind)?)?;
                let prepared = model.kinds[kind].attention.prepare(&problem)?;
                Ok(StepKind { prepared, slots: model.buffer::<i32>(config.kv_heads * b)? })
            })
            .collect::<Result<_, ModelError>>()?;
        Ok(Step {
            sequences: b,
            tokens: model.buffer::<u32>(b)?,
            index: model.buffer::<i32>(b)?,
            x: model.buffer::<bf16>(b * config.width)?,
            space: Workspace::new(model, b)?,
            logits: model.buffer::<f32>(b * config.vocabulary)?,
            kinds,
            graph: None,
            done: 0,
        })
    }

    /// Logits (B, V) after the last step.
    pub fn logits(&self) -> Result<Vec<f32>, ModelError> {
        Ok(self.logits.to_vec()?)
    }

    /// Runs a step: the next token of each sequence, or `None` for one that has ended, whose row is computed for nothing.
    /// Submits and does not wait.
    pub fn run(
        &mut self,
        model: &GpuLlama,
        weights: &DeviceParams<bf16>,
        cache: &mut GpuCache,
        tokens: &[Option<u32>],
    ) -> Result<(), ModelError> {
        self.set(model, cache, tokens)?;
        let listed = model.kinds.iter().any(|kind| kind.attention.is_listed());
        if self.graph.is_none() && self.done > 0 && !listed {
            let stream = model.stream().clone();
            self.graph = Some(stream.capture(|| self.submit(model, weights, cache))?);
        }
        match &self.graph {
            Some(graph) => graph.launch()?,
            None => self.submit(model, weights, cache)?,
        }
        self.done += 1;
        for (sequence, _) in tokens.iter().enumerate().filter(|(_, token)| token.is_some()) {
            cache.advance(sequence, 1);
        }
        Ok(())
    }

    /// Writes what changes from token to token.
    fn set(
        &mut self,
        model: &GpuLlama,
        cache: &mut GpuCache,
        tokens: &[Option<u32>],
    ) -> Result<(), ModelError> {
        let b = self.sequences;
        // One that has ended stays at its last token.
        let index = |s: usize| cache.tokens(s) - usize::from(tokens[s].is_none() && cache.tokens(s) > 0);
        let index: Vec<usize> = (0..b).map(index).collect();
        let ids: Vec<u32> = tokens.iter().map(|token| token.unwrap_or(0)).collect();
        self.tokens.write(&ids)?;
        self.space.positions.write(&index.iter().map(|&i| i as f32).collect::<Vec<f32>>())?;
        self.index.write(&index.iter().map(|&i| i as i32).collect::<Vec<i32>>())?;
        for (kind, own) in self.kinds.iter_mut().enumerate() {
            let mut all = vec![-1; model.config().kv_heads * b];
            for (s, _) in tokens.iter().enumerate().filter(|(_, token)| token.is_some()) {
                let slots = cache.next_slots(kind, s, 1);
                cache.note(kind, s, &slots, false)?;
                let start = cache.kinds[kind].starts[s] as i32;
                for (g, &slot) in slots.iter().enumerate().filter(|(_, slot)| **slot >= 0) {
                    all[g * b + s] = start + slot;
                }
            }
            own.slots.write(&all)?;
            if model.kinds[kind].attention.is_listed() {
                // Its tiles were listed for other offsets.
                let problem = model.problem(kind, step_sequences(cache, kind)?)?;
                own.prepared = model.kinds[kind].attention.prepare(&problem)?;
            } else {
                let offsets: Vec<i64> = index.iter().map(|&i| i as i64).collect();
                own.prepared.set_query_offsets(&offsets)?;
            }
        }
        Ok(())
    }

    fn submit(
        &mut self,
        model: &GpuLlama,
        weights: &DeviceParams<bf16>,
        cache: &GpuCache,
    ) -> Result<(), ModelError> {
        let (config, b) = (model.config(), self.sequences);
        let single = b == 1;
        self.space.fill_tables(model, b)?;
        let table = weights.embedding()?;
        model.ops.embedding_forward(b, config.width, table, self.tokens.span(), self.x.span())?;
        for layer in 0..config.layers {
            let w = weights.layer(layer)?;
            if single {
                model.project_one(&w, self.x.span(), &self.space)?;
            } else {
                model.project(b, &w, self.x.span(), &self.space)?;
            }
            self.attend(model, cache, layer)?;
            let (x, space) = (self.x.span(), &self.space);
            if single {
                model.add_one(&w, x, space)?;
            } else {
                model.add_attention(b, &w, space.o.span(), x, x)?;
                model.add_mlp(b, &w, &self.x, space)?;
            }
        }
        let (x, logits) = (self.x.span(), self.logits.span());
        if single {
            model.logits_one(weights, x, logits)
        } else {
            model.logits(b, weights, x, &self.space, logits)
        }
    }

    /// Stores the new keys and attends over the cache.
    fn attend(&mut self, model: &GpuLlama, cache: &GpuCache, layer: usize) -> Result<(), ModelError> {
        let (kind, b, stream_shape) = (model.plan[layer], self.sequences, model.heads());
        let KindTable { table, stride } = KindTable::of(cache, kind);
        let own = &mut self.kinds[kind];
        let slots = KeySlots {
            slots: own.slots.span(),
            slot_key: table.map(|table| (self.index.span(), table.span(), stride)),
        };
        let (qkv, tables) = (self.space.qkv.span(), self.space.tables());
        model.ops.rope_store(b, stream_shape, qkv, tables, slots, cache.all_rows(layer, kind))?;
        let keys = cache.views(layer, kind, 0, stride);
        let Workspace { qkv, o, lse, .. } = &mut self.space;
        let tensors = ForwardTensors {
            q: View { buffer: qkv, layout: model.q_layout(b) },
            k: keys.k,
            v: keys.v,
            sink_logit: None,
            o: ViewMut { buffer: o, layout: Layout::contiguous(model.q_shape(b)) },
            lse,
        };
        let attention = &model.kinds[kind].attention;
        Ok(model.attention_watch.time(|| attention.decode(&mut own.prepared, tensors, table))?)
    }
}

/// The slot table of a kind, if it has one, and the slots of all sequences.
struct KindTable<'a> {
    table: Option<&'a Buffer>,
    stride: usize,
}

impl<'a> KindTable<'a> {
    fn of(cache: &'a GpuCache, kind: usize) -> KindTable<'a> {
        let kind = &cache.kinds[kind];
        KindTable { table: kind.table.as_ref().map(|table| &table.device), stride: kind.slots() }
    }
}

/// One query per sequence, at its next token, over the capacity of its cache.
fn step_sequences(cache: &GpuCache, kind: usize) -> Result<Sequences, ModelError> {
    let b = cache.sequences();
    let offsets = (0..b).map(|s| cache.tokens(s) as i64).collect();
    Ok(Sequences::new((0..=b).collect(), cache.kinds[kind].starts.clone(), Some(offsets))?)
}
