//! Decoding through the pattern-shaped cache equals the run without a cache, for any pattern, chunk size and length;
//! and the cache is no larger than the analysis says.

mod common;

use longgen_codegen::analysis::KvLayout;
use longgen_codegen::ir::MaskIr;
use longgen_codegen::pattern::{Clause, IndexSet, Mask, Pattern};
use longgen_runtime::model::{Batch, Chunk, KvCache, Llama, LlamaConfig, ModelError, Params};
use proptest::prelude::*;

const VOCABULARY: usize = 24;

fn config() -> LlamaConfig {
    LlamaConfig::parse(
        r#"{"hidden_size": 32, "intermediate_size": 20, "num_hidden_layers": 3, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 24, "initializer_range": 0.4}"#,
    )
    .unwrap()
}

fn tokens(count: usize) -> Vec<u32> {
    (0..count).map(|t| ((t * 7 + t * t / 3) % VOCABULARY) as u32).collect()
}

/// The largest difference between cached and cache-less logits, over the ends of all chunks, against their size.
fn deviation(pattern: &Pattern, length: usize, spare: usize, chunks: &[usize]) -> f32 {
    let model = Llama::new(config(), pattern).unwrap();
    let weights = Params::random(&config(), 11);
    let tokens = tokens(length);
    let whole = model.logits(&weights, &Batch::single(tokens.clone()).unwrap()).unwrap();
    let largest = chunks.iter().copied().max().unwrap();
    let mut cache = KvCache::new(&model, length + spare, largest);
    let (mut worst, mut sizes) = (0.0f32, chunks.iter().cycle());
    while cache.tokens() < length {
        let first = cache.tokens();
        let end = length.min(first + sizes.next().unwrap());
        let positions: Vec<f32> = (first..end).map(|t| t as f32).collect();
        let chunk = Chunk { tokens: &tokens[first..end], positions: &positions, cache: &mut cache };
        let found = model.extend(&weights, &mut [chunk]).unwrap().remove(0);
        let expected = &whole[(end - 1) * VOCABULARY..end * VOCABULARY];
        let size = expected.iter().fold(1.0f32, |size, x| size.max(x.abs()));
        let difference = found.iter().zip(expected).map(|(f, e)| (f - e).abs()).fold(0.0, f32::max);
        assert!(difference.is_finite(), "a logit is not a number");
        worst = worst.max(difference / size);
    }
    worst
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_pattern_any_chunks(
        pattern in common::patterns::pattern(),
        length in 1usize..150,
        spare in prop::sample::select(vec![0usize, 1, 40]),
        chunks in prop::collection::vec(1usize..24, 1..4),
    ) {
        let deviation = deviation(&pattern, length, spare, &chunks);
        prop_assert!(deviation < 2e-5, "{deviation}");
    }
}

#[test]
fn every_edge_of_the_ring_and_of_the_strided_blocks() {
    let stride = Clause::Stride { every: 3, block: 8, step: 1, offset: 0 };
    let mask = Mask::from(Clause::Sink { tokens: 3 }) | Clause::Window { tokens: 7 }.into() | stride.into();
    let sparse = Pattern::builder(mask.clone()).build().unwrap();
    let hybrid = Pattern::builder(mask).full_layers(IndexSet::of([1])).build().unwrap();
    for length in (5..=10).chain(14..=18).chain(23..=27).chain([48, 49]) {
        for chunk in [1, 6, 7, 8, 9] {
            assert!(deviation(&sparse, length, 30, &[chunk]) < 2e-5, "{length} tokens by {chunk}");
            assert!(deviation(&hybrid, length, 0, &[chunk]) < 2e-5, "{length} tokens by {chunk}, hybrid");
        }
    }
}

#[test]
fn the_cache_holds_what_the_analysis_says() {
    let mask = Mask::from(Clause::Sink { tokens: 4 }) | Clause::Window { tokens: 32 }.into();
    let pattern = Pattern::builder(mask).full_layers(IndexSet::of([1])).build().unwrap();
    let model = Llama::new(config(), &pattern).unwrap();
    let bytes = |tokens| KvCache::new(&model, tokens, 16).bytes();
    assert_eq!(KvCache::bytes_for(&model, 10_000, 16), bytes(10_000) as u128);
    let sparse_slots = 4 + 32 + 15;
    let cache = KvCache::new(&model, 10_000, 16);
    assert_eq!(
        [cache.slots(0, 0), cache.slots(1, 0), cache.slots(2, 1)],
        [sparse_slots, 10_000, sparse_slots]
    );
    let ir = MaskIr::lower(&pattern, Some(0)).unwrap();
    assert_eq!(KvLayout::new(&ir, 0).slots(0, 10_000, 16), sparse_slots as u64);
    // Per slot and KV head: a key and a value of 8 elements, and the key's index. Only the full layer grows.
    assert_eq!(bytes(20_000) - bytes(10_000), 10_000 * 2 * (2 * 8 * 4 + 4));
}

#[test]
fn sequences_of_a_batch_do_not_meet() {
    let pattern = Pattern::builder(Clause::Window { tokens: 5 }).build().unwrap();
    let model = Llama::new(config(), &pattern).unwrap();
    let weights = Params::random(&config(), 11);
    let (long, short) = (tokens(20), tokens(9)[3..].to_vec());
    let positions: Vec<f32> = (0..20).map(|t| t as f32).collect();
    let alone = |tokens: &[u32]| {
        let mut cache = KvCache::new(&model, 20, 20);
        let chunk = Chunk { tokens, positions: &positions[..tokens.len()], cache: &mut cache };
        model.extend(&weights, &mut [chunk]).unwrap().remove(0)
    };
    let (mut first, mut second) = (KvCache::new(&model, 20, 20), KvCache::new(&model, 20, 20));
    let together = model
        .extend(
            &weights,
            &mut [
                Chunk { tokens: &long, positions: &positions, cache: &mut first },
                Chunk { tokens: &short, positions: &positions[..short.len()], cache: &mut second },
            ],
        )
        .unwrap();
    for (found, expected) in together.iter().zip([alone(&long), alone(&short)]) {
        assert!(found.iter().zip(&expected).all(|(f, e)| (f - e).abs() < 1e-5));
    }
}

#[test]
fn what_does_not_fit_is_refused_and_leaves_the_cache_alone() {
    let pattern = Pattern::builder(Clause::Window { tokens: 5 }).build().unwrap();
    let model = Llama::new(config(), &pattern).unwrap();
    let weights = Params::random(&config(), 11);
    let mut cache = KvCache::new(&model, 6, 4);
    let mut extend = |tokens: &[u32]| {
        let positions = vec![0.0; tokens.len()];
        let chunk = Chunk { tokens, positions: &positions, cache: &mut cache };
        model.extend(&weights, &mut [chunk]).map(|_| ())
    };
    assert!(matches!(extend(&[]), Err(ModelError::Batch { .. })));
    assert!(matches!(extend(&[1; 5]), Err(ModelError::Batch { .. })));
    assert!(matches!(extend(&[1, 99]), Err(ModelError::Token { token: 99, index: 1, vocabulary: 24 })));
    extend(&[1; 4]).unwrap();
    assert!(matches!(extend(&[1; 4]), Err(ModelError::TooLong { asked: 8, limit: 6 })));
    extend(&[1; 2]).unwrap();
}
