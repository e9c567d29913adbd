//! Tensors in host memory: a buffer of f32, bf16 or fp16 elements seen as (tokens, heads, D).

use half::{bf16, f16};

use crate::problem::{DType, ProblemError};

/// An owned, contiguous tensor of (tokens, heads, D).
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    storage: Storage,
    tokens: usize,
    heads: usize,
    head_dim: usize,
}

#[derive(Clone, Debug, PartialEq)]
enum Storage {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    F16(Vec<f16>),
}

/// Borrowed elements of one of the three types.
#[derive(Clone, Copy, Debug)]
pub enum Elements<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// bfloat16.
    Bf16(&'a [bf16]),
    /// Half precision.
    F16(&'a [f16]),
}

/// Elements of one of the three types, to be written.
#[derive(Debug)]
pub(crate) enum ElementsMut<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [bf16]),
    F16(&'a mut [f16]),
}

impl Elements<'_> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Elements::F32(x) => x.len(),
            Elements::Bf16(x) => x.len(),
            Elements::F16(x) => x.len(),
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Their type.
    pub fn dtype(&self) -> DType {
        match self {
            Elements::F32(_) => DType::F32,
            Elements::Bf16(_) => DType::Bf16,
            Elements::F16(_) => DType::F16,
        }
    }
}

/// Tokens, heads and head dimension of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorShape {
    /// Packed tokens of all sequences.
    pub tokens: usize,
    /// Query or KV heads.
    pub heads: usize,
    /// D.
    pub head_dim: usize,
}

impl std::fmt::Display for TensorShape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}, {}, {}]", self.tokens, self.heads, self.head_dim)
    }
}

/// A borrowed tensor of (tokens, heads, D); the last dimension is contiguous, the others have strides in elements.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    elements: Elements<'a>,
    shape: TensorShape,
    token_stride: usize,
    head_stride: usize,
}

impl<'a> TensorView<'a> {
    /// A contiguous view.
    ///
    /// # Errors
    /// A buffer that does not hold exactly this shape.
    pub fn new(elements: Elements<'a>, shape: TensorShape) -> Result<TensorView<'a>, ProblemError> {
        let expected = shape
            .tokens
            .checked_mul(shape.heads)
            .and_then(|n| n.checked_mul(shape.head_dim))
            .filter(|&n| n == elements.len());
        if expected.is_none() {
            return Err(ProblemError::Shape {
                name: "tensor",
                found: format!("{} elements", elements.len()),
                expected: shape.to_string(),
            });
        }
        let (token_stride, head_stride) = (shape.heads * shape.head_dim, shape.head_dim);
        Ok(TensorView { elements, shape, token_stride, head_stride })
    }

    /// A view with explicit strides in elements, such as one third of a fused QKV buffer or a (heads, tokens, D)
    /// buffer read across.
    ///
    /// # Errors
    /// Strides that reach past the buffer.
    pub fn strided(
        elements: Elements<'a>,
        shape: TensorShape,
        token_stride: usize,
        head_stride: usize,
    ) -> Result<TensorView<'a>, ProblemError> {
        let last = |count: usize, stride: usize| count.saturating_sub(1).checked_mul(stride);
        let end = last(shape.tokens, token_stride)
            .zip(last(shape.heads, head_stride))
            .and_then(|(t, h)| t.checked_add(h)?.checked_add(shape.head_dim));
        let is_empty = shape.tokens == 0 || shape.heads == 0;
        if !is_empty && end.is_none_or(|end| end > elements.len()) {
            return Err(ProblemError::Layout {
                name: "tensor",
                problem: format!(
                    "{shape} with strides [{token_stride}, {head_stride}, 1] reaches past {} elements",
                    elements.len()
                ),
            });
        }
        Ok(TensorView { elements, shape, token_stride, head_stride })
    }

    /// A view of a contiguous (heads, tokens, D) buffer that holds exactly this shape.
    pub(crate) fn heads_first(elements: Elements<'a>, shape: TensorShape) -> TensorView<'a> {
        let (token_stride, head_stride) = (shape.head_dim, shape.tokens * shape.head_dim);
        TensorView { elements, shape, token_stride, head_stride }
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.elements.dtype()
    }

    /// Tokens, heads, D.
    pub fn shape(&self) -> TensorShape {
        self.shape
    }

    /// Elements between the same position of neighbouring tokens.
    pub fn token_stride(&self) -> usize {
        self.token_stride
    }

    /// Elements between the same position of neighbouring heads.
    pub fn head_stride(&self) -> usize {
        self.head_stride
    }

    /// The whole buffer behind the view.
    pub fn elements(&self) -> Elements<'a> {
        self.elements
    }

    /// All values in order (tokens, heads, D), widened to f64.
    pub fn to_f64(&self) -> Vec<f64> {
        let TensorShape { tokens, heads, head_dim } = self.shape;
        let mut values = Vec::with_capacity(tokens * heads * head_dim);
        for t in 0..tokens {
            for h in 0..heads {
                let start = t * self.token_stride + h * self.head_stride;
                let at = start..start + head_dim;
                match self.elements {
                    Elements::F32(x) => values.extend(x[at].iter().map(|&x| f64::from(x))),
                    Elements::Bf16(x) => values.extend(x[at].iter().map(|x| x.to_f64())),
                    Elements::F16(x) => values.extend(x[at].iter().map(|x| x.to_f64())),
                }
            }
        }
        values
    }

    /// Fails unless the view has this shape and type; `name` is for the message.
    pub fn expect(&self, name: &'static str, shape: TensorShape, dtype: DType) -> Result<(), ProblemError> {
        if self.shape != shape {
            return Err(ProblemError::Shape {
                name,
                found: self.shape.to_string(),
                expected: shape.to_string(),
            });
        }
        if self.dtype() != dtype {
            return Err(ProblemError::DType { name, found: self.dtype(), expected: dtype });
        }
        Ok(())
    }
}

impl HostTensor {
    /// A tensor of zeros.
    pub fn zeros(dtype: DType, shape: TensorShape) -> HostTensor {
        let len = shape.tokens * shape.heads * shape.head_dim;
        let storage = match dtype {
            DType::F32 => Storage::F32(vec![0.0; len]),
            DType::Bf16 => Storage::Bf16(vec![bf16::ZERO; len]),
            DType::F16 => Storage::F16(vec![f16::ZERO; len]),
        };
        HostTensor { storage, tokens: shape.tokens, heads: shape.heads, head_dim: shape.head_dim }
    }

    /// A tensor of these values in order (tokens, heads, D), rounded to `dtype`.
    ///
    /// # Errors
    /// A number of values that is not the shape's.
    pub fn from_f32(dtype: DType, shape: TensorShape, values: &[f32]) -> Result<HostTensor, ProblemError> {
        let mut tensor = HostTensor::zeros(dtype, shape);
        let expected = tensor.view().elements().len();
        if values.len() != expected {
            return Err(ProblemError::Shape {
                name: "tensor",
                found: format!("{} values", values.len()),
                expected: shape.to_string(),
            });
        }
        match &mut tensor.storage {
            Storage::F32(x) => x.copy_from_slice(values),
            Storage::Bf16(x) => x.iter_mut().zip(values).for_each(|(x, &v)| *x = bf16::from_f32(v)),
            Storage::F16(x) => x.iter_mut().zip(values).for_each(|(x, &v)| *x = f16::from_f32(v)),
        }
        Ok(tensor)
    }

    /// A tensor from little-endian bytes, such as a safetensors entry.
    ///
    /// # Errors
    /// A number of bytes that is not the shape's.
    pub fn from_le_bytes(dtype: DType, shape: TensorShape, bytes: &[u8]) -> Result<HostTensor, ProblemError> {
        let len = shape
            .tokens
            .checked_mul(shape.heads)
            .and_then(|n| n.checked_mul(shape.head_dim))
            .and_then(|n| n.checked_mul(dtype.bytes()));
        if len != Some(bytes.len()) {
            return Err(ProblemError::Shape {
                name: "tensor",
                found: format!("{} bytes", bytes.len()),
                expected: format!("{shape} of {dtype}"),
            });
        }
        let (pairs, _) = bytes.as_chunks::<2>();
        let (quads, _) = bytes.as_chunks::<4>();
        let storage = match dtype {
            DType::F32 => Storage::F32(quads.iter().map(|&b| f32::from_le_bytes(b)).collect()),
            DType::Bf16 => Storage::Bf16(pairs.iter().map(|&b| bf16::from_le_bytes(b)).collect()),
            DType::F16 => Storage::F16(pairs.iter().map(|&b| f16::from_le_bytes(b)).collect()),
        };
        Ok(HostTensor { storage, tokens: shape.tokens, heads: shape.heads, head_dim: shape.head_dim })
    }

    /// The elements as little-endian bytes.
    pub fn to_le_bytes(&self) -> Vec<u8> {
        match &self.storage {
            Storage::F32(x) => x.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Storage::Bf16(x) => x.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Storage::F16(x) => x.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    }

    /// The elements of a single-precision tensor, without a copy; `None` of another type.
    pub fn into_f32(self) -> Option<Vec<f32>> {
        match self.storage {
            Storage::F32(x) => Some(x),
            Storage::Bf16(_) | Storage::F16(_) => None,
        }
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.view().dtype()
    }

    /// Tokens, heads, D.
    pub fn shape(&self) -> TensorShape {
        TensorShape { tokens: self.tokens, heads: self.heads, head_dim: self.head_dim }
    }

    /// All values, widened to f64.
    pub fn to_f64(&self) -> Vec<f64> {
        self.view().to_f64()
    }

    /// The elements, to be written.
    pub(crate) fn elements_mut(&mut self) -> ElementsMut<'_> {
        match &mut self.storage {
            Storage::F32(x) => ElementsMut::F32(x),
            Storage::Bf16(x) => ElementsMut::Bf16(x),
            Storage::F16(x) => ElementsMut::F16(x),
        }
    }

    /// The tensor, borrowed.
    pub fn view(&self) -> TensorView<'_> {
        let elements = match &self.storage {
            Storage::F32(x) => Elements::F32(x),
            Storage::Bf16(x) => Elements::Bf16(x),
            Storage::F16(x) => Elements::F16(x),
        };
        TensorView {
            elements,
            shape: self.shape(),
            token_stride: self.heads * self.head_dim,
            head_stride: self.head_dim,
        }
    }
}
