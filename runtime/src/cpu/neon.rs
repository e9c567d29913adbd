//! Vectors of AArch64: NEON.

use std::arch::aarch64::*;

use super::vector::Vector;

/// Four lanes, NEON.
#[derive(Clone, Copy)]
pub struct Neon(float32x4_t);

// SAFETY of every block below: each method is one or two instructions on values and on memory that the caller of
// the method vouches for; NEON is part of the AArch64 baseline.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Vector for Neon {
    const WIDTH: usize = 4;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Neon(unsafe { vld1q_f32(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { vst1q_f32(to, self.0) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Neon(unsafe { vdupq_n_f32(x) })
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        Neon(unsafe { vaddq_f32(self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        Neon(unsafe { vsubq_f32(self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        Neon(unsafe { vmulq_f32(self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        Neon(unsafe { vdivq_f32(self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        Neon(unsafe { vfmaq_f32(c.0, self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        Neon(unsafe { vbslq_f32(vcgtq_f32(self.0, b.0), self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn less_select(self, b: Self, x: Self, y: Self) -> Self {
        Neon(unsafe { vbslq_f32(vcltq_f32(self.0, b.0), x.0, y.0) })
    }
    #[inline(always)]
    unsafe fn where_nonzero(self, weight: Self) -> Self {
        Neon(unsafe { vbslq_f32(vceqzq_f32(weight.0), vdupq_n_f32(0.0), self.0) })
    }
    #[inline(always)]
    unsafe fn zip(self, b: Self) -> (Self, Self) {
        unsafe { (Neon(vzip1q_f32(self.0, b.0)), Neon(vzip2q_f32(self.0, b.0))) }
    }
    #[inline(always)]
    unsafe fn power_of_two(self) -> Self {
        Neon(unsafe {
            let exponent = vaddq_u32(vreinterpretq_u32_f32(self.0), vdupq_n_u32(127));
            vreinterpretq_f32_u32(vshlq_n_u32::<23>(exponent))
        })
    }
}
