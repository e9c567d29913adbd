//! Rows of tensors in and out of lane tiles: widening, transposing, rounding.

use longgen_codegen::cpu::abi::{Item, LANES, STRIP};

use super::shared::RowWriter;
use super::table::MicroKernels;
use crate::tensor::{Elements, TensorView};

/// Where the rows of a walk come from, for tiles that cannot be read in place.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// K with lanes of queries, Q with lanes of keys.
    pub a: TensorView<'a>,
    /// V with lanes of queries, dO with lanes of keys.
    pub b: TensorView<'a>,
    /// Packed token of the walk's first row.
    pub token: usize,
    /// First head.
    pub head: usize,
}

/// The row of one token and head, widened to f32.
pub fn read_row(view: &TensorView<'_>, token: usize, head: usize, row: &mut [f32]) {
    let start = token * view.token_stride() + head * view.head_stride();
    let at = start..start + row.len();
    match view.elements() {
        Elements::F32(x) => row.copy_from_slice(&x[at]),
        Elements::Bf16(x) => {
            for (to, from) in row.iter_mut().zip(&x[at]) {
                *to = f32::from_bits(u32::from(from.to_bits()) << 16);
            }
        }
        Elements::F16(x) => half::slice::HalfFloatSliceExt::convert_to_f32_slice(&x[at], row),
    }
}

/// Memory through which rows pass that are not f32 or not there: STRIP + 1 rows of D elements.
#[derive(Debug)]
pub struct Staging {
    rows: Vec<f32>,
    head_dim: usize,
}

impl Staging {
    /// For rows of `head_dim` elements.
    pub fn new(head_dim: usize) -> Staging {
        Staging { rows: vec![0.0; (STRIP + 1) * head_dim], head_dim }
    }

    /// The row of a lane of the strip.
    fn lane(&mut self, lane: usize) -> &mut [f32] {
        &mut self.rows[lane * self.head_dim..][..self.head_dim]
    }

    /// The row of the lanes without one.
    fn spare(&mut self) -> &mut [f32] {
        self.lane(STRIP)
    }
}

/// Writes these `lanes` rows into a D x LANES tile, times `factor`. The other lanes of the last strip become 0.
pub fn load_lanes(
    micro: &MicroKernels,
    view: &TensorView<'_>,
    (lanes, mut names): (usize, impl Iterator<Item = (usize, usize)>),
    (tile, factor): (&mut [f32], f32),
    staging: &mut Staging,
) {
    let d = staging.head_dim;
    assert_eq!(tile.len(), d * LANES, "a tile of this head dimension");
    staging.spare().fill(0.0);
    for first in (0..lanes).step_by(STRIP) {
        let mut rows: [*const f32; STRIP] = [staging.spare().as_ptr(); STRIP];
        for (lane, (row, (token, head))) in rows.iter_mut().zip(names.by_ref()).enumerate() {
            *row = if let Elements::F32(x) = view.elements() {
                let start = token * view.token_stride() + head * view.head_stride();
                x[start..start + d].as_ptr()
            } else {
                read_row(view, token, head, staging.lane(lane));
                staging.lane(lane).as_ptr()
            };
        }
        // SAFETY: each pointer leads to D elements of the tensor or of the staging memory, which nobody writes meanwhile;
        // the strip lies within the tile. The instruction set was found on this machine.
        unsafe { (micro.rows_to_lanes)(&rows, d as i64, tile.as_mut_ptr().add(first), factor) }
    }
}

/// Writes `lanes` lanes of a D x LANES tile, each times its factor, to these rows of a tensor.
///
/// # Safety
/// As [`RowWriter::write`].
pub unsafe fn store_lanes(
    micro: &MicroKernels,
    writer: &RowWriter<'_>,
    (lanes, mut names): (usize, impl Iterator<Item = (usize, usize)> + Clone),
    (tile, factors): (&[f32], &[f32]),
    staging: &mut Staging,
) {
    let d = staging.head_dim;
    assert_eq!(tile.len(), d * LANES, "a tile of this head dimension");
    for (strip, factors) in factors.as_chunks::<STRIP>().0.iter().enumerate() {
        let first = strip * STRIP;
        if first >= lanes {
            return;
        }
        let mut in_place = true;
        let mut rows: [*mut f32; STRIP] = [staging.spare().as_mut_ptr(); STRIP];
        let again = names.clone();
        for (lane, (row, (token, head))) in rows.iter_mut().zip(names.by_ref()).enumerate() {
            *row = writer.f32_row(token, head, d).unwrap_or_else(|| {
                in_place = false;
                staging.lane(lane).as_mut_ptr()
            });
        }
        // SAFETY: each pointer leads to D elements of the staging memory or of a tensor row that the caller leaves to this
        // thread; the strip lies within the tile. The instruction set was found on this machine.
        unsafe { (micro.lanes_to_rows)(tile.as_ptr().add(first), d as i64, factors, &rows) }
        if in_place {
            continue;
        }
        for (lane, (token, head)) in again.take(STRIP).enumerate() {
            // SAFETY: forwarded to the caller.
            unsafe { writer.write(token, head, staging.lane(lane)) }
        }
    }
}

/// Writes a row into column `lane` of a D x LANES tile.
pub fn write_lane(tile: &mut [f32], lane: usize, row: &[f32]) {
    for (line, x) in tile.chunks_exact_mut(LANES).zip(row) {
        line[lane] = *x;
    }
}

/// Reads column `lane` of a D x LANES tile.
pub fn read_lane(tile: &[f32], lane: usize, row: &mut [f32]) {
    for (line, x) in tile.chunks_exact(LANES).zip(row) {
        *x = line[lane];
    }
}

/// [`longgen_codegen::cpu::abi::GatherFn`]
///
/// # Safety
/// The item's `source` points to a [`Source`] and its row buffers hold MOST_ROWS rows of D elements; `at + count` is at
/// most MOST_ROWS.
pub unsafe extern "C" fn gather(item: *mut Item, head: i64, begin: i64, count: i64, at: i64) {
    // SAFETY: the contract of this function; the row buffers belong to the calling thread alone.
    unsafe {
        let item = &*item;
        let source = &*item.source.cast::<Source<'_>>();
        let d = source.a.shape().head_dim;
        let (count, at) = (count as usize, at as usize);
        let a_rows = std::slice::from_raw_parts_mut(item.a_rows.add(at * d), count * d);
        let b_rows = std::slice::from_raw_parts_mut(item.b_rows.add(at * d), count * d);
        let index = std::slice::from_raw_parts_mut(item.row_index.add(at), count);
        let first = (begin - item.row_base) as usize + source.token;
        let head = source.head + head as usize;
        for (r, (a, b)) in a_rows.chunks_exact_mut(d).zip(b_rows.chunks_exact_mut(d)).enumerate() {
            read_row(&source.a, first + r, head, a);
            read_row(&source.b, first + r, head, b);
            index[r] = (begin + r as i64) as i32;
        }
    }
}
