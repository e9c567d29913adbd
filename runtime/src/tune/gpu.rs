//! The bench of the CUDA kernels: candidates are compiled on all cores while others run on the device.

mod tensors;

pub use tensors::GpuTensors;

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};

use longgen_codegen::artifact::BuildError;
use longgen_codegen::ir::{MaskIr, Programs};
use longgen_codegen::model::gpu::{GpuMachine, GpuPlan, GpuWorkload, candidates, estimate};
use longgen_codegen::model::{PassGroup, Ranked, Workload};
use longgen_codegen::spec::{KernelSpec, PatternCode, Shape};
use longgen_codegen::target::Target;
use thiserror::Error;

use super::race::RaceRules;
use super::search::Bench;
use crate::driver::{Device, GpuError, Graph, Stream};
use crate::gpu::{
    BackwardTensors, ForwardTensors, GpuAttention, GpuAttentionError, KernelCache, Layout, Prepared, View,
    ViewMut,
};
use crate::problem::{AttentionProblem, HeadShape, ProblemError, Sequences};
use crate::tensor::TensorShape;

/// Decode steps in one captured graph: the gaps between launches are then not measured.
const STEPS_IN_GRAPH: usize = 20;
/// A softcap that bends scores of a few units.
const SOFTCAP: f32 = 5.0;

/// Why a bench could not be set up or run.
#[derive(Debug, Error)]
pub enum GpuBenchError {
    /// The kernels.
    #[error(transparent)]
    Attention(#[from] GpuAttentionError),
    /// The device.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// The problem.
    #[error(transparent)]
    Problem(#[from] ProblemError),
    /// A plan that was admitted no longer parses, or has no kernels: a defect of this crate.
    #[error("the candidate `{0}` is no plan (a defect of longgen)")]
    Plan(String),
}

/// What all searches of one mask on one device share.
pub struct GpuTuner {
    device: Device,
    cache: Arc<KernelCache>,
    canonical: String,
    ir: MaskIr,
    shape: Shape,
    heads: HeadShape,
    target: Target,
    stream: Stream,
    /// Loaded kernels of plans that were admitted.
    loaded: HashMap<String, Rc<GpuAttention>>,
    /// Sources compiled already, at another length.
    compiled: HashSet<String>,
}

/// What to tune.
#[derive(Clone, Copy, Debug)]
pub struct GpuSubject<'a> {
    /// The pattern's canonical text, for the headers of sources.
    pub canonical: &'a str,
    /// The mask.
    pub ir: &'a MaskIr,
    /// What is compiled in.
    pub shape: Shape,
    /// Heads.
    pub heads: HeadShape,
    /// What kernels are compiled for.
    pub target: Target,
}

impl GpuTuner {
    /// A tuner on a device.
    ///
    /// # Errors
    /// A device that fails.
    pub fn new(
        device: Device,
        cache: Arc<KernelCache>,
        subject: GpuSubject<'_>,
    ) -> Result<GpuTuner, GpuBenchError> {
        let stream = device.stream()?;
        let GpuSubject { canonical, ir, shape, heads, target } = subject;
        let (canonical, ir) = (canonical.to_owned(), ir.clone());
        let (loaded, compiled) = (HashMap::new(), HashSet::new());
        Ok(GpuTuner { device, cache, canonical, ir, shape, heads, target, stream, loaded, compiled })
    }

    /// The model's figures of this device.
    pub fn machine(&self) -> GpuMachine {
        GpuMachine { multiprocessors: self.device.multiprocessors(), ..GpuMachine::of(self.target) }
    }

    fn load(&mut self, plan: &str) -> Result<Rc<GpuAttention>, GpuBenchError> {
        if let Some(loaded) = self.loaded.get(plan) {
            return Ok(loaded.clone());
        }
        let parsed: GpuPlan = plan.parse().map_err(|_| GpuBenchError::Plan(plan.to_owned()))?;
        let on = (&self.device, &*self.cache, &self.stream);
        let attention =
            GpuAttention::planned(on, (&self.canonical, &self.ir), (self.shape, self.target), &parsed)?;
        let attention = Rc::new(attention);
        self.loaded.insert(plan.to_owned(), attention.clone());
        Ok(attention)
    }

    /// Compiles these plans on all cores but one, in this order; each is sent when its kernels are in the cache.
    fn compile(&self, plans: Vec<(usize, String)>) -> Receiver<usize> {
        let (sender, receiver) = channel();
        let (cache, pattern) = (self.cache.clone(), Arc::new(PatternCode::new(&self.canonical, &self.ir)));
        let (shape, target) = (self.shape, self.target);
        let next = Arc::new(AtomicUsize::new(0));
        let plans = Arc::new(plans);
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        for _ in 0..cores.saturating_sub(1).clamp(1, plans.len().max(1)) {
            let (sender, cache, pattern) = (sender.clone(), cache.clone(), pattern.clone());
            let (next, plans) = (next.clone(), plans.clone());
            std::thread::spawn(move || {
                while let Some((n, plan)) = plans.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let kernels = plan.parse::<GpuPlan>().map(|plan| plan.kernels).unwrap_or_default();
                    for kernel in kernels {
                        let (pass, family, schedule) = (kernel.pass, kernel.family, kernel.schedule);
                        let pattern = pattern.clone();
                        // A refusal is told when the plan is loaded.
                        let _ = cache.get(&KernelSpec { pass, family, target, shape, schedule, pattern });
                    }
                    // The search may be over.
                    if sender.send(*n).is_err() {
                        break;
                    }
                }
            });
        }
        receiver
    }
}

/// One pass at one length on the GPU.
pub struct GpuBench<'a> {
    tuner: &'a mut GpuTuner,
    tensors: &'a mut GpuTensors,
    pass: PassGroup,
    problem: AttentionProblem,
    candidates: Vec<Ranked<String>>,
    floor_seconds: f64,
    ready: HashSet<usize>,
    compiling: Option<Receiver<usize>>,
    prepared: HashMap<usize, Ready>,
}

/// A candidate that has run once.
struct Ready {
    attention: Rc<GpuAttention>,
    prepared: Prepared,
    graph: Option<Graph>,
    launches: usize,
}

impl<'a> GpuBench<'a> {
    /// Lets the model rank the plans of a pass at the length of the tensors.
    ///
    /// # Errors
    /// A problem that is none.
    pub fn new(
        tuner: &'a mut GpuTuner,
        tensors: &'a mut GpuTensors,
        pass: PassGroup,
        deterministic: bool,
    ) -> Result<GpuBench<'a>, GpuBenchError> {
        let keys = tensors.tokens as usize;
        let queries = if pass == PassGroup::Decode { 1 } else { keys };
        let offset = (keys - queries) as i64;
        let sequences = Sequences::new(vec![0, queries], vec![0, keys], Some(vec![offset]))?;
        let mut problem = AttentionProblem::new(tuner.heads, sequences);
        if tuner.shape.softcap {
            problem = problem.with_softcap(SOFTCAP)?;
        }
        let programs = Programs::new(&tuner.ir);
        let work = workload(&programs, pass, tuner.heads, tensors.tokens);
        let (shape, target) = (tuner.shape, tuner.target);
        let workload = GpuWorkload { work, shape, target, deterministic };
        let machine = tuner.machine();
        let ranked = candidates(&machine, &workload);
        let floor = ranked.first().map(|first| estimate(&machine, &workload, &first.candidate).floor_seconds);
        Ok(GpuBench {
            pass,
            problem,
            candidates: ranked.iter().map(Ranked::to_text).collect(),
            floor_seconds: floor.unwrap_or(0.0),
            ready: HashSet::new(),
            compiling: None,
            prepared: HashMap::new(),
            tuner,
            tensors,
        })
    }

    fn receive(&mut self, block: bool) {
        let Some(compiling) = &self.compiling else { return };
        let mut found: Vec<usize> = compiling.try_iter().collect();
        if found.is_empty() && block {
            found.extend(compiling.recv().ok());
        }
        for n in found {
            self.tuner.compiled.insert(self.candidates[n].candidate.clone());
            self.ready.insert(n);
        }
    }

    fn make_ready(&mut self, candidate: usize) -> Result<(), GpuBenchError> {
        let attention = self.tuner.load(&self.candidates[candidate].candidate)?;
        let prepared = attention.prepare(&self.problem)?;
        let mut ready = Ready { attention, prepared, graph: None, launches: 1 };
        if self.pass == PassGroup::Backward {
            // O and the statistics that a backward starts from.
            forward(&mut ready, self.tensors)?;
        }
        run(self.pass, &mut ready, self.tensors)?;
        if self.pass == PassGroup::Decode {
            let stream = self.tuner.stream.clone();
            let (ready_now, tensors) = (&mut ready, &mut *self.tensors);
            let graph = stream.capture(|| -> Result<(), GpuBenchError> {
                (0..STEPS_IN_GRAPH).try_for_each(|_| run(PassGroup::Decode, ready_now, tensors))
            })?;
            graph.launch()?;
            ready.graph = Some(graph);
            ready.launches = STEPS_IN_GRAPH;
        }
        self.tuner.stream.synchronize()?;
        self.prepared.insert(candidate, ready);
        Ok(())
    }
}

/// The model's view of a pass at a length.
pub fn workload<'a>(programs: &'a Programs, pass: PassGroup, heads: HeadShape, tokens: u32) -> Workload<'a> {
    Workload {
        programs,
        pass,
        heads: heads.heads() as u32,
        kv_heads: heads.kv_heads() as u32,
        head_dim: heads.head_dim() as u32,
        batch: 1,
        queries: if pass == PassGroup::Decode { 1 } else { tokens },
        keys: tokens,
        element_bytes: 2,
    }
}

impl Bench for GpuBench<'_> {
    type Error = GpuBenchError;

    fn candidates(&self) -> &[Ranked<String>] {
        &self.candidates
    }

    fn prepare(&mut self, wanted: &[usize]) {
        let known = |n: &usize| self.tuner.compiled.contains(&self.candidates[*n].candidate);
        let (known, unknown): (Vec<usize>, Vec<usize>) = wanted.iter().copied().partition(known);
        self.ready.extend(known);
        let plans = unknown.into_iter().map(|n| (n, self.candidates[n].candidate.clone())).collect();
        self.compiling = Some(self.tuner.compile(plans));
    }

    fn is_ready(&mut self, candidate: usize) -> bool {
        self.receive(false);
        self.ready.contains(&candidate)
    }

    fn wait(&mut self) {
        self.receive(true);
    }

    fn admit(&mut self, candidate: usize) -> Result<Result<(), String>, GpuBenchError> {
        let plan = self.candidates[candidate].candidate.clone();
        if self.tuner.loaded.contains_key(&plan) {
            return Ok(Ok(()));
        }
        let attention = match self.tuner.load(&plan) {
            Ok(attention) => attention,
            Err(GpuBenchError::Attention(GpuAttentionError::Build(error))) => {
                return Ok(Err(refusal(&error)));
            }
            Err(error) => return Err(error),
        };
        match attention.self_check() {
            Ok(()) => Ok(Ok(())),
            Err(GpuAttentionError::Wrong(report)) => {
                self.tuner.loaded.remove(&plan);
                Ok(Err(format!("it differs from the oracle: {report}")))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn time(&mut self, candidate: usize) -> Result<f64, GpuBenchError> {
        if !self.prepared.contains_key(&candidate) {
            self.make_ready(candidate)?;
        }
        let Some(ready) = self.prepared.get_mut(&candidate) else {
            return Err(GpuBenchError::Plan(self.candidates[candidate].candidate.clone()));
        };
        let start = self.tuner.stream.record()?;
        match &ready.graph {
            Some(graph) => graph.launch()?,
            None => run(self.pass, ready, self.tensors)?,
        }
        let end = self.tuner.stream.record()?;
        Ok(f64::from(start.elapsed_ms(&end)?) * 1e-3 / ready.launches as f64)
    }

    fn describe(&self) -> String {
        let heads = self.tuner.heads;
        let (queries, keys) = (self.problem.sequences.total_q(), self.problem.sequences.total_k());
        format!("{queries} queries at {keys} keys, {} / {} heads", heads.heads(), heads.kv_heads())
    }

    fn floor_seconds(&self) -> f64 {
        self.floor_seconds
    }

    fn rules(&self) -> RaceRules {
        RaceRules::GPU
    }
}

/// The first line: a compile log is long.
fn refusal(error: &BuildError) -> String {
    error.to_string().lines().take(2).collect::<Vec<_>>().join(" ")
}

fn forward(ready: &mut Ready, tensors: &mut GpuTensors) -> Result<(), GpuBenchError> {
    let GpuTensors { q, k, v, o, lse, sink_logit, .. } = tensors;
    let sink_logit = sink_logit.as_ref();
    let (q, k, v) = (q.view(), k.view(), v.view());
    let tensors = ForwardTensors { q, k, v, sink_logit, o: o.view_mut(), lse };
    Ok(ready.attention.forward(&mut ready.prepared, tensors)?)
}

fn run(pass: PassGroup, ready: &mut Ready, tensors: &mut GpuTensors) -> Result<(), GpuBenchError> {
    match pass {
        PassGroup::Forward => forward(ready, tensors),
        PassGroup::Decode => {
            let GpuTensors { q, k, v, o, lse, sink_logit, .. } = tensors;
            // One row of the same tensors.
            let row = |layout: Layout| Layout { shape: TensorShape { tokens: 1, ..layout.shape }, ..layout };
            let (q_row, o_row) = (row(q.layout), row(o.layout));
            let tensors = ForwardTensors {
                q: View { buffer: &q.buffer, layout: q_row },
                k: k.view(),
                v: v.view(),
                sink_logit: sink_logit.as_ref(),
                o: ViewMut { buffer: &mut o.buffer, layout: o_row },
                lse,
            };
            Ok(ready.attention.decode(&mut ready.prepared, tensors, None)?)
        }
        PassGroup::Backward => {
            let GpuTensors { q, k, v, d_o, o, dq, dk, dv, lse, sink_logit, d_sink, .. } = tensors;
            let tensors = BackwardTensors {
                q: q.view(),
                k: k.view(),
                v: v.view(),
                sink_logit: sink_logit.as_ref(),
                o: o.view(),
                lse,
                d_o: d_o.view(),
                d_lse: None,
                dq: dq.view_mut(),
                dk: dk.view_mut(),
                dv: dv.view_mut(),
                d_sink: d_sink.as_mut(),
            };
            Ok(ready.attention.backward(&mut ready.prepared, tensors)?)
        }
    }
}
