//! What to time.

use serde::{Deserialize, Serialize};

/// Which kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pass {
    Forward,
    Backward,
    BackwardDeterministic,
    /// One query token a sequence over a cache that holds every key.
    Decode,
    /// The same over the slots that the pattern keeps.
    DecodeCompact,
}

impl Pass {
    pub fn is_decode(self) -> bool {
        matches!(self, Pass::Decode | Pass::DecodeCompact)
    }
    pub fn is_backward(self) -> bool {
        matches!(self, Pass::Backward | Pass::BackwardDeterministic)
    }
}

/// One line of work.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Text form of a pattern, or a preset's name.
    pub pattern: String,
    pub pass: Pass,
    /// T and S of each sequence; for decode the keys, the last of which is the query's own.
    pub tokens: usize,
    #[serde(default = "one")]
    pub batch: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    #[serde(default = "bf16")]
    pub dtype: String,
    /// Whose kernels, such as `sm_90` for those of the plainer family; by default the best that the GPU runs.
    #[serde(default)]
    pub target: Option<String>,
    #[serde(default = "twenty")]
    pub repeats: usize,
}

fn one() -> usize {
    1
}
fn twenty() -> usize {
    20
}
fn bf16() -> String {
    "bf16".to_owned()
}
