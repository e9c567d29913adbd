//! Output that several threads fill at once, each its own rows.

use std::marker::PhantomData;

use crate::tensor::ElementsMut;

/// A (tokens, heads, D) tensor whose rows are written from many threads, no row by two.
#[derive(Clone, Copy, Debug)]
pub struct RowWriter<'a> {
    pointer: Pointer,
    len: usize,
    heads: usize,
    head_dim: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

#[derive(Clone, Copy, Debug)]
enum Pointer {
    F32(*mut f32),
    Bf16(*mut half::bf16),
    F16(*mut half::f16),
}

// SAFETY: the pointer comes from an exclusive borrow; `write` makes its callers keep to different rows.
unsafe impl Send for RowWriter<'_> {}
// SAFETY: as above.
unsafe impl Sync for RowWriter<'_> {}

impl<'a> RowWriter<'a> {
    /// A writer of contiguous rows.
    pub fn new(elements: ElementsMut<'a>, heads: usize, head_dim: usize) -> RowWriter<'a> {
        let (pointer, len) = match elements {
            ElementsMut::F32(x) => (Pointer::F32(x.as_mut_ptr()), x.len()),
            ElementsMut::Bf16(x) => (Pointer::Bf16(x.as_mut_ptr()), x.len()),
            ElementsMut::F16(x) => (Pointer::F16(x.as_mut_ptr()), x.len()),
        };
        RowWriter { pointer, len, heads, head_dim, borrow: PhantomData }
    }

    /// The row itself where the tensor is f32; whoever writes it keeps the promise of [`RowWriter::write`].
    pub fn f32_row(&self, token: usize, head: usize, len: usize) -> Option<*mut f32> {
        let Pointer::F32(to) = self.pointer else { return None };
        let start = self.start(token, head, len);
        // SAFETY: the row was found to lie within the borrowed slice.
        Some(unsafe { to.add(start) })
    }

    /// The first element of a row of `len` elements, which lies within the tensor.
    fn start(&self, token: usize, head: usize, len: usize) -> usize {
        let start = (token * self.heads + head) * self.head_dim;
        assert!(len == self.head_dim && start + len <= self.len, "a row of the tensor");
        start
    }

    /// Rounds a row and stores it.
    ///
    /// # Safety
    /// No other thread accesses this row at the same time.
    pub unsafe fn write(&self, token: usize, head: usize, row: &[f32]) {
        let start = self.start(token, head, row.len());
        // SAFETY: the row lies within the borrowed slice, and no other thread touches it.
        unsafe {
            match self.pointer {
                Pointer::F32(to) => {
                    std::slice::from_raw_parts_mut(to.add(start), row.len()).copy_from_slice(row)
                }
                Pointer::Bf16(to) => {
                    let to = std::slice::from_raw_parts_mut(to.add(start), row.len());
                    half::slice::HalfFloatSliceExt::convert_from_f32_slice(to, row);
                }
                Pointer::F16(to) => {
                    let to = std::slice::from_raw_parts_mut(to.add(start), row.len());
                    half::slice::HalfFloatSliceExt::convert_from_f32_slice(to, row);
                }
            }
        }
    }
}

/// Numbers that are written from many threads, none by two.
#[derive(Clone, Copy, Debug)]
pub struct CellWriter<'a> {
    pointer: *mut f32,
    len: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: as for `RowWriter`.
unsafe impl Send for CellWriter<'_> {}
// SAFETY: as for `RowWriter`.
unsafe impl Sync for CellWriter<'_> {}

impl<'a> CellWriter<'a> {
    /// A writer of the elements of a slice.
    pub fn new(slice: &'a mut [f32]) -> CellWriter<'a> {
        CellWriter { pointer: slice.as_mut_ptr(), len: slice.len(), borrow: PhantomData }
    }

    /// Stores one number.
    ///
    /// # Safety
    /// No other thread accesses this element at the same time.
    pub unsafe fn write(&self, index: usize, value: f32) {
        assert!(index < self.len, "an element of the slice");
        // SAFETY: the element lies within the borrowed slice, and no other thread touches it.
        unsafe { *self.pointer.add(index) = value }
    }
}
