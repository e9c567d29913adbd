//! What one compiled kernel is: pass, shape, target, schedule and pattern. Knows no length, no batch and no head count:
//! a new length never recompiles.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ir::{MaskIr, Programs};
use crate::schedule::{Schedule, candidates, choose};
use crate::target::{Family, Target};

/// The two 16-bit types of Q, K, V, O and their gradients. Sums are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 8 bits of exponent, 7 of mantissa.
    Bf16,
    /// 5 bits of exponent, 10 of mantissa.
    Fp16,
}

impl Dtype {
    /// Both.
    pub const ALL: [Dtype; 2] = [Dtype::Bf16, Dtype::Fp16];

    /// `bf16` or `fp16`.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::Bf16 => "bf16",
            Dtype::Fp16 => "fp16",
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The name is no 16-bit type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown type `{0}`; known are bf16, fp16")]
pub struct UnknownDtype(pub String);

impl FromStr for Dtype {
    type Err = UnknownDtype;

    fn from_str(text: &str) -> Result<Self, UnknownDtype> {
        let found = Dtype::ALL.into_iter().find(|dtype| dtype.name() == text);
        found.ok_or_else(|| UnknownDtype(text.to_owned()))
    }
}

/// The part of a problem that is compiled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shape {
    /// D, a multiple of 16 up to 256.
    pub head_dim: u32,
    /// Type of Q, K, V, O.
    pub dtype: Dtype,
    /// Scores pass through `cap * tanh(s / cap)`.
    pub softcap: bool,
    /// Each query head has a learned logit in the softmax denominator.
    pub sink_logit: bool,
}

impl Shape {
    /// A shape with neither softcap nor sink logit.
    pub fn plain(head_dim: u32, dtype: Dtype) -> Self {
        Shape { head_dim, dtype, softcap: false, sink_logit: false }
    }
}

impl fmt::Display for Shape {
    /// `D 128, bf16, softcap, sink logit`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shape { head_dim, dtype, softcap, sink_logit } = self;
        write!(f, "D {head_dim}, {dtype}")?;
        f.write_str(if *softcap { ", softcap" } else { "" })?;
        f.write_str(if *sink_logit { ", sink logit" } else { "" })
    }
}

/// What a kernel computes. One source per pass, since each has its own tile shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pass {
    /// O and LSE.
    Forward,
    /// The row sums of dO times O, and the gradient of the sink logits.
    BackwardDelta,
    /// dK and dV, a block per tile of keys.
    BackwardDkv,
    /// dQ, a block per tile of queries.
    BackwardDq,
    /// dK, dV and dQ at once, dQ summed in f32 by whichever block comes first.
    BackwardFused,
    /// The same with every sum taken in one order.
    BackwardOrdered,
    /// The f32 sums of dQ, scaled and rounded.
    BackwardConvertDq,
    /// O and LSE for one query token per sequence, split over the keys.
    Decode,
}

impl Pass {
    /// Whether it multiplies tiles on the tensor cores, and so is bound to whole warps of rows.
    pub fn is_tiled(self) -> bool {
        matches!(self, Pass::Forward | Pass::BackwardDkv | Pass::BackwardDq) || self.is_fused()
    }

    /// Whether it computes dK, dV and dQ in one walk.
    pub fn is_fused(self) -> bool {
        matches!(self, Pass::BackwardFused | Pass::BackwardOrdered)
    }

    /// Every pass, in the order they run.
    pub const ALL: [Pass; 8] = [
        Pass::Forward,
        Pass::BackwardDelta,
        Pass::BackwardDkv,
        Pass::BackwardDq,
        Pass::BackwardFused,
        Pass::BackwardOrdered,
        Pass::BackwardConvertDq,
        Pass::Decode,
    ];

    /// Whether a family has a template for this pass and shape.
    pub fn exists(self, family: Family, shape: &Shape) -> bool {
        // The Hopper templates hold whole rows of two head dimensions in registers.
        let hopper = family == Family::Sm90 && matches!(shape.head_dim, 64 | 128);
        match self {
            Pass::Forward => family == Family::Sm80 || hopper,
            Pass::BackwardOrdered => hopper,
            Pass::BackwardFused => hopper || family == Family::Sm80 && shape.head_dim == 128,
            // The sums of both families have one layout.
            Pass::BackwardConvertDq => family == Family::Sm80 && matches!(shape.head_dim, 64 | 128),
            _ => family == Family::Sm80,
        }
    }

    /// The family to take on a target: its own where that has a template, else the plainer one, which runs everywhere.
    pub fn family(self, target: Target, shape: &Shape) -> Family {
        if self.exists(target.family(), shape) { target.family() } else { Family::Sm80 }
    }

    /// The passes of a backward, in the order they run. The fused one is quickest and adds dQ in whatever order its
    /// blocks come; the ordered one and the split one give the same bits every time. A list of tiles does not say
    /// in which order.
    pub fn backward(target: Target, shape: &Shape, deterministic: bool, listed: bool) -> [Pass; 3] {
        let fits = |pass: Pass| {
            let family = pass.family(target, shape);
            pass.exists(family, shape) && !candidates(pass, family, shape, target).is_empty()
        };
        match deterministic {
            false if fits(Pass::BackwardFused) => Pass::BACKWARD_FUSED,
            true if fits(Pass::BackwardOrdered) && !listed => Pass::BACKWARD_ORDERED,
            _ => Pass::BACKWARD_SPLIT,
        }
    }

    /// The fused backward.
    pub const BACKWARD_FUSED: [Pass; 3] = [Pass::BackwardDelta, Pass::BackwardFused, Pass::BackwardConvertDq];

    /// The fused backward with the same bits every time.
    pub const BACKWARD_ORDERED: [Pass; 3] =
        [Pass::BackwardDelta, Pass::BackwardOrdered, Pass::BackwardConvertDq];

    /// The backward in two walks, with the same bits every time.
    pub const BACKWARD_SPLIT: [Pass; 3] = [Pass::BackwardDelta, Pass::BackwardDkv, Pass::BackwardDq];

    /// `forward`, `backward_delta`, ...
    pub fn name(self) -> &'static str {
        match self {
            Pass::Forward => "forward",
            Pass::BackwardDelta => "backward_delta",
            Pass::BackwardDkv => "backward_dkv",
            Pass::BackwardDq => "backward_dq",
            Pass::BackwardFused => "backward_fused",
            Pass::BackwardOrdered => "backward_ordered",
            Pass::BackwardConvertDq => "backward_convert_dq",
            Pass::Decode => "decode",
        }
    }
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A pattern as kernels take it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PatternCode {
    /// The pattern in its canonical text, for people: the header of the source and the manifest.
    pub canonical: String,
    /// C++: the five pattern functions of `sample_config.cuh`, or only `visible` for a listed pattern.
    pub functions: String,
    /// The tiles come from a list that the host makes, not from closed forms.
    pub listed: bool,
}

impl PatternCode {
    /// The functions of a mask, under the pattern's canonical text.
    pub fn new(canonical: impl Into<String>, ir: &MaskIr) -> Self {
        let programs = Programs::new(ir);
        // A predicate multiplies indices as its author wrote it; closed forms stay within 32 bits.
        let wide = ir.has_predicates();
        let mut functions = vec![programs.visible.to_cuda("bool", wide)];
        if let Some(closed) = &programs.closed {
            functions.push(closed.next_keys.to_cuda("Span", wide));
            functions.push(closed.next_queries.to_cuda("Span", wide));
            functions.push(closed.all_visible.to_cuda("bool", wide));
            functions.push(closed.edge_only.to_cuda("bool", wide));
        }
        let listed = programs.closed.is_none();
        PatternCode { canonical: canonical.into(), functions: functions.join("\n"), listed }
    }

    /// 64 hexadecimal digits: equal for patterns that print and compile alike.
    pub fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for part in [self.canonical.as_str(), &self.functions, if self.listed { "listed" } else { "closed" }]
        {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
}

/// Everything that a kernel's text depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KernelSpec {
    /// What it computes.
    pub pass: Pass,
    /// Whose template it comes from.
    pub family: Family,
    /// What it is compiled for.
    pub target: Target,
    /// Head dimension, type, softmax features.
    pub shape: Shape,
    /// Tiles and threads.
    pub schedule: Schedule,
    /// Which pairs count.
    pub pattern: Arc<PatternCode>,
}

impl KernelSpec {
    /// The kernel of a pass with the family and the schedule that suit the target best.
    pub fn new(pass: Pass, target: Target, shape: Shape, pattern: Arc<PatternCode>) -> Self {
        let family = pass.family(target, &shape);
        let schedule = choose(pass, family, &shape, target);
        KernelSpec { pass, family, target, shape, schedule, pattern }
    }

    /// The kernels of a pass in the order to try them: the target's own family first, then the plainer one; in each,
    /// the schedules that leave more and more registers to the pattern. Empty when no template computes the pass.
    pub fn candidates(
        pass: Pass,
        target: Target,
        shape: Shape,
        pattern: &Arc<PatternCode>,
    ) -> Vec<KernelSpec> {
        let mut families = vec![target.family(), Family::Sm80];
        families.dedup();
        families.retain(|&family| pass.exists(family, &shape));
        let of_family = |family| Self::of_family(pass, family, target, shape, pattern);
        families.into_iter().flat_map(of_family).collect()
    }

    /// The same within one family.
    pub fn of_family(
        pass: Pass,
        family: Family,
        target: Target,
        shape: Shape,
        pattern: &Arc<PatternCode>,
    ) -> Vec<KernelSpec> {
        // A list does not say which key tile comes next.
        if pass == Pass::BackwardOrdered && pattern.listed {
            return Vec::new();
        }
        let spec = |schedule| KernelSpec { pass, family, target, shape, schedule, pattern: pattern.clone() };
        candidates(pass, family, &shape, target).into_iter().map(spec).collect()
    }

    /// 64 hexadecimal digits that differ whenever the kernel's meaning or form does.
    pub fn fingerprint(&self) -> String {
        let Shape { head_dim, dtype, softcap, sink_logit } = self.shape;
        let text = format!(
            "{} {} {} d{head_dim} {dtype} softcap={softcap} sink_logit={sink_logit} {} {}",
            self.pass,
            self.family,
            self.target,
            self.schedule,
            self.pattern.hash()
        );
        blake3::hash(text.as_bytes()).to_hex().to_string()
    }

    /// A file name that says what the kernel is: `attention_forward_d128_bf16_sm_90a_128x128_1f9c2a7e`.
    pub fn file_stem(&self) -> String {
        let Schedule { tile_m, tile_n, .. } = self.schedule;
        let Shape { head_dim, dtype, .. } = self.shape;
        let (pass, target, fingerprint) = (self.pass, self.target, &self.fingerprint()[..8]);
        format!("attention_{pass}_d{head_dim}_{dtype}_{target}_{tile_m}x{tile_n}_{fingerprint}")
    }
}
