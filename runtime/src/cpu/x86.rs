//! Vectors of x86-64: AVX-512 and AVX2 with FMA.

use std::arch::x86_64::*;

use super::vector::Vector;

/// Sixteen lanes, AVX-512F.
#[derive(Clone, Copy)]
pub struct Avx512(__m512);

/// Eight lanes, AVX2 and FMA.
#[derive(Clone, Copy)]
pub struct Avx2(__m256);

/// Both widths fetch by the same instruction, which every x86-64 has.
#[inline(always)]
fn prefetch<const LEVEL: i32>(at: *const f32) {
    // SAFETY: the instruction reads nothing, whatever the address.
    unsafe {
        if LEVEL == 1 {
            _mm_prefetch::<_MM_HINT_T0>(at.cast());
        } else {
            _mm_prefetch::<_MM_HINT_T1>(at.cast());
        }
    }
}

/// The line arrives ready to be written, where one that was fetched to be read has to be asked for once more.
#[inline(always)]
fn prefetch_to_write(at: *const f32) {
    // SAFETY: the instruction changes nothing, whatever the address; processors without it do nothing.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags));
    }
}

// SAFETY of every block of both implementations: each method is one or two instructions on values and on memory that the
// caller of the method vouches for; the trait demands that it runs where the instructions exist.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Vector for Avx512 {
    const WIDTH: usize = 16;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Avx512(unsafe { _mm512_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Avx512(unsafe { _mm512_set1_ps(x) })
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        Avx512(unsafe { _mm512_add_ps(self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        Avx512(unsafe { _mm512_sub_ps(self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        Avx512(unsafe { _mm512_mul_ps(self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        Avx512(unsafe { _mm512_div_ps(self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        Avx512(unsafe { _mm512_fmadd_ps(self.0, b.0, c.0) })
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        Avx512(unsafe { _mm512_max_ps(self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn less_select(self, b: Self, x: Self, y: Self) -> Self {
        Avx512(unsafe {
            let less = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, b.0);
            _mm512_mask_blend_ps(less, y.0, x.0)
        })
    }
    #[inline(always)]
    unsafe fn where_nonzero(self, weight: Self) -> Self {
        Avx512(unsafe {
            let nonzero = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(weight.0, _mm512_setzero_ps());
            _mm512_maskz_mov_ps(nonzero, self.0)
        })
    }
    #[inline(always)]
    unsafe fn fetch<const LEVEL: i32>(at: *const f32) {
        prefetch::<LEVEL>(at);
    }
    #[inline(always)]
    unsafe fn fetch_to_write(at: *const f32) {
        prefetch_to_write(at);
    }
    #[inline(always)]
    unsafe fn zip(self, b: Self) -> (Self, Self) {
        unsafe {
            let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            let high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
            let pick = |lanes| Avx512(_mm512_permutex2var_ps(self.0, lanes, b.0));
            (pick(low), pick(high))
        }
    }
    #[inline(always)]
    unsafe fn power_of_two(self) -> Self {
        Avx512(unsafe {
            let exponent = _mm512_add_epi32(_mm512_castps_si512(self.0), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
        })
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl Vector for Avx2 {
    const WIDTH: usize = 8;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Avx2(unsafe { _mm256_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm256_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Avx2(unsafe { _mm256_set1_ps(x) })
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        Avx2(unsafe { _mm256_add_ps(self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        Avx2(unsafe { _mm256_sub_ps(self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        Avx2(unsafe { _mm256_mul_ps(self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        Avx2(unsafe { _mm256_div_ps(self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        Avx2(unsafe { _mm256_fmadd_ps(self.0, b.0, c.0) })
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        Avx2(unsafe { _mm256_max_ps(self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn less_select(self, b: Self, x: Self, y: Self) -> Self {
        Avx2(unsafe { _mm256_blendv_ps(y.0, x.0, _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, b.0)) })
    }
    #[inline(always)]
    unsafe fn where_nonzero(self, weight: Self) -> Self {
        Avx2(unsafe {
            let nonzero = _mm256_cmp_ps::<_CMP_NEQ_UQ>(weight.0, _mm256_setzero_ps());
            _mm256_and_ps(self.0, nonzero)
        })
    }
    #[inline(always)]
    unsafe fn fetch<const LEVEL: i32>(at: *const f32) {
        prefetch::<LEVEL>(at);
    }
    #[inline(always)]
    unsafe fn fetch_to_write(at: *const f32) {
        prefetch_to_write(at);
    }
    #[inline(always)]
    unsafe fn zip(self, b: Self) -> (Self, Self) {
        unsafe {
            // The instructions work on each half by itself.
            let low = _mm256_unpacklo_ps(self.0, b.0);
            let high = _mm256_unpackhi_ps(self.0, b.0);
            let first = _mm256_permute2f128_ps::<0x20>(low, high);
            let second = _mm256_permute2f128_ps::<0x31>(low, high);
            (Avx2(first), Avx2(second))
        }
    }
    #[inline(always)]
    unsafe fn power_of_two(self) -> Self {
        Avx2(unsafe {
            let exponent = _mm256_add_epi32(_mm256_castps_si256(self.0), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
        })
    }
}
