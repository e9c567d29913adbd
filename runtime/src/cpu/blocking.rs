//! Which blocking a call takes: the one that was set, or tuned, or the model's.

use std::sync::{Mutex, OnceLock, PoisonError};

use longgen_codegen::cpu::Blocking;
use longgen_codegen::ir::Programs;
use longgen_codegen::model::cpu::{CpuMachine, Vectors, first_choice};
use longgen_codegen::model::{PassGroup, Workload};

use super::Isa;
use crate::problem::{AttentionProblem, DType};
use crate::store::length_bucket;

/// A blocking that was measured to be the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunedBlocking {
    /// For this pass,
    pub pass: PassGroup,
    /// this element type,
    pub dtype: DType,
    /// scores that are capped, or not,
    pub softcap: bool,
    /// so many query heads of a KV head
    pub group: usize,
    /// and about so many keys (a [`length_bucket`]).
    pub bucket: u64,
    /// The blocking.
    pub blocking: Blocking,
}

/// Where the blocking of a call came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChosenBy {
    /// It was set.
    Caller,
    /// It was tuned.
    Tuner,
    /// Nothing was tuned: the model's first guess.
    Model,
}

impl ChosenBy {
    /// In words, for reports.
    pub fn words(self) -> &'static str {
        match self {
            ChosenBy::Caller => "set",
            ChosenBy::Tuner => "tuned",
            ChosenBy::Model => {
                "the model's choice; `lgc tune` did not measure this mask at this D, type and number of query heads of a KV head, with or \
                 without a softcap as here, on this CPU with as many threads, by this version of longgen"
            }
        }
    }
}

/// Everything a choice depends on.
type Known = ((PassGroup, u64, u64, usize, usize), Blocking);

/// The blockings of one object.
#[derive(Debug, Default)]
pub struct Blockings {
    pub fixed: Option<Blocking>,
    tuned: Mutex<Vec<TunedBlocking>>,
    /// What the model said for problems already seen.
    known: Mutex<Vec<Known>>,
}

impl Blockings {
    /// Takes these in place of any before.
    pub fn set_tuned(&self, tuned: Vec<TunedBlocking>) {
        *self.tuned.lock().unwrap_or_else(PoisonError::into_inner) = tuned;
    }

    /// The choice for a call.
    pub fn choose(
        &self,
        machine: &CpuMachine,
        programs: &Programs,
        (problem, dtype): (&AttentionProblem, DType),
        pass: PassGroup,
    ) -> (Blocking, ChosenBy) {
        if let Some(blocking) = self.fixed {
            return (blocking, ChosenBy::Caller);
        }
        let keys = problem.sequences.max_k() as u64;
        let wanted = length_bucket(keys).ilog2();
        let fits = |tuned: &&TunedBlocking| {
            (tuned.pass, tuned.dtype, tuned.softcap, tuned.group)
                == (pass, dtype, problem.softcap().is_some(), problem.shape.group())
        };
        let nearest = |tuned: &&TunedBlocking| tuned.bucket.max(1).ilog2().abs_diff(wanted);
        let tuned = self.tuned.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tuned) = tuned.iter().filter(fits).min_by_key(nearest) {
            return (tuned.blocking, ChosenBy::Tuner);
        }
        drop(tuned);
        (self.guess(machine, programs, problem, pass), ChosenBy::Model)
    }

    fn guess(
        &self,
        machine: &CpuMachine,
        programs: &Programs,
        problem: &AttentionProblem,
        pass: PassGroup,
    ) -> Blocking {
        let (queries, keys) = (problem.sequences.max_q() as u64, problem.sequences.max_k() as u64);
        let shape = problem.shape;
        let key = (pass, length_bucket(queries), length_bucket(keys), shape.heads(), shape.kv_heads());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, blocking)) = known.iter().find(|(seen, _)| *seen == key) {
            return *blocking;
        }
        // By the bucket's own length: what is chosen does not depend on which length came first.
        let workload = Workload {
            programs,
            pass,
            heads: shape.heads() as u32,
            kv_heads: shape.kv_heads() as u32,
            head_dim: shape.head_dim() as u32,
            batch: 1,
            queries: u32::try_from(key.1.min(key.2)).unwrap_or(u32::MAX),
            keys: u32::try_from(key.2).unwrap_or(u32::MAX),
            element_bytes: 4,
        };
        let blocking = first_choice(machine, &workload);
        known.push((key, blocking));
        blocking
    }
}

/// Which pass a forward call is: a step of decoding has at most one query token a sequence.
pub fn pass_of(problem: &AttentionProblem) -> PassGroup {
    if problem.sequences.max_q() <= 1 { PassGroup::Decode } else { PassGroup::Forward }
}

/// This machine with so many threads, as the model sees it.
pub fn machine(isa: Isa, threads: usize) -> CpuMachine {
    let vectors = match isa {
        Isa::Avx512 => Vectors::Wide,
        Isa::Avx2 => Vectors::Middle,
        Isa::Neon | Isa::Cranelift | Isa::Portable => Vectors::Narrow,
    };
    // Under sustained vector work; it scales every estimate alike, and no choice depends on it.
    const HERTZ: f64 = 3.2e9;
    CpuMachine { threads: u32::try_from(threads).unwrap_or(u32::MAX).max(1), vectors, hertz: HERTZ }
}

/// The processor's own name.
pub fn processor_name() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("model name"));
        let name = line.and_then(|line| line.split_once(':')).map(|(_, name)| name.trim());
        name.filter(|name| !name.is_empty()).unwrap_or(std::env::consts::ARCH).to_owned()
    })
}
