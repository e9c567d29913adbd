//! The micro-kernels of each instruction set, and the choice among them.

use longgen_codegen::cpu::abi::{ColumnsFn, GradientFn, Item, RowsFn, STRIP, SoftmaxFn};

use super::micro;
use super::product::{self, Form, Product};
use super::transpose;
use super::vector::{Portable, Vector};

/// An instruction set that tile products are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// 512-bit vectors of x86-64.
    Avx512,
    /// 256-bit vectors of x86-64 with fused multiply-add.
    Avx2,
    /// 128-bit vectors of AArch64.
    Neon,
    /// 128-bit vectors of any machine Cranelift knows, generated with the kernels.
    Cranelift,
    /// Plain Rust.
    Portable,
}

impl Isa {
    /// Every instruction set this machine has, best first; never empty.
    pub fn available() -> Vec<Isa> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let has_avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if has_avx2 && is_x86_feature_detected!("avx512f") {
                found.push(Isa::Avx512);
            }
            if has_avx2 {
                found.push(Isa::Avx2);
            }
        }
        #[cfg(target_arch = "aarch64")]
        found.push(Isa::Neon);
        found.extend([Isa::Cranelift, Isa::Portable]);
        found
    }

    /// The name used in reports.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Avx512 => "avx512",
            Isa::Avx2 => "avx2",
            Isa::Neon => "neon",
            Isa::Cranelift => "cranelift",
            Isa::Portable => "portable",
        }
    }
}

impl std::fmt::Display for Isa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// `(x, y, depth, strips, out)`, as [`micro::lane_dots`].
pub type DotsFn = unsafe extern "C" fn(*const f32, *const f32, i64, i64, *mut f32);

/// `(rows, depth, columns of a tile, factor)`, as [`transpose::rows_to_lanes`].
pub type ToLanesFn = unsafe extern "C" fn(&[*const f32; STRIP], i64, *mut f32, f32);

/// `(columns of a tile, depth, factors, rows)`, as [`transpose::lanes_to_rows`].
pub type ToRowsFn = unsafe extern "C" fn(*const f32, i64, &[f32; STRIP], &[*mut f32; STRIP]);

/// The functions of an instruction set: those that a work item is given, and the host's own.
#[derive(Clone, Copy, Debug)]
pub struct MicroKernels {
    pub rows: RowsFn,
    pub columns: ColumnsFn,
    pub columns_masked: ColumnsFn,
    pub softmax: SoftmaxFn,
    pub gradient_query_lanes: GradientFn,
    pub gradient_key_lanes: GradientFn,
    /// [`micro::lane_dots`]
    pub lane_dots: DotsFn,
    /// [`transpose::rows_to_lanes`]
    pub rows_to_lanes: ToLanesFn,
    /// [`transpose::lanes_to_rows`]
    pub lanes_to_rows: ToRowsFn,
}

impl MicroKernels {
    /// The precompiled micro-kernels of an instruction set, or `None` where this machine lacks it or they are generated.
    pub fn new(isa: Isa) -> Option<MicroKernels> {
        if !Isa::available().contains(&isa) {
            return None;
        }
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Some(avx512::TABLE),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Some(avx2::TABLE),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => Some(neon::TABLE),
            Isa::Portable => Some(MicroKernels::portable()),
            #[allow(unreachable_patterns)]
            _ => None,
        }
    }

    /// Those in plain Rust.
    pub fn portable() -> MicroKernels {
        portable::TABLE
    }
}

/// Wraps the generic micro-kernels in functions that enable an instruction set.
macro_rules! micro_kernels {
    ($module:ident, $vector:ty, $(#[$enable:meta])?, |$product:ident, $strips:ident, $form:ident| $panels:block) => {
        mod $module {
            use super::*;

            pub const TABLE: MicroKernels = MicroKernels {
                rows,
                columns,
                columns_masked,
                softmax,
                gradient_query_lanes,
                gradient_key_lanes,
                lane_dots,
                rows_to_lanes,
                lanes_to_rows,
            };

            #[inline]
            $(#[$enable])?
            unsafe fn product($product: Product, $strips: usize, $form: Form) {
                // SAFETY: the operands are those of a generated kernel; lanes stay below `strips` strips.
                unsafe { $panels }
            }

            $(#[$enable])?
            unsafe extern "C" fn rows(
                a: *const f32, stride: i64, b: *const f32, c: *mut f32,
                rows: i64, depth: i64, strips: i64, next: *const f32, next_stride: i64,
            ) {
                let (stride, next_stride) = (stride as usize, next_stride as usize);
                let (rows, depth, alpha) = (rows as usize, depth as usize, std::ptr::null());
                let (soon, soon_len, both) = (std::ptr::null(), 0, (0, depth));
                let operands = Product { a, stride, b, c, rows, depth, both, alpha, next, next_stride, soon, soon_len };
                // SAFETY: the contract of `RowsFn`.
                unsafe { product(operands, strips as usize, Form::Rows) }
            }

            $(#[$enable])?
            unsafe extern "C" fn columns(
                a: *const f32, stride: i64, b: *const f32, c: *mut f32,
                rows: i64, depth: i64, strips: i64, alpha: *const f32, soon: *const *const f32, soon_len: i64,
                _: i64, _: i64,
            ) {
                let (stride, rows, depth) = (stride as usize, rows as usize, depth as usize);
                let (next, next_stride, soon_len, both) = (std::ptr::null(), 0, soon_len as usize, (0, depth));
                let operands = Product { a, stride, b, c, rows, depth, both, alpha, next, next_stride, soon, soon_len };
                // SAFETY: the contract of `ColumnsFn`.
                unsafe { product(operands, strips as usize, Form::Columns) }
            }

            $(#[$enable])?
            unsafe extern "C" fn columns_masked(
                a: *const f32, stride: i64, b: *const f32, c: *mut f32,
                rows: i64, depth: i64, strips: i64, alpha: *const f32, soon: *const *const f32, soon_len: i64,
                first: i64, end: i64,
            ) {
                let (stride, rows, depth) = (stride as usize, rows as usize, depth as usize);
                let (next, next_stride, soon_len) = (std::ptr::null(), 0, soon_len as usize);
                let both = (first as usize, end as usize);
                let operands = Product { a, stride, b, c, rows, depth, both, alpha, next, next_stride, soon, soon_len };
                // SAFETY: the contract of `ColumnsFn`.
                unsafe {
                    let form = if product::all_finite::<$vector>(a, stride, rows, depth) { Form::ColumnsStairs } else { Form::ColumnsMasked };
                    product(operands, strips as usize, form)
                }
            }

            $(#[$enable])?
            unsafe extern "C" fn softmax(scores: *mut f32, rows: i64, strips: i64, item: *mut Item, lane: i64) {
                // SAFETY: the contract of `SoftmaxFn`.
                unsafe { micro::softmax::<$vector>(scores, rows as usize, strips as usize, &*item, lane as usize) }
            }

            $(#[$enable])?
            unsafe extern "C" fn lane_dots(x: *const f32, y: *const f32, depth: i64, strips: i64, out: *mut f32) {
                // SAFETY: forwarded to the caller.
                unsafe { micro::lane_dots::<$vector>(x, y, depth as usize, strips as usize, out) }
            }

            $(#[$enable])?
            unsafe extern "C" fn rows_to_lanes(
                rows: &[*const f32; STRIP], depth: i64, tile: *mut f32, factor: f32,
            ) {
                // SAFETY: forwarded to the caller.
                unsafe { transpose::rows_to_lanes::<$vector>(rows, depth as usize, tile, factor) }
            }

            $(#[$enable])?
            unsafe extern "C" fn lanes_to_rows(
                tile: *const f32, depth: i64, factors: &[f32; STRIP], rows: &[*mut f32; STRIP],
            ) {
                // SAFETY: forwarded to the caller.
                unsafe { transpose::lanes_to_rows::<$vector>(tile, depth as usize, factors, rows) }
            }

            $(#[$enable])?
            unsafe extern "C" fn gradient_query_lanes(
                scores: *mut f32, dp: *mut f32, rows: i64, strips: i64,
                item: *mut Item, lse2: *const f32, delta: *const f32,
            ) {
                // SAFETY: the contract of `GradientFn`.
                unsafe {
                    let softcap2 = (*item).softcap2;
                    micro::gradient::<$vector, false>(
                        scores, dp, rows as usize, strips as usize, softcap2, lse2, delta,
                    )
                }
            }

            $(#[$enable])?
            unsafe extern "C" fn gradient_key_lanes(
                scores: *mut f32, dp: *mut f32, rows: i64, strips: i64,
                item: *mut Item, lse2: *const f32, delta: *const f32,
            ) {
                // SAFETY: the contract of `GradientFn`.
                unsafe {
                    let softcap2 = (*item).softcap2;
                    micro::gradient::<$vector, true>(
                        scores, dp, rows as usize, strips as usize, softcap2, lse2, delta,
                    )
                }
            }
        }
    };
}

// Register blocks: 24 accumulators of the 32 registers, fewer where one strip leaves too many rows to a block.
#[cfg(target_arch = "x86_64")]
micro_kernels!(avx512, crate::cpu::x86::Avx512, #[target_feature(enable = "avx512f,avx2,fma")], |p, strips, form| {
    use crate::cpu::x86::Avx512;
    match strips {
        4 => product::panel::<Avx512, 6, 4>(p, 0, form),
        3 => product::panel::<Avx512, 8, 3>(p, 0, form),
        2 => product::pair::<Avx512, 12>(p, form),
        _ => product::panel::<Avx512, 16, 1>(p, 0, form),
    }
});

// 12 accumulators of the 16 registers.
#[cfg(target_arch = "x86_64")]
micro_kernels!(avx2, crate::cpu::x86::Avx2, #[target_feature(enable = "avx2,fma")], |p, strips, form| {
    for strip in 0..strips {
        product::panel::<crate::cpu::x86::Avx2, 6, 2>(p, strip * STRIP, form)
    }
});

// 24 accumulators of the 32 registers.
#[cfg(target_arch = "aarch64")]
micro_kernels!(neon, crate::cpu::neon::Neon, , |p, strips, form| {
    for strip in 0..strips {
        product::panel::<crate::cpu::neon::Neon, 6, 4>(p, strip * STRIP, form)
    }
});

micro_kernels!(portable, crate::cpu::vector::Portable, , |p, strips, form| {
    for half in 0..2 * strips {
        product::panel::<Portable, 4, 2>(p, half * 2 * Portable::WIDTH, form)
    }
});

#[cfg(test)]
mod tests {
    use longgen_codegen::cpu::abi::{LANES, MOST_ROWS};

    use super::*;

    /// A weight of 0 hides whatever stands in any element of its row.
    #[test]
    fn masked_columns_hide_infinities_everywhere() {
        #[repr(align(64))]
        struct Tile([f32; MOST_ROWS * LANES]);
        let (weights, alpha) = (Tile([0.0; MOST_ROWS * LANES]), Tile([1.0; MOST_ROWS * LANES]));
        for micro in Isa::available().into_iter().filter_map(MicroKernels::new) {
            for width in [8, 40, 72, 104, 128] {
                for at in 0..width {
                    let mut row = vec![1.0; width];
                    row[at] = f32::INFINITY;
                    let mut out = Box::new(Tile([2.0; MOST_ROWS * LANES]));
                    let (stride, width) = (width as i64, width as i64);
                    let (row, c, soon) = (row.as_ptr(), out.0.as_mut_ptr(), std::ptr::null());
                    // SAFETY: one row of `width` elements, one line of weights, `width` lines of results.
                    unsafe {
                        let b = weights.0.as_ptr();
                        (micro.columns_masked)(
                            row,
                            stride,
                            b,
                            c,
                            width,
                            1,
                            4,
                            alpha.0.as_ptr(),
                            soon,
                            0,
                            0,
                            1,
                        );
                    }
                    assert!(out.0.iter().all(|&x| x == 2.0), "element {at} of {width}");
                }
            }
        }
    }
}
