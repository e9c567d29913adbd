//! Properties of the kernels that random problems do not show: isolation, layouts, repeatability, graphs, caches.

use libtest_mimic::Failed;
use longgen_codegen::spec::{Dtype, Shape};
use longgen_codegen::target::Target;
use longgen_runtime::driver::{Buffer, Stream};
use longgen_runtime::gpu::{
    BackwardTensors, DeviceTensor, ForwardTensors, GpuAttention, GpuAttentionError, GpuOptions, Layout, View,
};
use longgen_runtime::problem::{AttentionProblem, DType, Sequences};
use longgen_runtime::tensor::{HostTensor, TensorShape};

use crate::{Machine, attention, check_all, cuda, problem};

/// A property: its name and its test.
pub type Property = (&'static str, fn(&Machine, Target) -> Result<(), Failed>);

/// All of them.
pub const ALL: [Property; 9] = [
    ("many-tiles", many_tiles),
    ("nan-stays-in-its-document", nan_stays_in_its_document),
    ("strides", strides),
    ("repeatable", repeatable),
    ("parts", parts),
    ("graph", graph),
    ("graph-advances", graph_advances),
    ("compact-cache", compact_cache),
    ("mistakes-are-errors", mistakes_are_errors),
];

/// The head dimension that both families have a fused backward for.
const SHAPE: Shape = Shape { head_dim: 128, dtype: Dtype::Bf16, softcap: false, sink_logit: false };

fn options(target: Target) -> GpuOptions {
    GpuOptions { target: Some(target), ..GpuOptions::default() }
}

/// The pattern `sink-window`.
fn sink_window(machine: &Machine, target: Target, deterministic: bool) -> Result<GpuAttention, Failed> {
    let case = &cuda::small_patterns()[2];
    attention(machine, case, SHAPE, GpuOptions { deterministic, ..options(target) })
}

/// More work than multiprocessors, and walks longer than any pipeline.
fn many_tiles(machine: &Machine, target: Target) -> Result<(), Failed> {
    // An emulated GPU has three multiprocessors, so that less is more than they take.
    let (documents, longest, keys, heads) = match machine.gpu.is_emulated() {
        true => (vec![0, 290, 421, 700], 777, 5000, (4, 2)),
        false => (vec![0, 640, 1001, 1900, 2240], 2049, 20_000, (16, 4)),
    };
    let patterns: &[usize] = if machine.gpu.is_emulated() { &[2, 3] } else { &[0, 2, 3] };
    for &index in patterns {
        let attention = attention(machine, &cuda::small_patterns()[index], SHAPE, options(target))?;
        let problems = [
            problem(SHAPE, heads, Sequences::packed(documents.clone())?)?,
            problem(SHAPE, (2, 1), Sequences::single(longest)?)?,
            problem(SHAPE, (4, 1), Sequences::new(vec![0, 1], vec![0, keys], None)?)?,
        ];
        check_all(&attention, &problems, 11)?;
    }
    Ok(())
}

/// Tensors of a forward pass on the device, made from host values.
struct Tensors {
    q: DeviceTensor,
    k: DeviceTensor,
    v: DeviceTensor,
    o: DeviceTensor,
    lse: Buffer,
}

fn pattern_of_numbers(count: usize, salt: u64) -> Vec<f32> {
    let hash = |n: u64| n.wrapping_add(salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    (0..count as u64).map(|n| hash(n) as f32 / (1u32 << 23) as f32 - 1.0).collect()
}

fn host(tokens: usize, heads: usize, salt: u64) -> Result<HostTensor, Failed> {
    let shape = TensorShape { tokens, heads, head_dim: SHAPE.head_dim as usize };
    let values = pattern_of_numbers(tokens * heads * shape.head_dim, salt);
    Ok(HostTensor::from_f32(DType::Bf16, shape, &values)?)
}

impl Tensors {
    fn new(
        stream: &Stream,
        problem: &AttentionProblem,
        k: &HostTensor,
        v: &HostTensor,
    ) -> Result<Self, Failed> {
        let q = host(problem.sequences.total_q(), problem.shape.heads(), 1)?;
        Ok(Tensors {
            o: DeviceTensor::filled(stream, SHAPE.dtype, Layout::contiguous(q.shape()), 0xff)?,
            q: DeviceTensor::upload(stream, &q)?,
            k: DeviceTensor::upload(stream, k)?,
            v: DeviceTensor::upload(stream, v)?,
            lse: Buffer::filled(stream, problem.lse_elements() * 4, 0xff)?,
        })
    }

    fn forward(&mut self) -> ForwardTensors<'_> {
        let (q, k, v) = (self.q.view(), self.k.view(), self.v.view());
        ForwardTensors { q, k, v, sink_logit: None, o: self.o.view_mut(), lse: &mut self.lse }
    }
}

/// NaN and infinity in the keys and values of one document must not reach the rows of its neighbours, forward or backward.
fn nan_stays_in_its_document(machine: &Machine, target: Target) -> Result<(), Failed> {
    let attention = sink_window(machine, target, false)?;
    let problem = problem(SHAPE, (4, 2), Sequences::packed(vec![0, 70, 131, 200])?)?;
    let clean = [host(200, 2, 2)?, host(200, 2, 3)?];
    let dirty = clean.clone().map(|tensor| poison_tokens(&tensor, 70..131));
    let [clean_k, clean_v] = &clean;
    let [dirty_k, dirty_v] = [dirty[0].as_ref(), dirty[1].as_ref()].map(|t| t.expect("same shape"));
    let expected = run_all(&attention, &problem, clean_k, clean_v)?;
    let found = run_all(&attention, &problem, dirty_k, dirty_v)?;
    for (name, (expected, found)) in ["o", "dq", "dk", "dv"].iter().zip(expected.iter().zip(&found)) {
        let row = expected.len() / 200;
        for token in (0..70).chain(131..200) {
            for x in token * row..(token + 1) * row {
                // dQ is summed in an order that changes from run to run: close, and above all finite.
                let apart = (expected[x] - found[x]).abs();
                if apart.is_nan() || apart > 0.02 * expected[x].abs().max(1.0) {
                    return Err(
                        format!("{name}[{x}], token {token}: {} and {}", expected[x], found[x]).into()
                    );
                }
            }
        }
    }
    Ok(())
}

fn poison_tokens(tensor: &HostTensor, tokens: std::ops::Range<usize>) -> Result<HostTensor, Failed> {
    let mut values: Vec<f32> = tensor.to_f64().iter().map(|&x| x as f32).collect();
    let row = tensor.shape().heads * tensor.shape().head_dim;
    for (index, value) in values[tokens.start * row..tokens.end * row].iter_mut().enumerate() {
        *value = if index.is_multiple_of(2) { f32::NAN } else { f32::INFINITY };
    }
    Ok(HostTensor::from_f32(tensor.dtype(), tensor.shape(), &values)?)
}

/// O, dQ, dK, dV.
fn run_all(
    attention: &GpuAttention,
    problem: &AttentionProblem,
    k: &HostTensor,
    v: &HostTensor,
) -> Result<[Vec<f64>; 4], Failed> {
    let stream = attention.stream();
    let mut prepared = attention.prepare(problem)?;
    let mut tensors = Tensors::new(stream, problem, k, v)?;
    attention.forward(&mut prepared, tensors.forward())?;
    let d_o = DeviceTensor::upload(stream, &host(problem.sequences.total_q(), problem.shape.heads(), 4)?)?;
    let empty = |tensor: &DeviceTensor| DeviceTensor::filled(stream, SHAPE.dtype, tensor.view().layout, 0xff);
    let (mut dq, mut dk, mut dv) = (empty(&tensors.q)?, empty(&tensors.k)?, empty(&tensors.v)?);
    let backward = BackwardTensors {
        q: tensors.q.view(),
        k: tensors.k.view(),
        v: tensors.v.view(),
        sink_logit: None,
        o: tensors.o.view(),
        lse: &tensors.lse,
        d_o: d_o.view(),
        d_lse: None,
        dq: dq.view_mut(),
        dk: dk.view_mut(),
        dv: dv.view_mut(),
        d_sink: None,
    };
    attention.backward(&mut prepared, backward)?;
    let values = |tensor: &DeviceTensor| Ok::<_, Failed>(tensor.download()?.to_f64());
    Ok([values(&tensors.o)?, values(&dq)?, values(&dk)?, values(&dv)?])
}

/// One buffer of Q, K and V side by side, as a fused projection makes it; heads outside tokens for O.
fn strides(machine: &Machine, target: Target) -> Result<(), Failed> {
    let attention = sink_window(machine, target, false)?;
    let (tokens, heads, kv_heads, d) = (190, 4, 2, SHAPE.head_dim as usize);
    let problem = problem(SHAPE, (heads, kv_heads), Sequences::packed(vec![0, 61, tokens])?)?;
    let stream = attention.stream();
    let fused = host(tokens, heads + 2 * kv_heads, 9)?;
    let part = |from: usize, count: usize| -> Result<HostTensor, Failed> {
        let all: Vec<f32> = fused.to_f64().iter().map(|&x| x as f32).collect();
        let rows = all.chunks(fused.shape().heads * d);
        let values: Vec<f32> = rows.flat_map(|row| row[from * d..(from + count) * d].to_vec()).collect();
        let shape = TensorShape { tokens, heads: count, head_dim: d };
        Ok(HostTensor::from_f32(DType::Bf16, shape, &values)?)
    };
    let mut prepared = attention.prepare(&problem)?;
    let mut packed =
        Tensors::new(stream, &problem, &part(heads, kv_heads)?, &part(heads + kv_heads, kv_heads)?)?;
    packed.q = DeviceTensor::upload(stream, &part(0, heads)?)?;
    attention.forward(&mut prepared, packed.forward())?;
    let expected = packed.o.download()?;

    let fused = DeviceTensor::upload(stream, &fused)?;
    let whole = fused.view();
    let slice = |from: usize, count: usize| {
        let shape = TensorShape { tokens, heads: count, head_dim: d };
        View { layout: Layout { shape, offset: from * d, ..whole.layout }, ..whole }
    };
    let layout = Layout {
        shape: TensorShape { tokens, heads, head_dim: d },
        offset: 16,
        token_stride: d,
        head_stride: (tokens + 3) * d,
    };
    let mut o = DeviceTensor::filled(stream, SHAPE.dtype, layout, 0xff)?;
    let tensors = ForwardTensors {
        q: slice(0, heads),
        k: slice(heads, kv_heads),
        v: slice(heads + kv_heads, kv_heads),
        sink_logit: None,
        o: o.view_mut(),
        lse: &mut packed.lse,
    };
    attention.forward(&mut prepared, tensors)?;
    if o.download()? == expected { Ok(()) } else { Err("strided and packed tensors differ".into()) }
}

/// The deterministic backward gives the same bits every time, with more key tiles than multiprocessors.
fn repeatable(machine: &Machine, target: Target) -> Result<(), Failed> {
    // An emulated GPU needs less to be full, and takes another order in every run.
    let (tokens, kv_heads, runs) = if machine.gpu.is_emulated() { (700, 1, 3) } else { (2731, 8, 10) };
    for index in [0, 2, 4] {
        let deterministic = GpuOptions { deterministic: true, ..options(target) };
        let attention = attention(machine, &cuda::small_patterns()[index], SHAPE, deterministic)?;
        let problem = problem(SHAPE, (2 * kv_heads, kv_heads), Sequences::packed(vec![0, 200, tokens])?)?;
        let (k, v) = (host(tokens, kv_heads, 2)?, host(tokens, kv_heads, 3)?);
        let first = run_all(&attention, &problem, &k, &v)?;
        for _ in 1..runs {
            if run_all(&attention, &problem, &k, &v)? != first {
                return Err(format!("pattern {index}: two runs differ").into());
            }
        }
    }
    Ok(())
}

/// Walks so long that they are cut into parts give what whole walks give.
fn parts(machine: &Machine, target: Target) -> Result<(), Failed> {
    // Parts are 8192 queries long.
    let (patterns, tokens): (&[usize], usize) =
        if machine.gpu.is_emulated() { (&[2], 8600) } else { (&[2, 3, 4], 20_333) };
    for &index in patterns {
        let case = &cuda::small_patterns()[index];
        let cut = attention(machine, case, SHAPE, options(target))?;
        let whole = attention(machine, case, SHAPE, GpuOptions { deterministic: true, ..options(target) })?;
        let problem = problem(SHAPE, (2, 1), Sequences::packed(vec![0, 300, tokens])?)?;
        let (k, v) = (host(tokens, 1, 2)?, host(tokens, 1, 3)?);
        let (expected, found) = (run_all(&whole, &problem, &k, &v)?, run_all(&cut, &problem, &k, &v)?);
        for (name, (expected, found)) in ["o", "dq", "dk", "dv"].iter().zip(expected.iter().zip(&found)) {
            let norm: f64 = expected.iter().map(|x| x * x).sum();
            let apart: f64 = expected.iter().zip(found).map(|(a, b)| (a - b) * (a - b)).sum();
            // Both are rounded to bf16 after sums in other orders: a part left out would be 10 % and more.
            if apart.is_nan() || apart > 1e-5 * norm {
                return Err(format!("{}: {name} is {:.1e} apart", case.name, (apart / norm).sqrt()).into());
            }
        }
    }
    Ok(())
}

/// One captured decode step, replayed as the query moves through a cache of fixed capacity that holds NaN past it, gives
/// what steps prepared for their own lengths give.
fn graph_advances(machine: &Machine, target: Target) -> Result<(), Failed> {
    let attention = sink_window(machine, target, false)?;
    let stream = attention.stream();
    let (capacity, first) = (600usize, [70usize, 521]);
    let cuts = vec![0, capacity, 2 * capacity];
    let (k, v) = (host(2 * capacity, 2, 2)?, host(2 * capacity, 2, 3)?);
    let step_at = |lengths: [usize; 2]| -> Result<Vec<f64>, Failed> {
        let keys = |tensor: &HostTensor| -> Result<HostTensor, Failed> {
            let row = tensor.shape().heads * tensor.shape().head_dim;
            let all: Vec<f32> = tensor.to_f64().iter().map(|&x| x as f32).collect();
            let sequences = lengths.iter().enumerate();
            let taken = sequences.flat_map(|(b, &length)| {
                all[b * capacity * row..(b * capacity + length) * row].iter().copied()
            });
            let shape = TensorShape { tokens: lengths.iter().sum(), ..tensor.shape() };
            Ok(HostTensor::from_f32(tensor.dtype(), shape, &taken.collect::<Vec<_>>())?)
        };
        let sequences = Sequences::new(vec![0, 1, 2], vec![0, lengths[0], lengths[0] + lengths[1]], None)?;
        let problem = problem(SHAPE, (8, 2), sequences)?;
        let mut tensors = Tensors::new(stream, &problem, &keys(&k)?, &keys(&v)?)?;
        attention.decode(&mut attention.prepare(&problem)?, tensors.forward(), None)?;
        Ok(tensors.o.download()?.to_f64())
    };

    let offsets = |step: usize| first.map(|length| (length + step - 1) as i64);
    let whole = problem(SHAPE, (8, 2), Sequences::new(vec![0, 1, 2], cuts, Some(offsets(0).to_vec()))?)?;
    let mut prepared = attention.prepare(&whole)?;
    for step in [0usize, 1, 60] {
        let unseen = |b: usize| b * capacity + first[b] + step..(b + 1) * capacity;
        let poisoned = |tensor: &HostTensor| poison_tokens(&poison_tokens(tensor, unseen(0))?, unseen(1));
        let mut tensors = Tensors::new(stream, &whole, &poisoned(&k)?, &poisoned(&v)?)?;
        prepared.set_query_offsets(&offsets(0))?;
        let submit = || attention.decode(&mut prepared, tensors.forward(), None);
        let graph = stream.capture::<GpuAttentionError>(submit)?;
        prepared.set_query_offsets(&offsets(step))?;
        graph.launch()?;
        let (found, expected) = (tensors.o.download()?.to_f64(), step_at(first.map(|length| length + step))?);
        let close = found.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= 0.01 * b.abs().max(0.1));
        if !close {
            return Err(format!("the replay {step} tokens on differs from a step of that length").into());
        }
    }
    Ok(())
}

/// A decode step and a forward pass, captured and replayed on other numbers.
fn graph(machine: &Machine, target: Target) -> Result<(), Failed> {
    let attention = sink_window(machine, target, false)?;
    let stream = attention.stream();
    let problem = problem(SHAPE, (8, 2), Sequences::new(vec![0, 1, 2], vec![0, 700, 900], None)?)?;
    let (k, v) = (host(900, 2, 2)?, host(900, 2, 3)?);
    let mut tensors = Tensors::new(stream, &problem, &k, &v)?;
    let mut prepared = attention.prepare(&problem)?;
    for decode in [true, false] {
        let mut submit = |tensors: &mut Tensors| {
            if decode {
                attention.decode(&mut prepared, tensors.forward(), None)
            } else {
                attention.forward(&mut prepared, tensors.forward())
            }
        };
        submit(&mut tensors)?;
        let expected = tensors.o.download()?;
        let graph = stream.capture::<GpuAttentionError>(|| submit(&mut tensors))?;
        for _ in 0..3 {
            tensors.o.view_mut().buffer.fill(0xff)?;
            graph.launch()?;
            if tensors.o.download()? != expected {
                return Err(format!("the replay differs, decode: {decode}").into());
            }
        }
    }
    Ok(())
}

/// Keys in shuffled slots with holes between them give what keys in order give.
fn compact_cache(machine: &Machine, target: Target) -> Result<(), Failed> {
    let attention = sink_window(machine, target, false)?;
    let stream = attention.stream();
    let (keys, slots, kv_heads, d) = (200usize, 256usize, 2usize, SHAPE.head_dim as usize);
    let (k, v) = (host(keys, kv_heads, 2)?, host(keys, kv_heads, 3)?);
    let ordered = problem(SHAPE, (8, kv_heads), Sequences::new(vec![0, 1], vec![0, keys], None)?)?;
    let mut tensors = Tensors::new(stream, &ordered, &k, &v)?;
    let mut prepared = attention.prepare(&ordered)?;
    attention.decode(&mut prepared, tensors.forward(), None)?;
    let (o, lse) = (tensors.o.download()?.to_f64(), tensors.lse.to_vec::<f32>()?);

    // 77 is odd: it visits every slot of a power of two once.
    let slot_of = |g: usize, key: usize| (key * 77 + g * 13) % slots;
    let mut slot_key = vec![-1i32; kv_heads * slots];
    let scatter = |tensor: &HostTensor| -> Result<HostTensor, Failed> {
        let from = tensor.to_f64();
        let mut to = vec![f32::NAN; slots * kv_heads * d];
        for key in 0..keys {
            for g in 0..kv_heads {
                let (to_row, from_row) = (slot_of(g, key) * kv_heads + g, key * kv_heads + g);
                for x in 0..d {
                    to[to_row * d + x] = from[from_row * d + x] as f32;
                }
            }
        }
        let shape = TensorShape { tokens: slots, heads: kv_heads, head_dim: d };
        Ok(HostTensor::from_f32(DType::Bf16, shape, &to)?)
    };
    for g in 0..kv_heads {
        for key in 0..keys {
            slot_key[g * slots + slot_of(g, key)] = key as i32;
        }
    }
    let offset = Some(vec![keys as i64 - 1]);
    let compact = problem(SHAPE, (8, kv_heads), Sequences::new(vec![0, 1], vec![0, slots], offset)?)?;
    let mut tensors = Tensors::new(stream, &compact, &scatter(&k)?, &scatter(&v)?)?;
    let mut prepared = attention.prepare(&compact)?;
    let slot_key = Buffer::from_slice(stream, &slot_key)?;
    attention.decode(&mut prepared, tensors.forward(), Some(&slot_key))?;
    let found = tensors.o.download()?.to_f64();
    let close = |a: f64, b: f64| (a - b).abs() <= 0.01 * a.abs().max(0.1);
    let lse_close = lse.iter().zip(tensors.lse.to_vec::<f32>()?).all(|(&a, b)| close(a.into(), b.into()));
    let o_close = o.iter().zip(&found).all(|(&a, &b)| close(a, b));
    if lse_close && o_close { Ok(()) } else { Err("slots and keys in order differ".into()) }
}

/// Wrong tensors never reach a kernel.
fn mistakes_are_errors(machine: &Machine, target: Target) -> Result<(), Failed> {
    let attention = sink_window(machine, target, false)?;
    let stream = attention.stream();
    let right = problem(SHAPE, (4, 2), Sequences::single(100)?)?;
    let (k, v) = (host(100, 2, 2)?, host(100, 2, 3)?);
    let mut prepared = attention.prepare(&right)?;
    let expect = |what: &str, result: Result<(), GpuAttentionError>| match result {
        Ok(()) => Err(Failed::from(format!("{what} was taken"))),
        Err(_) => Ok(()),
    };
    let short = host(99, 2, 2)?;
    let mut tensors = Tensors::new(stream, &right, &short, &v)?;
    expect("a short K", attention.forward(&mut prepared, tensors.forward()))?;
    let mut tensors = Tensors::new(&machine.device.stream()?, &right, &k, &v)?;
    expect("another stream", attention.forward(&mut prepared, tensors.forward()))?;
    let mut tensors = Tensors::new(stream, &right, &k, &v)?;
    tensors.lse = Buffer::zeros(stream, 4)?;
    expect("a short lse", attention.forward(&mut prepared, tensors.forward()))?;
    let mut tensors = Tensors::new(stream, &right, &k, &v)?;
    expect("a prefill as a decode step", attention.decode(&mut prepared, tensors.forward(), None))?;
    expect("a softcap", attention.prepare(&right.clone().with_softcap(1.0)?).map(|_| ()))?;
    expect("a negative scale", attention.prepare(&right.with_scale(-1.0)?).map(|_| ()))?;
    let missing = cuda::small_patterns();
    let options = GpuOptions { target: Some("sm_80".parse()?), ..options(target) };
    match crate::attention(machine, &missing[0], SHAPE, options) {
        Err(_) => Ok(()),
        Ok(_) => Err("kernels for another device were taken".into()),
    }
}
