//! Plain attention in 16 bits, the yardstick of the tolerance: what an unfused program computes that keeps whole score
//! matrices, accumulates in f32 or better and rounds every matrix it would store. A kernel may err by at most k times what
//! this errs by, both against the f64 oracle.

use crate::oracle::{Gradients, Inputs, Output};
use crate::problem::{AttentionProblem, DType, Sequence};

/// Rounds to the nearest number of a type.
pub fn round(dtype: DType, x: f64) -> f64 {
    match dtype {
        DType::F32 => f64::from(x as f32),
        DType::Bf16 => half::bf16::from_f64(x).to_f64(),
        DType::F16 => half::f16::from_f64(x).to_f64(),
    }
}

/// One row of scores and what follows from it.
struct Row {
    keys: Vec<usize>,
    /// After scale and softcap, f32.
    scores: Vec<f64>,
    /// Derivative of the softcap.
    slopes: Vec<f64>,
    lse: f64,
}

/// The forward pass: probabilities and O rounded to `dtype`, the log-sum-exp to f32.
pub fn forward(
    problem: &AttentionProblem,
    inputs: Inputs<'_>,
    dtype: DType,
    mask: impl Fn(i64, i64, i64) -> bool,
) -> Output {
    let d = problem.shape.head_dim();
    let mut o = vec![0.0; problem.q_elements()];
    let mut lse = vec![f64::NEG_INFINITY; problem.lse_elements()];
    for (sequence, t, h) in rows(problem) {
        let row = Row::new(problem, &inputs, &sequence, t, h, &mask);
        let token = sequence.q_start + t;
        lse[h * problem.sequences.total_q() + token] = row.lse;
        let out = &mut o[(token * problem.shape.heads() + h) * d..][..d];
        for (&j, &score) in row.keys.iter().zip(&row.scores) {
            let p = round(dtype, (score - row.lse).exp());
            let v = &inputs.v[key_at(problem, &sequence, h, j)..][..d];
            out.iter_mut().zip(v).for_each(|(o, v)| *o += p * v);
        }
        out.iter_mut().for_each(|x| *x = round(dtype, *x));
    }
    Output { o, lse }
}

/// The backward pass from the rounded `output`: P, dS and the gradients rounded to `dtype`, d_sink to f32.
pub fn backward(
    problem: &AttentionProblem,
    inputs: Inputs<'_>,
    output: &Output,
    d_o: &[f64],
    d_lse: Option<&[f64]>,
    dtype: DType,
    mask: impl Fn(i64, i64, i64) -> bool,
) -> Gradients {
    let d = problem.shape.head_dim();
    let scale = f64::from(problem.scale());
    let mut dq = vec![0.0; problem.q_elements()];
    let mut dk = vec![0.0; problem.k_elements()];
    let mut dv = vec![0.0; problem.k_elements()];
    let mut d_sink = inputs.sink_logit.map(|logit| vec![0.0; logit.len()]);
    for (sequence, t, h) in rows(problem) {
        let row = Row::new(problem, &inputs, &sequence, t, h, &mask);
        let token = sequence.q_start + t;
        let at = (token * problem.shape.heads() + h) * d;
        let stats = h * problem.sequences.total_q() + token;
        let lse = output.lse[stats];
        let delta = round(DType::F32, dot(&d_o[at..][..d], &output.o[at..][..d]))
            - d_lse.map_or(0.0, |d_lse| d_lse[stats]);
        for ((&j, &score), slope) in row.keys.iter().zip(&row.scores).zip(&row.slopes) {
            let key = key_at(problem, &sequence, h, j);
            let p = (score - lse).exp();
            let dp = dot(&d_o[at..][..d], &inputs.v[key..][..d]);
            let ds = round(dtype, p * (dp - delta) * slope);
            let p = round(dtype, p);
            for x in 0..d {
                dv[key + x] += p * d_o[at + x];
                dq[at + x] += scale * ds * inputs.k[key + x];
                dk[key + x] += scale * ds * inputs.q[at + x];
            }
        }
        if let (Some(d_sink), Some(logit)) = (&mut d_sink, inputs.sink_logit)
            && lse > f64::NEG_INFINITY
        {
            d_sink[h] -= (logit[h] - lse).exp() * delta;
        }
    }
    for tensor in [&mut dq, &mut dk, &mut dv] {
        tensor.iter_mut().for_each(|x| *x = round(dtype, *x));
    }
    let d_sink = d_sink.map(|sums| sums.into_iter().map(|x| round(DType::F32, x)).collect());
    Gradients { dq, dk, dv, d_sink }
}

impl Row {
    fn new(
        problem: &AttentionProblem,
        inputs: &Inputs<'_>,
        sequence: &Sequence,
        t: usize,
        h: usize,
        mask: &impl Fn(i64, i64, i64) -> bool,
    ) -> Self {
        let (d, g) = (problem.shape.head_dim(), h / problem.shape.group());
        let i = sequence.q_offset + t as i64;
        let seen = |j: &usize| i >= 0 && mask(g as i64, i, *j as i64);
        let keys: Vec<usize> = (0..sequence.k_len).filter(seen).collect();
        let q = &inputs.q[((sequence.q_start + t) * problem.shape.heads() + h) * d..][..d];
        let (mut scores, mut slopes) = (Vec::with_capacity(keys.len()), Vec::with_capacity(keys.len()));
        for &j in &keys {
            let k = &inputs.k[key_at(problem, sequence, h, j)..][..d];
            let score = round(DType::F32, f64::from(problem.scale()) * dot(q, k));
            let (score, slope) = match problem.softcap() {
                Some(cap) => {
                    let squashed = (score / f64::from(cap)).tanh();
                    (round(DType::F32, f64::from(cap) * squashed), 1.0 - squashed * squashed)
                }
                None => (score, 1.0),
            };
            scores.push(score);
            slopes.push(slope);
        }
        let sink = inputs.sink_logit.map_or(f64::NEG_INFINITY, |logit| logit[h]);
        let top = scores.iter().copied().fold(sink, f64::max);
        let lse = if top == f64::NEG_INFINITY {
            top
        } else {
            let sum: f64 = scores.iter().chain([&sink]).map(|score| (score - top).exp()).sum();
            round(DType::F32, top + sum.ln())
        };
        Row { keys, scores, slopes, lse }
    }
}

/// Every (sequence, query, query head).
fn rows(problem: &AttentionProblem) -> impl Iterator<Item = (Sequence, usize, usize)> + '_ {
    let heads = problem.shape.heads();
    let of_sequence = move |s: Sequence| (0..s.q_len).flat_map(move |t| (0..heads).map(move |h| (s, t, h)));
    problem.sequences.iter().flat_map(of_sequence)
}

/// First element of key `j` of the sequence, for query head `h`.
fn key_at(problem: &AttentionProblem, sequence: &Sequence, h: usize, j: usize) -> usize {
    let g = h / problem.shape.group();
    ((sequence.k_start + j) * problem.shape.kv_heads() + g) * problem.shape.head_dim()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}
