//! LongGen compiles sparse attention patterns: one description gives the mask, the tiles, the cost, the CUDA source,
//! the CPU kernels and the layout of the KV cache, and none of them can disagree with another.
//!
//! A pattern is written in one of four ways, which all build the same [`Pattern`]:
//!
//! ```
//! use longgen::pattern::{Mask, Pattern};
//! use longgen::{SparsePattern, sparse_pattern};
//!
//! #[sparse_pattern(sink = 4, window = 4096, stride = 8)]
//! struct Local;
//!
//! let text: Pattern = "sink=4, window=4096, stride=8".parse()?;
//! let toml = Pattern::from_toml_str("inline", "sink = 4\nwindow = 4096\nstride = 8")?;
//! let built = Pattern::builder(Mask::sink(4) | Mask::window(4096) | Mask::stride(8)).build()?;
//! assert!(Local::pattern() == text && text == toml && toml == built);
//! # Ok::<(), longgen::pattern::PatternError>(())
//! ```
//!
//! or as a function whose body is the mask:
//!
//! ```
//! use longgen::{SparsePattern, sparse_pattern};
//!
//! #[sparse_pattern]
//! fn near_or_own_lane(q: i64, k: i64, head: i64) -> bool {
//!     q - k < 128 || (k / 64 + head) % 8 == 0
//! }
//!
//! let pattern = near_or_own_lane::pattern();
//! assert!(pattern.sees(None, 0, 1000, 900) && !pattern.sees(None, 0, 1000, 600));
//! ```
//!
//! From there every stage is a value: lower the mask, ask what it costs, compute with it.
//!
//! ```
//! use longgen::codegen::analysis::{Cost, Liveness};
//! use longgen::codegen::ir::MaskIr;
//! use longgen::pattern::Pattern;
//! use longgen::runtime::cpu::{CpuAttention, CpuInputs};
//! use longgen::runtime::problem::{AttentionProblem, DType, HeadShape, Sequences};
//! use longgen::runtime::tensor::{HostTensor, TensorShape};
//!
//! let pattern: Pattern = "sink=4, window=64".parse()?;
//! let mask = MaskIr::lower(&pattern, None)?;
//!
//! // What a million tokens cost: 32 heads of 128.
//! let cost = Cost::new(&mask, 1 << 20, 32, 32, 128)?;
//! assert!(cost.visible_pairs * 7_000 < cost.dense_pairs);
//! assert_eq!(Liveness::new(&mask, 0).kept_keys(1 << 20), 68);
//!
//! // 200 tokens, 4 query heads on 2 KV heads, D = 32, on the CPU.
//! let problem = AttentionProblem::new(HeadShape::new(4, 2, 32)?, Sequences::single(200)?);
//! let q = HostTensor::zeros(DType::F32, TensorShape { tokens: 200, heads: 4, head_dim: 32 });
//! let k = HostTensor::zeros(DType::F32, TensorShape { tokens: 200, heads: 2, head_dim: 32 });
//! let attention = CpuAttention::new(&mask, 32)?;
//! let inputs = CpuInputs { q: q.view(), k: k.view(), v: k.view(), sink_logit: None };
//! let output = attention.forward(&problem, inputs)?;
//! // All scores are 0, so the log-sum-exp counts keys: the last query sees 4 + 64.
//! assert!((output.lse[199] - 68f32.ln()).abs() < 1e-5);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The compiler itself is [`codegen`], what runs its kernels is [`runtime`], and [`picture`] draws masks. The command
//! line `lgc` does all of it from a shell; `docs/architecture.md` says how the parts fit.

#![forbid(unsafe_code)]

pub mod picture;

pub use longgen_codegen as codegen;
pub use longgen_codegen::pattern::{self, Mask, Pattern, SparsePattern};
pub use longgen_macros::sparse_pattern;
pub use longgen_runtime as runtime;

/// What `#[sparse_pattern]` expands to.
#[doc(hidden)]
pub use longgen_codegen::pattern::attribute as __private;

/// The code of the page on patterns compiles.
#[cfg(doctest)]
#[doc = include_str!("../docs/patterns.md")]
struct PatternsPage;
