//! The oracle itself: hand-computed rows, and its gradients against finite differences.

use longgen_runtime::oracle::{self, Inputs};
use longgen_runtime::problem::{AttentionProblem, HeadShape, ProblemError, Sequences};

/// Values without structure, the same on every machine.
fn noise(len: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1u64 << 53) as f64 * 2.0 - 1.0
        })
        .collect()
}

fn sparse(g: i64, i: i64, j: i64) -> bool {
    j <= i && (j < 1 || i - j < 2 || (j + g) % 3 == 0) && i != 3
}

fn tiny_problem() -> AttentionProblem {
    let shape = HeadShape::new(4, 2, 3).unwrap();
    let sequences = Sequences::new(vec![0, 5, 5, 7], vec![0, 5, 5, 11], None).unwrap();
    AttentionProblem::new(shape, sequences).with_softcap(0.7).unwrap()
}

#[test]
fn first_row_returns_its_own_value() {
    let shape = HeadShape::new(1, 1, 2).unwrap();
    let problem = AttentionProblem::new(shape, Sequences::single(2).unwrap());
    let (q, k, v) = (vec![1.0, 0.0, 0.0, 1.0], vec![0.5, 0.0, 0.0, 0.0], vec![3.0, 4.0, 5.0, 6.0]);
    let inputs = Inputs { q: &q, k: &k, v: &v, sink_logit: None };
    let out = oracle::forward(&problem, inputs, |_, i, j| j <= i).unwrap();
    assert_eq!(&out.o[..2], &[3.0, 4.0]);
    assert!((out.lse[0] - 0.5 * f64::from(problem.scale())).abs() < 1e-12);
    // The second row scores both keys 0: their mean, and ln 2.
    assert!((out.o[2] - 4.0).abs() < 1e-12 && (out.o[3] - 5.0).abs() < 1e-12);
    assert!((out.lse[1] - 2f64.ln()).abs() < 1e-12);
}

#[test]
fn row_without_keys_is_zero_and_keeps_the_sink() {
    let problem = tiny_problem();
    let (q, k, v) = (noise(84, 1), noise(66, 2), noise(66, 3));
    let logit = [0.3, -0.2, 0.1, 0.4];
    for sink_logit in [None, Some(&logit[..])] {
        let inputs = Inputs { q: &q, k: &k, v: &v, sink_logit };
        let out = oracle::forward(&problem, inputs, sparse).unwrap();
        for h in 0..4 {
            assert_eq!(&out.o[(3 * 4 + h) * 3..(3 * 4 + h) * 3 + 3], &[0.0; 3]);
            let expected = sink_logit.map_or(f64::NEG_INFINITY, |l| l[h]);
            let lse = out.lse[h * 7 + 3];
            assert!(lse == expected || (lse - expected).abs() < 1e-12);
        }
    }
}

#[test]
fn gradients_agree_with_finite_differences() {
    let problem = tiny_problem();
    let point = [noise(84, 1), noise(66, 2), noise(66, 3), noise(4, 4)];
    let (d_o, d_lse) = (noise(84, 5), noise(28, 6));
    // With a sink logit every row has a finite log-sum-exp, so the loss may use them all.
    let loss = |x: &[Vec<f64>; 4]| {
        let inputs = Inputs { q: &x[0], k: &x[1], v: &x[2], sink_logit: Some(&x[3]) };
        let out = oracle::forward(&problem, inputs, sparse).unwrap();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        dot(&out.o, &d_o) + dot(&out.lse, &d_lse)
    };
    let inputs = Inputs { q: &point[0], k: &point[1], v: &point[2], sink_logit: Some(&point[3]) };
    let out = oracle::forward(&problem, inputs, sparse).unwrap();
    let grads = oracle::backward(&problem, inputs, &out, &d_o, Some(&d_lse), sparse).unwrap();
    let exact = [grads.dq, grads.dk, grads.dv, grads.d_sink.unwrap()];
    let step = 1e-5;
    for (which, exact) in exact.iter().enumerate() {
        for (index, &exact) in exact.iter().enumerate() {
            let moved = |by: f64| {
                let mut x = point.clone();
                x[which][index] += by;
                loss(&x)
            };
            let measured = (moved(step) - moved(-step)) / (2.0 * step);
            assert!((measured - exact).abs() < 1e-8, "input {which}[{index}]: {measured} {exact}");
        }
    }
}

#[test]
fn unseen_nan_stays_unseen() {
    let problem = tiny_problem();
    let (q, mut k, mut v) = (noise(84, 1), noise(66, 2), noise(66, 3));
    // Key 4 of the first sequence is seen by its last query alone.
    for x in 0..6 {
        k[4 * 6 + x] = f64::NAN;
        v[4 * 6 + x] = f64::INFINITY;
    }
    let inputs = Inputs { q: &q, k: &k, v: &v, sink_logit: None };
    let out = oracle::forward(&problem, inputs, sparse).unwrap();
    for (index, o) in out.o.iter().enumerate() {
        assert_eq!(o.is_nan(), index / 12 == 4, "element {index}");
    }
}

#[test]
fn bad_problems_are_named() {
    assert_eq!(HeadShape::new(6, 4, 64), Err(ProblemError::HeadsNotDivisible { heads: 6, kv_heads: 4 }));
    assert_eq!(HeadShape::new(6, 0, 64), Err(ProblemError::Zero { name: "kv_heads" }));
    let decreasing = Sequences::packed(vec![0, 5, 3]).unwrap_err();
    assert_eq!(decreasing.to_string(), "`cu_q` decreases from 5 to 3 at entry 2");
    assert!(matches!(
        Sequences::new(vec![0, 1], vec![0, 1, 2], None),
        Err(ProblemError::SequenceCount { name: "cu_k", .. })
    ));
    assert!(matches!(Sequences::packed(vec![]), Err(ProblemError::CuEmpty { .. })));
    assert!(matches!(Sequences::packed(vec![1, 2]), Err(ProblemError::CuStart { .. })));
    assert!(Sequences::packed(vec![0, 0, 0]).is_ok());
    assert!(matches!(
        Sequences::new(vec![0, 1], vec![0, 1], Some(vec![i64::MAX])),
        Err(ProblemError::TooLong { name: "q_offset", .. })
    ));
    let shape = HeadShape::new(1, 1, 8).unwrap();
    let problem = AttentionProblem::new(shape, Sequences::single(2).unwrap());
    assert!(problem.clone().with_softcap(0.0).is_err());
    assert!(problem.clone().with_scale(f32::NAN).is_err());
    let inputs = Inputs { q: &[0.0; 16], k: &[0.0; 15], v: &[0.0; 16], sink_logit: None };
    let error = oracle::forward(&problem, inputs, |_, i, j| j <= i).unwrap_err();
    assert_eq!(error.to_string(), "`k` has shape [15], expected [16]");
}
