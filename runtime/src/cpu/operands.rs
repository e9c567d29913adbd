//! What a call takes and gives, and whether it fits the problem.

use crate::problem::{AttentionProblem, DType, ProblemError, check_len};
use crate::tensor::{HostTensor, TensorShape, TensorView};

/// Inputs of a call. Q is (total_q, H, D), K and V are (total_k, G, D), all of one element type.
#[derive(Clone, Copy, Debug)]
pub struct CpuInputs<'a> {
    /// Queries.
    pub q: TensorView<'a>,
    /// Keys.
    pub k: TensorView<'a>,
    /// Values.
    pub v: TensorView<'a>,
    /// One logit per query head that joins the denominator only, (H).
    pub sink_logit: Option<&'a [f32]>,
}

impl CpuInputs<'_> {
    /// Whether the tensors have the shapes of the problem, and one type.
    pub fn check(&self, problem: &AttentionProblem) -> Result<(), ProblemError> {
        let dtype: DType = self.q.dtype();
        self.q.expect("q", q_shape(problem), dtype)?;
        self.k.expect("k", k_shape(problem), dtype)?;
        self.v.expect("v", k_shape(problem), dtype)?;
        if let Some(logit) = self.sink_logit {
            check_len("sink_logit", logit.len(), problem.shape.heads())?;
        }
        Ok(())
    }
}

/// Results of the forward.
#[derive(Clone, Debug)]
pub struct CpuOutput {
    /// (total_q, H, D), of the inputs' element type; 0 where a row sees no key.
    pub o: HostTensor,
    /// Natural log-sum-exp, (H, total_q); -inf where a row sees no key and there is no sink logit.
    pub lse: Vec<f32>,
}

/// Incoming gradients of the backward, and the forward's results.
#[derive(Clone, Copy, Debug)]
pub struct CpuGradientInputs<'a> {
    /// (total_q, H, D).
    pub o: TensorView<'a>,
    /// (H, total_q).
    pub lse: &'a [f32],
    /// Gradient of O, (total_q, H, D).
    pub d_o: TensorView<'a>,
    /// Gradient of the log-sum-exp, (H, total_q).
    pub d_lse: Option<&'a [f32]>,
}

/// Results of the backward, of the inputs' element type.
#[derive(Clone, Debug)]
pub struct CpuGradients {
    /// (total_q, H, D).
    pub dq: HostTensor,
    /// (total_k, G, D), summed over the query heads of a group.
    pub dk: HostTensor,
    /// (total_k, G, D), summed over the query heads of a group.
    pub dv: HostTensor,
    /// (H), when there is a sink logit.
    pub d_sink: Option<Vec<f32>>,
}

/// (total_q, H, D).
pub fn q_shape(problem: &AttentionProblem) -> TensorShape {
    TensorShape {
        tokens: problem.sequences.total_q(),
        heads: problem.shape.heads(),
        head_dim: problem.shape.head_dim(),
    }
}

/// (total_k, G, D).
pub fn k_shape(problem: &AttentionProblem) -> TensorShape {
    TensorShape {
        tokens: problem.sequences.total_k(),
        heads: problem.shape.kv_heads(),
        head_dim: problem.shape.head_dim(),
    }
}
