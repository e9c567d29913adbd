//! The vector operations the micro-kernels are written in, and their portable implementation.

/// A vector of `WIDTH` single-precision lanes.
///
/// # Safety
/// Implementations may use instructions beyond the baseline: their methods are called only inside functions that
/// enable them, on a machine that has them.
pub trait Vector: Copy {
    /// Lanes.
    const WIDTH: usize;
    /// Loads `WIDTH` elements; no alignment is needed.
    unsafe fn load(from: *const f32) -> Self;
    /// Stores `WIDTH` elements.
    unsafe fn store(self, to: *mut f32);
    /// The same number in every lane.
    unsafe fn splat(x: f32) -> Self;
    /// `self + b`
    unsafe fn add(self, b: Self) -> Self;
    /// `self - b`
    unsafe fn sub(self, b: Self) -> Self;
    /// `self * b`
    unsafe fn mul(self, b: Self) -> Self;
    /// `self / b`
    unsafe fn div(self, b: Self) -> Self;
    /// `self * b + c`
    unsafe fn mul_add(self, b: Self, c: Self) -> Self;
    /// The larger; `b` where either is NaN.
    unsafe fn max(self, b: Self) -> Self;
    /// `x` where `self < b`, else `y`; `y` where either is NaN.
    unsafe fn less_select(self, b: Self, x: Self, y: Self) -> Self;
    /// `self` where `weight` is not 0 (a NaN is not 0), else 0.
    unsafe fn where_nonzero(self, weight: Self) -> Self;
    /// The lanes of both in turn, `self` first: those of the first halves, those of the second.
    unsafe fn zip(self, b: Self) -> (Self, Self);
    /// Asks for the cache line at this address, which need not be readable, in the cache of this level.
    #[inline(always)]
    unsafe fn fetch<const LEVEL: i32>(_: *const f32) {}
    /// Asks for the cache line at this address, which need not be readable, in the nearest cache, to be written.
    #[inline(always)]
    unsafe fn fetch_to_write(_: *const f32) {}
    /// The power of two whose exponent stands in the low bits of this number's representation.
    unsafe fn power_of_two(self) -> Self;
}

/// Four lanes in plain Rust, for machines without any of the known instruction sets.
#[derive(Clone, Copy)]
pub struct Portable([f32; 4]);

impl Portable {
    #[inline(always)]
    fn each(self, b: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Portable(std::array::from_fn(|l| f(self.0[l], b.0[l])))
    }
}

impl Vector for Portable {
    const WIDTH: usize = 4;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for four readable elements.
        Portable(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for four writable elements.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Portable([x; 4])
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        self.each(b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        self.each(b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        self.each(b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        self.each(b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        // Not fused: `f32::mul_add` is a library call where the hardware has no such instruction.
        Portable(std::array::from_fn(|l| self.0[l] * b.0[l] + c.0[l]))
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        self.each(b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn less_select(self, b: Self, x: Self, y: Self) -> Self {
        Portable(std::array::from_fn(|l| if self.0[l] < b.0[l] { x.0[l] } else { y.0[l] }))
    }
    #[inline(always)]
    unsafe fn where_nonzero(self, weight: Self) -> Self {
        self.each(weight, |x, w| if w != 0.0 { x } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn zip(self, b: Self) -> (Self, Self) {
        let (a, b) = (self.0, b.0);
        (Portable([a[0], b[0], a[1], b[1]]), Portable([a[2], b[2], a[3], b[3]]))
    }
    #[inline(always)]
    unsafe fn power_of_two(self) -> Self {
        Portable(self.0.map(|x| f32::from_bits(x.to_bits().wrapping_add(127) << 23)))
    }
}
