//! Attention on the CPU: generated kernels over host tensors, on all cores.
//!
//! A [`CpuAttention`] is compiled once for a mask and a head dimension; lengths, batch, heads, offsets, element type and
//! the scalars of the softmax are arguments of each call. Nothing of size length x length exists: a thread holds a few
//! tiles, a call holds its outputs and, for the backward, two numbers per query row.

mod backward;
mod blocking;
mod call;
mod forward;
mod micro;
#[cfg(target_arch = "aarch64")]
mod neon;
mod operands;
mod pack;
mod product;
mod rows;
mod scratch;
mod shared;
mod table;
mod transpose;
mod vector;
mod work;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::f32::consts::LOG2_E;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use longgen_codegen::cpu::{Blocking, BlockingError, CpuError, JitCode};
use longgen_codegen::ir::{MaskIr, Programs};
use longgen_codegen::model::PassGroup;
use rayon::ThreadPool;
use thiserror::Error;

use crate::problem::{AttentionProblem, DType, ProblemError, check_len};
use crate::tensor::HostTensor;

use backward::{Backward, base_2, sink_gradient};
use blocking::{Blockings, pass_of};
use call::{Kernels, generated_micro_kernels};
use forward::Forward;
use operands::{k_shape, q_shape};
use scratch::Scratch;
use shared::{CellWriter, RowWriter};

pub use blocking::{ChosenBy, TunedBlocking, machine, processor_name};
pub use operands::{CpuGradientInputs, CpuGradients, CpuInputs, CpuOutput};
pub use table::Isa;
use table::MicroKernels;

/// What can go wrong with attention on the CPU.
#[derive(Debug, Error)]
pub enum CpuAttentionError {
    /// The kernels could not be made.
    #[error(transparent)]
    Compile(#[from] CpuError),
    /// The problem or its tensors do not fit together.
    #[error(transparent)]
    Problem(#[from] ProblemError),
    /// An instruction set this machine lacks was asked for.
    #[error("this machine has no {isa}")]
    Isa {
        /// The instruction set.
        isa: Isa,
    },
    /// Decoding takes one new token of each sequence.
    #[error("sequence {sequence} has {queries} query tokens: decoding takes at most one of each sequence")]
    NotDecoding {
        /// Which sequence.
        sequence: usize,
        /// Its query tokens.
        queries: usize,
    },
}

/// Attention with one mask and one head dimension, compiled for this machine.
#[derive(Debug)]
pub struct CpuAttention {
    kernels: Kernels,
    micro: MicroKernels,
    /// The code of generated micro-kernels.
    _generated: Option<JitCode>,
    isa: Isa,
    head_dim: usize,
    programs: Programs,
    blockings: Blockings,
    pool: Option<Arc<ThreadPool>>,
}

/// Factors of the scores in base 2.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScoreScale {
    /// On Q or K.
    pub factor: f32,
    /// Softcap times log2(e), or 0; the factor then divides by the softcap.
    pub softcap2: f32,
}

impl CpuAttention {
    /// Compiles the kernels of a mask for the best instruction set of this machine.
    ///
    /// # Errors
    /// A head dimension that is no multiple of 8 up to 256, or a machine Cranelift does not know.
    pub fn new(ir: &MaskIr, head_dim: usize) -> Result<CpuAttention, CpuAttentionError> {
        CpuAttention::with_isa(ir, head_dim, Isa::available()[0])
    }

    /// Compiles the kernels of a mask for a chosen instruction set.
    ///
    /// # Errors
    /// As [`CpuAttention::new`]; an instruction set this machine lacks.
    pub fn with_isa(ir: &MaskIr, head_dim: usize, isa: Isa) -> Result<CpuAttention, CpuAttentionError> {
        let (micro, generated) = if isa == Isa::Cranelift {
            let (micro, code) = generated_micro_kernels()?;
            (micro, Some(code))
        } else {
            (MicroKernels::new(isa).ok_or(CpuAttentionError::Isa { isa })?, None)
        };
        let kernels = Kernels::new(ir, head_dim)?;
        let programs = Programs::new(ir);
        Ok(CpuAttention {
            kernels,
            micro,
            _generated: generated,
            isa,
            head_dim,
            programs,
            blockings: Blockings::default(),
            pool: None,
        })
    }

    /// Runs on this pool in place of rayon's global one.
    pub fn on_pool(mut self, pool: Arc<ThreadPool>) -> CpuAttention {
        self.pool = Some(pool);
        self
    }

    /// Takes this blocking for every call, in place of what was tuned or what the model says.
    ///
    /// # Errors
    /// A blocking that kernels do not take.
    pub fn set_blocking(&mut self, blocking: Blocking) -> Result<(), BlockingError> {
        blocking.check()?;
        self.blockings.fixed = Some(blocking);
        Ok(())
    }

    /// Takes these blockings where they fit a call best; [`crate::tune::tuned_blockings`] reads them from a store.
    pub fn use_tuned(&self, tuned: Vec<TunedBlocking>) {
        self.blockings.set_tuned(tuned);
    }

    /// Worker threads of a call.
    pub fn threads(&self) -> usize {
        self.pool.as_ref().map_or_else(rayon::current_num_threads, |pool| pool.current_num_threads())
    }

    /// The blocking that a call takes, and who chose it.
    pub fn blocking(
        &self,
        problem: &AttentionProblem,
        dtype: DType,
        pass: PassGroup,
    ) -> (Blocking, ChosenBy) {
        let machine = machine(self.isa, self.threads());
        self.blockings.choose(&machine, &self.programs, (problem, dtype), pass)
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Attention of every query row over the keys it sees.
    ///
    /// # Errors
    /// Tensors that do not fit the problem.
    pub fn forward(
        &self,
        problem: &AttentionProblem,
        inputs: CpuInputs<'_>,
    ) -> Result<CpuOutput, CpuAttentionError> {
        let mut output = CpuOutput {
            o: HostTensor::zeros(inputs.q.dtype(), q_shape(problem)),
            lse: vec![0.0; problem.lse_elements()],
        };
        self.forward_into(problem, inputs, &mut output)?;
        Ok(output)
    }

    /// As [`CpuAttention::forward`], into memory that is already there; every element is overwritten.
    ///
    /// # Errors
    /// Tensors that do not fit the problem.
    pub fn forward_into(
        &self,
        problem: &AttentionProblem,
        inputs: CpuInputs<'_>,
        output: &mut CpuOutput,
    ) -> Result<(), CpuAttentionError> {
        self.check(problem, &inputs)?;
        output.o.view().expect("o", q_shape(problem), inputs.q.dtype())?;
        check_len("lse", output.lse.len(), problem.lse_elements())?;
        let shape = problem.shape;
        let o = RowWriter::new(output.o.elements_mut(), shape.heads(), shape.head_dim());
        let lse = CellWriter::new(&mut output.lse);
        let (blocking, _) = self.blocking(problem, inputs.q.dtype(), pass_of(problem));
        Forward { attention: self, blocking, problem, inputs, o, lse }.run();
        Ok(())
    }

    /// Attention of one new token of each sequence; the keys are split among the threads.
    ///
    /// # Errors
    /// A sequence with more than one query token; tensors that do not fit the problem.
    pub fn decode(
        &self,
        problem: &AttentionProblem,
        inputs: CpuInputs<'_>,
    ) -> Result<CpuOutput, CpuAttentionError> {
        let several = problem.sequences.iter().position(|sequence| sequence.q_len > 1);
        if let Some(sequence) = several {
            let queries = problem.sequences.iter().map(|s| s.q_len).nth(sequence).unwrap_or(0);
            return Err(CpuAttentionError::NotDecoding { sequence, queries });
        }
        self.forward(problem, inputs)
    }

    /// Gradients of the inputs. Deterministic: the same for any number of threads.
    ///
    /// # Errors
    /// Tensors that do not fit the problem.
    pub fn backward(
        &self,
        problem: &AttentionProblem,
        inputs: CpuInputs<'_>,
        gradient: CpuGradientInputs<'_>,
    ) -> Result<CpuGradients, CpuAttentionError> {
        self.check(problem, &inputs)?;
        let dtype = inputs.q.dtype();
        gradient.o.expect("o", q_shape(problem), dtype)?;
        gradient.d_o.expect("d_o", q_shape(problem), dtype)?;
        check_len("lse", gradient.lse.len(), problem.lse_elements())?;
        if let Some(d_lse) = gradient.d_lse {
            check_len("d_lse", d_lse.len(), problem.lse_elements())?;
        }
        let CpuGradientInputs { o, lse, d_o, d_lse } = gradient;
        let lse2 = base_2(lse);
        let mut gradients = CpuGradients {
            dq: HostTensor::zeros(dtype, q_shape(problem)),
            dk: HostTensor::zeros(dtype, k_shape(problem)),
            dv: HostTensor::zeros(dtype, k_shape(problem)),
            d_sink: None,
        };
        let (heads, kv_heads) = (problem.shape.heads(), problem.shape.kv_heads());
        let delta = Backward {
            attention: self,
            blocking: self.blocking(problem, dtype, PassGroup::Backward).0,
            problem,
            inputs,
            o,
            d_o,
            lse2: &lse2,
            d_lse,
            dq: RowWriter::new(gradients.dq.elements_mut(), heads, self.head_dim),
            dk: RowWriter::new(gradients.dk.elements_mut(), kv_heads, self.head_dim),
            dv: RowWriter::new(gradients.dv.elements_mut(), kv_heads, self.head_dim),
        }
        .run();
        let total_q = problem.sequences.total_q();
        gradients.d_sink = inputs.sink_logit.map(|logit| sink_gradient(logit, &lse2, &delta, total_q));
        Ok(gradients)
    }

    fn check(&self, problem: &AttentionProblem, inputs: &CpuInputs<'_>) -> Result<(), ProblemError> {
        if problem.shape.head_dim() != self.head_dim {
            return Err(ProblemError::HeadDim {
                head_dim: problem.shape.head_dim(),
                allowed: "these kernels were compiled for another one",
            });
        }
        inputs.check(problem)
    }

    pub(crate) fn micro(&self) -> &MicroKernels {
        &self.micro
    }

    pub(crate) fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    pub(crate) fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The mask where it has no closed forms, and the runs of each tile are to be listed.
    pub(crate) fn listed(&self) -> Option<&Programs> {
        self.programs.closed.is_none().then_some(&self.programs)
    }

    pub(crate) fn score_scale(&self, problem: &AttentionProblem) -> ScoreScale {
        match problem.softcap() {
            None => ScoreScale { factor: problem.scale() * LOG2_E, softcap2: 0.0 },
            Some(cap) => ScoreScale { factor: problem.scale() / cap, softcap2: cap * LOG2_E },
        }
    }

    fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }

    /// Does every item, in order of the list, each thread taking the next one when it is free.
    pub(crate) fn for_each<T: Sync>(&self, items: &[T], work: impl Fn(&mut Scratch, &T) + Sync) {
        let next = AtomicUsize::new(0);
        let worker = || {
            let mut scratch = None;
            while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                work(scratch.get_or_insert_with(|| Scratch::new(self.head_dim)), item);
            }
        };
        self.install(|| rayon::broadcast(|_| worker()));
    }
}
