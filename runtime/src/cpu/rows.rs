//! Rows of tensors in and out of lane tiles: widening, transposing, rounding.

use longgen_codegen::cpu::abi::{Item, LANES};

use super::shared::RowWriter;
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

/// Writes a row into column `lane` of a D x LANES tile, times `scale`.
pub fn write_lane(tile: &mut [f32], lane: usize, row: &[f32], scale: f32) {
    for (line, x) in tile.chunks_exact_mut(LANES).zip(row) {
        line[lane] = x * scale;
    }
}

/// Reads column `lane` of a D x LANES tile, times `scale`.
pub fn read_lane(tile: &[f32], lane: usize, row: &mut [f32], scale: f32) {
    for (line, x) in tile.chunks_exact(LANES).zip(row) {
        *x = line[lane] * scale;
    }
}

/// Writes column `lane` of a tile to a tensor row.
///
/// # Safety
/// As [`RowWriter::write`].
pub unsafe fn store_lane(
    writer: &RowWriter<'_>,
    (token, head): (usize, usize),
    tile: &[f32],
    lane: usize,
    scale: f32,
    row: &mut [f32],
) {
    read_lane(tile, lane, row, scale);
    // SAFETY: forwarded to the caller.
    unsafe { writer.write(token, head, row) }
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
