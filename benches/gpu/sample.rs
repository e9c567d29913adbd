//! The check at sizes where the oracle is too slow: a few rows of each output, in f64 on the host, from the device's
//! own inputs. O(S D) work a row; nothing of size T x S.

use std::collections::BTreeMap;
use std::error::Error;

use crate::work::{Bench, Tensor};
use half::{bf16, f16};
use longgen_codegen::spec::Dtype;

/// Norm of the difference over the norm, by output, over all sampled rows. bf16 rounds at 2e-3.
pub struct Sampled {
    pub errors: BTreeMap<&'static str, f64>,
}

/// Rows of the first sequence that are looked at.
const ROWS: usize = 6;

pub fn check(bench: &Bench<'_>) -> Result<Sampled, Box<dyn Error>> {
    let item = bench.item;
    let host = Host {
        bench,
        q: Rows::of_input(&bench.q, item.heads, item.head_dim),
        k: Rows::of_input(&bench.k, item.kv_heads, item.head_dim),
        v: Rows::of_input(&bench.v, item.kv_heads, item.head_dim),
        lse: bench.lse.to_vec()?,
        scale: 1.0 / (item.head_dim as f64).sqrt(),
    };
    let mut errors = Errors::default();
    for (token, head) in samples(bench.queries_each, item.heads) {
        let (row, lse) = host.output(token, head);
        errors.add("o", &row, &read_row(&bench.o, item.heads, (token, head), item.head_dim)?);
        errors.add("lse", &[lse], &[host.lse_of(token, head)]);
    }
    if item.pass.is_backward() {
        let d_o = Rows::of_input(&bench.d_o, item.heads, item.head_dim);
        let o =
            Rows { bits: bench.o.buffer.to_vec()?, ..Rows::of_input(&bench.o, item.heads, item.head_dim) };
        for (token, head) in samples(item.tokens, item.heads) {
            let found = read_row(&bench.dq, item.heads, (token, head), item.head_dim)?;
            errors.add("dq", &host.query_gradient(&o, &d_o, token, head), &found);
        }
        for (token, g) in samples(item.tokens, item.kv_heads) {
            let (k_row, v_row) = host.key_gradients(&o, &d_o, token, g);
            errors.add("dk", &k_row, &read_row(&bench.dk, item.kv_heads, (token, g), item.head_dim)?);
            errors.add("dv", &v_row, &read_row(&bench.dv, item.kv_heads, (token, g), item.head_dim)?);
        }
    }
    Ok(Sampled { errors: errors.relative() })
}

/// Rows spread over the sequence, its first and its last among them, and over the heads.
fn samples(tokens: usize, heads: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..ROWS).map(move |n| (n * (tokens - 1) / (ROWS - 1), (n * 7 + 3) % heads))
}

/// A 16-bit tensor on the host, which may repeat itself.
struct Rows {
    bits: Vec<u16>,
    heads: usize,
    head_dim: usize,
    dtype: Dtype,
}

impl Rows {
    /// An input, known without a look at the device.
    fn of_input(tensor: &Tensor, heads: usize, head_dim: usize) -> Rows {
        Rows { bits: tensor.period.clone(), heads, head_dim, dtype: tensor.dtype }
    }

    fn row(&self, token: usize, head: usize) -> Vec<f64> {
        let start = (token * self.heads + head) * self.head_dim;
        let at = |index: usize| value(self.bits[index % self.bits.len()], self.dtype);
        (start..start + self.head_dim).map(at).collect()
    }
}

/// One row of an output, from the device.
fn read_row(
    tensor: &Tensor,
    heads: usize,
    (token, head): (usize, usize),
    head_dim: usize,
) -> Result<Vec<f64>, Box<dyn Error>> {
    let bits = tensor.buffer.read_at::<u16>(2 * (token * heads + head) * head_dim, head_dim)?;
    Ok(bits.into_iter().map(|bits| value(bits, tensor.dtype)).collect())
}

fn value(bits: u16, dtype: Dtype) -> f64 {
    match dtype {
        Dtype::Bf16 => bf16::from_bits(bits).to_f64(),
        Dtype::Fp16 => f16::from_bits(bits).to_f64(),
    }
}

struct Host<'a> {
    bench: &'a Bench<'a>,
    q: Rows,
    k: Rows,
    v: Rows,
    lse: Vec<f32>,
    scale: f64,
}

impl Host<'_> {
    fn group(&self) -> usize {
        self.bench.item.heads / self.bench.item.kv_heads
    }

    fn sees(&self, g: usize, i: usize, j: usize) -> bool {
        self.bench.ir.sees(g as u32, i as u32, j as u32)
    }

    fn lse_of(&self, token: usize, head: usize) -> f64 {
        let total_q = self.bench.item.batch * self.bench.queries_each;
        f64::from(self.lse[head * total_q + token])
    }

    /// Where key `j` lies among the keys: at its slot, in a compact cache.
    fn place(&self, g: usize, j: usize) -> usize {
        let (slots, slot_key) = &self.bench.slots;
        let Some(slot_key) = slot_key else { return j };
        let of_sequence = &slot_key[g * slots * self.bench.item.batch..][..*slots];
        of_sequence.iter().position(|&key| key == j as i32).unwrap_or_else(|| panic!("key {j} has no slot"))
    }

    fn output(&self, token: usize, head: usize) -> (Vec<f64>, f64) {
        let (g, q) = (head / self.group(), self.q.row(token, head));
        let i = self.bench.item.tokens - self.bench.queries_each + token;
        let seen = (0..=i).filter(|&j| self.sees(g, i, j));
        let keys: Vec<usize> = seen.map(|j| self.place(g, j)).collect();
        let scores: Vec<f64> = keys.iter().map(|&j| dot(&q, &self.k.row(j, g)) * self.scale).collect();
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut row = vec![0.0; q.len()];
        if keys.is_empty() {
            return (row, f64::NEG_INFINITY);
        }
        let sum: f64 = scores.iter().map(|s| (s - top).exp()).sum();
        for (&j, s) in keys.iter().zip(&scores) {
            add_scaled(&mut row, (s - top).exp() / sum, &self.v.row(j, g));
        }
        (row, top + sum.ln())
    }

    /// P and dS of one pair.
    fn pair(&self, o: &Rows, d_o: &[f64], (i, head, j): (usize, usize, usize)) -> (f64, f64) {
        let g = head / self.group();
        let score = dot(&self.q.row(i, head), &self.k.row(j, g)) * self.scale;
        let p = (score - self.lse_of(i, head)).exp();
        let delta = dot(d_o, &o.row(i, head));
        (p, p * (dot(d_o, &self.v.row(j, g)) - delta))
    }

    fn query_gradient(&self, o: &Rows, d_o: &Rows, i: usize, head: usize) -> Vec<f64> {
        let (g, d_row) = (head / self.group(), d_o.row(i, head));
        let mut row = vec![0.0; d_row.len()];
        for j in (0..=i).filter(|&j| self.sees(g, i, j)) {
            let (_, ds) = self.pair(o, &d_row, (i, head, j));
            add_scaled(&mut row, ds * self.scale, &self.k.row(j, g));
        }
        row
    }

    fn key_gradients(&self, o: &Rows, d_o: &Rows, j: usize, g: usize) -> (Vec<f64>, Vec<f64>) {
        let dim = self.bench.item.head_dim;
        let (mut dk, mut dv) = (vec![0.0; dim], vec![0.0; dim]);
        for head in g * self.group()..(g + 1) * self.group() {
            for i in (j..self.bench.item.tokens).filter(|&i| self.sees(g, i, j)) {
                let d_row = d_o.row(i, head);
                let (p, ds) = self.pair(o, &d_row, (i, head, j));
                add_scaled(&mut dk, ds * self.scale, &self.q.row(i, head));
                add_scaled(&mut dv, p, &d_row);
            }
        }
        (dk, dv)
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn add_scaled(to: &mut [f64], factor: f64, row: &[f64]) {
    to.iter_mut().zip(row).for_each(|(t, r)| *t += factor * r);
}

/// Sums of squares, by output.
#[derive(Default)]
struct Errors(BTreeMap<&'static str, (f64, f64)>);

impl Errors {
    fn add(&mut self, name: &'static str, exact: &[f64], found: &[f64]) {
        let (difference, norm) = self.0.entry(name).or_default();
        for (e, f) in exact.iter().zip(found).filter(|(e, f)| e != f) {
            *difference += (e - f) * (e - f);
        }
        *norm += exact.iter().filter(|e| e.is_finite()).map(|e| e * e).sum::<f64>();
    }

    fn relative(self) -> BTreeMap<&'static str, f64> {
        self.0
            .into_iter()
            .map(|(name, (difference, norm))| (name, (difference / norm.max(1e-300)).sqrt()))
            .collect()
    }
}
