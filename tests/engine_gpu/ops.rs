//! Each operation of the engine on the device against the same operation on the CPU, on random bf16 numbers.

use half::bf16;
use libtest_mimic::Failed;
use longgen_runtime::blas::{Product, Values};
use longgen_runtime::driver::{Buffer, Stream};
use longgen_runtime::gpu_ops::{CacheRows, KeySlots, MatvecOutput, Moments, RopeTables, TokenRuns};
use longgen_runtime::ops::adamw::{AdamW, adamw_update, squared_norm};
use longgen_runtime::ops::cross_entropy::{HeadShape as LossShape, cross_entropy_backward};
use longgen_runtime::ops::embedding::{embedding_backward, embedding_forward};
use longgen_runtime::ops::linear::{
    LinearShape, linear_backward_input, linear_backward_weight, linear_forward,
};
use longgen_runtime::ops::rmsnorm::{rmsnorm_backward, rmsnorm_forward};
use longgen_runtime::ops::rope::{RopeAngles, rope_backward, rope_forward};
use longgen_runtime::ops::swiglu::{swiglu_backward, swiglu_forward};
use longgen_runtime::problem::HeadShape;
use longgen_runtime::random::Random;

use crate::{Engine, Machine, Test};

/// All tests.
pub const ALL: [(&str, Test); 10] = [
    ("ops::linear", linear),
    ("ops::matvec", matvec),
    ("ops::rmsnorm", rmsnorm),
    ("ops::rope", rope),
    ("ops::rope_store", rope_store),
    ("ops::swiglu", swiglu),
    ("ops::embedding", embedding),
    ("ops::cross_entropy", cross_entropy),
    ("ops::adamw", adamw),
    ("ops::cache", cache),
];

/// Half of bf16's last digit, with room for a few roundings of intermediate values.
const BF16: f64 = 6e-3;
/// f32 sums of bf16 factors.
const F32: f64 = 1e-4;

/// Random numbers that bf16 holds exactly.
struct Numbers {
    half: Vec<bf16>,
    wide: Vec<f32>,
}

impl Numbers {
    fn new(len: usize, seed: u64) -> Numbers {
        let mut random = Random::new(seed);
        let half: Vec<bf16> = (0..len).map(|_| bf16::from_f64(random.normal())).collect();
        let wide = half.iter().map(|x| x.to_f32()).collect();
        Numbers { half, wide }
    }

    fn upload(&self, stream: &Stream) -> Result<Buffer, Failed> {
        Ok(Buffer::from_slice(stream, &self.half)?)
    }
}

fn widened(buffer: &Buffer) -> Result<Vec<f32>, Failed> {
    Ok(buffer.to_vec::<bf16>()?.iter().map(|x| x.to_f32()).collect())
}

/// A buffer of NaN, so that what is not written shows.
fn poisoned(stream: &Stream, bytes: usize) -> Result<Buffer, Failed> {
    Ok(Buffer::filled(stream, bytes, 0xff)?)
}

fn close(name: &str, found: &[f32], expected: &[f32], tolerance: f64) -> Result<(), Failed> {
    if found.len() != expected.len() {
        return Err(format!("{name}: {} numbers, not {}", found.len(), expected.len()).into());
    }
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let error = norm(&mut found.iter().zip(expected).map(|(&a, &b)| f64::from(a) - f64::from(b)))
        / norm(&mut expected.iter().map(|&x| f64::from(x)));
    // NaN is not below anything.
    if error < tolerance { Ok(()) } else { Err(format!("{name}: relative error {error:e}").into()) }
}

fn linear(machine: &Machine) -> Result<(), Failed> {
    let Engine { stream, blas, .. } = machine.engine()?;
    for (tokens, inputs, outputs) in [(1, 64, 96), (300, 128, 40), (257, 512, 1000)] {
        let shape = LinearShape { tokens, inputs, outputs };
        let (x, w, d_y) = (
            Numbers::new(tokens * inputs, 1),
            Numbers::new(outputs * inputs, 2),
            Numbers::new(tokens * outputs, 3),
        );
        let (x_d, w_d, d_y_d) = (x.upload(&stream)?, w.upload(&stream)?, d_y.upload(&stream)?);
        let y = poisoned(&stream, 2 * tokens * outputs)?;
        blas.multiply(Product::Forward, shape, x_d.span(), w_d.span(), None, Values::Bf16(y.span()))?;
        let mut expected = vec![0.0; tokens * outputs];
        linear_forward(shape, &x.wide, &w.wide, &mut expected);
        close("y", &widened(&y)?, &expected, BF16)?;
        let sum = Values::Bf16(d_y_d.span());
        blas.multiply(Product::Forward, shape, x_d.span(), w_d.span(), Some(sum), Values::Bf16(y.span()))?;
        expected.iter_mut().zip(&d_y.wide).for_each(|(y, d)| *y += d);
        close("y + d", &widened(&y)?, &expected, BF16)?;

        let d_x = poisoned(&stream, 2 * tokens * inputs)?;
        let result = Values::Bf16(d_x.span());
        blas.multiply(Product::BackwardInput, shape, d_y_d.span(), w_d.span(), None, result)?;
        let mut expected = vec![0.0; tokens * inputs];
        linear_backward_input(shape, &d_y.wide, &w.wide, 0.0, &mut expected);
        close("d_x", &widened(&d_x)?, &expected, BF16)?;

        let d_w = Buffer::from_slice(&stream, &vec![1.0f32; outputs * inputs])?;
        let result = Values::F32(d_w.span());
        blas.multiply(Product::BackwardWeight, shape, d_y_d.span(), x_d.span(), Some(result), result)?;
        let mut expected = vec![1.0; outputs * inputs];
        linear_backward_weight(shape, &d_y.wide, &x.wide, &mut expected);
        close("d_w", &d_w.to_vec()?, &expected, F32)?;
    }
    Ok(())
}

fn matvec(machine: &Machine) -> Result<(), Failed> {
    let Engine { stream, ops, .. } = machine.engine()?;
    // Widths below, at and past what a warp takes in one go.
    for (inputs, outputs) in [(64, 6), (1024, 50), (1304, 250), (4096, 32), (72, 14)] {
        let shape = LinearShape { tokens: 1, inputs, outputs };
        let (x, w) = (Numbers::new(inputs, 1), Numbers::new(outputs * inputs, 2));
        let (norm, y) = (Numbers::new(inputs, 3), Numbers::new(outputs, 4));
        let (x_d, w_d, norm_d) = (x.upload(&stream)?, w.upload(&stream)?, norm.upload(&stream)?);
        let product = |norm, output| ops.matvec([inputs, outputs], x_d.span(), w_d.span(), norm, output);
        let mut plain = vec![0.0; outputs];
        linear_forward(shape, &x.wide, &w.wide, &mut plain);

        let stored = poisoned(&stream, 2 * plain.len())?;
        product(None, MatvecOutput::Store(stored.span()))?;
        close("store", &widened(&stored)?, &plain, BF16)?;
        let added = y.upload(&stream)?;
        product(None, MatvecOutput::Add(added.span()))?;
        let sum: Vec<f32> = plain.iter().zip(&y.wide).map(|(a, b)| a + b).collect();
        close("add", &widened(&added)?, &sum, BF16)?;

        let (mut normed, mut scales) = (vec![0.0; inputs], vec![0.0]);
        rmsnorm_forward(&x.wide, &norm.wide, 1e-5, &mut normed, &mut scales);
        linear_forward(shape, &normed, &w.wide, &mut plain);
        let float = poisoned(&stream, 4 * plain.len())?;
        let norm = Some((norm_d.span(), 1e-5));
        product(norm, MatvecOutput::Float(float.span()))?;
        close("normed", &float.to_vec()?, &plain, F32)?;
        let gated = poisoned(&stream, plain.len())?;
        product(norm, MatvecOutput::Swiglu(gated.span()))?;
        let silu = |x: f32| x / (1.0 + (-x).exp());
        let (gate, up) = plain.split_at(outputs / 2);
        let expected: Vec<f32> = gate.iter().zip(up).map(|(&gate, up)| silu(gate) * up).collect();
        close("swiglu", &widened(&gated)?, &expected, BF16)?;
    }
    // An odd vocabulary.
    let shape = LinearShape { tokens: 1, inputs: 64, outputs: 7 };
    let (x, w) = (Numbers::new(64, 1), Numbers::new(7 * 64, 2));
    let (float, mut expected) = (poisoned(&stream, 4 * 7)?, vec![0.0; 7]);
    let (x_d, w_d) = (x.upload(&stream)?, w.upload(&stream)?);
    ops.matvec([64, 7], x_d.span(), w_d.span(), None, MatvecOutput::Float(float.span()))?;
    linear_forward(shape, &x.wide, &w.wide, &mut expected);
    close("odd", &float.to_vec()?, &expected, F32)
}

fn rmsnorm(machine: &Machine) -> Result<(), Failed> {
    let Engine { stream, ops, .. } = machine.engine()?;
    for (rows, width) in [(1, 64), (300, 1000), (130, 4096)] {
        let (x, d_y, d_x) =
            (Numbers::new(rows * width, 1), Numbers::new(rows * width, 2), Numbers::new(rows * width, 3));
        let w = Numbers::new(width, 4);
        let (x_d, w_d, d_y_d) = (x.upload(&stream)?, w.upload(&stream)?, d_y.upload(&stream)?);
        let (y, scales) = (poisoned(&stream, 2 * rows * width)?, poisoned(&stream, 4 * rows)?);
        ops.rmsnorm_forward(rows, x_d.span(), w_d.span(), 1e-5, y.span(), scales.span())?;
        let (mut expected, mut r) = (vec![0.0; rows * width], vec![0.0; rows]);
        rmsnorm_forward(&x.wide, &w.wide, 1e-5, &mut expected, &mut r);
        close("y", &widened(&y)?, &expected, BF16)?;
        close("scales", &scales.to_vec()?, &r, F32)?;

        let d_x_d = d_x.upload(&stream)?;
        let d_w = Buffer::from_slice(&stream, &vec![1.0f32; width])?;
        let partial = poisoned(&stream, 4 * 128 * width)?;
        ops.rmsnorm_backward(
            rows,
            x_d.span(),
            w_d.span(),
            scales.span(),
            d_y_d.span(),
            d_x_d.span(),
            d_w.span(),
            partial.span(),
        )?;
        let (mut expected, mut expected_w) = (d_x.wide.clone(), vec![1.0; width]);
        rmsnorm_backward(&x.wide, &w.wide, &r, &d_y.wide, &mut expected, &mut expected_w);
        close("d_x", &widened(&d_x_d)?, &expected, BF16)?;
        close("d_w", &d_w.to_vec()?, &expected_w, F32)?;
    }
    Ok(())
}

const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const D: usize = 64;

/// Frequencies, and positions with fractions; far ones too.
fn positions(tokens: usize) -> (Vec<f32>, Vec<f32>) {
    let frequencies = (0..D / 2).map(|d| 10_000f32.powf(-2.0 * d as f32 / D as f32)).collect();
    (frequencies, (0..tokens).map(|t| t as f32 * 1000.25).collect())
}

/// Heads `heads` of fused rows (T, H + 2 G, D), as rows of their own.
fn heads_of(qkv: &[f32], heads: std::ops::Range<usize>) -> Vec<f32> {
    let row = (HEADS + 2 * KV_HEADS) * D;
    qkv.chunks(row).flat_map(|row| row[heads.start * D..heads.end * D].to_vec()).collect()
}

fn rope(machine: &Machine) -> Result<(), Failed> {
    let Engine { stream, ops, .. } = machine.engine()?;
    let (tokens, shape) = (70, HeadShape::new(HEADS, KV_HEADS, D)?);
    let (frequencies, positions) = positions(tokens);
    let angles = RopeAngles::new(&frequencies, 1.25, &positions);
    let qkv = Numbers::new(tokens * (HEADS + 2 * KV_HEADS) * D, 1);
    let (p, f) = (Buffer::from_slice(&stream, &positions)?, Buffer::from_slice(&stream, &frequencies)?);
    let (cosines, sines) = (poisoned(&stream, 2 * tokens * D)?, poisoned(&stream, 2 * tokens * D)?);
    let tables = RopeTables { cosines: cosines.span(), sines: sines.span() };
    ops.rope_angles(tokens, p.span(), f.span(), 1.25, tables)?;
    let turned = qkv.upload(&stream)?;
    ops.rope_forward(tokens, shape, turned.span(), tables)?;
    let found = widened(&turned)?;
    let (q, k, v) = (0..HEADS, HEADS..HEADS + KV_HEADS, HEADS + KV_HEADS..HEADS + 2 * KV_HEADS);
    for (name, range) in [("q", q.clone()), ("k", k.clone())] {
        let mut expected = heads_of(&qkv.wide, range.clone());
        rope_forward(&angles, range.len(), &mut expected);
        close(name, &heads_of(&found, range), &expected, BF16)?;
    }
    close("v", &heads_of(&found, v.clone()), &heads_of(&qkv.wide, v.clone()), 1e-9)?;

    let part = |range: std::ops::Range<usize>| {
        let wide = heads_of(&qkv.wide, range);
        let half: Vec<bf16> = wide.iter().map(|&x| bf16::from_f32(x)).collect();
        Ok::<_, Failed>((Buffer::from_slice(&stream, &half)?, wide))
    };
    let ((dq, mut dq_host), (dk, mut dk_host), (dv, dv_host)) =
        (part(q.clone())?, part(k.clone())?, part(v.clone())?);
    let d_qkv = poisoned(&stream, 2 * qkv.half.len())?;
    ops.rope_backward(tokens, shape, [dq.span(), dk.span(), dv.span()], tables, d_qkv.span())?;
    rope_backward(&angles, HEADS, &mut dq_host);
    rope_backward(&angles, KV_HEADS, &mut dk_host);
    let found = widened(&d_qkv)?;
    close("dq", &heads_of(&found, q), &dq_host, BF16)?;
    close("dk", &heads_of(&found, k), &dk_host, BF16)?;
    close("dv", &heads_of(&found, v), &dv_host, 1e-9)
}

/// Keys and values of new tokens land in the rows they are sent to, and nowhere else.
fn rope_store(machine: &Machine) -> Result<(), Failed> {
    let Engine { stream, ops, .. } = machine.engine()?;
    let (tokens, rows, shape) = (5, 40, HeadShape::new(HEADS, KV_HEADS, D)?);
    let qkv = Numbers::new(tokens * (HEADS + 2 * KV_HEADS) * D, 1);
    // No rotation, so that rows can be compared to the bit.
    let cosines = Buffer::from_slice(&stream, &vec![1.0f32; tokens * D / 2])?;
    let sines = Buffer::zeros(&stream, 2 * tokens * D)?;
    let tables = RopeTables { cosines: cosines.span(), sines: sines.span() };
    let slot = |g: usize, t: usize| if t == 3 { -1 } else { ((7 * t + 11 * g + 2) % rows) as i32 };
    let slots: Vec<i32> = (0..KV_HEADS * tokens).map(|at| slot(at / tokens, at % tokens)).collect();
    let slots_d = Buffer::from_slice(&stream, &slots)?;
    let index: Vec<i32> = (0..tokens as i32).map(|t| 100 + t).collect();
    let index_d = Buffer::from_slice(&stream, &index)?;
    let table = Buffer::filled(&stream, 4 * KV_HEADS * rows, 0xff)?;
    let (keys, values) =
        (Buffer::zeros(&stream, 2 * KV_HEADS * rows * D)?, Buffer::zeros(&stream, 2 * KV_HEADS * rows * D)?);
    let cache = CacheRows { keys: keys.span(), values: values.span(), rows, head_stride: rows * D };
    let qkv_d = qkv.upload(&stream)?;
    let slots = KeySlots { slots: slots_d.span(), slot_key: Some((index_d.span(), table.span(), rows)) };
    ops.rope_store(tokens, shape, qkv_d.span(), tables, slots, cache)?;
    let (mut k, mut v) = (vec![0.0; KV_HEADS * rows * D], vec![0.0; KV_HEADS * rows * D]);
    let mut expected_table = vec![-1; KV_HEADS * rows];
    for g in 0..KV_HEADS {
        for t in (0..tokens).filter(|&t| t != 3) {
            let row = g * rows + slot(g, t) as usize;
            let from = |head: usize| (t * (HEADS + 2 * KV_HEADS) + head) * D;
            k[row * D..][..D].copy_from_slice(&qkv.wide[from(HEADS + g)..][..D]);
            v[row * D..][..D].copy_from_slice(&qkv.wide[from(HEADS + KV_HEADS + g)..][..D]);
            expected_table[row] = 100 + t as i32;
        }
    }
    let same = widened(&keys)? == k && widened(&values)? == v && table.to_vec::<i32>()? == expected_table;
    if same { Ok(()) } else { Err("rows landed elsewhere".into()) }
}

fn swiglu(machine: &Machine) -> Result<(), Failed> {
    let Engine { stream, ops, .. } = machine.engine()?;
    let (rows, hidden) = (33, 1096);
    let (gate_up, d_y) = (Numbers::new(rows * 2 * hidden, 1), Numbers::new(rows * hidden, 2));
    let (mut gate, mut up) = (Vec::new(), Vec::new());
    for row in gate_up.wide.chunks(2 * hidden) {
        gate.extend_from_slice(&row[..hidden]);
        up.extend_from_slice(&row[hidden..]);
    }
    let (gate_up_d, y) = (gate_up.upload(&stream)?, poisoned(&stream, 2 * rows * hidden)?);
    ops.swiglu_forward(rows, hidden, gate_up_d.span(), y.span())?;
    let mut expected = vec![0.0; rows * hidden];
    swiglu_forward(&gate, &up, &mut expected);
    close("y", &widened(&y)?, &expected, BF16)?;
    ops.swiglu_backward(rows, hidden, gate_up_d.span(), d_y.upload(&stream)?.span())?;
    swiglu_backward(&mut gate, &mut up, &d_y.wide);
    let expected: Vec<f32> =
        gate.chunks(hidden).zip(up.chunks(hidden)).flat_map(|(gate, up)| [gate, up].concat()).collect();
    close("d", &widened(&gate_up_d)?, &expected, BF16)
}

fn embedding(machine: &Machine) -> Result<(), Failed> {
    let Engine { stream, ops, .. } = machine.engine()?;
    let (width, vocabulary, rows) = (1032, 50, 400);
    let mut random = Random::new(9);
    let tokens: Vec<u32> = (0..rows).map(|_| random.below(vocabulary) as u32).collect();
    let (table, d_x) = (Numbers::new(vocabulary * width, 1), Numbers::new(rows * width, 2));
    let runs = TokenRuns::new(&stream, &tokens)?;
    let x = poisoned(&stream, 2 * rows * width)?;
    ops.embedding_forward(rows, width, table.upload(&stream)?.span(), runs.tokens(), x.span())?;
    let mut expected = vec![0.0; rows * width];
    embedding_forward(&table.wide, width, &tokens, &mut expected);
    close("x", &widened(&x)?, &expected, 1e-9)?;
    let d_table = Buffer::from_slice(&stream, &vec![1.0f32; vocabulary * width])?;
    ops.embedding_backward(width, d_x.upload(&stream)?.span(), &runs, d_table.span())?;
    let mut expected = vec![1.0; vocabulary * width];
    embedding_backward(&d_x.wide, width, &tokens, &mut expected);
    close("d_table", &d_table.to_vec()?, &expected, F32)
}

/// The kernel against the CPU's chunked loss, whose weights are the identity: then its logits are its input.
fn cross_entropy(machine: &Machine) -> Result<(), Failed> {
    let Engine { stream, ops, .. } = machine.engine()?;
    for vocabulary in [7, 1001] {
        let rows = 20;
        let logits: Vec<f32> = Numbers::new(rows * vocabulary, 1).wide.iter().map(|x| 5.0 * x).collect();
        let target = |t: usize| (t % 3 != 1).then_some((t * 31 % vocabulary) as u32);
        let targets: Vec<Option<u32>> = (0..rows).map(target).collect();
        let ints: Vec<i32> = targets.iter().map(|t| t.map_or(-1, |t| t as i32)).collect();
        let (logits_d, targets_d) =
            (Buffer::from_slice(&stream, &logits)?, Buffer::from_slice(&stream, &ints)?);
        let (loss, d) = (poisoned(&stream, 4 * rows)?, poisoned(&stream, 2 * rows * vocabulary)?);
        ops.cross_entropy(
            rows,
            vocabulary,
            logits_d.span(),
            targets_d.span(),
            loss.span(),
            Some(d.span()),
            0.25,
        )?;
        let mut identity = vec![0.0; vocabulary * vocabulary];
        (0..vocabulary).for_each(|n| identity[n * vocabulary + n] = 1.0);
        let (mut d_h, mut d_w) = (vec![0.0; logits.len()], vec![0.0; identity.len()]);
        let shape = LossShape { width: vocabulary, vocabulary };
        let expected = cross_entropy_backward(shape, &logits, &identity, &targets, 0.25, &mut d_h, &mut d_w);
        let found: f64 = loss.to_vec::<f32>()?.iter().map(|&x| f64::from(x)).sum();
        close("loss", &[found as f32], &[expected as f32], 1e-5)?;
        close("d_logits", &widened(&d)?, &d_h, BF16)?;
    }
    Ok(())
}

fn adamw(machine: &Machine) -> Result<(), Failed> {
    let Engine { stream, ops, .. } = machine.engine()?;
    let n = 5000;
    let numbers = |seed| Numbers::new(n, seed).wide;
    let (mut w, g, mut m) = (numbers(1), numbers(2), numbers(3));
    let mut v: Vec<f32> = numbers(4).iter().map(|x| x * x).collect();
    let upload = |x: &[f32]| Buffer::from_slice(&stream, x);
    let (w_d, g_d, m_d, v_d) = (upload(&w)?, upload(&g)?, upload(&m)?, upload(&v)?);
    let weight = poisoned(&stream, 2 * n)?;
    let adam = AdamW {
        learning_rate: 1e-2,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        step: 3,
        gradient_scale: 0.5,
    };
    let state = Moments { master: w_d.span(), mean: m_d.span(), square: v_d.span() };
    ops.adamw(&adam, state, weight.span(), g_d.span())?;
    adamw_update(&adam, &mut w, &g, &mut m, &mut v);
    for (name, found, expected) in [("w", &w_d, &w), ("m", &m_d, &m), ("v", &v_d, &v)] {
        close(name, &found.to_vec()?, expected, 1e-6)?;
    }
    close("rounded", &widened(&weight)?, &w, BF16)?;
    let partial = poisoned(&stream, 8 * 1024)?;
    ops.squared_norm(g_d.span(), partial.span())?;
    let sum: f64 = partial.to_vec::<f64>()?.iter().sum();
    if (sum / squared_norm(&g) - 1.0).abs() < 1e-12 { Ok(()) } else { Err(format!("norm {sum}").into()) }
}

/// What is packed into slots and unpacked again is what was there.
fn cache(machine: &Machine) -> Result<(), Failed> {
    let Engine { stream, ops, .. } = machine.engine()?;
    let (rows, slots, first, tokens) = (64, 24, 30, 20);
    let shape = HeadShape::new(HEADS, KV_HEADS, D)?;
    let (k, v) = (Numbers::new(KV_HEADS * rows * D, 1), Numbers::new(KV_HEADS * rows * D, 2));
    let (k_d, v_d) = (k.upload(&stream)?, v.upload(&stream)?);
    let ordered = CacheRows { keys: k_d.span(), values: v_d.span(), rows, head_stride: rows * D };
    let cached = || poisoned(&stream, 2 * KV_HEADS * slots * D);
    let (cache_k, cache_v) = (cached()?, cached()?);
    let cache =
        CacheRows { keys: cache_k.span(), values: cache_v.span(), rows: slots, head_stride: slots * D };
    let slot = |g: usize, t: usize| if t.is_multiple_of(4) { -1 } else { ((5 * t + g) % slots) as i32 };
    let table: Vec<i32> = (0..KV_HEADS * tokens).map(|at| slot(at / tokens, at % tokens)).collect();
    let mut slot_key = vec![-1i32; KV_HEADS * slots];
    for g in 0..KV_HEADS {
        (0..tokens).filter(|t| slot(g, *t) >= 0).for_each(|t| {
            slot_key[g * slots + slot(g, t) as usize] = (first + t) as i32;
        });
    }
    ops.cache_pack(shape, (first, tokens), ordered, Buffer::from_slice(&stream, &table)?.span(), cache)?;
    let (back_k, back_v) = (Buffer::zeros(&stream, k_d.bytes())?, Buffer::zeros(&stream, v_d.bytes())?);
    let back = CacheRows { keys: back_k.span(), values: back_v.span(), rows, head_stride: rows * D };
    let slot_key_d = Buffer::from_slice(&stream, &slot_key)?;
    ops.cache_unpack(shape, cache, (slot_key_d.span(), slots), back)?;
    for (found, from) in [(widened(&back_k)?, &k.wide), (widened(&back_v)?, &v.wide)] {
        for (row, (found, from)) in found.chunks(D).zip(from.chunks(D)).enumerate() {
            let (g, key) = (row / rows, row % rows);
            let stored = key >= first && key < first + tokens && slot(g, key - first) >= 0;
            let right = if stored { found == from } else { found.iter().all(|&x| x == 0.0) };
            if !right {
                return Err(format!("KV head {g}, key {key}").into());
            }
        }
    }
    Ok(())
}
