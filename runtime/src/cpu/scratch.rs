//! The memory of one worker thread, and the work item that points into it.

use std::ffi::c_void;

use longgen_codegen::cpu::Blocking;
use longgen_codegen::cpu::abi::{Calls, Item, LANES, ListedRun, MOST_ROWS};

use super::rows::{Source, Staging, gather};
use super::table::MicroKernels;

/// A buffer that starts on a cache line: generated code assumes aligned vectors.
#[derive(Debug)]
pub struct Buffer {
    storage: Vec<f32>,
    start: usize,
    len: usize,
}

impl Buffer {
    fn new(len: usize) -> Buffer {
        let storage = vec![0.0; len + 16];
        let start = storage.as_ptr().align_offset(64).min(16);
        Buffer { storage, start, len }
    }

    /// The elements.
    pub fn as_slice(&self) -> &[f32] {
        &self.storage[self.start..self.start + self.len]
    }

    /// The elements, to be written.
    pub fn as_mut(&mut self) -> &mut [f32] {
        &mut self.storage[self.start..self.start + self.len]
    }
}

/// Everything a thread needs for one item at a time.
#[derive(Debug)]
pub struct Scratch {
    /// D x LANES: Q or K.
    pub lanes_a: Buffer,
    /// D x LANES: dO or V.
    pub lanes_b: Buffer,
    /// D x LANES: O, dQ or dK.
    pub out_a: Buffer,
    /// D x LANES: dV.
    pub out_b: Buffer,
    /// LANES.
    pub max: Buffer,
    /// LANES.
    pub sum: Buffer,
    /// LANES.
    pub alpha: Buffer,
    /// LANES: statistics of query lanes.
    pub lse2: Buffer,
    /// LANES.
    pub delta: Buffer,
    /// Token index of each lane; 16-byte aligned like the rest.
    pub lane_index: Box<Lines>,
    /// Runs of the current item, for listed masks.
    pub list: Vec<ListedRun>,
    /// D, one row.
    pub row: Vec<f32>,
    /// Rows that are needed when the item is done.
    pub soon: Vec<*const f32>,
    /// Rows on their way into lanes and back.
    pub staging: Staging,
    /// LANES: what the rows of the result are multiplied by.
    pub factors: Vec<f32>,
    row_index: Box<Rows>,
    scores: Buffer,
    dp: Buffer,
    a_rows: Buffer,
    b_rows: Buffer,
}

/// One index per lane.
#[derive(Debug)]
#[repr(align(64))]
pub struct Lines(pub [i32; LANES]);

/// One index per row.
#[derive(Debug)]
#[repr(align(64))]
struct Rows([i32; MOST_ROWS]);

/// What an item says about its walk, beside the scratch memory.
#[derive(Clone, Copy, Debug)]
pub struct ItemRange {
    /// KV head.
    pub g: usize,
    /// Token indices of the lanes.
    pub lanes: (i64, i64),
    /// Token indices to walk.
    pub rows: (i64, i64),
    /// Token index of the first row of the operands.
    pub row_base: i64,
    /// Lanes in use.
    pub lane_count: usize,
    /// Query heads walked for each tile.
    pub heads: usize,
    /// How rows are walked.
    pub blocking: Blocking,
    /// Softcap times log2(e), or 0.
    pub softcap2: f32,
}

impl Scratch {
    /// Memory for head dimension `head_dim`.
    pub fn new(head_dim: usize) -> Scratch {
        let tile = || Buffer::new(head_dim * LANES);
        let lane = || Buffer::new(LANES);
        Scratch {
            lanes_a: tile(),
            lanes_b: tile(),
            out_a: tile(),
            out_b: tile(),
            max: lane(),
            sum: lane(),
            alpha: lane(),
            lse2: lane(),
            delta: lane(),
            lane_index: Box::new(Lines([0; LANES])),
            list: Vec::new(),
            row: vec![0.0; head_dim],
            soon: Vec::with_capacity(2 * LANES),
            staging: Staging::new(head_dim),
            factors: vec![0.0; LANES],
            row_index: Box::new(Rows([0; MOST_ROWS])),
            scores: Buffer::new(MOST_ROWS * LANES),
            dp: Buffer::new(MOST_ROWS * LANES),
            a_rows: Buffer::new(MOST_ROWS * head_dim),
            b_rows: Buffer::new(MOST_ROWS * head_dim),
        }
    }

    /// The item of this scratch memory. `source` must outlive its use.
    pub fn item(&mut self, micro: &MicroKernels, range: ItemRange, source: &Source<'_>) -> Item {
        let start = |view: &crate::tensor::TensorView<'_>| {
            let offset = source.token * view.token_stride() + source.head * view.head_stride();
            match view.elements() {
                // A view of no tokens may start past its buffer; then nothing is walked.
                crate::tensor::Elements::F32(x) => x.get(offset..).map(|rest| rest.as_ptr()),
                _ => None,
            }
        };
        let starts = (start(&source.a), start(&source.b));
        Item {
            calls: Calls {
                rows: micro.rows,
                columns: micro.columns,
                columns_masked: micro.columns_masked,
                softmax: micro.softmax,
                gradient_query_lanes: micro.gradient_query_lanes,
                gradient_key_lanes: micro.gradient_key_lanes,
                gather,
            },
            g: range.g as i64,
            lane_begin: range.lanes.0,
            lane_end: range.lanes.1,
            row_begin: range.rows.0,
            row_end: range.rows.1,
            strips: range.lane_count.div_ceil(longgen_codegen::cpu::abi::STRIP) as i64,
            tile_rows: range.blocking.rows.into(),
            gather_below: range.blocking.gather_below.into(),
            heads: range.heads as i64,
            direct: i64::from(starts.0.is_some() && starts.1.is_some()),
            row_base: range.row_base,
            a: starts.0.unwrap_or(std::ptr::null()),
            b: starts.1.unwrap_or(std::ptr::null()),
            a_stride: source.a.token_stride() as i64,
            b_stride: source.b.token_stride() as i64,
            a_head: source.a.head_stride() as i64,
            b_head: source.b.head_stride() as i64,
            a_rows: self.a_rows.as_mut().as_mut_ptr(),
            b_rows: self.b_rows.as_mut().as_mut_ptr(),
            lane_index: self.lane_index.0.as_ptr(),
            row_index: self.row_index.0.as_mut_ptr(),
            lanes_a: self.lanes_a.as_slice().as_ptr(),
            lanes_b: self.lanes_b.as_slice().as_ptr(),
            scores: self.scores.as_mut().as_mut_ptr(),
            dp: self.dp.as_mut().as_mut_ptr(),
            out_a: self.out_a.as_mut().as_mut_ptr(),
            out_b: self.out_b.as_mut().as_mut_ptr(),
            fresh: -1,
            max: self.max.as_mut().as_mut_ptr(),
            sum: self.sum.as_mut().as_mut_ptr(),
            alpha: self.alpha.as_mut().as_mut_ptr(),
            lse2: self.lse2.as_slice().as_ptr(),
            delta: self.delta.as_slice().as_ptr(),
            stat_head: 0,
            soon: self.soon.as_ptr(),
            soon_len: self.soon.len() as i64,
            list: self.list.as_ptr(),
            list_len: self.list.len() as i64,
            source: (source as *const Source<'_>).cast::<c_void>(),
            softcap2: range.softcap2,
        }
    }
}
