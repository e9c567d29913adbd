//! The bench of the CPU kernels: one compiled object, a blocking per candidate.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use longgen_codegen::cpu::Blocking;
use longgen_codegen::ir::{MaskIr, Programs};
use longgen_codegen::model::cpu::candidates;
use longgen_codegen::model::{PassGroup, Ranked, Workload};
use rayon::ThreadPool;
use thiserror::Error;

use super::race::RaceRules;
use super::search::Bench;
use crate::cpu::{CpuAttention, CpuAttentionError, CpuGradientInputs, CpuInputs, CpuOutput, Isa, machine};
use crate::gpu::OutputError;
use crate::oracle::{self, Inputs};
use crate::plain;
use crate::problem::{AttentionProblem, DType, HeadShape, ProblemError, Sequences};
use crate::random::Random;
use crate::tensor::{HostTensor, TensorShape};

/// How many times the error of plain attention an output may err, as `lgc check` has it.
const FACTOR: f64 = 2.0;
const FACTOR_F32: f64 = 32.0;
/// One measurement should not take longer than about this.
const MEASUREMENT_SECONDS: f64 = 0.1;
/// Queries and KV heads are not cut further than this.
const FEWEST_QUERIES: u32 = 1024;
const FEWEST_KV_HEADS: u32 = 2;

/// Why a bench could not be set up or run.
#[derive(Debug, Error)]
pub enum CpuBenchError {
    /// The kernels.
    #[error(transparent)]
    Attention(#[from] CpuAttentionError),
    /// The problem.
    #[error(transparent)]
    Problem(#[from] ProblemError),
}

/// How time is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuClock {
    /// By the clock on the wall.
    Wall,
    /// Processor time of all threads over their number, where the system counts it (Linux): for machines that are busy
    /// otherwise. Waiting at the end for the slowest thread is not counted.
    Processor,
}

/// What to tune.
#[derive(Clone, Debug)]
pub struct CpuSubject<'a> {
    /// The mask.
    pub ir: &'a MaskIr,
    /// The pass.
    pub pass: PassGroup,
    /// Heads and head dimension. Heads beyond what a short measurement needs are left out.
    pub shape: HeadShape,
    /// Element type of Q, K and V.
    pub dtype: DType,
    /// Key tokens, S.
    pub tokens: u32,
    /// A cap on the scores.
    pub softcap: Option<f32>,
    /// How time is taken.
    pub clock: CpuClock,
    /// Threads; rayon's own where there are none.
    pub pool: Option<Arc<ThreadPool>>,
}

/// One pass at one length on the CPU.
#[derive(Debug)]
pub struct CpuBench {
    attention: CpuAttention,
    pass: PassGroup,
    clock: CpuClock,
    candidates: Vec<Ranked<String>>,
    floor_seconds: f64,
    /// A small problem and what the oracle says.
    check: Checked,
    timed: Numbers,
    output: CpuOutput,
    /// Candidates that have run once, untimed.
    warm: Vec<bool>,
}

/// Random tensors of a problem.
#[derive(Debug)]
struct Numbers {
    problem: AttentionProblem,
    q: HostTensor,
    k: HostTensor,
    v: HostTensor,
    d_o: HostTensor,
}

#[derive(Debug)]
struct Checked {
    numbers: Numbers,
    exact: Vec<(&'static str, Vec<f64>, Vec<f64>, f64)>,
}

impl CpuBench {
    /// Compiles the kernels, fills the tensors, and lets the model rank the blockings.
    ///
    /// # Errors
    /// A head dimension without kernels, a problem that is none.
    pub fn new(subject: &CpuSubject<'_>) -> Result<CpuBench, CpuBenchError> {
        let programs = Programs::new(subject.ir);
        let mut attention = CpuAttention::new(subject.ir, subject.shape.head_dim())?;
        if let Some(pool) = &subject.pool {
            attention = attention.on_pool(pool.clone());
        }
        let machine = machine(attention.isa(), attention.threads());
        let mut workload = Workload {
            programs: &programs,
            pass: subject.pass,
            heads: subject.shape.heads() as u32,
            kv_heads: subject.shape.kv_heads() as u32,
            head_dim: subject.shape.head_dim() as u32,
            batch: 1,
            queries: if subject.pass == PassGroup::Decode { 1 } else { subject.tokens },
            keys: subject.tokens,
            element_bytes: if subject.dtype == DType::F32 { 4 } else { 2 },
        };
        shorten(&mut workload, |w| machine.estimate(w, Blocking::default()).seconds);
        let ranked = candidates(&machine, &workload);
        let first = ranked.first().map_or(Blocking::default(), |first| first.candidate);
        let floor_seconds = machine.estimate(&workload, first).floor_seconds;
        let candidates: Vec<Ranked<String>> = ranked.iter().map(Ranked::to_text).collect();
        let timed = Numbers::new(timed_problem(&workload, subject.softcap)?, subject.dtype, 1)?;
        let mut check = Checked::new(subject)?;
        check.solve(subject)?;
        let output = attention.forward(&timed.problem, timed.inputs())?;
        let warm = vec![false; candidates.len()];
        let (pass, clock) = (subject.pass, subject.clock);
        Ok(CpuBench { attention, pass, clock, candidates, floor_seconds, check, timed, output, warm })
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.attention.isa()
    }

    fn take(&mut self, candidate: usize) -> Result<(), String> {
        let blocking = self.candidates[candidate].candidate.parse().map_err(|error| format!("{error}"))?;
        self.attention.set_blocking(blocking).map_err(|error| error.to_string())
    }

    fn run(&mut self) -> Result<(), CpuAttentionError> {
        let timed = &self.timed;
        if self.pass == PassGroup::Backward {
            let (o, lse) = (self.output.o.view(), &self.output.lse[..]);
            let incoming = CpuGradientInputs { o, lse, d_o: timed.d_o.view(), d_lse: None };
            black_box(self.attention.backward(&timed.problem, timed.inputs(), incoming)?);
            return Ok(());
        }
        self.attention.forward_into(&timed.problem, timed.inputs(), &mut self.output)
    }

    fn seconds(&self) -> Option<f64> {
        (self.clock == CpuClock::Processor).then(processor_seconds).flatten()
    }
}

impl Bench for CpuBench {
    type Error = CpuBenchError;

    fn candidates(&self) -> &[Ranked<String>] {
        &self.candidates
    }

    fn admit(&mut self, candidate: usize) -> Result<Result<(), String>, CpuBenchError> {
        if let Err(reason) = self.take(candidate) {
            return Ok(Err(reason));
        }
        Ok(self.check.check(&self.attention, self.pass)?)
    }

    fn time(&mut self, candidate: usize) -> Result<f64, CpuBenchError> {
        // A candidate that was admitted parses.
        let _ = self.take(candidate);
        if !std::mem::replace(&mut self.warm[candidate], true) {
            self.run()?;
        }
        let (wall, processor) = (Instant::now(), self.seconds());
        self.run()?;
        Ok(match (processor, self.seconds()) {
            (Some(before), Some(after)) => (after - before) / self.attention.threads() as f64,
            _ => wall.elapsed().as_secs_f64(),
        })
    }

    fn describe(&self) -> String {
        let problem = &self.timed.problem;
        let shape = problem.shape;
        let (queries, keys) = (problem.sequences.total_q(), problem.sequences.total_k());
        // The key tells only that there is a cap; what was timed is told in full.
        let softcap = problem.softcap().map_or(String::new(), |cap| format!(", softcap {cap}"));
        let clock = match self.clock {
            CpuClock::Wall => "",
            CpuClock::Processor => ", processor time",
        };
        let (heads, kv_heads) = (shape.heads(), shape.kv_heads());
        format!("{queries} queries at {keys} keys, {heads} / {kv_heads} heads{softcap}{clock}")
    }

    fn floor_seconds(&self) -> f64 {
        self.floor_seconds
    }

    fn rules(&self) -> RaceRules {
        RaceRules::CPU
    }
}

/// Leaves out heads, then early queries, until a measurement is short.
fn shorten(workload: &mut Workload<'_>, seconds: impl Fn(&Workload<'_>) -> f64) {
    let group = workload.group().max(1);
    while seconds(workload) > MEASUREMENT_SECONDS {
        if workload.kv_heads > FEWEST_KV_HEADS {
            workload.kv_heads = (workload.kv_heads / 2).max(FEWEST_KV_HEADS);
            workload.heads = workload.kv_heads * group;
        } else if workload.queries > FEWEST_QUERIES {
            workload.queries = (workload.queries / 2).max(FEWEST_QUERIES);
        } else {
            break;
        }
    }
}

fn timed_problem(workload: &Workload<'_>, softcap: Option<f32>) -> Result<AttentionProblem, ProblemError> {
    let shape =
        HeadShape::new(workload.heads as usize, workload.kv_heads as usize, workload.head_dim as usize)?;
    let (queries, keys) = (workload.queries as usize, workload.keys as usize);
    let problem = AttentionProblem::new(shape, Sequences::new(vec![0, queries], vec![0, keys], None)?);
    softcap.map_or(Ok(problem.clone()), |cap| problem.with_softcap(cap))
}

impl Numbers {
    fn new(problem: AttentionProblem, dtype: DType, seed: u64) -> Result<Numbers, ProblemError> {
        let mut random = Random::new(seed);
        // A period of noise, repeated with a shift: drawing each number of a long cache would take longer than the search.
        let period: Vec<f32> = (0..65_521).map(|_| random.normal() as f32).collect();
        let mut start = 0;
        let mut tensor = |tokens: usize, heads: usize| {
            let shape = TensorShape { tokens, heads, head_dim: problem.shape.head_dim() };
            start += 7919;
            let count = tokens * heads * shape.head_dim;
            let values: Vec<f32> = (0..count).map(|n| period[(n + start) % period.len()]).collect();
            HostTensor::from_f32(dtype, shape, &values)
        };
        let (heads, kv_heads) = (problem.shape.heads(), problem.shape.kv_heads());
        let (queries, keys) = (problem.sequences.total_q(), problem.sequences.total_k());
        let (q, k) = (tensor(queries, heads)?, tensor(keys, kv_heads)?);
        let (v, d_o) = (tensor(keys, kv_heads)?, tensor(queries, heads)?);
        Ok(Numbers { problem, q, k, v, d_o })
    }

    fn inputs(&self) -> CpuInputs<'_> {
        CpuInputs { q: self.q.view(), k: self.k.view(), v: self.v.view(), sink_logit: None }
    }
}

impl Checked {
    fn new(subject: &CpuSubject<'_>) -> Result<Checked, CpuBenchError> {
        let group = subject.shape.group().min(4);
        let shape = HeadShape::new(2 * group, 2, subject.shape.head_dim())?;
        let sequences = match subject.pass {
            PassGroup::Decode => Sequences::new(vec![0, 1, 2], vec![0, 301, 366], None)?,
            _ => Sequences::new(vec![0, 197, 221], vec![0, 197, 452], None)?,
        };
        let problem = AttentionProblem::new(shape, sequences);
        let problem = match subject.softcap {
            Some(cap) => problem.with_softcap(cap)?,
            None => problem,
        };
        Ok(Checked { numbers: Numbers::new(problem, subject.dtype, 2)?, exact: Vec::new() })
    }

    /// Asks the oracle, and plain attention, whose error is the yardstick.
    fn solve(&mut self, subject: &CpuSubject<'_>) -> Result<(), CpuBenchError> {
        let Numbers { problem, q, k, v, d_o } = &self.numbers;
        let mask = |g: i64, i: i64, j: i64| subject.ir.sees(g as u32, i as u32, j as u32);
        let [q, k, v, d_o] = [q, k, v, d_o].map(HostTensor::to_f64);
        let inputs = Inputs { q: &q, k: &k, v: &v, sink_logit: None };
        let exact = oracle::forward(problem, inputs, mask)?;
        let rough = plain::forward(problem, inputs, subject.dtype, mask);
        let factor = if subject.dtype == DType::F32 { FACTOR_F32 } else { FACTOR };
        if subject.pass == PassGroup::Backward {
            let gradients = oracle::backward(problem, inputs, &exact, &d_o, None, mask)?;
            let plain = plain::backward(problem, inputs, &rough, &d_o, None, subject.dtype, mask);
            self.exact.push(("dq", gradients.dq, plain.dq, factor));
            self.exact.push(("dk", gradients.dk, plain.dk, factor));
            self.exact.push(("dv", gradients.dv, plain.dv, factor));
        } else {
            self.exact.push(("o", exact.o, rough.o, factor));
            self.exact.push(("lse", exact.lse, rough.lse, FACTOR_F32));
        }
        Ok(())
    }

    fn check(
        &self,
        attention: &CpuAttention,
        pass: PassGroup,
    ) -> Result<Result<(), String>, CpuAttentionError> {
        let Numbers { problem, d_o, .. } = &self.numbers;
        let inputs = self.numbers.inputs();
        let output = attention.forward(problem, inputs)?;
        let found = if pass == PassGroup::Backward {
            let incoming =
                CpuGradientInputs { o: output.o.view(), lse: &output.lse, d_o: d_o.view(), d_lse: None };
            let found = attention.backward(problem, inputs, incoming)?;
            vec![found.dq.to_f64(), found.dk.to_f64(), found.dv.to_f64()]
        } else {
            vec![output.o.to_f64(), output.lse.iter().map(|&x| f64::from(x)).collect()]
        };
        for ((name, exact, rough, factor), found) in self.exact.iter().zip(&found) {
            let error = OutputError::measure(name, found, exact, rough, *factor);
            if !error.holds() {
                return Ok(Err(error.to_string()));
            }
        }
        Ok(Ok(()))
    }
}

/// Time that the threads of this process have run, as Linux counts it.
fn processor_seconds() -> Option<f64> {
    let threads = std::fs::read_dir("/proc/self/task").ok()?.flatten();
    let nanoseconds = threads.filter_map(|thread| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    });
    Some(nanoseconds.sum::<f64>() * 1e-9).filter(|&seconds| seconds > 0.0)
}
