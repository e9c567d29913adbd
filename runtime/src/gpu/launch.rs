//! From checked tensors to launches. Every pointer of the parameter struct is filled in here and nowhere else, after its
//! tensor's shape, bounds, alignment and stream were checked; so this module holds the one `unsafe` of the launches.
#![allow(unsafe_code)]

use longgen_codegen::artifact;
use longgen_codegen::cuda::abi::Params;
use longgen_codegen::cuda::kernels::{DECODE_HEADS, GridAxis, MapTensor};
use longgen_codegen::schedule::PART_QUERIES;
use longgen_codegen::spec::Dtype;

use super::attention::{GpuAttention, Loaded};
use super::tensor::{Layout, View, ViewMut, on_stream};
use super::{GpuAttentionError, Prepared};
use crate::driver::{Argument, Buffer, GpuError, Grid, TensorMap, TensorMapShape};
use crate::tensor::TensorShape;

/// The tensors of a forward pass or of a decode step.
#[derive(Debug)]
pub struct ForwardTensors<'a> {
    /// [total_q, H, D].
    pub q: View<'a>,
    /// [total_k, G, D].
    pub k: View<'a>,
    /// [total_k, G, D].
    pub v: View<'a>,
    /// `[H]`, float; there exactly when the kernels were compiled with sink logits.
    pub sink_logit: Option<&'a Buffer>,
    /// [total_q, H, D], written.
    pub o: ViewMut<'a>,
    /// [H, total_q], float, written: the natural log-sum-exp.
    pub lse: &'a mut Buffer,
}

/// The tensors of a backward pass.
#[derive(Debug)]
pub struct BackwardTensors<'a> {
    /// [total_q, H, D].
    pub q: View<'a>,
    /// [total_k, G, D].
    pub k: View<'a>,
    /// [total_k, G, D].
    pub v: View<'a>,
    /// `[H]`, float; there exactly when the kernels were compiled with sink logits.
    pub sink_logit: Option<&'a Buffer>,
    /// [total_q, H, D], of the forward pass.
    pub o: View<'a>,
    /// [H, total_q], float, of the forward pass.
    pub lse: &'a Buffer,
    /// [total_q, H, D].
    pub d_o: View<'a>,
    /// [H, total_q], float, if the log-sum-exp was used too.
    pub d_lse: Option<&'a Buffer>,
    /// [total_q, H, D], written.
    pub dq: ViewMut<'a>,
    /// [total_k, G, D], written.
    pub dk: ViewMut<'a>,
    /// [total_k, G, D], written.
    pub dv: ViewMut<'a>,
    /// `[H]`, float, written; there exactly when there are sink logits.
    pub d_sink: Option<&'a mut Buffer>,
}

/// What tensor maps are made over.
struct Mapped<'a> {
    q: View<'a>,
    k: View<'a>,
    v: View<'a>,
    d_o: Option<View<'a>>,
}

impl GpuAttention {
    /// Submits a forward pass: O and the log-sum-exp.
    ///
    /// # Errors
    /// [`GpuAttentionError`] for tensors that are not the problem's, or when the driver refuses the launch. Faults of a
    /// kernel surface when the stream is waited for.
    pub fn forward(
        &self,
        prepared: &mut Prepared,
        tensors: ForwardTensors<'_>,
    ) -> Result<(), GpuAttentionError> {
        let mut params = Params::default();
        let mapped = self.forward_params(prepared, tensors, &mut params)?;
        for loaded in &self.forward {
            self.submit(loaded, prepared, &params, &mapped)?;
        }
        Ok(())
    }

    /// Submits a decode step: at most one query token per sequence. With `slot_key` ([G, total_k], int) the keys lie in
    /// the slots of a compact cache: the key index of each slot, -1 for an empty one.
    ///
    /// A step can be captured once in a graph and replayed for every token. Prepare the problem with one query token and
    /// the *capacity* of the cache as the keys of each sequence; a key past the query is neither seen nor read, so the
    /// rest of the cache may hold anything. Whatever changes from token to token is read from device memory at each
    /// launch: the tensors, `slot_key`, and the index of each query ([`Prepared::query_offsets_mut`], which a kernel
    /// in the graph may raise, or [`Prepared::set_query_offsets`] between replays).
    ///
    /// # Errors
    /// As [`GpuAttention::forward`], and when the problem has more than one query token in a sequence.
    pub fn decode(
        &self,
        prepared: &mut Prepared,
        tensors: ForwardTensors<'_>,
        slot_key: Option<&Buffer>,
    ) -> Result<(), GpuAttentionError> {
        let Some(loaded) = self.decode.as_ref().filter(|_| prepared.is_decode()) else {
            let text = "decoding takes a kernel loaded for it and one query token per sequence at most";
            return Err(GpuAttentionError::Unsupported(text.to_owned()));
        };
        let mut params = Params::default();
        let problem = prepared.problem();
        let slots = problem.shape.kv_heads() * problem.sequences.total_k();
        params.slot_key = self.floats("slot_key", slot_key, slots)?;
        let mapped = self.forward_params(prepared, tensors, &mut params)?;
        self.submit(loaded, prepared, &params, &mapped)
    }

    /// Submits a backward pass.
    ///
    /// # Errors
    /// As [`GpuAttention::forward`].
    pub fn backward(
        &self,
        prepared: &mut Prepared,
        tensors: BackwardTensors<'_>,
    ) -> Result<(), GpuAttentionError> {
        if self.backward.is_empty() {
            let text = "the backward kernels were not loaded".to_owned();
            return Err(GpuAttentionError::Unsupported(text));
        }
        let params = self.backward_params(prepared, &tensors)?;
        let BackwardTensors { q, k, v, d_o, .. } = tensors;
        let mapped = Mapped { q, k, v, d_o: Some(d_o) };
        for loaded in &self.backward {
            if let (true, Some(sums)) = (loaded.pass.is_fused(), &mut prepared.fused) {
                sums.clear()?;
            }
            self.submit(loaded, prepared, &params, &mapped)?;
        }
        Ok(())
    }

    fn forward_params<'a>(
        &self,
        prepared: &Prepared,
        tensors: ForwardTensors<'a>,
        params: &mut Params,
    ) -> Result<Mapped<'a>, GpuAttentionError> {
        let (queries, keys) = shapes(prepared);
        let problem = prepared.problem();
        let ForwardTensors { q, k, v, sink_logit, o, lse } = tensors;
        q.check("q", queries, &self.stream)?;
        k.check("k", keys, &self.stream)?;
        v.check("v", keys, &self.stream)?;
        o.check("o", queries, &self.stream)?;
        (params.q, params.k, params.v, params.o) =
            (q.address(), k.address(), v.address(), o.view().address());
        params.lse = self.floats("lse", Some(lse), problem.lse_elements())?;
        params.sink_logit = self.sink("sink_logit", sink_logit, problem.shape.heads())?;
        (params.q_t, params.q_h) = strides(&q.layout);
        (params.k_t, params.k_h) = strides(&k.layout);
        (params.v_t, params.v_h) = strides(&v.layout);
        (params.o_t, params.o_h) = strides(&o.layout);
        Ok(Mapped { q, k, v, d_o: None })
    }

    fn backward_params(
        &self,
        prepared: &Prepared,
        tensors: &BackwardTensors<'_>,
    ) -> Result<Params, GpuAttentionError> {
        let (queries, keys) = shapes(prepared);
        let problem = prepared.problem();
        let BackwardTensors { q, k, v, sink_logit, o, lse, d_o, d_lse, dq, dk, dv, d_sink } = tensors;
        for (name, view, expected) in
            [("q", q, queries), ("k", k, keys), ("v", v, keys), ("o", o, queries), ("d_o", d_o, queries)]
        {
            view.check(name, expected, &self.stream)?;
        }
        for (name, view, expected) in [("dq", dq, queries), ("dk", dk, keys), ("dv", dv, keys)] {
            view.check(name, expected, &self.stream)?;
        }
        let (heads, rows) = (problem.shape.heads(), problem.lse_elements());
        let mut params = Params {
            q: q.address(),
            k: k.address(),
            v: v.address(),
            o: o.address(),
            d_o: d_o.address(),
            lse: self.floats("lse", Some(lse), rows)?,
            d_lse: self.floats("d_lse", *d_lse, rows)?,
            dq: dq.view().address(),
            dk: dk.view().address(),
            dv: dv.view().address(),
            sink_logit: self.sink("sink_logit", *sink_logit, heads)?,
            d_sink: self.sink("d_sink", d_sink.as_deref(), heads)?,
            ..Params::default()
        };
        (params.q_t, params.q_h) = strides(&q.layout);
        (params.k_t, params.k_h) = strides(&k.layout);
        (params.v_t, params.v_h) = strides(&v.layout);
        (params.o_t, params.o_h) = strides(&o.layout);
        (params.do_t, params.do_h) = strides(&d_o.layout);
        (params.dq_t, params.dq_h) = strides(&dq.layout);
        (params.dk_t, params.dk_h) = strides(&dk.layout);
        (params.dv_t, params.dv_h) = strides(&dv.layout);
        Ok(params)
    }

    /// Address of a buffer of `count` 4-byte numbers, 0 for none.
    fn floats(&self, name: &'static str, buffer: Option<&Buffer>, count: usize) -> Result<u64, GpuError> {
        let Some(buffer) = buffer else { return Ok(0) };
        on_stream(name, buffer, &self.stream)?;
        let (found, needed) = (buffer.bytes(), count * 4);
        if found < needed { Err(GpuError::TooSmall { name, found, needed }) } else { Ok(buffer.address()) }
    }

    /// The same for a buffer that must be there exactly when the kernels have sink logits.
    fn sink(
        &self,
        name: &'static str,
        buffer: Option<&Buffer>,
        heads: usize,
    ) -> Result<u64, GpuAttentionError> {
        if buffer.is_some() != self.shape.sink_logit {
            let text =
                format!("`{name}` must be given exactly when the kernels are compiled with sink logits");
            return Err(GpuAttentionError::Unsupported(text));
        }
        Ok(self.floats(name, buffer, heads)?)
    }

    /// Launches the entry points of one source.
    fn submit(
        &self,
        loaded: &Loaded,
        prepared: &mut Prepared,
        tensors: &Params,
        mapped: &Mapped<'_>,
    ) -> Result<(), GpuAttentionError> {
        let mut params = *tensors;
        prepared.fill(self, loaded, &mut params)?;
        for (entry, function) in loaded.compiled.manifest.kernels.iter().zip(&loaded.functions) {
            if entry.needs_sink_logit && !self.shape.sink_logit {
                continue;
            }
            let blocks = entry.grid.map(|axis| self.extent(axis, loaded, &params));
            let maps = self.maps(entry, prepared, mapped)?;
            let mut next_map = maps.iter();
            let mut arguments = Vec::with_capacity(entry.arguments.len());
            for argument in &entry.arguments {
                match argument {
                    artifact::Argument::Params => arguments.push(Argument::Params(&params)),
                    artifact::Argument::TensorMap { .. } => {
                        arguments.extend(next_map.next().map(Argument::Map));
                    }
                    artifact::Argument::WorkCounter => {
                        prepared.work_counter.fill(0)?;
                        arguments.push(Argument::Address(prepared.work_counter.address()));
                    }
                }
            }
            let grid = Grid { blocks, threads: entry.block };
            // SAFETY: the arguments follow the manifest of this very cubin, which says too whether the kernel waits
            // itself. Every address in `params` is null where the kernel allows it, or was taken above from a buffer
            // whose size, bounds and stream were checked against the problem; the buffers are freed in stream order,
            // so not before the kernel is done.
            unsafe {
                if entry.starts_early {
                    function.launch_early(&self.stream, grid, &arguments)?;
                } else {
                    function.launch(&self.stream, grid, &arguments)?;
                }
            };
        }
        Ok(())
    }

    fn extent(&self, axis: GridAxis, loaded: &Loaded, params: &Params) -> u32 {
        let tiles = loaded.tiles();
        let query_tiles = params.max_q.unsigned_abs().div_ceil(tiles.queries);
        match axis {
            GridAxis::QueryTiles => query_tiles,
            GridAxis::KeyTiles => params.max_k.unsigned_abs().div_ceil(tiles.keys),
            GridAxis::QueryWork => {
                let work = u64::from(query_tiles)
                    * u64::from(params.heads.unsigned_abs())
                    * u64::from(params.batch.unsigned_abs());
                u32::try_from(work).unwrap_or(u32::MAX).min(self.multiprocessors)
            }
            GridAxis::KeyWork => {
                let group = params.heads.unsigned_abs() / params.kv_heads.unsigned_abs().max(1);
                let parts = params.max_q.unsigned_abs().div_ceil(PART_QUERIES).max(1);
                let far = u64::from(params.far_pairs.unsigned_abs()) * u64::from(parts * group);
                let near = u64::from(params.max_k.unsigned_abs().div_ceil(tiles.keys));
                let rows = u64::from(params.kv_heads.unsigned_abs()) * u64::from(params.batch.unsigned_abs());
                u32::try_from((far + near) * rows).unwrap_or(u32::MAX).min(self.multiprocessors)
            }
            GridAxis::Heads => params.heads.unsigned_abs(),
            GridAxis::KvHeads => params.kv_heads.unsigned_abs(),
            GridAxis::HeadTiles => {
                let group = params.heads.unsigned_abs() / params.kv_heads.unsigned_abs().max(1);
                params.kv_heads.unsigned_abs() * group.div_ceil(DECODE_HEADS)
            }
            GridAxis::Batch => params.batch.unsigned_abs(),
            GridAxis::Splits => params.splits.unsigned_abs(),
            GridAxis::One => 1,
        }
    }

    fn maps(
        &self,
        entry: &artifact::KernelEntry,
        prepared: &Prepared,
        mapped: &Mapped<'_>,
    ) -> Result<Vec<TensorMap>, GpuAttentionError> {
        let (queries, keys) = shapes(prepared);
        let mut maps = Vec::new();
        for argument in &entry.arguments {
            let artifact::Argument::TensorMap { tensor, box_extent } = argument else { continue };
            let (view, shape) = match tensor {
                MapTensor::Q => (Some(mapped.q), queries),
                MapTensor::K => (Some(mapped.k), keys),
                MapTensor::V => (Some(mapped.v), keys),
                MapTensor::DO => (mapped.d_o, queries),
            };
            let missing = || GpuAttentionError::Unsupported(format!("no tensor for the map of {tensor:?}"));
            let view = view.ok_or_else(missing)?;
            let geometry = TensorMapShape {
                bf16: self.shape.dtype == Dtype::Bf16,
                head_dim: shape.head_dim as u32,
                heads: shape.heads as u32,
                tokens: shape.tokens as u32,
                token_stride: view.layout.token_stride as u64,
                head_stride: view.layout.head_stride as u64,
                box_extent: *box_extent,
            };
            maps.push(TensorMap::encode(view.buffer, view.layout.offset * 2, &geometry)?);
        }
        Ok(maps)
    }
}

/// Shapes of the query-side and the key-side tensors.
fn shapes(prepared: &Prepared) -> (TensorShape, TensorShape) {
    let problem = prepared.problem();
    let shape = |tokens, heads| TensorShape { tokens, heads, head_dim: problem.shape.head_dim() };
    (
        shape(problem.sequences.total_q(), problem.shape.heads()),
        shape(problem.sequences.total_k(), problem.shape.kv_heads()),
    )
}

fn strides(layout: &Layout) -> (i64, i64) {
    (layout.token_stride as i64, layout.head_stride as i64)
}
