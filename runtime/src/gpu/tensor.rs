//! [token, head, D] tensors of 16-bit elements in device memory.

use longgen_codegen::spec::Dtype;

use crate::driver::{Buffer, GpuError, Stream};
use crate::problem::{DType, ProblemError};
use crate::tensor::{HostTensor, TensorShape};

/// Bytes of an element.
const ELEMENT: usize = 2;
/// Elements that an address or a stride must be a multiple of: kernels copy 16 bytes at a time.
const ALIGNMENT: usize = 8;

/// Where the elements of a tensor lie in its buffer, in elements. The last dimension is contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Tokens, heads, D.
    pub shape: TensorShape,
    /// The first element; a multiple of 8.
    pub offset: usize,
    /// From a token to the next; a multiple of 8.
    pub token_stride: usize,
    /// From a head to the next; a multiple of 8.
    pub head_stride: usize,
}

impl Layout {
    /// Heads inside tokens, nothing between.
    pub fn contiguous(shape: TensorShape) -> Self {
        let head_stride = shape.head_dim;
        Layout { shape, offset: 0, token_stride: shape.heads * head_stride, head_stride }
    }

    /// Elements from the start of the buffer to past the last element.
    pub fn elements(&self) -> Option<usize> {
        if self.shape.tokens == 0 || self.shape.heads == 0 {
            return Some(self.offset);
        }
        let tokens = (self.shape.tokens - 1).checked_mul(self.token_stride)?;
        let heads = (self.shape.heads - 1).checked_mul(self.head_stride)?;
        self.offset.checked_add(tokens)?.checked_add(heads)?.checked_add(self.shape.head_dim)
    }

    /// Whether no two rows share an element, as outputs need.
    fn rows_are_apart(&self) -> bool {
        let TensorShape { tokens, heads, head_dim } = self.shape;
        let spans = |inner: usize, count: usize| {
            inner.checked_mul(count.saturating_sub(1)).and_then(|span| span.checked_add(head_dim))
        };
        let fits = |inner: usize, count: usize, outer: usize, outer_count: usize| {
            (count <= 1 || inner >= head_dim)
                && (outer_count <= 1 || spans(inner, count).is_some_and(|span| outer >= span))
        };
        fits(self.head_stride, heads, self.token_stride, tokens)
            || fits(self.token_stride, tokens, self.head_stride, heads)
    }

    fn check(&self, name: &'static str, buffer: &Buffer, expected: TensorShape) -> Result<(), ProblemError> {
        if self.shape != expected {
            let (found, expected) = (self.shape.to_string(), expected.to_string());
            return Err(ProblemError::Shape { name, found, expected });
        }
        let layout = |problem: String| Err(ProblemError::Layout { name, problem });
        for (what, value) in
            [("offset", self.offset), ("token stride", self.token_stride), ("head stride", self.head_stride)]
        {
            if !value.is_multiple_of(ALIGNMENT) {
                return layout(format!("{what} {value} is no multiple of {ALIGNMENT} elements"));
            }
        }
        let available = buffer.bytes() / ELEMENT;
        match self.elements() {
            Some(needed) if needed <= available => Ok(()),
            _ => layout(format!("{} reaches past the {available} elements of its buffer", self.shape)),
        }
    }
}

/// A tensor to read.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Device memory.
    pub buffer: &'a Buffer,
    /// Where in it.
    pub layout: Layout,
}

/// A tensor to write.
#[derive(Debug)]
pub struct ViewMut<'a> {
    /// Device memory.
    pub buffer: &'a mut Buffer,
    /// Where in it.
    pub layout: Layout,
}

impl View<'_> {
    /// Device address of the first element.
    pub(super) fn address(&self) -> u64 {
        self.buffer.address() + (self.layout.offset * ELEMENT) as u64
    }

    /// Shape, alignment, bounds and stream.
    pub(super) fn check(
        &self,
        name: &'static str,
        expected: TensorShape,
        stream: &Stream,
    ) -> Result<(), super::GpuAttentionError> {
        self.layout.check(name, self.buffer, expected)?;
        on_stream(name, self.buffer, stream)?;
        Ok(())
    }
}

impl ViewMut<'_> {
    /// The same tensor to read.
    pub(super) fn view(&self) -> View<'_> {
        View { buffer: self.buffer, layout: self.layout }
    }

    /// As for reading, and no two rows may overlap.
    pub(super) fn check(
        &self,
        name: &'static str,
        expected: TensorShape,
        stream: &Stream,
    ) -> Result<(), super::GpuAttentionError> {
        self.view().check(name, expected, stream)?;
        if !self.layout.rows_are_apart() {
            let problem = "rows overlap, and this tensor is written".to_owned();
            return Err(ProblemError::Layout { name, problem }.into());
        }
        Ok(())
    }
}

/// A buffer may be used on its own stream only.
pub(super) fn on_stream(name: &'static str, buffer: &Buffer, stream: &Stream) -> Result<(), GpuError> {
    if buffer.stream().is(stream) { Ok(()) } else { Err(GpuError::WrongStream { name }) }
}

/// A tensor with its own buffer.
#[derive(Debug)]
pub struct DeviceTensor {
    buffer: Buffer,
    layout: Layout,
    dtype: Dtype,
}

impl DeviceTensor {
    /// A contiguous copy of a host tensor.
    ///
    /// # Errors
    /// [`ProblemError::DType`] for f32 tensors, which kernels do not take; [`GpuError`] from the copy.
    pub fn upload(stream: &Stream, tensor: &HostTensor) -> Result<Self, super::GpuAttentionError> {
        let dtype = match tensor.dtype() {
            DType::Bf16 => Dtype::Bf16,
            DType::F16 => Dtype::Fp16,
            DType::F32 => {
                let (name, found, expected) = ("tensor", DType::F32, DType::Bf16);
                return Err(ProblemError::DType { name, found, expected }.into());
            }
        };
        let buffer = Buffer::from_slice(stream, &tensor.to_le_bytes())?;
        Ok(DeviceTensor { buffer, layout: Layout::contiguous(tensor.shape()), dtype })
    }

    /// A tensor whose every byte, padding included, is `value`.
    ///
    /// # Errors
    /// [`GpuError`] from the allocation; [`ProblemError::TooLong`] when the layout does not fit in memory at all.
    pub fn filled(
        stream: &Stream,
        dtype: Dtype,
        layout: Layout,
        value: u8,
    ) -> Result<Self, super::GpuAttentionError> {
        let bytes = layout.elements().and_then(|n| n.checked_mul(ELEMENT));
        let bytes = bytes.ok_or(ProblemError::TooLong { name: "tensor", value: i64::MAX })?;
        let buffer = Buffer::filled(stream, bytes, value)?;
        Ok(DeviceTensor { buffer, layout, dtype })
    }

    /// To read.
    pub fn view(&self) -> View<'_> {
        View { buffer: &self.buffer, layout: self.layout }
    }

    /// To write.
    pub fn view_mut(&mut self) -> ViewMut<'_> {
        ViewMut { buffer: &mut self.buffer, layout: self.layout }
    }

    /// Element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// A contiguous copy on the host, once all earlier work of the stream is done.
    ///
    /// # Errors
    /// [`GpuError`], also for a fault of earlier work.
    pub fn download(&self) -> Result<HostTensor, super::GpuAttentionError> {
        let bytes: Vec<u8> = self.buffer.to_vec()?;
        let Layout { shape, offset, token_stride, head_stride } = self.layout;
        let row = shape.head_dim * ELEMENT;
        let mut packed = Vec::with_capacity(shape.tokens * shape.heads * row);
        for token in 0..shape.tokens {
            for head in 0..shape.heads {
                let start = (offset + token * token_stride + head * head_stride) * ELEMENT;
                packed.extend_from_slice(&bytes[start..start + row]);
            }
        }
        let dtype = match self.dtype {
            Dtype::Bf16 => DType::Bf16,
            Dtype::Fp16 => DType::F16,
        };
        Ok(HostTensor::from_le_bytes(dtype, shape, &packed)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: TensorShape = TensorShape { tokens: 5, heads: 3, head_dim: 16 };

    #[test]
    fn overlapping_rows_are_found() {
        let apart = Layout::contiguous(SHAPE);
        assert!(apart.rows_are_apart());
        assert!(Layout { token_stride: 16, head_stride: 5 * 16, ..apart }.rows_are_apart());
        assert!(!Layout { token_stride: 16, ..apart }.rows_are_apart());
        assert!(!Layout { head_stride: 0, ..apart }.rows_are_apart());
    }

    #[test]
    fn the_extent_is_the_last_element() {
        assert_eq!(Layout::contiguous(SHAPE).elements(), Some(5 * 3 * 16));
        let huge = Layout { token_stride: usize::MAX / 2, ..Layout::contiguous(SHAPE) };
        assert_eq!(huge.elements(), None);
    }
}
