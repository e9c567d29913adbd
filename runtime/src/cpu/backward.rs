//! Backward: row sums and dQ by query tiles, then dK and dV by key tiles. Nothing is summed across threads, so
//! the gradients are the same whatever the number of threads.

use std::f32::consts::LOG2_E;

use longgen_codegen::cpu::Blocking;
use longgen_codegen::cpu::abi::STRIP;

use super::call::Kernel;
use super::forward::load_queries;
use super::pack::{self, Operands};
use super::rows::{Source, load_lanes, store_lanes};
use super::scratch::{ItemRange, Scratch};
use super::shared::{CellWriter, RowWriter};
use super::work::{self, KeyTile, QueryTile};
use super::{CpuAttention, CpuInputs};
use crate::problem::AttentionProblem;
use crate::tensor::TensorView;

/// One backward call.
pub struct Backward<'a> {
    pub attention: &'a CpuAttention,
    pub blocking: Blocking,
    pub problem: &'a AttentionProblem,
    pub inputs: CpuInputs<'a>,
    pub o: TensorView<'a>,
    pub d_o: TensorView<'a>,
    /// From [`base_2`].
    pub lse2: &'a [f32],
    /// (H, total_q)
    pub d_lse: Option<&'a [f32]>,
    pub dq: RowWriter<'a>,
    pub dk: RowWriter<'a>,
    pub dv: RowWriter<'a>,
}

/// Log-sum-exp in base 2, +inf for empty rows, so that their probabilities are 0.
pub fn base_2(lse: &[f32]) -> Vec<f32> {
    lse.iter().map(|&lse| if lse == f32::NEG_INFINITY { f32::INFINITY } else { lse * LOG2_E }).collect()
}

/// The gradient of the sink logits, (H), from the log-sum-exp in base 2 and the row sums, both (H, total_q).
pub fn sink_gradient(sink_logit: &[f32], lse2: &[f32], delta: &[f32], total_q: usize) -> Vec<f32> {
    let head_gradient = |(head, &logit): (usize, &f32)| {
        let rows = head * total_q..(head + 1) * total_q;
        let terms = lse2[rows.clone()].iter().zip(&delta[rows]);
        let sum: f64 =
            terms.map(|(&lse2, &delta)| f64::from((logit * LOG2_E - lse2).exp2()) * f64::from(delta)).sum();
        -sum as f32
    };
    sink_logit.iter().enumerate().map(head_gradient).collect()
}

impl Backward<'_> {
    /// dQ, dK and dV; returns the row sums `sum_d dO * O - dLSE`, (H, total_q).
    pub fn run(&self) -> Vec<f32> {
        let mut delta = vec![0.0; self.lse2.len()];
        let tiles = work::query_tiles(self.problem.shape, &self.problem.sequences, self.blocking);
        let writer = CellWriter::new(&mut delta);
        let (shape, attention) = (self.problem.shape, self.attention);
        let operands = Operands { a: self.inputs.k, b: self.inputs.v };
        let uses = work::uses_per_row(attention.programs(), &tiles, &self.problem.sequences);
        let repaid = uses >= self.blocking.copy_uses as usize;
        pack::for_each(attention, shape, (operands, repaid), &tiles, |scratch, tile, source| {
            self.query_tile(scratch, tile, source, &writer);
        });
        let tiles = work::key_tiles(self.problem.shape, &self.problem.sequences, self.blocking);
        let operands = Operands { a: self.inputs.q, b: self.d_o };
        pack::for_each(attention, shape, (operands, repaid), &tiles, |scratch, tile, source| {
            self.key_tile(scratch, tile, source, &delta);
        });
        delta
    }

    /// Row sums and dQ of one tile.
    fn query_tile(
        &self,
        scratch: &mut Scratch,
        tile: &QueryTile,
        source: &Source<'_>,
        delta: &CellWriter<'_>,
    ) {
        self.load_query_gradients(scratch, tile, delta);
        scratch.out_a.as_mut().fill(0.0);
        if tile.indices().1 > 0 && tile.keys.0 < tile.keys.1 {
            self.attend_queries(scratch, tile, source);
        }
        scratch.factors.fill(self.problem.scale());
        let (micro, rows) = (self.attention.micro(), (tile.lanes(), tile.rows()));
        let out = (scratch.out_a.as_slice(), scratch.factors.as_slice());
        // SAFETY: each row belongs to one tile, each tile to one thread.
        unsafe { store_lanes(micro, &self.dq, rows, out, &mut scratch.staging) }
    }

    fn attend_queries(&self, scratch: &mut Scratch, tile: &QueryTile, source: &Source<'_>) {
        let scores = self.attention.score_scale(self.problem);
        load_queries(self.attention.micro(), scratch, tile, &self.inputs.q, scores.factor);
        let lanes = tile.indices();
        if let Some(programs) = self.attention.listed() {
            work::list_keys(programs, tile.g, lanes, tile.keys, &mut scratch.list);
        }
        let range = ItemRange {
            g: tile.g,
            lanes,
            rows: tile.keys,
            row_base: 0,
            lane_count: tile.lanes(),
            heads: 1,
            blocking: self.blocking,
            softcap2: scores.softcap2,
        };
        let mut item = scratch.item(self.attention.micro(), range, source);
        // SAFETY: the item points into this thread's scratch memory and into K and V, whose shapes were checked to hold
        // the sequence's keys.
        unsafe { self.attention.kernels().run(Kernel::BackwardQuery, &mut item) }
    }

    /// dO and the statistics of a query tile, by lane; uses the accumulator for O.
    fn load_query_gradients(&self, scratch: &mut Scratch, tile: &QueryTile, delta: &CellWriter<'_>) {
        let total_q = self.problem.sequences.total_q();
        scratch.lse2.as_mut().fill(f32::INFINITY);
        scratch.alpha.as_mut().fill(1.0);
        let (micro, lanes) = (self.attention.micro(), tile.lanes());
        for (view, columns) in [(&self.d_o, &mut scratch.lanes_b), (&self.o, &mut scratch.out_a)] {
            let columns = (columns.as_mut(), 1.0);
            load_lanes(micro, view, (lanes, tile.rows()), columns, &mut scratch.staging);
        }
        for (lse2, (token, head)) in scratch.lse2.as_mut().iter_mut().zip(tile.rows()) {
            *lse2 = self.lse2[head * total_q + token];
        }
        let depth = scratch.row.len() as i64;
        let (o, d_o) = (scratch.out_a.as_slice().as_ptr(), scratch.lanes_b.as_slice().as_ptr());
        let sums = scratch.delta.as_mut();
        // SAFETY: both tiles are D x LANES, `sums` has LANES elements; the instruction set was found on this machine.
        unsafe {
            let strips = tile.lanes().div_ceil(STRIP) as i64;
            (self.attention.micro().lane_dots)(o, d_o, depth, strips, sums.as_mut_ptr());
        }
        for (sum, (token, head)) in sums.iter_mut().zip(tile.rows()) {
            *sum -= self.d_lse.map_or(0.0, |d_lse| d_lse[head * total_q + token]);
            // SAFETY: each row belongs to one tile, each tile to one thread.
            unsafe { delta.write(head * total_q + token, *sum) }
        }
    }

    /// dK and dV of one tile.
    fn key_tile(&self, scratch: &mut Scratch, tile: &KeyTile, source: &Source<'_>, delta: &[f32]) {
        scratch.out_a.as_mut().fill(0.0);
        scratch.out_b.as_mut().fill(0.0);
        let queries = queries_of(tile);
        if queries.0 < queries.1 {
            self.attend_keys(scratch, tile, source, delta);
        }
        let results = [(&self.dk, &scratch.out_a, self.problem.scale()), (&self.dv, &scratch.out_b, 1.0)];
        for (writer, out, factor) in results {
            scratch.factors.fill(factor);
            let (micro, rows) = (self.attention.micro(), (tile.lanes(), tile.rows()));
            let out = (out.as_slice(), scratch.factors.as_slice());
            // SAFETY: each key belongs to one tile, each tile to one thread.
            unsafe { store_lanes(micro, writer, rows, out, &mut scratch.staging) }
        }
    }

    fn attend_keys(&self, scratch: &mut Scratch, tile: &KeyTile, source: &Source<'_>, delta: &[f32]) {
        let queries = queries_of(tile);
        let shape = self.problem.shape;
        let total_q = self.problem.sequences.total_q();
        let scores = self.attention.score_scale(self.problem);
        let keys = (tile.keys.0 as i64, tile.keys.1 as i64);
        self.load_keys(scratch, tile, scores.factor);
        if let Some(programs) = self.attention.listed() {
            work::list_queries(programs, tile.g, keys, queries, &mut scratch.list);
        }
        let before = (queries.0 - tile.sequence.q_offset) as usize;
        let token = tile.sequence.q_start + before;
        let head = tile.g * shape.group();
        let source = Source { token: source.token + before, ..*source };
        let range = ItemRange {
            g: tile.g,
            lanes: keys,
            rows: queries,
            row_base: queries.0,
            lane_count: tile.lanes(),
            heads: shape.group(),
            blocking: self.blocking,
            softcap2: scores.softcap2,
        };
        let mut item = scratch.item(self.attention.micro(), range, &source);
        let first_row = head * total_q + token;
        item.lse2 = self.lse2[first_row..].as_ptr();
        item.delta = delta[first_row..].as_ptr();
        item.stat_head = total_q as i64;
        // SAFETY: the item points into this thread's scratch memory, into Q and dO, whose shapes were checked to hold the
        // sequence's queries, and into statistics of the same rows.
        unsafe { self.attention.kernels().run(Kernel::BackwardKeyValue, &mut item) }
    }

    /// K and V of a key tile, by lane.
    fn load_keys(&self, scratch: &mut Scratch, tile: &KeyTile, factor: f32) {
        scratch.alpha.as_mut().fill(1.0);
        let (micro, lanes) = (self.attention.micro(), tile.lanes());
        let (k, v) = (&self.inputs.k, &self.inputs.v);
        for (view, columns, factor) in [(k, &mut scratch.lanes_a, factor), (v, &mut scratch.lanes_b, 1.0)] {
            let columns = (columns.as_mut(), factor);
            load_lanes(micro, view, (lanes, tile.rows()), columns, &mut scratch.staging);
        }
        for (lane, index) in scratch.lane_index.0.iter_mut().enumerate() {
            *index = if lane < lanes { (tile.keys.0 + lane) as i32 } else { i32::MAX };
        }
    }
}

/// Indices of the queries that come at or after the first key of a tile.
fn queries_of(tile: &KeyTile) -> (i64, i64) {
    let sequence = tile.sequence;
    (sequence.q_offset.max(tile.keys.0 as i64), sequence.q_offset + sequence.q_len as i64)
}
