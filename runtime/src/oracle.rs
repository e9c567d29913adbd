//! Attention in f64, forward and backward, straight from the formulas: slow, obvious, trusted.
//!
//! Everything else is measured against this module. It visits exactly the pairs the mask admits, so a NaN in a key
//! that a row does not see cannot reach that row. All tensors are packed: Q, O are (total_q, H, D), K, V are
//! (total_k, G, D), LSE is (H, total_q).

use std::ops::Range;

use crate::problem::{AttentionProblem, ProblemError, Sequence, check_len};

/// The numbers of a problem.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// Queries, (total_q, H, D).
    pub q: &'a [f64],
    /// Keys, (total_k, G, D).
    pub k: &'a [f64],
    /// Values, (total_k, G, D).
    pub v: &'a [f64],
    /// One logit per query head that joins the denominator only, (H).
    pub sink_logit: Option<&'a [f64]>,
}

/// What the forward pass yields.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// (total_q, H, D); 0 where a row sees no key.
    pub o: Vec<f64>,
    /// Natural log-sum-exp of the scores, the sink logit included, (H, total_q); -inf where there is nothing to sum.
    pub lse: Vec<f64>,
}

/// What the backward pass yields.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradients {
    /// (total_q, H, D).
    pub dq: Vec<f64>,
    /// (total_k, G, D), summed over the query heads of a group.
    pub dk: Vec<f64>,
    /// (total_k, G, D), summed over the query heads of a group.
    pub dv: Vec<f64>,
    /// (H), when there is a sink logit.
    pub d_sink: Option<Vec<f64>>,
}

/// Attention: `mask(g, i, j)` says whether KV head `g` lets query index `i` see key index `j`, causality included.
///
/// # Errors
/// A slice whose length is not the problem's.
pub fn forward(
    problem: &AttentionProblem,
    inputs: Inputs<'_>,
    mask: impl Fn(i64, i64, i64) -> bool,
) -> Result<Output, ProblemError> {
    check_inputs(problem, &inputs)?;
    let d = problem.shape.head_dim();
    let mut o = vec![0.0; problem.q_elements()];
    let mut lse = vec![f64::NEG_INFINITY; problem.lse_elements()];
    for row in rows(problem) {
        let keys = row.visible_keys(&mask);
        let scores: Vec<f64> = keys.iter().map(|&j| row.score(problem, &inputs, j).capped).collect();
        let sink = inputs.sink_logit.map(|logit| logit[row.h]);
        lse[row.lse_index(problem)] = log_sum_exp(scores.iter().copied().chain(sink));
        let at = row.q_range(problem);
        for (&j, &score) in keys.iter().zip(&scores) {
            let p = (score - lse[row.lse_index(problem)]).exp();
            let v = &inputs.v[row.k_range(problem, j)];
            for x in 0..d {
                o[at.start + x] += p * v[x];
            }
        }
    }
    Ok(Output { o, lse })
}

/// The gradients for `d_o` (total_q, H, D) and, if the log-sum-exp was used too, `d_lse` (H, total_q).
///
/// # Errors
/// A slice whose length is not the problem's.
pub fn backward(
    problem: &AttentionProblem,
    inputs: Inputs<'_>,
    output: &Output,
    d_o: &[f64],
    d_lse: Option<&[f64]>,
    mask: impl Fn(i64, i64, i64) -> bool,
) -> Result<Gradients, ProblemError> {
    check_inputs(problem, &inputs)?;
    check_len("o", output.o.len(), problem.q_elements())?;
    check_len("lse", output.lse.len(), problem.lse_elements())?;
    check_len("d_o", d_o.len(), problem.q_elements())?;
    if let Some(d_lse) = d_lse {
        check_len("d_lse", d_lse.len(), problem.lse_elements())?;
    }
    let d = problem.shape.head_dim();
    let scale = f64::from(problem.scale());
    let mut dq = vec![0.0; problem.q_elements()];
    let mut dk = vec![0.0; problem.k_elements()];
    let mut dv = vec![0.0; problem.k_elements()];
    let mut d_sink = inputs.sink_logit.map(|logit| vec![0.0; logit.len()]);
    for row in rows(problem) {
        let lse = output.lse[row.lse_index(problem)];
        let at = row.q_range(problem);
        let d_o = &d_o[at.clone()];
        let through_lse = d_lse.map_or(0.0, |d_lse| d_lse[row.lse_index(problem)]);
        let delta = dot(d_o, &output.o[at.clone()]) - through_lse;
        for j in row.visible_keys(&mask) {
            let score = row.score(problem, &inputs, j);
            let key = row.k_range(problem, j);
            let p = (score.capped - lse).exp();
            let dp = dot(d_o, &inputs.v[key.clone()]);
            let ds = p * (dp - delta) * score.slope;
            for x in 0..d {
                dv[key.start + x] += p * d_o[x];
                dq[at.start + x] += scale * ds * inputs.k[key.start + x];
                dk[key.start + x] += scale * ds * inputs.q[at.start + x];
            }
        }
        if let (Some(d_sink), Some(logit)) = (&mut d_sink, inputs.sink_logit) {
            d_sink[row.h] -= (logit[row.h] - lse).exp() * delta;
        }
    }
    Ok(Gradients { dq, dk, dv, d_sink })
}

/// One query of one head.
struct Row {
    sequence: Sequence,
    /// Position among the queries of its sequence.
    t: usize,
    /// Query head.
    h: usize,
    /// KV head.
    g: usize,
}

/// A score after the scale and the softcap, and the softcap's derivative there.
struct Score {
    capped: f64,
    slope: f64,
}

impl Row {
    fn visible_keys(&self, mask: &impl Fn(i64, i64, i64) -> bool) -> Vec<usize> {
        let i = self.sequence.q_offset + self.t as i64;
        (0..self.sequence.k_len).filter(|&j| i >= 0 && mask(self.g as i64, i, j as i64)).collect()
    }

    fn q_range(&self, problem: &AttentionProblem) -> Range<usize> {
        let d = problem.shape.head_dim();
        let start = ((self.sequence.q_start + self.t) * problem.shape.heads() + self.h) * d;
        start..start + d
    }

    fn k_range(&self, problem: &AttentionProblem, j: usize) -> Range<usize> {
        let d = problem.shape.head_dim();
        let start = ((self.sequence.k_start + j) * problem.shape.kv_heads() + self.g) * d;
        start..start + d
    }

    fn lse_index(&self, problem: &AttentionProblem) -> usize {
        self.h * problem.sequences.total_q() + self.sequence.q_start + self.t
    }

    fn score(&self, problem: &AttentionProblem, inputs: &Inputs<'_>, j: usize) -> Score {
        let q = &inputs.q[self.q_range(problem)];
        let k = &inputs.k[self.k_range(problem, j)];
        let scaled = f64::from(problem.scale()) * dot(q, k);
        match problem.softcap().map(f64::from) {
            None => Score { capped: scaled, slope: 1.0 },
            Some(cap) => {
                let tanh = (scaled / cap).tanh();
                Score { capped: cap * tanh, slope: 1.0 - tanh * tanh }
            }
        }
    }
}

fn rows(problem: &AttentionProblem) -> impl Iterator<Item = Row> + '_ {
    let group = problem.shape.group();
    problem.sequences.iter().flat_map(move |sequence| {
        (0..sequence.q_len)
            .flat_map(move |t| (0..problem.shape.heads()).map(move |h| Row { sequence, t, h, g: h / group }))
    })
}

fn log_sum_exp(scores: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = scores.clone().fold(f64::NEG_INFINITY, f64::max);
    let shift = if largest == f64::NEG_INFINITY { 0.0 } else { largest };
    shift + scores.map(|score| (score - shift).exp()).sum::<f64>().ln()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn check_inputs(problem: &AttentionProblem, inputs: &Inputs<'_>) -> Result<(), ProblemError> {
    check_len("q", inputs.q.len(), problem.q_elements())?;
    check_len("k", inputs.k.len(), problem.k_elements())?;
    check_len("v", inputs.v.len(), problem.k_elements())?;
    if let Some(logit) = inputs.sink_logit {
        check_len("sink_logit", logit.len(), problem.shape.heads())?;
    }
    Ok(())
}
