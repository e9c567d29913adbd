//! Rows into lanes and back, in the registers: squares of as many rows as a vector has lanes.

use longgen_codegen::cpu::abi::{LANES, STRIP};

use super::vector::Vector;

/// Registers of the largest square.
const MOST: usize = 16;
/// Elements between those that are moved and those that are asked for: two cache lines, the first of which are asked for before.
const AHEAD: usize = 32;

/// Writes STRIP rows of `depth` elements, times `factor`, into as many columns of a D x LANES tile.
///
/// # Safety
/// Each row has `depth` elements, and `tile` leads to the first of the columns in a tile of `depth` lines.
#[inline(always)]
pub unsafe fn rows_to_lanes<V: Vector>(
    rows: &[*const f32; STRIP],
    depth: usize,
    tile: *mut f32,
    factor: f32,
) {
    let whole = depth / V::WIDTH * V::WIDTH;
    // SAFETY: whole squares and the elements behind them lie within the rows and the tile.
    unsafe {
        let factors = V::splat(factor);
        for row in rows {
            V::fetch::<1>(*row);
            V::fetch::<1>(row.wrapping_add(AHEAD / 2));
        }
        for d in (0..whole).step_by(V::WIDTH) {
            for lane in (0..STRIP).step_by(V::WIDTH) {
                for row in &rows[lane..lane + V::WIDTH] {
                    V::fetch::<1>(row.wrapping_add(d + AHEAD));
                }
                let square = |r: usize| V::load(rows[lane + r].add(d)).mul(factors);
                for (line, x) in transposed(square).into_iter().take(V::WIDTH).enumerate() {
                    x.store(tile.add((d + line) * LANES + lane));
                }
            }
        }
        for d in whole..depth {
            for (lane, row) in rows.iter().enumerate() {
                *tile.add(d * LANES + lane) = *row.add(d) * factor;
            }
        }
    }
}

/// Writes STRIP columns of a D x LANES tile, each times its factor, into rows of `depth` elements.
///
/// # Safety
/// As [`rows_to_lanes`]; the rows may overlap each other.
#[inline(always)]
pub unsafe fn lanes_to_rows<V: Vector>(
    tile: *const f32,
    depth: usize,
    factors: &[f32; STRIP],
    rows: &[*mut f32; STRIP],
) {
    let whole = depth / V::WIDTH * V::WIDTH;
    // SAFETY: whole squares and the elements behind them lie within the rows and the tile.
    unsafe {
        for row in rows {
            V::fetch_to_write(*row);
            V::fetch_to_write(row.wrapping_add(AHEAD / 2));
        }
        for d in (0..whole).step_by(V::WIDTH) {
            for lane in (0..STRIP).step_by(V::WIDTH) {
                let factors = V::load(factors.as_ptr().add(lane));
                for row in &rows[lane..lane + V::WIDTH] {
                    V::fetch_to_write(row.wrapping_add(d + AHEAD));
                }
                let square = |line: usize| V::load(tile.add((d + line) * LANES + lane)).mul(factors);
                for (r, x) in transposed(square).into_iter().take(V::WIDTH).enumerate() {
                    x.store(rows[lane + r].add(d));
                }
            }
        }
        for d in whole..depth {
            for (lane, row) in rows.iter().enumerate() {
                *row.add(d) = *tile.add(d * LANES + lane) * factors[lane];
            }
        }
    }
}

/// The columns of the square whose rows are `row(0)` to `row(V::WIDTH - 1)`.
///
/// Zipping the upper half of the rows with the lower moves the first bit of an element's row behind the bits of its
/// column; done for every bit, rows and columns have changed places.
#[inline(always)]
unsafe fn transposed<V: Vector>(row: impl Fn(usize) -> V) -> [V; MOST] {
    let half = V::WIDTH / 2;
    let mut square: [V; MOST] = std::array::from_fn(|r| row(r % V::WIDTH));
    for _ in 0..V::WIDTH.ilog2() {
        let before = square;
        for r in 0..half {
            // SAFETY: the caller may use the instructions of `V`.
            let (low, high) = unsafe { before[r].zip(before[r + half]) };
            square[2 * r] = low;
            square[2 * r + 1] = high;
        }
    }
    square
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::table::{Isa, MicroKernels};

    /// Every instruction set of this machine, with depths that end in a part of a square.
    #[test]
    fn rows_come_back_from_lanes() {
        for isa in Isa::available() {
            let Some(micro) = MicroKernels::new(isa) else { continue };
            for depth in [8, 24, 128] {
                let from: Vec<f32> = (0..STRIP * depth).map(|x| x as f32).collect();
                let rows: [*const f32; STRIP] = std::array::from_fn(|r| from[r * depth..].as_ptr());
                let mut tile = vec![-1.0; depth * LANES];
                let mut to = vec![0.0; STRIP * depth];
                let back: [*mut f32; STRIP] = std::array::from_fn(|r| to[r * depth..].as_mut_ptr());
                let factors: [f32; STRIP] = std::array::from_fn(|lane| lane as f32);
                // SAFETY: sixteen rows of `depth` elements, and columns 16 to 31 of a tile of as many lines.
                unsafe {
                    let columns = tile.as_mut_ptr().add(STRIP);
                    (micro.rows_to_lanes)(&rows, depth as i64, columns, 2.0);
                    (micro.lanes_to_rows)(columns, depth as i64, &factors, &back);
                }
                for (at, &x) in tile.iter().enumerate() {
                    let (d, lane) = (at / LANES, at % LANES);
                    let inside = (STRIP..2 * STRIP).contains(&lane);
                    let expected = if inside { 2.0 * from[(lane - STRIP) * depth + d] } else { -1.0 };
                    assert_eq!(x, expected, "{isa}, depth {depth}, line {d}, lane {lane}");
                }
                let expected: Vec<f32> =
                    (0..STRIP * depth).map(|x| 2.0 * from[x] * (x / depth) as f32).collect();
                assert_eq!(to, expected, "{isa}, depth {depth}");
            }
        }
    }
}
