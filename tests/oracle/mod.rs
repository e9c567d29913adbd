//! Random attention problems, the oracle's answers, and plain attention in single precision to measure errors by.
//!
//! The rule: the error of a kernel against f64 is at most twice that of plain attention in the same precision, plus one
//! rounding of the output type (on a handful of elements either error can be zero by luck).

use longgen_codegen::pattern::Pattern;
use longgen_runtime::oracle::{Gradients, Inputs, Output, backward, forward};
use longgen_runtime::problem::{AttentionProblem, DType};
use longgen_runtime::tensor::{HostTensor, TensorShape};

/// Values without structure, the same on every machine; roughly normal.
pub fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    (0..len).map(|_| ((0..6).map(|_| uniform()).sum::<f64>() - 3.0) as f32 * 1.4).collect()
}

/// A problem with its numbers.
pub struct Case {
    pub problem: AttentionProblem,
    pub dtype: DType,
    pub q: HostTensor,
    pub k: HostTensor,
    pub v: HostTensor,
    pub d_o: HostTensor,
    pub d_lse: Option<Vec<f32>>,
    pub sink_logit: Option<Vec<f32>>,
}

/// A result of the forward and the backward, in f64.
pub struct Answer {
    pub output: Output,
    pub gradients: Gradients,
}

impl Case {
    pub fn new(problem: AttentionProblem, dtype: DType, seed: u64) -> Case {
        let shape = |tokens, heads| TensorShape { tokens, heads, head_dim: problem.shape.head_dim() };
        let q_shape = shape(problem.sequences.total_q(), problem.shape.heads());
        let k_shape = shape(problem.sequences.total_k(), problem.shape.kv_heads());
        let tensor = |shape: TensorShape, seed| {
            let values = noise(shape.tokens * shape.heads * shape.head_dim, seed);
            HostTensor::from_f32(dtype, shape, &values).unwrap()
        };
        Case {
            dtype,
            q: tensor(q_shape, seed),
            k: tensor(k_shape, seed + 1),
            v: tensor(k_shape, seed + 2),
            d_o: tensor(q_shape, seed + 3),
            d_lse: None,
            sink_logit: None,
            problem,
        }
    }

    pub fn with_sink_logit(mut self, seed: u64) -> Case {
        self.sink_logit = Some(noise(self.problem.shape.heads(), seed));
        self
    }

    pub fn with_d_lse(mut self, seed: u64) -> Case {
        self.d_lse = Some(noise(self.problem.lse_elements(), seed));
        self
    }

    /// The oracle's answer.
    pub fn exact(&self, mask: impl Fn(i64, i64, i64) -> bool) -> Answer {
        let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        let (q, k, v, d_o) = (self.q.to_f64(), self.k.to_f64(), self.v.to_f64(), self.d_o.to_f64());
        let sink = self.sink_logit.as_deref().map(wide);
        let d_lse = self.d_lse.as_deref().map(wide);
        let inputs = Inputs { q: &q, k: &k, v: &v, sink_logit: sink.as_deref() };
        let output = forward(&self.problem, inputs, &mask).unwrap();
        let gradients = backward(&self.problem, inputs, &output, &d_o, d_lse.as_deref(), &mask).unwrap();
        Answer { output, gradients }
    }

    /// Plain attention in f32, with O rounded to the element type between forward and backward.
    pub fn plain(&self, mask: impl Fn(i64, i64, i64) -> bool) -> Answer {
        let narrow = |x: Vec<f64>| x.iter().map(|&x| x as f32).collect::<Vec<f32>>();
        let tensors = [&self.q, &self.k, &self.v, &self.d_o].map(|t| narrow(t.to_f64()));
        plain(self, tensors, mask)
    }

    /// For each head, the size of what is added up to the gradient of its sink logit, to which an error is small or not. The
    /// backward reads O rounded to its type: in 16 bits those errors are by far the largest, and add up like the sides of
    /// a box; in f32 the sum itself errs as much.
    pub fn d_sink_size(&self, exact: &Answer) -> Vec<f64> {
        let (o, d_o, d) = (&exact.output.o, self.d_o.to_f64(), self.problem.shape.head_dim());
        let (heads, total_q) = (self.problem.shape.heads(), self.problem.sequences.total_q());
        let logits = self.sink_logit.iter().flatten().enumerate();
        let term = &|h: usize, logit: f32, token: usize, x: usize| {
            let element = (token * heads + h) * d + x;
            let weight = (f64::from(logit) - exact.output.lse[h * total_q + token]).exp();
            weight * (o[element] * d_o[element]).abs()
        };
        let terms = |h, logit| {
            (0..total_q * d).map(move |at| (at / d, at % d)).map(move |(token, x)| term(h, logit, token, x))
        };
        logits
            .map(|(h, &logit)| match self.dtype {
                DType::F32 => terms(h, logit).sum(),
                DType::Bf16 | DType::F16 => terms(h, logit).map(|term| term * term).sum::<f64>().sqrt(),
            })
            .collect()
    }

    fn rounded(&self, values: &[f32]) -> Vec<f64> {
        let shape = TensorShape { tokens: 1, heads: 1, head_dim: values.len() };
        HostTensor::from_f32(self.dtype, shape, values).unwrap().to_f64()
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn plain(case: &Case, [q, k, v, d_o]: [Vec<f32>; 4], mask: impl Fn(i64, i64, i64) -> bool) -> Answer {
    let (shape, d) = (case.problem.shape, case.problem.shape.head_dim());
    let total_q = case.problem.sequences.total_q();
    let mut o = vec![0.0f32; q.len()];
    let mut lse = vec![f32::NEG_INFINITY; case.problem.lse_elements()];
    let (mut dq, mut dk, mut dv) = (vec![0.0f32; q.len()], vec![0.0f32; k.len()], vec![0.0f32; k.len()]);
    let mut d_sink = vec![0.0f32; shape.heads()];
    for sequence in case.problem.sequences.iter() {
        for t in 0..sequence.q_len {
            for h in 0..shape.heads() {
                let (g, i) = (h / shape.group(), sequence.q_offset + t as i64);
                let row = ((sequence.q_start + t) * shape.heads() + h) * d;
                let key = |j: usize| ((sequence.k_start + j) * shape.kv_heads() + g) * d;
                let keys: Vec<usize> =
                    (0..sequence.k_len).filter(|&j| i >= 0 && mask(g as i64, i, j as i64)).map(key).collect();
                let sink = case.sink_logit.as_ref().map(|s| s[h]);
                if keys.is_empty() && sink.is_none() {
                    continue;
                }
                let (q, d_o) = (&q[row..row + d], &d_o[row..row + d]);
                let capped = |s: f32| case.problem.softcap().map_or(s, |cap| cap * (s / cap).tanh());
                let slope = |s: f32| case.problem.softcap().map_or(1.0, |cap| 1.0 - (s / cap) * (s / cap));
                let scores: Vec<f32> =
                    keys.iter().map(|&at| capped(case.problem.scale() * dot(q, &k[at..at + d]))).collect();
                let max = scores.iter().copied().chain(sink).fold(f32::NEG_INFINITY, f32::max);
                let sum: f32 = scores.iter().copied().chain(sink).map(|s| (s - max).exp()).sum();
                let row_lse = max + sum.ln();
                lse[h * total_q + sequence.q_start + t] = row_lse;
                for (&at, s) in keys.iter().zip(&scores) {
                    let p = (s - max).exp() / sum;
                    (0..d).for_each(|x| o[row + x] += p * v[at + x]);
                }
                let o_row: Vec<f32> = case.rounded(&o[row..row + d]).iter().map(|&x| x as f32).collect();
                let index = h * total_q + sequence.q_start + t;
                let delta = dot(d_o, &o_row) - case.d_lse.as_ref().map_or(0.0, |d| d[index]);
                for (&at, &s) in keys.iter().zip(&scores) {
                    let p = (s - row_lse).exp();
                    let ds = p * (dot(d_o, &v[at..at + d]) - delta) * slope(s) * case.problem.scale();
                    for x in 0..d {
                        dv[at + x] += p * d_o[x];
                        dq[row + x] += ds * k[at + x];
                        dk[at + x] += ds * q[x];
                    }
                }
                if let Some(sink) = sink {
                    d_sink[h] -= (sink - row_lse).exp() * delta;
                }
            }
        }
    }
    let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    Answer {
        output: Output { o: case.rounded(&o), lse: wide(&lse) },
        gradients: Gradients {
            dq: case.rounded(&dq),
            dk: case.rounded(&dk),
            dv: case.rounded(&dv),
            d_sink: case.sink_logit.as_ref().map(|_| wide(&d_sink)),
        },
    }
}

/// Norm of the difference; where the exact value is not finite, the found one must be the same (any NaN for a NaN).
fn distance(name: &str, exact: &[f64], found: &[f64]) -> f64 {
    assert_eq!(exact.len(), found.len(), "length of {name}");
    let mut sum = 0.0;
    for (index, (&e, &f)) in exact.iter().zip(found).enumerate() {
        if e.is_finite() {
            assert!(f.is_finite(), "{name}[{index}] is {f}, exactly {e}");
            sum += (e - f) * (e - f);
        } else {
            assert!(e == f || (e.is_nan() && f.is_nan()), "{name}[{index}] is {f}, exactly {e}");
        }
    }
    sum.sqrt()
}

/// Holds a result to the rule of this module.
pub fn assert_close(name: &str, dtype: DType, exact: &[f64], plain: &[f64], found: &[f64]) {
    assert_close_to(name, dtype, exact, exact, plain, found);
}

/// As [`assert_close`], for sums whose terms cancel: `size` is what a rounding is measured by.
pub fn assert_close_to(name: &str, dtype: DType, size: &[f64], exact: &[f64], plain: &[f64], found: &[f64]) {
    let unit = match dtype {
        DType::F32 => 2f64.powi(-23),
        DType::Bf16 => 2f64.powi(-9),
        DType::F16 => 2f64.powi(-12),
    };
    let norm = size.iter().filter(|x| x.is_finite()).map(|x| x * x).sum::<f64>().sqrt();
    let (ours, theirs) = (distance(name, exact, found), distance(name, exact, plain));
    let allowed = 2.0 * theirs + unit * norm + 1e-30;
    assert!(ours <= allowed, "{name}: error {ours:e}, plain attention {theirs:e}, norm {norm:e}");
}

/// The mask of a pattern as the oracle wants it.
pub fn mask_of(pattern: &Pattern) -> impl Fn(i64, i64, i64) -> bool + '_ {
    |g, i, j| j <= i && pattern.sees(None, g as u32, i as u32, j as u32)
}
