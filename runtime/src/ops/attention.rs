//! Attention under a compiled pattern: the mask of one layer, run over packed sequences or over the slots of a cache.

use longgen_codegen::analysis::KvLayout;
use longgen_codegen::ir::{MaskIr, Programs};
use rayon::prelude::*;

use super::gemm::dot;
use crate::cpu::{CpuAttention, CpuAttentionError, CpuGradientInputs, CpuInputs};
use crate::problem::{AttentionProblem, DType, HeadShape, ProblemError, Sequences};
use crate::store::Store;
use crate::tensor::{Elements, HostTensor, TensorShape, TensorView};
use crate::tune::tuned_blockings;

/// The attention of one layer.
#[derive(Debug)]
pub struct Attention {
    ir: MaskIr,
    programs: Programs,
    kernel: CpuAttention,
    layouts: Vec<KvLayout>,
    shape: HeadShape,
    softcap: Option<f32>,
}

/// What the forward pass leaves for the backward pass.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionOutput {
    /// (T, H, D)
    pub o: Vec<f32>,
    /// Natural log-sum-exp, (H, T).
    pub lse: Vec<f32>,
}

/// Gradients of the inputs.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionGradients {
    /// (T, H, D)
    pub dq: Vec<f32>,
    /// (T, G, D)
    pub dk: Vec<f32>,
    /// (T, G, D)
    pub dv: Vec<f32>,
}

/// The cached keys of a layer. KV head `g` owns `slots[g]` slots, after those of the heads before it; slot `s` holds the
/// key of index `slot_key[s]`, or nothing if that is negative.
#[derive(Clone, Copy, Debug)]
pub struct CachedKeys<'a> {
    /// (all slots, D)
    pub keys: &'a [f32],
    /// (all slots, D)
    pub values: &'a [f32],
    /// (all slots)
    pub slot_key: &'a [i32],
    /// (G)
    pub slots: &'a [usize],
    /// Whether every head keeps key `j` in its slot `j`.
    pub in_order: bool,
}

impl Attention {
    /// Compiles attention under the mask `ir`.
    ///
    /// # Errors
    /// A head dimension that is no multiple of 8 up to 256, or a softcap that is not a finite positive number.
    pub fn new(ir: MaskIr, shape: HeadShape, softcap: Option<f32>) -> Result<Attention, CpuAttentionError> {
        let layouts = (0..shape.kv_heads() as u32).map(|g| KvLayout::new(&ir, g)).collect();
        let kernel = CpuAttention::new(&ir, shape.head_dim())?;
        let attention = Attention { programs: Programs::new(&ir), kernel, ir, layouts, shape, softcap };
        attention.problem(Sequences::single(0)?)?;
        Ok(attention)
    }

    /// Takes what was tuned for this mask on this machine. Other tiles sum in another order: results change in their last bits.
    pub fn use_tuned(&self, store: &Store) {
        let kernel = &self.kernel;
        let of = (self.shape, self.softcap.is_some());
        kernel.use_tuned(tuned_blockings(store, &self.ir, of, (kernel.isa(), kernel.threads())));
    }

    /// The mask.
    pub fn ir(&self) -> &MaskIr {
        &self.ir
    }

    /// Heads and head dimension.
    pub fn shape(&self) -> HeadShape {
        self.shape
    }

    /// Bound of the scores, if any.
    pub fn softcap(&self) -> Option<f32> {
        self.softcap
    }

    /// Where the cache keeps the keys of KV head `g`.
    pub fn layout(&self, g: usize) -> KvLayout {
        self.layouts[g]
    }

    fn problem(&self, sequences: Sequences) -> Result<AttentionProblem, ProblemError> {
        let problem = AttentionProblem::new(self.shape, sequences);
        match self.softcap {
            Some(cap) => problem.with_softcap(cap),
            None => Ok(problem),
        }
    }

    /// x (T, heads, D) as the kernels see it.
    fn view<'a>(&self, x: &'a [f32], heads: usize) -> Result<TensorView<'a>, ProblemError> {
        let head_dim = self.shape.head_dim();
        TensorView::new(
            Elements::F32(x),
            TensorShape { tokens: x.len() / (heads * head_dim), heads, head_dim },
        )
    }

    fn inputs<'a>(&self, q: &'a [f32], k: &'a [f32], v: &'a [f32]) -> Result<CpuInputs<'a>, ProblemError> {
        let (heads, kv_heads) = (self.shape.heads(), self.shape.kv_heads());
        let (q, k, v) = (self.view(q, heads)?, self.view(k, kv_heads)?, self.view(v, kv_heads)?);
        Ok(CpuInputs { q, k, v, sink_logit: None })
    }

    /// o (T, H, D) from q (T, H, D), k and v (T, G, D).
    ///
    /// # Errors
    /// Slices whose lengths are not those of the sequences.
    pub fn forward(
        &self,
        sequences: &Sequences,
        q: &[f32],
        k: &[f32],
        v: &[f32],
    ) -> Result<AttentionOutput, CpuAttentionError> {
        let output = self.kernel.forward(&self.problem(sequences.clone())?, self.inputs(q, k, v)?)?;
        Ok(AttentionOutput { o: elements(output.o)?, lse: output.lse })
    }

    /// Gradients for `d_o` (T, H, D).
    ///
    /// # Errors
    /// Slices whose lengths are not those of the sequences.
    pub fn backward(
        &self,
        sequences: &Sequences,
        [q, k, v]: [&[f32]; 3],
        output: &AttentionOutput,
        d_o: &[f32],
    ) -> Result<AttentionGradients, CpuAttentionError> {
        let heads = self.shape.heads();
        let gradient = CpuGradientInputs {
            o: self.view(&output.o, heads)?,
            lse: &output.lse,
            d_o: self.view(d_o, heads)?,
            d_lse: None,
        };
        let problem = self.problem(sequences.clone())?;
        let gradients = self.kernel.backward(&problem, self.inputs(q, k, v)?, gradient)?;
        Ok(AttentionGradients {
            dq: elements(gradients.dq)?,
            dk: elements(gradients.dk)?,
            dv: elements(gradients.dv)?,
        })
    }

    /// o (T, H, D) of the queries `first..first + T` of one sequence against cached keys, their own included.
    ///
    /// # Errors
    /// Slices whose lengths do not fit each other.
    pub fn forward_cached(
        &self,
        first: usize,
        q: &[f32],
        cache: CachedKeys<'_>,
    ) -> Result<Vec<f32>, CpuAttentionError> {
        let tokens = q.len() / (self.shape.heads() * self.shape.head_dim());
        if cache.in_order {
            return self.forward_in_order(first, q, [cache.keys, cache.values], cache.slots[0]);
        }
        if tokens == 1 {
            return Ok(self.forward_slots(first, q, cache));
        }
        let keys = first + tokens;
        let [k, v] = self.unpack(keys, cache);
        self.forward_in_order(first, q, [&k, &v], keys)
    }

    /// Keys and values at their indices, (G, `keys`, D). Rows of keys that are not cached stay untouched, so that the system
    /// gives no memory for most of them; no query sees them.
    fn unpack(&self, keys: usize, cache: CachedKeys<'_>) -> [Vec<f32>; 2] {
        let (kv_heads, d) = (self.shape.kv_heads(), self.shape.head_dim());
        let mut ordered = [vec![0.0; kv_heads * keys * d], vec![0.0; kv_heads * keys * d]];
        let heads = cache.slots.iter().enumerate().flat_map(|(g, &slots)| std::iter::repeat_n(g, slots));
        for (slot, (g, &key)) in heads.zip(cache.slot_key).enumerate().filter(|(_, (_, key))| **key >= 0) {
            for (ordered, cached) in ordered.iter_mut().zip([cache.keys, cache.values]) {
                ordered[(g * keys + key as usize) * d..][..d].copy_from_slice(&cached[slot * d..][..d]);
            }
        }
        ordered
    }

    /// Every key lies at its index, `head_rows` rows for each KV head: the compiled kernel runs on them as they are.
    fn forward_in_order(
        &self,
        first: usize,
        q: &[f32],
        [k, v]: [&[f32]; 2],
        head_rows: usize,
    ) -> Result<Vec<f32>, CpuAttentionError> {
        let (heads, kv_heads, d) = (self.shape.heads(), self.shape.kv_heads(), self.shape.head_dim());
        let q = self.view(q, heads)?;
        let tokens = first + q.shape().tokens;
        let shape = TensorShape { tokens, heads: kv_heads, head_dim: d };
        let k = TensorView::strided(Elements::F32(k), shape, d, head_rows * d)?;
        let v = TensorView::strided(Elements::F32(v), shape, d, head_rows * d)?;
        let sequences = Sequences::new(vec![0, q.shape().tokens], vec![0, tokens], Some(vec![first as i64]))?;
        let inputs = CpuInputs { q, k, v, sink_logit: None };
        elements(self.kernel.forward(&self.problem(sequences)?, inputs)?.o).map_err(CpuAttentionError::from)
    }

    /// The queries (H, D) of token `i`, by the slots whose keys it sees: less work for one token than bringing keys in order.
    fn forward_slots(&self, i: usize, q: &[f32], cache: CachedKeys<'_>) -> Vec<f32> {
        let (group, d) = (self.shape.group(), self.shape.head_dim());
        let mut o = vec![0.0; q.len()];
        let heads = o.par_chunks_mut(group * d).zip(q.par_chunks(group * d)).enumerate();
        heads.for_each(|(g, (o, q))| {
            let start = cache.slots[..g].iter().sum();
            let visible = self.visible_slots(g, i, start..start + cache.slots[g], cache);
            for (o, q) in o.chunks_exact_mut(d).zip(q.chunks_exact(d)) {
                self.attend(cache, &visible, q, o);
            }
        });
        o
    }

    fn visible_slots(
        &self,
        g: usize,
        i: usize,
        slots: std::ops::Range<usize>,
        cache: CachedKeys<'_>,
    ) -> Vec<usize> {
        let row = i as i64;
        let closed = self.programs.closed.as_ref();
        let all = closed.is_some_and(|c| c.all_visible(g as i64, row, row + 1, 0, row + 1));
        let sees = |j: i32| j >= 0 && j <= i as i32 && (all || self.ir.sees(g as u32, i as u32, j as u32));
        slots.filter(|&slot| sees(cache.slot_key[slot])).collect()
    }

    /// One query head over the visible slots; o (D) stays 0 where there is none.
    fn attend(&self, cache: CachedKeys<'_>, visible: &[usize], q: &[f32], o: &mut [f32]) {
        let d = q.len();
        let scale = 1.0 / (d as f32).sqrt();
        let cap = |s: f32| self.softcap.map_or(s, |cap| cap * (s / cap).tanh());
        let mut weights: Vec<f32> =
            visible.iter().map(|slot| cap(scale * dot(q, &cache.keys[slot * d..][..d]))).collect();
        let largest = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        weights.iter_mut().for_each(|w| *w = (*w - largest).exp());
        let inverse = 1.0 / weights.iter().sum::<f32>();
        for (slot, weight) in visible.iter().zip(weights) {
            let weight = weight * inverse;
            o.iter_mut().zip(&cache.values[slot * d..][..d]).for_each(|(o, v)| *o += weight * v);
        }
    }
}

/// The elements of a kernel's f32 output.
fn elements(tensor: HostTensor) -> Result<Vec<f32>, ProblemError> {
    let found = tensor.dtype();
    tensor.into_f32().ok_or(ProblemError::DType { name: "output", found, expected: DType::F32 })
}

#[cfg(test)]
mod tests {
    use longgen_codegen::cpu::Blocking;
    use longgen_codegen::model::PassGroup;
    use longgen_codegen::pattern::{Mask, Pattern};

    use super::*;
    use crate::cpu::ChosenBy;
    use crate::store::{Provenance, StoreLocation, TuneKey, TunedChoice};
    use crate::tune::cpu_problem;

    fn choice(blocking: Blocking) -> TunedChoice {
        let provenance = Provenance {
            pattern: "window=9".to_owned(),
            problem: "a guess".to_owned(),
            candidates_timed: 1,
            candidates: 1,
            finished: true,
        };
        TunedChoice { schedule: blocking.to_string(), seconds: 1e-3, spread: 0.0, provenance }
    }

    /// As a model of `lgc generate` and `eval` takes it.
    #[test]
    fn what_was_tuned_is_taken_where_the_softcap_is_as_in_the_tune() {
        let pattern = Pattern::builder(Mask::window(9)).build().expect("a legal pattern");
        let ir = MaskIr::lower(&pattern, None).expect("few terms");
        let shape = HeadShape::new(2, 1, 16).expect("a shape");
        let tuned = Blocking { rows: 16, ..Blocking::default() };
        for (softcap, in_tune) in [(None, false), (None, true), (Some(20.0), false), (Some(20.0), true)] {
            let attention = Attention::new(ir.clone(), shape, softcap).expect("kernels");
            let (kernel, store) = (&attention.kernel, Store::open(StoreLocation::Memory));
            let (of, with) = ((shape, DType::F32, in_tune), (kernel.isa(), kernel.threads()));
            let key = TuneKey::new(cpu_problem(&ir, PassGroup::Forward, of, with), 64);
            store.put_tuned(&key, &choice(tuned));
            attention.use_tuned(&store);
            let problem = attention.problem(Sequences::single(50).expect("tokens")).expect("a problem");
            let (blocking, by) = kernel.blocking(&problem, DType::F32, PassGroup::Forward);
            assert_eq!(by == ChosenBy::Tuner, softcap.is_some() == in_tune, "{softcap:?}, {in_tune}");
            assert!(by != ChosenBy::Tuner || blocking == tuned);
        }
    }
}
