//! Tile products, written once over [`Vector`] in blocks that stay in registers.
//!
//! All are `inline(always)`: each instruction set wraps them in functions that enable it (`table.rs`).

use longgen_codegen::cpu::abi::{LANES, STRIP};

use super::micro::CHAINS;
use super::vector::Vector;

/// Operands of a tile product, as in [`longgen_codegen::cpu::abi::RowsFn`] and
/// [`longgen_codegen::cpu::abi::ColumnsFn`]; one has no `alpha`, and they fetch different rows.
#[derive(Clone, Copy)]
pub struct Product {
    pub a: *const f32,
    pub stride: usize,
    pub b: *const f32,
    pub c: *mut f32,
    pub rows: usize,
    pub depth: usize,
    /// Before and behind these lines B is 0 but in the first strip, or the last.
    pub both: (usize, usize),
    pub alpha: *const f32,
    pub next: *const f32,
    pub next_stride: usize,
    pub soon: *const *const f32,
    pub soon_len: usize,
}

/// How A is read and whether zero weights hide it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `A(r, k) = a[r * stride + k]`
    Rows,
    /// `A(r, k) = a[k * stride + r]`
    Columns,
    /// As `Columns`; the zeros that [`Product::both`] tells of are left out where that is quicker.
    ColumnsStairs,
    /// As `Columns`; where B is 0 the product is 0 whatever A holds.
    ColumnsMasked,
}

const ROWS: u8 = 0;
const COLUMNS: u8 = 1;
const COLUMNS_MASKED: u8 = 2;
const COLUMNS_STAIRS: u8 = 3;

impl Product {
    /// The same product on the lanes from `lane` on.
    #[inline(always)]
    unsafe fn at_lane(self, lane: usize) -> Product {
        // SAFETY: the caller names a lane of the tile.
        unsafe {
            let alpha = if self.alpha.is_null() { self.alpha } else { self.alpha.add(lane) };
            Product { b: self.b.add(lane), c: self.c.add(lane), alpha, ..self }
        }
    }
}

/// The product over `V::WIDTH * N` lanes, in register blocks of `R` rows.
///
/// # Safety
/// As [`longgen_codegen::cpu::abi::RowsFn`]: every operand lies within its tile.
#[inline(always)]
pub unsafe fn panel<V: Vector, const R: usize, const N: usize>(product: Product, lane: usize, form: Form) {
    // SAFETY: forwarded to the caller of this function.
    unsafe {
        let product = product.at_lane(lane);
        match form {
            Form::Rows => blocks::<V, R, N, ROWS>(product),
            Form::Columns | Form::ColumnsStairs => blocks::<V, R, N, COLUMNS>(product),
            Form::ColumnsMasked => blocks::<V, 2, N, COLUMNS_MASKED>(product),
        }
    }
}

/// The product over two strips, of one vector each.
///
/// # Safety
/// As [`panel`].
#[inline(always)]
pub unsafe fn pair<V: Vector, const R: usize>(product: Product, form: Form) {
    // SAFETY: forwarded to the caller of this function.
    unsafe {
        if form == Form::ColumnsStairs && product.both != (0, product.depth) {
            blocks::<V, R, 2, COLUMNS_STAIRS>(product);
        } else {
            panel::<V, R, 2>(product, 0, form);
        }
    }
}

#[inline(always)]
unsafe fn blocks<V: Vector, const R: usize, const N: usize, const FORM: u8>(product: Product) {
    let mut r = 0;
    // SAFETY: only rows below `product.rows` are touched.
    unsafe {
        while r + R <= product.rows {
            block::<V, R, N, FORM>(product, r);
            r += R;
        }
        while R > 8 && r + 8 <= product.rows {
            block::<V, 8, N, FORM>(product, r);
            r += 8;
        }
        while r + 4 <= product.rows {
            block::<V, 4, N, FORM>(product, r);
            r += 4;
        }
        while r + 2 <= product.rows {
            block::<V, 2, N, FORM>(product, r);
            r += 2;
        }
        if r < product.rows {
            block::<V, 1, N, FORM>(product, r);
        }
    }
}

/// Rows `first..first + R` of a product.
#[inline(always)]
unsafe fn block<V: Vector, const R: usize, const N: usize, const FORM: u8>(product: Product, first: usize) {
    // SAFETY: rows, depth and lanes are those of the product, which the caller vouches for.
    unsafe {
        let mut sum = [[V::splat(0.0); N]; R];
        // The cache line of the rows needed soon that is this block's to fetch, if one is.
        let line = (first + R - 1) / LINE * LINE;
        let fetches = (FORM == COLUMNS || FORM == COLUMNS_STAIRS) && line >= first;
        let soon = (line, if fetches { product.soon_len } else { 0 });
        let depth = product.depth;
        if FORM == COLUMNS_STAIRS {
            let (begin, end) = product.both;
            for k in 0..begin {
                step::<V, R, N, FORM>(product, (first, k), &mut sum, (0, 1), soon);
            }
            for k in begin..end {
                step::<V, R, N, FORM>(product, (first, k), &mut sum, (0, N), soon);
            }
            for k in end..depth {
                step::<V, R, N, FORM>(product, (first, k), &mut sum, (N - 1, N), soon);
            }
        } else {
            for k in 0..depth {
                step::<V, R, N, FORM>(product, (first, k), &mut sum, (0, N), soon);
            }
        }
        for (r, sum) in sum.iter().enumerate() {
            for (n, &sum) in sum.iter().enumerate() {
                let c = product.c.add((first + r) * LANES + n * V::WIDTH);
                if product.alpha.is_null() {
                    sum.store(c);
                } else {
                    V::load(c).mul_add(V::load(product.alpha.add(n * V::WIDTH)), sum).store(c);
                }
            }
        }
    }
}

/// Line `k` of B, of which the vectors from `lo` to `hi` are not known to be 0, times its factor for each row of a block.
#[inline(always)]
unsafe fn step<V: Vector, const R: usize, const N: usize, const FORM: u8>(
    product: Product,
    (first, k): (usize, usize),
    sum: &mut [[V; N]; R],
    (lo, hi): (usize, usize),
    (line, soon_len): (usize, usize),
) {
    // SAFETY: as `block`, which names a line of the product.
    unsafe {
        let Product { stride, b, .. } = product;
        let a = if FORM == ROWS { product.a.add(first * stride) } else { product.a.add(first) };
        if FORM == ROWS && k.is_multiple_of(LINE) {
            fetch_rows::<V, R>(product, first, k);
        }
        if (FORM == COLUMNS || FORM == COLUMNS_STAIRS) && k.is_multiple_of(2) && k / 2 < soon_len {
            V::fetch::<2>((*product.soon.add(k / 2)).wrapping_add(line));
        }
        let weights: [V; N] = std::array::from_fn(|n| V::load(b.add(k * LANES + n * V::WIDTH)));
        for (r, sum) in sum.iter_mut().enumerate() {
            let at = if FORM == ROWS { r * stride + k } else { k * stride + r };
            let factor = V::splat(*a.add(at));
            for (sum, &weight) in sum[lo..hi].iter_mut().zip(&weights[lo..hi]) {
                *sum = if FORM == COLUMNS_MASKED {
                    sum.add(factor.mul(weight).where_nonzero(weight))
                } else {
                    factor.mul_add(weight, *sum)
                };
            }
        }
    }
}

/// Elements of a cache line.
const LINE: usize = 16;

/// Asks for one line of each row that comes after those of a block, and of the operand that comes after A.
#[inline(always)]
unsafe fn fetch_rows<V: Vector, const R: usize>(product: Product, first: usize, k: usize) {
    for r in first..first + R {
        let after = product.a.wrapping_add((r + R) * product.stride + k);
        let next = product.next.wrapping_add(r * product.next_stride + k);
        // SAFETY: the caller may use the instructions of `V`; the addresses need not be readable.
        unsafe {
            V::fetch::<1>(after);
            V::fetch::<2>(next);
        }
    }
}

/// Whether all of `depth` rows of `width` elements, a multiple of 8, are finite.
///
/// # Safety
/// `a` has these rows, `stride` elements apart.
#[inline(always)]
pub unsafe fn all_finite<V: Vector>(a: *const f32, stride: usize, width: usize, depth: usize) -> bool {
    // Zero times a number is zero, but for infinities and NaN.
    let mut sums = [0.0f32; STRIP];
    let group = CHAINS * V::WIDTH;
    let in_groups = width / group * group;
    let in_vectors = width / V::WIDTH * V::WIDTH;
    // SAFETY: the caller's operand has these rows; a vector has at most STRIP lanes.
    unsafe {
        let zero = V::splat(0.0);
        let mut chains = [zero; CHAINS];
        for k in 0..depth {
            let row = a.add(k * stride);
            for at in (0..in_groups).step_by(group) {
                for (n, chain) in chains.iter_mut().enumerate() {
                    *chain = V::load(row.add(at + n * V::WIDTH)).mul_add(zero, *chain);
                }
            }
            for at in (in_groups..in_vectors).step_by(V::WIDTH) {
                chains[0] = V::load(row.add(at)).mul_add(zero, chains[0]);
            }
            for at in in_vectors..width {
                sums[0] += *row.add(at) * 0.0;
            }
        }
        let rest = V::splat(sums[0]);
        chains[0].add(chains[1]).add(chains[2].add(chains[3])).add(rest).store(sums.as_mut_ptr());
    }
    sums.iter().all(|&sum| sum == 0.0)
}
