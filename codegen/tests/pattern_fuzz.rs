//! A bounded, deterministic run of the fuzzer; `cargo run --release -p longgen-codegen --example fuzz_patterns` goes on.

#[path = "common/fuzz.rs"]
mod fuzz;

use fuzz::{
    PREDICATE_SEEDS, PREDICATE_WORDS, Random, TEXT_SEEDS, TEXT_WORDS, TOML_SEEDS, TOML_WORDS,
    check_predicate, check_text, check_toml,
};

fn run(rounds: u64, seeds: &[&str], words: &[&str], check: fn(&[u8]) -> bool) {
    let mut random = Random::new(7);
    let accepted = (0..rounds).filter(|_| check(&random.mutated(seeds, words))).count() as u64;
    // A fuzzer that reaches only the first error tests little.
    assert!(accepted > rounds / 100, "{accepted} of {rounds} inputs were accepted");
}

#[test]
fn toml_reader_survives() {
    run(4000, &TOML_SEEDS, &TOML_WORDS, check_toml);
}

#[test]
fn text_reader_survives() {
    run(4000, &TEXT_SEEDS, &TEXT_WORDS, check_text);
}

#[test]
fn predicate_reader_survives() {
    run(1500, &PREDICATE_SEEDS, &PREDICATE_WORDS, check_predicate);
}
