//! CPU attention at its edges: poison in the inputs, decoding, strides, thread counts, bad problems.

mod oracle;

use std::sync::Arc;

use longgen_codegen::ir::MaskIr;
use longgen_codegen::pattern::Pattern;
use longgen_runtime::cpu::{CpuAttention, CpuAttentionError, CpuGradientInputs, CpuInputs, Isa};
use longgen_runtime::problem::{AttentionProblem, DType, HeadShape, ProblemError, Sequences};
use longgen_runtime::tensor::{Elements, HostTensor, TensorShape, TensorView};
use oracle::{Case, assert_close, assert_close_to, mask_of};

fn pattern(text: &str) -> Pattern {
    text.parse().unwrap()
}

fn compile(pattern: &Pattern, head_dim: usize, isa: Isa) -> CpuAttention {
    CpuAttention::with_isa(&MaskIr::lower(pattern, None).unwrap(), head_dim, isa).unwrap()
}

fn inputs(case: &Case) -> CpuInputs<'_> {
    let sink_logit = case.sink_logit.as_deref();
    CpuInputs { q: case.q.view(), k: case.k.view(), v: case.v.view(), sink_logit }
}

fn case(tokens: usize, shape: (usize, usize, usize), seed: u64) -> Case {
    let shape = HeadShape::new(shape.0, shape.1, shape.2).unwrap();
    let problem = AttentionProblem::new(shape, Sequences::single(tokens).unwrap());
    Case::new(problem, DType::F32, seed)
}

/// A tensor with some rows replaced: token, head, value.
fn with_rows(tensor: &HostTensor, rows: &[(usize, usize, f32)]) -> HostTensor {
    let shape = tensor.shape();
    let mut values: Vec<f32> = tensor.to_f64().iter().map(|&x| x as f32).collect();
    for &(token, head, value) in rows {
        let start = (token * shape.heads + head) * shape.head_dim;
        values[start..start + shape.head_dim].fill(value);
    }
    HostTensor::from_f32(tensor.dtype(), shape, &values).unwrap()
}

/// Whether each row of (tokens, heads, D) is free of NaN and infinity.
fn finite_rows(values: &[f64], head_dim: usize) -> Vec<bool> {
    values.chunks(head_dim).map(|row| row.iter().all(|x| x.is_finite())).collect()
}

#[test]
fn poison_stays_in_the_rows_that_see_it() {
    // Every third block of 2 keys and a window: most tiles are partial, some keys are seen by few rows.
    let pattern = pattern("window=5; heads 1: sink=3, stride=3, block=2");
    let mut case = case(150, (4, 2, 16), 11);
    case.k = with_rows(&case.k, &[(40, 0, f32::NAN), (70, 1, f32::NAN)]);
    case.v = with_rows(&case.v, &[(90, 0, f32::INFINITY), (100, 1, f32::NAN), (141, 0, f32::NAN)]);
    case.q = with_rows(&case.q, &[(20, 1, f32::NAN), (60, 3, f32::NAN)]);
    case.d_o = with_rows(&case.d_o, &[(120, 0, f32::NAN), (130, 2, f32::INFINITY)]);
    let exact = case.exact(mask_of(&pattern));
    for isa in Isa::available() {
        let attention = compile(&pattern, 16, isa);
        let output = attention.forward(&case.problem, inputs(&case)).unwrap();
        let gradient =
            CpuGradientInputs { o: output.o.view(), lse: &output.lse, d_o: case.d_o.view(), d_lse: None };
        let found = attention.backward(&case.problem, inputs(&case), gradient).unwrap();
        let compare = |name: &str, exact: &[f64], found: &[f64]| {
            let (exact, found) = (finite_rows(exact, 16), finite_rows(found, 16));
            let wrong: Vec<usize> = (0..exact.len()).filter(|&r| exact[r] != found[r]).collect();
            assert!(wrong.is_empty(), "{name} ({isa}): rows {wrong:?} differ in finiteness");
            assert!(exact.contains(&false) && exact.contains(&true), "{name} tests nothing");
        };
        compare("o", &exact.output.o, &output.o.to_f64());
        compare("dq", &exact.gradients.dq, &found.dq.to_f64());
        compare("dk", &exact.gradients.dk, &found.dk.to_f64());
        compare("dv", &exact.gradients.dv, &found.dv.to_f64());
    }
}

#[test]
fn decoding_splits_keys_and_agrees() {
    let (full, sparse) = (pattern("full"), pattern("sink=4, window=700, stride=5"));
    let shape = HeadShape::new(8, 2, 64).unwrap();
    let sequences = Sequences::new(vec![0, 1, 2, 2, 3], vec![0, 5000, 5001, 5600, 9000], None).unwrap();
    let case = Case::new(AttentionProblem::new(shape, sequences), DType::Bf16, 3).with_sink_logit(9);
    let pool = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap());
    for pattern in [&full, &sparse] {
        let (exact, plain) = (case.exact(mask_of(pattern)), case.plain(mask_of(pattern)));
        for isa in Isa::available() {
            let attention = compile(pattern, 64, isa).on_pool(pool.clone());
            let found = attention.decode(&case.problem, inputs(&case)).unwrap();
            assert_close("o", DType::Bf16, &exact.output.o, &plain.output.o, &found.o.to_f64());
            let lse: Vec<f64> = found.lse.iter().map(|&x| f64::from(x)).collect();
            assert_close("lse", DType::F32, &exact.output.lse, &plain.output.lse, &lse);
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let pattern = pattern("sink=4, window=40, stride=3, block=16");
    let case = case(300, (4, 2, 32), 5).with_d_lse(8);
    let results = [1, 2, 5].map(|threads| {
        let pool = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap());
        let attention = compile(&pattern, 32, Isa::available()[0]).on_pool(pool);
        let output = attention.forward(&case.problem, inputs(&case)).unwrap();
        let gradient = CpuGradientInputs {
            o: output.o.view(),
            lse: &output.lse,
            d_o: case.d_o.view(),
            d_lse: case.d_lse.as_deref(),
        };
        let found = attention.backward(&case.problem, inputs(&case), gradient).unwrap();
        (output.o, output.lse, found.dq, found.dk, found.dv)
    });
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0], results[2]);
}

#[test]
fn fused_buffers_are_read_through_strides() {
    let pattern = pattern("window=20, stride=4, block=8");
    let case = case(90, (4, 2, 24), 21);
    let attention = compile(&pattern, 24, Isa::available()[0]);
    let plain = attention.forward(&case.problem, inputs(&case)).unwrap();
    // One buffer of (tokens, 4 + 2 + 2 heads, D), as a fused projection leaves it.
    let tensors = [&case.q, &case.k, &case.v].map(|t| (t.shape().heads * 24, t.to_f64()));
    let mut fused: Vec<f32> = Vec::new();
    for token in 0..90 {
        for (width, values) in &tensors {
            fused.extend(values[token * width..(token + 1) * width].iter().map(|&x| x as f32));
        }
    }
    let view = |heads: usize, first_head: usize| {
        let shape = TensorShape { tokens: 90, heads, head_dim: 24 };
        TensorView::strided(Elements::F32(&fused[first_head * 24..]), shape, 8 * 24, 24).unwrap()
    };
    let strided = CpuInputs { q: view(4, 0), k: view(2, 4), v: view(2, 6), sink_logit: None };
    let found = attention.forward(&case.problem, strided).unwrap();
    assert_eq!(found.o, plain.o);
    assert_eq!(found.lse, plain.lse);
}

#[test]
fn one_attention_serves_every_length() {
    let pattern = pattern("sink=2, window=30 | where(q % 7 == k % 7)");
    let attention = compile(&pattern, 40, Isa::available()[0]);
    for tokens in [0, 1, 63, 64, 65, 200] {
        let case = case(tokens, (2, 1, 40), 31 + tokens as u64).with_sink_logit(4);
        let (exact, plain) = (case.exact(mask_of(&pattern)), case.plain(mask_of(&pattern)));
        let output = attention.forward(&case.problem, inputs(&case)).unwrap();
        assert_close("o", DType::F32, &exact.output.o, &plain.output.o, &output.o.to_f64());
        let gradient =
            CpuGradientInputs { o: output.o.view(), lse: &output.lse, d_o: case.d_o.view(), d_lse: None };
        let found = attention.backward(&case.problem, inputs(&case), gradient).unwrap();
        let size = case.d_sink_size(&exact);
        let (exact, plain) = (&exact.gradients, &plain.gradients);
        assert_close("dq", DType::F32, &exact.dq, &plain.dq, &found.dq.to_f64());
        assert_close("dk", DType::F32, &exact.dk, &plain.dk, &found.dk.to_f64());
        assert_close("dv", DType::F32, &exact.dv, &plain.dv, &found.dv.to_f64());
        let sink = |sink: &Option<Vec<f64>>| sink.clone().unwrap_or_default();
        let found: Vec<f64> = found.d_sink.iter().flatten().map(|&x| f64::from(x)).collect();
        assert_close_to("d_sink", case.dtype, &size, &sink(&exact.d_sink), &sink(&plain.d_sink), &found);
    }
}

#[test]
fn bad_problems_are_refused_with_a_reason() {
    let pattern = pattern("window=20");
    let ir = MaskIr::lower(&pattern, None).unwrap();
    for head_dim in [0, 4, 100, 264] {
        let error = CpuAttention::new(&ir, head_dim).unwrap_err().to_string();
        assert!(error.starts_with(&format!("head dimension {head_dim} is not supported")), "{error}");
    }
    let attention = CpuAttention::new(&ir, 64).unwrap();
    let good = case(10, (4, 2, 64), 1);
    let other_dim = case(10, (4, 2, 32), 1);
    let error = attention.forward(&other_dim.problem, inputs(&other_dim)).unwrap_err();
    assert!(matches!(error, CpuAttentionError::Problem(ProblemError::HeadDim { head_dim: 32, .. })));
    let short = case(9, (4, 2, 64), 1);
    let mixed = CpuInputs { k: short.k.view(), ..inputs(&good) };
    let error = attention.forward(&good.problem, mixed).unwrap_err();
    assert_eq!(error.to_string(), "`k` has shape [9, 2, 64], expected [10, 2, 64]");
    let logits = [0.0; 3];
    let wrong_sink = CpuInputs { sink_logit: Some(&logits), ..inputs(&good) };
    assert!(attention.forward(&good.problem, wrong_sink).is_err());
    let half = HostTensor::zeros(DType::Bf16, good.v.shape());
    let error = attention.forward(&good.problem, CpuInputs { v: half.view(), ..inputs(&good) }).unwrap_err();
    assert_eq!(error.to_string(), "`v` holds bf16, expected f32");
    let error = attention.decode(&good.problem, inputs(&good)).unwrap_err();
    assert!(matches!(error, CpuAttentionError::NotDecoding { sequence: 0, queries: 10 }));
}
