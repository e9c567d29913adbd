//! CPU kernels against the oracle: random patterns, shapes, lengths, offsets and element types.

mod common;
mod oracle;

use longgen_codegen::cpu::Blocking;
use longgen_codegen::ir::MaskIr;
use longgen_codegen::pattern::{Mask, Pattern};
use longgen_runtime::cpu::{CpuAttention, CpuGradientInputs, CpuInputs, CpuOutput, Isa};
use longgen_runtime::problem::{AttentionProblem, DType, HeadShape, Sequences};
use longgen_runtime::tensor::HostTensor;
use oracle::{Case, assert_close, assert_close_to, mask_of};
use proptest::prelude::*;

fn compile(pattern: &Pattern, head_dim: usize, isa: Isa) -> CpuAttention {
    CpuAttention::with_isa(&MaskIr::lower(pattern, None).unwrap(), head_dim, isa).unwrap()
}

fn inputs(case: &Case) -> CpuInputs<'_> {
    CpuInputs { q: case.q.view(), k: case.k.view(), v: case.v.view(), sink_logit: case.sink_logit.as_deref() }
}

/// A result full of NaN: what is not overwritten shows.
fn poisoned(case: &Case) -> CpuOutput {
    let values = vec![f32::NAN; case.problem.q_elements()];
    CpuOutput {
        o: HostTensor::from_f32(case.dtype, case.q.shape(), &values).unwrap(),
        lse: vec![f32::NAN; case.problem.lse_elements()],
    }
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// Forward and backward of one case on one instruction set.
fn check(case: &Case, pattern: &Pattern, isa: Isa) {
    check_blocked(case, pattern, isa, Blocking::default());
}

fn check_blocked(case: &Case, pattern: &Pattern, isa: Isa, blocking: Blocking) {
    let mut attention = compile(pattern, case.problem.shape.head_dim(), isa);
    attention.set_blocking(blocking).unwrap();
    let exact = case.exact(mask_of(pattern));
    let plain = case.plain(mask_of(pattern));
    let mut output = poisoned(case);
    attention.forward_into(&case.problem, inputs(case), &mut output).unwrap();
    let close = |name: &str, dtype, exact: &[f64], plain: &[f64], found: &[f64]| {
        assert_close(&format!("{name} ({isa})"), dtype, exact, plain, found);
    };
    let found = output.o.to_f64();
    close("o", case.dtype, &exact.output.o, &plain.output.o, &found);
    // The row's maximum plus the logarithm of a sum of at least 1: each rounds by its own size, and they may cancel.
    let size: Vec<f64> = exact.output.lse.iter().map(|lse| lse.abs() + 1.0).collect();
    let (exact_lse, plain_lse) = (&exact.output.lse, &plain.output.lse);
    assert_close_to("lse", DType::F32, &size, exact_lse, plain_lse, &wide(&output.lse));
    let gradient = CpuGradientInputs {
        o: output.o.view(),
        lse: &output.lse,
        d_o: case.d_o.view(),
        d_lse: case.d_lse.as_deref(),
    };
    let found = attention.backward(&case.problem, inputs(case), gradient).unwrap();
    let size = case.d_sink_size(&exact);
    let (exact, plain) = (&exact.gradients, &plain.gradients);
    close("dq", case.dtype, &exact.dq, &plain.dq, &found.dq.to_f64());
    close("dk", case.dtype, &exact.dk, &plain.dk, &found.dk.to_f64());
    close("dv", case.dtype, &exact.dv, &plain.dv, &found.dv.to_f64());
    if let (Some(exact), Some(plain), Some(found)) = (&exact.d_sink, &plain.d_sink, &found.d_sink) {
        assert_close_to("d_sink", case.dtype, &size, exact, plain, &wide(found));
    }
}

fn heads() -> impl Strategy<Value = HeadShape> {
    let dims = prop::sample::select(vec![8usize, 24, 40, 64, 96, 128]);
    (1usize..4, prop::sample::select(vec![1usize, 2, 3, 4]), dims)
        .prop_map(|(kv_heads, group, d)| HeadShape::new(kv_heads * group, kv_heads, d).unwrap())
}

/// Any blocking that kernels take.
fn blocking() -> impl Strategy<Value = Blocking> {
    let copy_uses = prop::sample::select(vec![0u32, 2, Blocking::NEVER]);
    (1u32..=4, 1u32..=16, 0u32..80, copy_uses).prop_map(|(strips, eights, gather_below, copy_uses)| {
        Blocking { lanes: 16 * strips, rows: 8 * eights, gather_below, copy_uses }
    })
}

/// One to three sequences, some empty, with default offsets or explicit ones (negative ones too).
fn sequences() -> impl Strategy<Value = Sequences> {
    let sequence = (
        prop_oneof![1 => Just(0usize), 6 => 1usize..150],
        prop_oneof![1 => Just(0usize), 6 => 1usize..200],
        -20i64..120,
    );
    (prop::collection::vec(sequence, 1..4), any::<bool>(), any::<bool>()).prop_map(
        |(list, square, explicit)| {
            let (mut cu_q, mut cu_k, mut offsets) = (vec![0], vec![0], Vec::new());
            for (q_len, k_len, offset) in list {
                cu_q.push(cu_q[cu_q.len() - 1] + if square { k_len } else { q_len });
                cu_k.push(cu_k[cu_k.len() - 1] + k_len);
                offsets.push(offset);
            }
            Sequences::new(cu_q, cu_k, explicit.then_some(offsets)).unwrap()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn random_problems_agree_with_the_oracle(
        pattern in common::patterns::pattern(),
        shape in heads(),
        sequences in sequences(),
        softcap in prop::option::weighted(0.25, 0.5f32..30.0),
        (with_sink, with_d_lse) in any::<(bool, bool)>(),
        dtype in prop::sample::select(vec![DType::F32, DType::Bf16, DType::F16]),
        isa in prop::sample::select(Isa::available()),
        blocking in blocking(),
        seed in any::<u32>(),
    ) {
        let mut problem = AttentionProblem::new(shape, sequences);
        if let Some(cap) = softcap {
            problem = problem.with_softcap(cap).unwrap();
        }
        let mut case = Case::new(problem, dtype, u64::from(seed));
        if with_sink {
            case = case.with_sink_logit(u64::from(seed) + 4);
        }
        if with_d_lse {
            case = case.with_d_lse(u64::from(seed) + 5);
        }
        check_blocked(&case, &pattern, isa, blocking);
    }
}

fn pattern(mask: Mask) -> Pattern {
    Pattern::builder(mask).build().unwrap()
}

#[test]
fn every_instruction_set_agrees_on_every_tile_kind() {
    let pattern = pattern(Mask::Union(vec![Mask::sink(4), Mask::window(100), Mask::stride(3)]));
    let shape = HeadShape::new(4, 2, 64).unwrap();
    let problem = AttentionProblem::new(shape, Sequences::single(700).unwrap());
    let case = Case::new(problem, DType::F32, 7);
    for isa in Isa::available() {
        check(&case, &pattern, isa);
    }
}

#[test]
fn short_runs_and_long_ones_in_one_walk() {
    // Single strided keys are gathered, the window of a tile of queries is long enough to be read in place: the
    // gathered rows that wait must not take the others' indices.
    for text in ["sink=4, stride=5, block=1, window=1", "sink=8, stride=5, block=2, window=3"] {
        let pattern: Pattern = text.parse().unwrap();
        let shape = HeadShape::new(4, 2, 16).unwrap();
        let problem = AttentionProblem::new(shape, Sequences::single(200).unwrap());
        let case = Case::new(problem, DType::F32, 21);
        Isa::available().into_iter().for_each(|isa| check(&case, &pattern, isa));
    }
}

#[test]
fn rows_that_many_tiles_walk_are_copied_and_agree() {
    let shape = HeadShape::new(4, 2, 16).unwrap();
    for dtype in [DType::F32, DType::Bf16] {
        let problem = AttentionProblem::new(shape, Sequences::packed(vec![0, 900, 900, 2000]).unwrap());
        check(&Case::new(problem, dtype, 17), &pattern(Mask::full()), Isa::available()[0]);
    }
}
