//! What an attention problem is, apart from its numbers and its pattern: head shape, element type, sequences.
//!
//! Shape letters: B sequences, T query tokens, S key tokens, H query heads, G KV heads, D head dimension.

mod error;

use std::fmt;

pub use error::ProblemError;

/// Token indices and counts stay below this, so that kernels may compute bounds in 32 bits.
pub const MAX_TOKENS: usize = 1 << 30;

/// Element type of Q, K, V, O and their gradients. Statistics (LSE) are always `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    #[serde(rename = "fp16")]
    F16,
}

impl DType {
    /// Size of one element.
    pub fn bytes(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::Bf16 | DType::F16 => 2,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            DType::F32 => "f32",
            DType::Bf16 => "bf16",
            DType::F16 => "fp16",
        })
    }
}

/// Heads of an attention layer; query head `h` reads KV head `h / (H / G)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeadShape {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl HeadShape {
    /// `heads` query heads over `kv_heads` KV heads of `head_dim` elements each.
    ///
    /// # Errors
    /// A count of zero, or `heads` no multiple of `kv_heads`.
    pub fn new(heads: usize, kv_heads: usize, head_dim: usize) -> Result<HeadShape, ProblemError> {
        for (name, value) in [("heads", heads), ("kv_heads", kv_heads), ("head_dim", head_dim)] {
            if value == 0 {
                return Err(ProblemError::Zero { name });
            }
            below_limit(name, value)?;
        }
        if !heads.is_multiple_of(kv_heads) {
            return Err(ProblemError::HeadsNotDivisible { heads, kv_heads });
        }
        Ok(HeadShape { heads, kv_heads, head_dim })
    }

    /// H, query heads.
    pub fn heads(self) -> usize {
        self.heads
    }

    /// G, KV heads.
    pub fn kv_heads(self) -> usize {
        self.kv_heads
    }

    /// D, elements of a head.
    pub fn head_dim(self) -> usize {
        self.head_dim
    }

    /// Query heads that share one KV head, H / G.
    pub fn group(self) -> usize {
        self.heads / self.kv_heads
    }
}

/// One sequence of a batch: where its tokens lie and where its queries stand among its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// First query token in the packed query tensor.
    pub q_start: usize,
    /// Query tokens.
    pub q_len: usize,
    /// First key token in the packed key tensor.
    pub k_start: usize,
    /// Key tokens.
    pub k_len: usize,
    /// Index of the first query in its sequence: query `t` has index `q_offset + t`. A negative index sees nothing.
    pub q_offset: i64,
}

/// The sequences of a batch, packed one after the other without padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequences {
    cu_q: Vec<usize>,
    cu_k: Vec<usize>,
    q_offset: Vec<i64>,
}

impl Sequences {
    /// Sequences from cumulative token counts, each of B + 1 entries from 0. Without `q_offset` the queries are the
    /// last tokens of their sequence (`S_b - T_b`).
    ///
    /// # Errors
    /// Counts that decrease, do not start at 0, or differ in length; more than 2^30 tokens or offsets beyond them.
    /// Sequences of no tokens are allowed.
    pub fn new(
        cu_q: Vec<usize>,
        cu_k: Vec<usize>,
        q_offset: Option<Vec<i64>>,
    ) -> Result<Sequences, ProblemError> {
        check_cumulative("cu_q", &cu_q)?;
        check_cumulative("cu_k", &cu_k)?;
        let count = cu_q.len() - 1;
        if cu_k.len() - 1 != count {
            return Err(ProblemError::SequenceCount { name: "cu_k", found: cu_k.len() - 1, expected: count });
        }
        let q_offset = q_offset.unwrap_or_else(|| {
            cu_q.windows(2)
                .zip(cu_k.windows(2))
                .map(|(q, k)| (k[1] - k[0]) as i64 - (q[1] - q[0]) as i64)
                .collect()
        });
        if q_offset.len() != count {
            return Err(ProblemError::SequenceCount {
                name: "q_offset",
                found: q_offset.len(),
                expected: count,
            });
        }
        for (offset, q) in q_offset.iter().zip(cu_q.windows(2)) {
            let past = offset.saturating_add((q[1] - q[0]) as i64);
            if offset.unsigned_abs() > MAX_TOKENS as u64 || past > MAX_TOKENS as i64 {
                return Err(ProblemError::TooLong { name: "q_offset", value: *offset });
            }
        }
        Ok(Sequences { cu_q, cu_k, q_offset })
    }

    /// One sequence whose queries and keys are the same tokens.
    ///
    /// # Errors
    /// More than 2^30 tokens.
    pub fn single(tokens: usize) -> Result<Sequences, ProblemError> {
        Sequences::new(vec![0, tokens], vec![0, tokens], None)
    }

    /// Self-attention over packed sequences (documents): queries and keys share one list of cumulative counts.
    ///
    /// # Errors
    /// As [`Sequences::new`].
    pub fn packed(cu_seqlens: Vec<usize>) -> Result<Sequences, ProblemError> {
        Sequences::new(cu_seqlens.clone(), cu_seqlens, None)
    }

    /// B, the number of sequences.
    pub fn len(&self) -> usize {
        self.q_offset.len()
    }

    /// Whether there is no sequence at all.
    pub fn is_empty(&self) -> bool {
        self.q_offset.is_empty()
    }

    /// Cumulative query tokens, B + 1 entries.
    pub fn cu_q(&self) -> &[usize] {
        &self.cu_q
    }

    /// Cumulative key tokens, B + 1 entries.
    pub fn cu_k(&self) -> &[usize] {
        &self.cu_k
    }

    /// Index of the first query of each sequence, B entries.
    pub fn q_offset(&self) -> &[i64] {
        &self.q_offset
    }

    /// Query tokens in all.
    pub fn total_q(&self) -> usize {
        self.cu_q[self.len()]
    }

    /// Key tokens in all.
    pub fn total_k(&self) -> usize {
        self.cu_k[self.len()]
    }

    /// Query tokens of the longest sequence.
    pub fn max_q(&self) -> usize {
        self.iter().map(|s| s.q_len).max().unwrap_or(0)
    }

    /// Key tokens of the longest sequence.
    pub fn max_k(&self) -> usize {
        self.iter().map(|s| s.k_len).max().unwrap_or(0)
    }

    /// The sequences in order.
    pub fn iter(&self) -> impl Iterator<Item = Sequence> + '_ {
        (0..self.len()).map(|b| Sequence {
            q_start: self.cu_q[b],
            q_len: self.cu_q[b + 1] - self.cu_q[b],
            k_start: self.cu_k[b],
            k_len: self.cu_k[b + 1] - self.cu_k[b],
            q_offset: self.q_offset[b],
        })
    }
}

/// A whole attention problem: shapes, sequences and the scalars of the softmax.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionProblem {
    /// Heads and head dimension.
    pub shape: HeadShape,
    /// Lengths and offsets.
    pub sequences: Sequences,
    scale: f32,
    softcap: Option<f32>,
}

impl AttentionProblem {
    /// A problem with the usual scale `1 / sqrt(D)` and no softcap.
    pub fn new(shape: HeadShape, sequences: Sequences) -> AttentionProblem {
        let scale = 1.0 / (shape.head_dim() as f32).sqrt();
        AttentionProblem { shape, sequences, scale, softcap: None }
    }

    /// The same problem with another factor on the scores.
    ///
    /// # Errors
    /// A scale that is not finite.
    pub fn with_scale(mut self, scale: f32) -> Result<AttentionProblem, ProblemError> {
        if !scale.is_finite() {
            return Err(ProblemError::Number {
                name: "scale",
                allowed: "a finite number",
                value: scale.to_string(),
            });
        }
        self.scale = scale;
        Ok(self)
    }

    /// The same problem with scores bounded by `cap * tanh(score / cap)`.
    ///
    /// # Errors
    /// A cap that is not a finite positive number.
    pub fn with_softcap(mut self, cap: f32) -> Result<AttentionProblem, ProblemError> {
        if !cap.is_finite() || cap <= 0.0 {
            return Err(ProblemError::Number {
                name: "softcap",
                allowed: "a finite number above 0",
                value: cap.to_string(),
            });
        }
        self.softcap = Some(cap);
        Ok(self)
    }

    /// Factor on the scores.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Bound of the scores, if any.
    pub fn softcap(&self) -> Option<f32> {
        self.softcap
    }

    /// Elements of Q, O and their gradients: total_q * H * D.
    pub fn q_elements(&self) -> usize {
        self.sequences.total_q() * self.shape.heads() * self.shape.head_dim()
    }

    /// Elements of K, V and their gradients: total_k * G * D.
    pub fn k_elements(&self) -> usize {
        self.sequences.total_k() * self.shape.kv_heads() * self.shape.head_dim()
    }

    /// Entries of the log-sum-exp, [H, total_q].
    pub fn lse_elements(&self) -> usize {
        self.shape.heads() * self.sequences.total_q()
    }
}

/// Whether a slice has as many numbers as it must.
pub(crate) fn check_len(name: &'static str, found: usize, expected: usize) -> Result<(), ProblemError> {
    if found != expected {
        return Err(ProblemError::Shape {
            name,
            found: format!("[{found}]"),
            expected: format!("[{expected}]"),
        });
    }
    Ok(())
}

fn check_cumulative(name: &'static str, cu: &[usize]) -> Result<(), ProblemError> {
    let (&first, &last) = match (cu.first(), cu.last()) {
        (Some(first), Some(last)) => (first, last),
        _ => return Err(ProblemError::CuEmpty { name }),
    };
    if first != 0 {
        return Err(ProblemError::CuStart { name, first });
    }
    for (index, pair) in cu.windows(2).enumerate() {
        if pair[1] < pair[0] {
            return Err(ProblemError::CuDecreases {
                name,
                index: index + 1,
                before: pair[0],
                after: pair[1],
            });
        }
    }
    below_limit(name, last)
}

fn below_limit(name: &'static str, value: usize) -> Result<(), ProblemError> {
    if value >= MAX_TOKENS {
        return Err(ProblemError::TooLong { name, value: i64::try_from(value).unwrap_or(i64::MAX) });
    }
    Ok(())
}
