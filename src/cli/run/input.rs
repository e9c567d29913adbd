//! The tensors of `lgc run`: read, checked against each other, and turned into a problem.

use std::path::{Path, PathBuf};

use longgen_codegen::pattern::Softmax;
use longgen_runtime::problem::{AttentionProblem, DType, HeadShape, ProblemError, Sequences};
use longgen_runtime::tensor::{HostTensor, TensorShape};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use thiserror::Error;

use crate::cli::CliError;

/// Everything a run needs.
pub struct Input {
    /// Lengths, shapes, scale and softcap.
    pub problem: AttentionProblem,
    /// (total_q, H, D).
    pub q: HostTensor,
    /// (total_k, G, D).
    pub k: HostTensor,
    /// (total_k, G, D).
    pub v: HostTensor,
    /// (total_q, H, D), for the backward.
    pub d_o: Option<HostTensor>,
    /// (H, total_q), for the backward.
    pub d_lse: Option<Vec<f32>>,
    /// (H), where the pattern has sink logits.
    pub sink_logit: Option<Vec<f32>>,
    /// The file holds sink logits and the pattern has none.
    pub unused_sink_logit: bool,
}

/// What can be wrong with the tensors.
#[derive(Debug, Error)]
pub enum InputError {
    /// Not the format.
    #[error("`{}` is no safetensors file", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What the reader says.
        source: SafeTensorError,
    },
    /// A tensor is missing.
    #[error("there is no tensor `{name}`{why}; the file holds {found}")]
    Missing {
        /// The tensor.
        name: &'static str,
        /// What it is needed for.
        why: &'static str,
        /// What there is.
        found: String,
    },
    /// A tensor has another rank or shape than it should.
    #[error("`{name}` has shape {found:?}, expected {expected}")]
    Shape {
        /// The tensor.
        name: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// What it should be, in words.
        expected: String,
    },
    /// A tensor has an element type it cannot have.
    #[error("`{name}` holds {found:?}, expected {expected}")]
    Type {
        /// The tensor.
        name: &'static str,
        /// Its type.
        found: Dtype,
        /// What it may be, in words.
        expected: &'static str,
    },
    /// A count that must not be negative.
    #[error("`{name}` holds {value}, which is no token count")]
    Count {
        /// The tensor.
        name: &'static str,
        /// The value.
        value: i64,
    },
    /// Cumulative lengths that end elsewhere than the tensor.
    #[error("`{name}` ends at {end}, but `{tensor}` has {tokens} tokens")]
    End {
        /// The cumulative lengths.
        name: &'static str,
        /// Their last entry.
        end: usize,
        /// The tensor they cut.
        tensor: &'static str,
        /// Its tokens.
        tokens: usize,
    },
    /// Keys and queries differ and one list of lengths is given.
    #[error(
        "q has {queries} tokens and k has {keys}: several sequences need `cu_seqlens` for q and `cu_seqlens_k` for k"
    )]
    KeyLengths {
        /// Tokens of Q.
        queries: usize,
        /// Tokens of K.
        keys: usize,
    },
    /// Anything the problem itself refuses.
    #[error(transparent)]
    Problem(#[from] ProblemError),
}

impl Input {
    /// Reads the tensors from the file's bytes.
    ///
    /// # Errors
    /// [`CliError::Failure`] for tensors that are missing or do not fit together.
    pub fn read(
        path: &Path,
        bytes: &[u8],
        softmax: Softmax,
        scale: Option<f32>,
        backward: bool,
    ) -> Result<Input, CliError> {
        let file = SafeTensors::deserialize(bytes)
            .map_err(|source| CliError::failure(InputError::Format { path: path.into(), source }))?;
        Reader { file }.input(softmax, scale, backward).map_err(CliError::failure)
    }
}

struct Reader<'a> {
    file: SafeTensors<'a>,
}

impl<'a> Reader<'a> {
    fn input(&self, softmax: Softmax, scale: Option<f32>, backward: bool) -> Result<Input, InputError> {
        let [q, k, v] = ["q", "k", "v"].map(|name| self.tensor(name, ""));
        let (q, k, v) = (q?, k?, v?);
        let shape = HeadShape::new(q.shape().heads, k.shape().heads, q.shape().head_dim)?;
        for (name, other) in [("k", &k), ("v", &v)] {
            let expected =
                TensorShape { tokens: k.shape().tokens, heads: shape.kv_heads(), head_dim: shape.head_dim() };
            other.view().expect(name, expected, q.dtype())?;
        }
        let sequences = self.sequences(q.shape().tokens, k.shape().tokens)?;
        let mut problem = AttentionProblem::new(shape, sequences);
        if let Some(scale) = scale {
            problem = problem.with_scale(scale)?;
        }
        if let Some(cap) = softmax.softcap {
            problem = problem.with_softcap(cap)?;
        }
        let d_o = if backward {
            let d_o = self.tensor("do", ", which --backward needs")?;
            d_o.view().expect("do", q.shape(), q.dtype())?;
            Some(d_o)
        } else {
            None
        };
        let has_logit = self.file.tensor("sink_logit").is_ok();
        let sink_logit =
            if softmax.sink_logit { Some(self.floats("sink_logit", &[shape.heads()])?) } else { None };
        let d_lse = if backward && self.file.tensor("dlse").is_ok() {
            Some(self.floats("dlse", &[shape.heads(), q.shape().tokens])?)
        } else {
            None
        };
        let unused_sink_logit = has_logit && !softmax.sink_logit;
        Ok(Input { problem, q, k, v, d_o, d_lse, sink_logit, unused_sink_logit })
    }

    fn find(&self, name: &'static str, why: &'static str) -> Result<TensorView<'a>, InputError> {
        self.file.tensor(name).map_err(|_| {
            let mut names = self.file.names();
            names.sort_unstable();
            let found = if names.is_empty() { "no tensor at all".to_string() } else { names.join(", ") };
            InputError::Missing { name, why, found }
        })
    }

    /// A tensor of rank 3 and one of the three types.
    fn tensor(&self, name: &'static str, why: &'static str) -> Result<HostTensor, InputError> {
        let view = self.find(name, why)?;
        let &[tokens, heads, head_dim] = view.shape() else {
            let expected = "[tokens, heads, D]".to_string();
            return Err(InputError::Shape { name, found: view.shape().to_vec(), expected });
        };
        let dtype = match view.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::BF16 => DType::Bf16,
            Dtype::F16 => DType::F16,
            found => return Err(InputError::Type { name, found, expected: "f32, bf16 or fp16" }),
        };
        Ok(HostTensor::from_le_bytes(dtype, TensorShape { tokens, heads, head_dim }, view.data())?)
    }

    /// A tensor of this shape, widened to f32.
    fn floats(&self, name: &'static str, shape: &[usize]) -> Result<Vec<f32>, InputError> {
        let view = self.find(name, ", which the pattern needs")?;
        if view.shape() != shape {
            return Err(InputError::Shape {
                name,
                found: view.shape().to_vec(),
                expected: format!("{shape:?}"),
            });
        }
        let data = view.data();
        match view.dtype() {
            Dtype::F32 => Ok(data.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()),
            Dtype::BF16 => Ok(data
                .as_chunks()
                .0
                .iter()
                .map(|&bytes| half::bf16::from_le_bytes(bytes).to_f32())
                .collect()),
            Dtype::F16 => {
                Ok(data.as_chunks().0.iter().map(|&bytes| half::f16::from_le_bytes(bytes).to_f32()).collect())
            }
            found => Err(InputError::Type { name, found, expected: "f32, bf16 or fp16" }),
        }
    }

    /// A list of whole numbers, where it is there.
    fn integers(&self, name: &'static str) -> Result<Option<Vec<i64>>, InputError> {
        let Ok(view) = self.file.tensor(name) else { return Ok(None) };
        if view.shape().len() != 1 {
            let expected = "one dimension".to_string();
            return Err(InputError::Shape { name, found: view.shape().to_vec(), expected });
        }
        let data = view.data();
        match view.dtype() {
            Dtype::I64 => {
                Ok(Some(data.as_chunks().0.iter().map(|&bytes| i64::from_le_bytes(bytes)).collect()))
            }
            Dtype::I32 => {
                Ok(Some(data.as_chunks().0.iter().map(|&bytes| i32::from_le_bytes(bytes).into()).collect()))
            }
            found => Err(InputError::Type { name, found, expected: "i32 or i64" }),
        }
    }

    fn counts(&self, name: &'static str) -> Result<Option<Vec<usize>>, InputError> {
        let Some(values) = self.integers(name)? else { return Ok(None) };
        let count = |value: i64| usize::try_from(value).map_err(|_| InputError::Count { name, value });
        values.into_iter().map(count).collect::<Result<_, _>>().map(Some)
    }

    /// The sequences: one, unless cumulative lengths say otherwise.
    fn sequences(&self, queries: usize, keys: usize) -> Result<Sequences, InputError> {
        let cu_q = self.counts("cu_seqlens")?;
        let cu_k = self.counts("cu_seqlens_k")?;
        let offsets = self.integers("q_offset")?;
        let cu_k = match (cu_k, &cu_q) {
            (Some(cu_k), _) => cu_k,
            (None, Some(cu_q)) if queries == keys => cu_q.clone(),
            (None, Some(cu_q)) if cu_q.len() > 2 => return Err(InputError::KeyLengths { queries, keys }),
            (None, _) => vec![0, keys],
        };
        let cu_q = cu_q.unwrap_or_else(|| vec![0, queries]);
        let sequences = Sequences::new(cu_q, cu_k, offsets)?;
        let ends = [
            ("cu_seqlens", sequences.total_q(), "q", queries),
            ("cu_seqlens_k", sequences.total_k(), "k", keys),
        ];
        for (name, end, tensor, tokens) in ends {
            if end != tokens {
                return Err(InputError::End { name, end, tensor, tokens });
            }
        }
        Ok(sequences)
    }
}
