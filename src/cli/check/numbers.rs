//! Random inputs, the same on every machine.

use longgen_runtime::problem::{AttentionProblem, DType, ProblemError};
use longgen_runtime::tensor::{HostTensor, TensorShape};

/// The inputs of a problem, rounded to their type.
pub struct Numbers {
    /// (total_q, H, D).
    pub q: HostTensor,
    /// (total_k, G, D).
    pub k: HostTensor,
    /// (total_k, G, D).
    pub v: HostTensor,
    /// (total_q, H, D).
    pub d_o: HostTensor,
    /// (H), where the pattern has sink logits.
    pub sink_logit: Option<Vec<f32>>,
}

impl Numbers {
    /// Nearly normal numbers; queries are twice as large, so that some keys of each row matter and missing one shows.
    ///
    /// # Errors
    /// A problem larger than memory.
    pub fn random(
        problem: &AttentionProblem,
        dtype: DType,
        sink: bool,
        seed: u32,
    ) -> Result<Numbers, ProblemError> {
        let mut noise = Noise((u64::from(seed) << 1 | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let shape = problem.shape;
        let sequences = &problem.sequences;
        let queries =
            TensorShape { tokens: sequences.total_q(), heads: shape.heads(), head_dim: shape.head_dim() };
        let keys = TensorShape { tokens: sequences.total_k(), heads: shape.kv_heads(), ..queries };
        let mut tensor = |shape: TensorShape, size: f32| {
            let values: Vec<f32> =
                (0..shape.tokens * shape.heads * shape.head_dim).map(|_| size * noise.next()).collect();
            HostTensor::from_f32(dtype, shape, &values)
        };
        let (q, k) = (tensor(queries, 2.0)?, tensor(keys, 1.0)?);
        let (v, d_o) = (tensor(keys, 1.0)?, tensor(queries, 1.0)?);
        let sink_logit = sink.then(|| (0..shape.heads()).map(|_| noise.next()).collect());
        Ok(Numbers { q, k, v, d_o, sink_logit })
    }
}

struct Noise(u64);

impl Noise {
    /// The sum of four uniform numbers, of unit variance.
    fn next(&mut self) -> f32 {
        let mut uniform = || {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 40) as f32 / (1u32 << 24) as f32 - 0.5
        };
        (0..4).map(|_| uniform()).sum::<f32>() * 3f32.sqrt()
    }
}
