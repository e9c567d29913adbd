//! Gradients against finite differences: each op element by element, the model along random directions.

use longgen_codegen::pattern::{Clause, IndexSet, Mask, Pattern};
use longgen_runtime::model::{Batch, Llama, LlamaConfig, Params, Recompute};
use longgen_runtime::ops::cross_entropy::{HeadShape, cross_entropy_backward, cross_entropy_forward};
use longgen_runtime::ops::rmsnorm::{rmsnorm_backward, rmsnorm_forward};
use longgen_runtime::ops::rope::{RopeAngles, rope_backward, rope_forward};
use longgen_runtime::ops::swiglu::{swiglu_backward, swiglu_forward};
use longgen_runtime::random::Random;

fn normal(random: &mut Random, len: usize) -> Vec<f32> {
    (0..len).map(|_| random.normal() as f32).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Central differences of `f` at `x`, against `gradient`. A step of 1e-2 balances rounding (1e-7 / 1e-2) and curvature.
#[track_caller]
fn check(x: &[f32], gradient: &[f32], f: impl Fn(&[f32]) -> f64) {
    assert_eq!(x.len(), gradient.len());
    for index in 0..x.len() {
        let at = |step: f32| {
            let mut x = x.to_vec();
            x[index] += step;
            f(&x)
        };
        let difference = (at(1e-2) - at(-1e-2)) / 2e-2;
        let found = f64::from(gradient[index]);
        assert!(
            (found - difference).abs() < 2e-3 * (1.0 + difference.abs()),
            "{index}: {found} {difference}"
        );
    }
}

#[test]
fn rmsnorm() {
    let mut random = Random::new(1);
    let (x, w, d_y) = (normal(&mut random, 12), normal(&mut random, 4), normal(&mut random, 12));
    let loss = |x: &[f32], w: &[f32]| {
        let (mut y, mut scales) = (vec![0.0; 12], vec![0.0; 3]);
        rmsnorm_forward(x, w, 1e-5, &mut y, &mut scales);
        (dot(&y, &d_y), scales)
    };
    let (mut d_x, mut d_w) = (vec![0.0; 12], vec![0.0; 4]);
    rmsnorm_backward(&x, &w, &loss(&x, &w).1, &d_y, &mut d_x, &mut d_w);
    check(&x, &d_x, |x| loss(x, &w).0);
    check(&w, &d_w, |w| loss(&x, w).0);
}

#[test]
fn swiglu() {
    let mut random = Random::new(2);
    let (gate, up, d_y) = (normal(&mut random, 9), normal(&mut random, 9), normal(&mut random, 9));
    let loss = |gate: &[f32], up: &[f32]| {
        let mut y = vec![0.0; 9];
        swiglu_forward(gate, up, &mut y);
        dot(&y, &d_y)
    };
    let (mut d_gate, mut d_up) = (gate.clone(), up.clone());
    swiglu_backward(&mut d_gate, &mut d_up, &d_y);
    check(&gate, &d_gate, |gate| loss(gate, &up));
    check(&up, &d_up, |up| loss(&gate, up));
}

#[test]
fn rope() {
    let mut random = Random::new(3);
    let (x, d_y) = (normal(&mut random, 24), normal(&mut random, 24));
    let angles = RopeAngles::new(&[1.0, 0.1], 1.3, &[0.0, 2.5, 7.0]);
    let mut d_x = d_y.clone();
    rope_backward(&angles, 2, &mut d_x);
    check(&x, &d_x, |x| {
        let mut y = x.to_vec();
        rope_forward(&angles, 2, &mut y);
        dot(&y, &d_y)
    });
}

#[test]
fn cross_entropy() {
    let mut random = Random::new(4);
    let shape = HeadShape { width: 3, vocabulary: 5 };
    let (h, w) = (normal(&mut random, 9), normal(&mut random, 15));
    let targets = [Some(4), None, Some(0)];
    let (mut d_h, mut d_w) = (vec![0.0; 9], vec![0.0; 15]);
    let loss = cross_entropy_backward(shape, &h, &w, &targets, 0.5, &mut d_h, &mut d_w);
    assert_eq!(loss, cross_entropy_forward(shape, &h, &w, &targets));
    check(&h, &d_h, |h| 0.5 * cross_entropy_forward(shape, h, &w, &targets));
    check(&w, &d_w, |w| 0.5 * cross_entropy_forward(shape, &h, w, &targets));
}

#[test]
fn the_model_along_random_directions() {
    for tied in [false, true] {
        let config = LlamaConfig::parse(&format!(
            r#"{{"hidden_size": 32, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
                "num_key_value_heads": 2, "vocab_size": 24, "initializer_range": 0.3, "tie_word_embeddings": {tied}}}"#
        ))
        .unwrap();
        let mask = Mask::from(Clause::Sink { tokens: 2 }) | Clause::Window { tokens: 4 }.into();
        let pattern = Pattern::builder(mask).full_layers(IndexSet::of([1])).softcap(3.0).build().unwrap();
        let model = Llama::new(config.clone(), &pattern).unwrap();
        let weights = Params::random(&config, 5);
        let batch = Batch::packed((0..30).map(|t| (t * 5 + t / 4) % 24).collect(), vec![0, 11, 30]).unwrap();
        let mut gradients = Params::zeros(weights.table().clone());
        model.loss_and_gradients(&weights, &batch, 1.0, Recompute::Layers, &mut gradients).unwrap();
        let mut random = Random::new(6);
        for entry in weights.table().entries() {
            let direction = normal(&mut random, entry.range().len());
            let at = |step: f32| {
                let mut moved = weights.clone();
                let moved_data = moved.data_mut()[entry.range()].iter_mut();
                moved_data.zip(&direction).for_each(|(w, d)| *w += step * d);
                model.loss(&moved, &batch).unwrap()
            };
            let difference = (at(1e-3) - at(-1e-3)) / 2e-3;
            let found = dot(&gradients.data()[entry.range()], &direction);
            let size = gradients.data()[entry.range()].iter().map(|g| f64::from(g * g)).sum::<f64>().sqrt();
            assert!((found - difference).abs() < 2e-2 * (size + 1.0), "{}: {found} {difference}", entry.name);
        }
    }
}
