//! Fuzzes the readers of patterns: `fuzz_patterns toml|text|predicate SECONDS [SEED]`. Stops at the first input that
//! panics or breaks a round trip and prints it.

#[path = "../tests/common/fuzz.rs"]
mod fuzz;

use std::time::{Duration, Instant};

use fuzz::{
    PREDICATE_SEEDS, PREDICATE_WORDS, Random, TEXT_SEEDS, TEXT_WORDS, TOML_SEEDS, TOML_WORDS,
    check_predicate, check_text, check_toml,
};

type Target = (&'static [&'static str], &'static [&'static str], fn(&[u8]) -> bool);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let usage = "usage: fuzz_patterns toml|text|predicate SECONDS [SEED]";
    let (seeds, words, check): Target = match args.first().map(String::as_str) {
        Some("toml") => (&TOML_SEEDS, &TOML_WORDS, check_toml),
        Some("text") => (&TEXT_SEEDS, &TEXT_WORDS, check_text),
        Some("predicate") => (&PREDICATE_SEEDS, &PREDICATE_WORDS, check_predicate),
        _ => return Err(usage.into()),
    };
    let seconds = args.get(1).ok_or(usage)?.parse()?;
    let mut random = Random::new(args.get(2).map_or(Ok(1), |seed| seed.parse())?);
    let (start, limit) = (Instant::now(), Duration::from_secs(seconds));
    let (mut tried, mut accepted, mut slowest) = (0_u64, 0_u64, (Duration::ZERO, Vec::new()));
    while start.elapsed() < limit {
        let input = random.mutated(seeds, words);
        let begun = Instant::now();
        match std::panic::catch_unwind(|| check(&input)) {
            Ok(ok) => accepted += u64::from(ok),
            Err(_) => return Err(format!("input {tried}: {:?}", String::from_utf8_lossy(&input)).into()),
        }
        if begun.elapsed() > slowest.0 {
            slowest = (begun.elapsed(), input);
        }
        tried += 1;
    }
    let (time, input) = slowest;
    let head: String = String::from_utf8_lossy(&input).chars().take(200).collect();
    println!("{tried} inputs, {accepted} accepted, slowest {time:?}: {head:?}");
    Ok(())
}
