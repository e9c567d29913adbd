//! Forward and decode: query tiles on all threads, keys split where tiles are few.

use std::f32::consts::{LN_2, LOG2_E};
use std::sync::{Mutex, PoisonError};

use longgen_codegen::cpu::Blocking;
use longgen_codegen::cpu::abi::{LANES, STRIP};

use super::call::Kernel;
use super::pack::{self, Operands};
use super::rows::{Source, load_lanes, read_lane, store_lanes, write_lane};
use super::scratch::{ItemRange, Scratch};
use super::shared::{CellWriter, RowWriter};
use super::table::MicroKernels;
use super::work::{self, QueryTile};
use super::{CpuAttention, CpuInputs};
use crate::problem::AttentionProblem;
use crate::tensor::{Elements, TensorView};

/// One forward call.
pub struct Forward<'a> {
    pub attention: &'a CpuAttention,
    pub blocking: Blocking,
    pub problem: &'a AttentionProblem,
    pub inputs: CpuInputs<'a>,
    pub o: RowWriter<'a>,
    pub lse: CellWriter<'a>,
}

/// The unnormalised result of a piece of the keys.
struct Partial {
    tile: usize,
    first_key: i64,
    max: Vec<f32>,
    sum: Vec<f32>,
    /// Lane after lane, D each.
    out: Vec<f32>,
}

impl Forward<'_> {
    pub fn run(&self) {
        let tiles = work::query_tiles(self.problem.shape, &self.problem.sequences, self.blocking);
        let Some(pieces) = work::split_keys(&tiles, self.attention.threads()) else {
            let operands = Operands { a: self.inputs.k, b: self.inputs.v };
            let programs = self.attention.programs();
            let uses = work::uses_per_row(programs, &tiles, &self.problem.sequences);
            let rows = (operands, uses >= self.blocking.copy_uses as usize);
            let threads = self.attention.threads();
            pack::for_each(self.attention, self.problem.shape, rows, &tiles, |scratch, tile, source| {
                // The other threads take the tiles between.
                self.note_soon(&mut scratch.soon, tile, tiles.get(tile.tile + threads));
                self.attend(scratch, tile, source);
                self.finish(scratch, tile);
            });
            return;
        };
        let partials = Mutex::new(Vec::new());
        self.attention.for_each(&pieces, |scratch, piece| {
            let source =
                Source { a: self.inputs.k, b: self.inputs.v, token: piece.sequence.k_start, head: piece.g };
            self.attend(scratch, piece, &source);
            let partial = partial(scratch, piece, self.problem.shape.head_dim());
            if partial.sum.iter().any(|&sum| sum != 0.0) {
                partials.lock().unwrap_or_else(PoisonError::into_inner).push(partial);
            }
        });
        let mut partials = partials.into_inner().unwrap_or_else(PoisonError::into_inner);
        // A fixed order of summation, whatever the threads did.
        partials.sort_by_key(|partial| (partial.tile, partial.first_key));
        self.attention.for_each(&tiles, |scratch, tile| {
            let from = partials.partition_point(|partial| partial.tile < tile.tile);
            let to = partials.partition_point(|partial| partial.tile <= tile.tile);
            combine(scratch, tile, &partials[from..to]);
            self.finish(scratch, tile);
        });
    }

    /// Lists the rows that are needed after the walk of a tile: those it will write, and those the next tile will read.
    fn note_soon(&self, soon: &mut Vec<*const f32>, tile: &QueryTile, next: Option<&QueryTile>) {
        soon.clear();
        let Elements::F32(q) = self.inputs.q.elements() else { return };
        let d = self.problem.shape.head_dim();
        for (token, head) in tile.rows() {
            soon.extend(self.o.f32_row(token, head, d).map(|row| row.cast_const()));
        }
        let (token_stride, head_stride) = (self.inputs.q.token_stride(), self.inputs.q.head_stride());
        for (token, head) in next.into_iter().flat_map(QueryTile::rows) {
            soon.push(q[token * token_stride + head * head_stride..].as_ptr());
        }
    }

    /// Leaves O (unnormalised), maximum and sum of a tile in the scratch memory.
    fn attend(&self, scratch: &mut Scratch, tile: &QueryTile, source: &Source<'_>) {
        clear_state(scratch);
        let (first, last) = tile.indices();
        if last <= 0 || tile.keys.0 >= tile.keys.1 {
            scratch.out_a.as_mut().fill(0.0);
            return;
        }
        let scores = self.attention.score_scale(self.problem);
        load_queries(self.attention.micro(), scratch, tile, &self.inputs.q, scores.factor);
        if let Some(programs) = self.attention.listed() {
            work::list_keys(programs, tile.g, (first, last), tile.keys, &mut scratch.list);
        }
        let range = ItemRange {
            g: tile.g,
            lanes: (first, last),
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
        unsafe { self.attention.kernels().run(Kernel::Forward, &mut item) }
        let fresh = item.fresh;
        for strip in (0..tile.lanes().div_ceil(STRIP)).filter(|strip| fresh >> strip & 1 == 1) {
            // None of its lanes sees a key.
            for line in scratch.out_a.as_mut().chunks_exact_mut(LANES) {
                line[strip * STRIP..][..STRIP].fill(0.0);
            }
        }
    }

    /// Normalises and writes a tile.
    fn finish(&self, scratch: &mut Scratch, tile: &QueryTile) {
        let total_q = self.problem.sequences.total_q();
        let lanes = tile.lanes();
        for (lane, (token, head)) in tile.rows().enumerate() {
            let sink = self.inputs.sink_logit.map_or(f32::NEG_INFINITY, |logit| logit[head]);
            let max = scratch.max.as_slice()[lane];
            let sum = scratch.sum.as_slice()[lane];
            let (factor, lse) = normaliser(max, sum, sink * LOG2_E);
            scratch.factors[lane] = factor;
            // SAFETY: each row belongs to one tile, each tile to one thread.
            unsafe { self.lse.write(head * total_q + token, lse) }
        }
        let out = (scratch.out_a.as_slice(), scratch.factors.as_slice());
        let micro = self.attention.micro();
        // SAFETY: as above.
        unsafe { store_lanes(micro, &self.o, (lanes, tile.rows()), out, &mut scratch.staging) }
    }
}

/// The factor that turns a sum of weighted values into O, and the natural log-sum-exp; all in base 2 but the result.
fn normaliser(max: f32, sum: f32, sink2: f32) -> (f32, f32) {
    if sum == 0.0 {
        // No key seen: only the sink, if there is one, is in the denominator.
        return (0.0, sink2 * LN_2);
    }
    if sink2 == f32::NEG_INFINITY {
        (1.0 / sum, (max + sum.log2()) * LN_2)
    } else if sink2 <= max {
        let total = sum + (sink2 - max).exp2();
        (1.0 / total, (max + total.log2()) * LN_2)
    } else if sink2 > max {
        let shrink = (max - sink2).exp2();
        let total = sum * shrink + 1.0;
        (shrink / total, (sink2 + total.log2()) * LN_2)
    } else {
        // A NaN among the scores.
        (f32::NAN, f32::NAN)
    }
}

/// Softmax of lanes that have seen nothing.
fn clear_state(scratch: &mut Scratch) {
    scratch.max.as_mut().fill(f32::NEG_INFINITY);
    scratch.sum.as_mut().fill(0.0);
}

/// Transposes the rows of a query tile into lanes, times `factor`, and notes their indices.
pub fn load_queries(
    micro: &MicroKernels,
    scratch: &mut Scratch,
    tile: &QueryTile,
    q: &TensorView<'_>,
    factor: f32,
) {
    let lanes = tile.lanes();
    let columns = (scratch.lanes_a.as_mut(), factor);
    load_lanes(micro, q, (lanes, tile.rows()), columns, &mut scratch.staging);
    let (used, spare) = scratch.lane_index.0.split_at_mut(lanes);
    for (indices, token) in used.chunks_exact_mut(tile.heads).zip(tile.indices().0..) {
        indices.fill(token as i32);
    }
    spare.fill(-1);
}

fn partial(scratch: &mut Scratch, piece: &QueryTile, head_dim: usize) -> Partial {
    let lanes = piece.lanes();
    let mut out = vec![0.0; lanes * head_dim];
    for (lane, row) in out.chunks_exact_mut(head_dim).enumerate() {
        read_lane(scratch.out_a.as_slice(), lane, row);
    }
    Partial {
        tile: piece.tile,
        first_key: piece.keys.0,
        max: scratch.max.as_slice()[..lanes].to_vec(),
        sum: scratch.sum.as_slice()[..lanes].to_vec(),
        out,
    }
}

/// Sums the pieces of a tile under their common maximum.
fn combine(scratch: &mut Scratch, tile: &QueryTile, partials: &[Partial]) {
    clear_state(scratch);
    let d = scratch.row.len();
    for lane in 0..tile.lanes() {
        let max = partials.iter().fold(f32::NEG_INFINITY, |max, partial| max.max(partial.max[lane]));
        let shift = if max == f32::NEG_INFINITY { 0.0 } else { max };
        let mut sum = 0.0;
        scratch.row.fill(0.0);
        for partial in partials {
            let weight = (partial.max[lane] - shift).exp2();
            if partial.sum[lane] == 0.0 {
                continue;
            }
            sum += partial.sum[lane] * weight;
            let out = &partial.out[lane * d..(lane + 1) * d];
            scratch.row.iter_mut().zip(out).for_each(|(row, x)| *row += x * weight);
        }
        scratch.max.as_mut()[lane] = max;
        scratch.sum.as_mut()[lane] = sum;
        write_lane(scratch.out_a.as_mut(), lane, &scratch.row);
    }
}
