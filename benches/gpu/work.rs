//! One item: build, fill with noise, run, check, time.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use half::{bf16, f16};
use longgen_codegen::analysis::{KvLayout, visible_pairs};
use longgen_codegen::cuda::locate::ToolSearch;
use longgen_codegen::ir::MaskIr;
use longgen_codegen::pattern::{PRESETS, Pattern};
use longgen_codegen::spec::{Dtype, Shape};
use longgen_runtime::driver::{Buffer, Device, Stream};
use longgen_runtime::gpu::{
    BackwardTensors, ForwardTensors, GpuAttention, GpuOptions, KernelCache, Layout, Prepared, View, ViewMut,
};
use longgen_runtime::problem::{AttentionProblem, HeadShape, Sequences};
use longgen_runtime::store::{Store, StoreLocation};
use longgen_runtime::tensor::TensorShape;
use serde_json::{Value, json};

use crate::item::{Item, Pass};
use crate::sample::{self, Sampled};

type Outcome<T> = Result<T, Box<dyn Error>>;

const POISON: u8 = 0xff;
/// Launches in one captured graph of decode steps: what they take apart from each other is then not measured.
const STEPS_IN_GRAPH: usize = 20;
/// The steps of a graph take turns with as many caches as hold this, so that none finds its keys in the L2 cache.
const CACHES_BYTES: usize = 512 << 20;

/// Checks and times an item, and hands the result to `done`; times it again as long as that returns true.
pub fn run(
    device: &Device,
    kernels: &Kernels,
    item: &Item,
    mut done: impl FnMut(Value) -> bool,
) -> Outcome<()> {
    let pattern = if PRESETS.contains(&item.pattern.as_str()) {
        Pattern::preset(&item.pattern)?
    } else {
        item.pattern.parse::<Pattern>()?
    };
    let ir = MaskIr::lower(&pattern, None)?;
    let dtype = if item.dtype == "fp16" { Dtype::Fp16 } else { Dtype::Bf16 };
    let shape = Shape::plain(item.head_dim as u32, dtype);
    let options = GpuOptions {
        target: item.target.as_deref().map(str::parse).transpose()?,
        backward: item.pass.is_backward(),
        deterministic: item.pass == Pass::BackwardDeterministic,
        decode: item.pass.is_decode(),
        group: (item.heads / item.kv_heads.max(1)) as u32,
    };
    let build = |cache: &KernelCache| -> Outcome<(GpuAttention, f64)> {
        let started = Instant::now();
        let attention = GpuAttention::new(device, cache, &pattern.to_string(), &ir, shape, options)?;
        Ok((attention, started.elapsed().as_secs_f64() * 1e3))
    };
    let (attention, build_ms) = build(&kernels.cache)?;
    let (_, disk_ms) = build(&kernels.fresh())?;

    let mut bench = Bench::new(item, &attention, &ir, dtype)?;
    bench.submit()?;
    bench.attention.stream().synchronize()?;
    let check = bench.check()?;
    loop {
        let times = bench.time(item.repeats)?;
        if !done(bench.report(&times, [build_ms, disk_ms], &check)) {
            return Ok(());
        }
    }
}

/// Where kernels come from.
pub struct Kernels {
    search: ToolSearch,
    location: StoreLocation,
    /// Remembers, and keeps in the store.
    cache: KernelCache,
}

impl Kernels {
    pub fn new(search: ToolSearch, folder: &Path) -> Self {
        let location = StoreLocation::in_folder(folder);
        let cache = KernelCache::new(search.clone(), Arc::new(Store::open(location.clone())));
        Kernels { search, location, cache }
    }

    /// What a new process would have: the store.
    fn fresh(&self) -> KernelCache {
        KernelCache::new(self.search.clone(), Arc::new(Store::open(self.location.clone())))
    }
}

/// A contiguous 16-bit tensor on the device.
pub struct Tensor {
    pub buffer: Buffer,
    pub dtype: Dtype,
    /// What an input repeats; nothing for an output.
    pub period: Vec<u16>,
    layout: Layout,
}

impl Tensor {
    fn view(&self) -> View<'_> {
        View { buffer: &self.buffer, layout: self.layout }
    }

    fn view_mut(&mut self) -> ViewMut<'_> {
        ViewMut { buffer: &mut self.buffer, layout: self.layout }
    }
}

/// Device state of one item.
pub struct Bench<'a> {
    pub item: &'a Item,
    pub ir: &'a MaskIr,
    /// Query tokens of a sequence, the last of its tokens.
    pub queries_each: usize,
    attention: &'a GpuAttention,
    prepared: Prepared,
    pub q: Tensor,
    pub k: Tensor,
    pub v: Tensor,
    /// Further caches to decode from.
    other_caches: Vec<(Tensor, Tensor)>,
    pub d_o: Tensor,
    pub o: Tensor,
    pub lse: Buffer,
    pub dq: Tensor,
    pub dk: Tensor,
    pub dv: Tensor,
    slot_key: Option<Buffer>,
    /// The same on the host, and how many slots a sequence has.
    pub slots: (usize, Option<Vec<i32>>),
    /// Key slots that hold a key, over all KV heads of one sequence.
    live_keys: u64,
}

impl<'a> Bench<'a> {
    fn new(item: &'a Item, attention: &'a GpuAttention, ir: &'a MaskIr, dtype: Dtype) -> Outcome<Bench<'a>> {
        let stream = attention.stream();
        let (slots, slot_key, live_keys) = cache_slots(item, ir);
        let queries_each = if item.pass.is_decode() { 1 } else { item.tokens };
        let cuts = |each: usize| (0..=item.batch).map(|b| b * each).collect::<Vec<_>>();
        let offset = (item.tokens - queries_each) as i64;
        let sequences = Sequences::new(cuts(queries_each), cuts(slots), Some(vec![offset; item.batch]))?;
        let shape = HeadShape::new(item.heads, item.kv_heads, item.head_dim)?;
        let problem = AttentionProblem::new(shape, sequences);
        let queries =
            TensorShape { tokens: item.batch * queries_each, heads: item.heads, head_dim: item.head_dim };
        let keys = TensorShape { tokens: item.batch * slots, heads: item.kv_heads, head_dim: item.head_dim };
        let none = TensorShape { tokens: 0, ..queries };
        let cache_bytes = 4 * keys.tokens * keys.heads * keys.head_dim;
        let caches = CACHES_BYTES.div_ceil(cache_bytes.max(1)).min(STEPS_IN_GRAPH) as u64;
        let caches = if item.pass.is_decode() { caches } else { 1 };
        let backward = |shape| if item.pass.is_backward() { shape } else { none };
        let filled = |shape: TensorShape| -> Outcome<Tensor> {
            let bytes = shape.tokens * shape.heads * shape.head_dim * 2;
            let buffer = Buffer::filled(stream, bytes, POISON)?;
            Ok(Tensor { buffer, layout: Layout::contiguous(shape), dtype, period: Vec::new() })
        };
        Ok(Bench {
            item,
            ir,
            queries_each,
            attention,
            prepared: attention.prepare(&problem)?,
            q: noise(stream, dtype, queries, 1)?,
            k: noise(stream, dtype, keys, 2)?,
            v: noise(stream, dtype, keys, 3)?,
            other_caches: (1..caches)
                .map(|n| Ok((noise(stream, dtype, keys, 3 + 2 * n)?, noise(stream, dtype, keys, 4 + 2 * n)?)))
                .collect::<Outcome<_>>()?,
            d_o: noise(stream, dtype, backward(queries), 4)?,
            o: filled(queries)?,
            lse: Buffer::filled(stream, problem.lse_elements() * 4, POISON)?,
            dq: filled(backward(queries))?,
            dk: filled(backward(keys))?,
            dv: filled(backward(keys))?,
            slot_key: slot_key.as_ref().map(|keys| Buffer::from_slice(stream, keys)).transpose()?,
            slots: (slots, slot_key),
            live_keys,
        })
    }

    /// The forward pass, and whatever else the item's first run needs.
    fn submit(&mut self) -> Outcome<()> {
        match self.item.pass {
            Pass::Decode | Pass::DecodeCompact => self.decode(0),
            Pass::Forward => self.forward(),
            Pass::Backward | Pass::BackwardDeterministic => {
                self.forward()?;
                self.backward()
            }
        }
    }

    fn tensors<'t>(
        (q, k, v): (&'t Tensor, &'t Tensor, &'t Tensor),
        o: &'t mut Tensor,
        lse: &'t mut Buffer,
    ) -> ForwardTensors<'t> {
        ForwardTensors { q: q.view(), k: k.view(), v: v.view(), sink_logit: None, o: o.view_mut(), lse }
    }

    fn forward(&mut self) -> Outcome<()> {
        let tensors = Self::tensors((&self.q, &self.k, &self.v), &mut self.o, &mut self.lse);
        Ok(self.attention.forward(&mut self.prepared, tensors)?)
    }

    /// One step, from the caches in turn.
    fn decode(&mut self, step: usize) -> Outcome<()> {
        let (k, v) = match step % (self.other_caches.len() + 1) {
            0 => (&self.k, &self.v),
            n => (&self.other_caches[n - 1].0, &self.other_caches[n - 1].1),
        };
        let tensors = Self::tensors((&self.q, k, v), &mut self.o, &mut self.lse);
        Ok(self.attention.decode(&mut self.prepared, tensors, self.slot_key.as_ref())?)
    }

    fn backward(&mut self) -> Outcome<()> {
        let tensors = BackwardTensors {
            q: self.q.view(),
            k: self.k.view(),
            v: self.v.view(),
            sink_logit: None,
            o: self.o.view(),
            lse: &self.lse,
            d_o: self.d_o.view(),
            d_lse: None,
            dq: self.dq.view_mut(),
            dk: self.dk.view_mut(),
            dv: self.dv.view_mut(),
            d_sink: None,
        };
        Ok(self.attention.backward(&mut self.prepared, tensors)?)
    }

    /// Milliseconds of each repeat, ascending.
    fn time(&mut self, repeats: usize) -> Outcome<Vec<f64>> {
        let stream = self.attention.stream().clone();
        let mut times = Vec::with_capacity(repeats);
        if self.item.pass.is_decode() {
            let steps = || (0..STEPS_IN_GRAPH).try_for_each(|step| self.decode(step)).map_err(Failed);
            let graph = stream.capture(steps)?;
            graph.launch()?;
            for _ in 0..repeats {
                let start = stream.record()?;
                graph.launch()?;
                times.push(f64::from(start.elapsed_ms(&stream.record()?)?) / STEPS_IN_GRAPH as f64);
            }
        } else {
            let backward = self.item.pass.is_backward();
            for repeat in 0..repeats + 3 {
                let start = stream.record()?;
                if backward {
                    self.backward()?
                } else {
                    self.forward()?
                }
                let end = stream.record()?;
                if repeat >= 3 {
                    times.push(f64::from(start.elapsed_ms(&end)?));
                }
            }
        }
        times.sort_by(f64::total_cmp);
        Ok(times)
    }

    fn check(&self) -> Outcome<Value> {
        let Sampled { errors } = sample::check(self)?;
        Ok(json!(errors))
    }

    fn report(&self, times: &[f64], [build_ms, disk_ms]: [f64; 2], check: &Value) -> Value {
        let item = self.item;
        let ms = times[times.len() / 2];
        let group = (item.heads / item.kv_heads) as f64;
        let pairs: f64 = if item.pass.is_decode() {
            0.0
        } else {
            let of = |g| visible_pairs(self.ir, g, item.tokens as u32).map_or(f64::NAN, |n| n as f64);
            (0..item.kv_heads as u32).map(of).sum::<f64>() * group * item.batch as f64
        };
        let per_pair = if item.pass.is_backward() { 10.0 } else { 4.0 };
        let kv_bytes = (self.live_keys * item.batch as u64) as f64 * item.head_dim as f64 * 4.0;
        json!({
            "item": item,
            "ms": ms, "ms_min": times[0], "ms_max": times[times.len() - 1],
            "tflops": pairs * per_pair * item.head_dim as f64 / ms / 1e9,
            "pairs": pairs,
            "kv_bytes": kv_bytes, "kv_gbps": kv_bytes / ms / 1e6,
            "build_ms": build_ms, "disk_ms": disk_ms, "splits": self.prepared.splits(self.slot_key.is_some()), "check": check,
            "kernels": self.attention.kernels().map(|k| k.manifest.schedule.clone()).collect::<Vec<_>>(),
        })
    }
}

/// An error that a captured closure may return.
#[derive(Debug)]
struct Failed(Box<dyn Error>);

impl From<longgen_runtime::driver::GpuError> for Failed {
    fn from(error: longgen_runtime::driver::GpuError) -> Self {
        Failed(Box::new(error))
    }
}
impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
impl Error for Failed {}

/// Key slots of one sequence; when they are a compact cache, the key in each slot of each KV head and sequence; and how
/// many keys the query of one sequence sees in all.
fn cache_slots(item: &Item, ir: &MaskIr) -> (usize, Option<Vec<i32>>, u64) {
    let last = item.tokens as u32 - 1;
    let seen = |g: u32| (0..=last).filter(|&j| ir.sees(g, last, j)).count() as u64;
    let heads = 0..item.kv_heads as u32;
    let live = if item.pass.is_decode() { heads.clone().map(seen).sum() } else { 0 };
    if item.pass != Pass::DecodeCompact {
        return (item.tokens, None, live);
    }
    let tokens = item.tokens as u64;
    let layouts: Vec<KvLayout> = heads.map(|g| KvLayout::new(ir, g)).collect();
    let sizes = layouts.iter().zip(0u32..).map(|(layout, g)| layout.slots(g, tokens, 1));
    let slots = sizes.max().unwrap_or(0) as usize;
    let mut slot_key = Vec::with_capacity(slots * item.batch * item.kv_heads);
    for (layout, g) in layouts.iter().zip(0u32..) {
        let mut of_sequence = vec![-1i32; slots];
        for j in 0..tokens {
            if let Some(slot) = layout.slot(g, j, tokens, 1) {
                of_sequence[slot as usize] = j as i32;
            }
        }
        slot_key.extend(of_sequence.repeat(item.batch));
    }
    (slots, Some(slot_key), live)
}

/// A tensor of noise of variance 1. The noise repeats after a prime number of elements, so no two rows are equal.
fn noise(stream: &Stream, dtype: Dtype, shape: TensorShape, seed: u64) -> Outcome<Tensor> {
    const PERIOD: usize = 4_194_301;
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u32 << 24) as f32 - 0.5
    };
    let count = shape.tokens * shape.heads * shape.head_dim;
    let period: Vec<u16> = (0..PERIOD.min(count))
        .map(|_| {
            let x = (0..4).map(|_| uniform()).sum::<f32>() * 3f32.sqrt();
            if dtype == Dtype::Bf16 { bf16::from_f32(x).to_bits() } else { f16::from_f32(x).to_bits() }
        })
        .collect();
    let mut buffer = Buffer::zeros(stream, count * 2)?;
    for first in (0..count).step_by(PERIOD) {
        buffer.write_at(2 * first, &period[..PERIOD.min(count - first)])?;
    }
    Ok(Tensor { buffer, layout: Layout::contiguous(shape), dtype, period })
}
