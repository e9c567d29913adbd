//! The problem that a model looks at: shapes and one typical length.

use crate::ir::Programs;
use crate::spec::Pass;

/// Passes that are tuned together, since they run together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PassGroup {
    /// O and the log-sum-exp.
    Forward,
    /// dQ, dK and dV.
    Backward,
    /// One query token a sequence.
    Decode,
}

impl PassGroup {
    /// All of them.
    pub const ALL: [PassGroup; 3] = [PassGroup::Forward, PassGroup::Backward, PassGroup::Decode];

    /// `forward`, `backward` or `decode`.
    pub fn name(self) -> &'static str {
        match self {
            PassGroup::Forward => "forward",
            PassGroup::Backward => "backward",
            PassGroup::Decode => "decode",
        }
    }
}

impl From<Pass> for PassGroup {
    fn from(pass: Pass) -> PassGroup {
        match pass {
            Pass::Forward => PassGroup::Forward,
            Pass::Decode => PassGroup::Decode,
            _ => PassGroup::Backward,
        }
    }
}

impl std::fmt::Display for PassGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// What is computed, at one length.
#[derive(Clone, Copy, Debug)]
pub struct Workload<'a> {
    /// The mask.
    pub programs: &'a Programs,
    /// Which pass.
    pub pass: PassGroup,
    /// Query heads, H.
    pub heads: u32,
    /// KV heads, G.
    pub kv_heads: u32,
    /// D.
    pub head_dim: u32,
    /// Sequences, B.
    pub batch: u32,
    /// Query tokens of a sequence, T: its last ones.
    pub queries: u32,
    /// Key tokens of a sequence, S.
    pub keys: u32,
    /// Bytes of an element of Q, K and V.
    pub element_bytes: u32,
}

impl Workload<'_> {
    /// Query heads of a KV head.
    pub fn group(&self) -> u32 {
        self.heads / self.kv_heads.max(1)
    }

    /// Index of the first query token.
    pub fn first_query(&self) -> u32 {
        self.keys - self.queries.min(self.keys)
    }

    /// KV heads to look at and how many each stands for: few, since heads of one pattern cost much the same.
    pub(super) fn sampled_heads(&self) -> Vec<(u32, f64)> {
        const MOST: u32 = 2;
        let count = self.kv_heads.clamp(1, MOST);
        let weight = f64::from(self.kv_heads.max(1)) / f64::from(count);
        (0..count).map(|n| (n * self.kv_heads / count, weight)).collect()
    }
}

/// `count` numbers spread over `0..all`, and how many each stands for.
pub(super) fn samples(all: u32, count: u32) -> (impl Iterator<Item = u32>, f64) {
    let taken = all.min(count);
    let middle = move |n: u32| ((2 * u64::from(n) + 1) * u64::from(all) / (2 * u64::from(taken))) as u32;
    ((0..taken).map(middle), f64::from(all) / f64::from(taken.max(1)))
}
