//! The needle: a number hidden in long filler text, asked for at its end.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::generate::{Decoder, Generation, Sampling, generate};
use crate::model::{ModelError, Tokenizer};
use crate::random::Random;

/// What to try.
#[derive(Clone, Debug, PartialEq)]
pub struct Needle {
    /// Lengths of the prompt, in tokens.
    pub lengths: Vec<usize>,
    /// Where the number stands: 0 at the beginning, 1 at the end.
    pub depths: Vec<f64>,
    /// Tries for each length and depth, each with its own number.
    pub trials: usize,
    /// Seed of the numbers.
    pub seed: u64,
    /// Tokens of the prompt that go through the model at once.
    pub chunk_tokens: usize,
}

/// The result for one length and depth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NeedleCell {
    /// Tokens of the prompt.
    pub length: usize,
    /// Where the number stood.
    pub depth: f64,
    /// Tries in which the model said the number.
    pub found: usize,
    /// Tries.
    pub trials: usize,
}

const QUESTION: &str = " The hidden number is";

/// Tries every length and depth in turn, `filler` repeated as often as needed. `progress` gets each cell; setting `stop`
/// ends after one, with the cells so far.
///
/// # Errors
/// A length that does not hold the number and the question.
pub fn needle_grid(
    decoder: &mut dyn Decoder,
    tokenizer: &Tokenizer,
    filler: &str,
    needle: &Needle,
    stop: &AtomicBool,
    mut progress: impl FnMut(&NeedleCell),
) -> Result<Vec<NeedleCell>, ModelError> {
    let filler = tokenizer.encode(filler)?;
    let mut random = Random::new(needle.seed);
    let mut cells = Vec::new();
    for &length in &needle.lengths {
        for &depth in &needle.depths {
            let mut cell = NeedleCell { length, depth, found: 0, trials: 0 };
            while cell.trials < needle.trials && !stop.load(Ordering::Relaxed) {
                let number = format!(" {:05}", random.below(100_000));
                let prompt = prompt(tokenizer, &filler, length, depth, &number)?;
                let said = answer(decoder, tokenizer, prompt, &number, needle.chunk_tokens, stop)?;
                cell.found += usize::from(said.starts_with(&number));
                cell.trials += 1;
            }
            if cell.trials == 0 {
                return Ok(cells);
            }
            progress(&cell);
            cells.push(cell);
        }
    }
    Ok(cells)
}

/// `length` tokens: filler with the number in it, and the question.
fn prompt(
    tokenizer: &Tokenizer,
    filler: &[u32],
    length: usize,
    depth: f64,
    number: &str,
) -> Result<Vec<u32>, ModelError> {
    // The tokenizer's first token belongs at the beginning of the prompt only.
    let inner = |text: &str| Ok::<_, ModelError>(tokenizer.encode(text)?.split_off(prefix(tokenizer)?));
    let (needle, question) = (inner(&format!("{QUESTION}{number}."))?, inner(QUESTION)?);
    let begin = prefix(tokenizer)?;
    if filler.len() <= begin {
        return Err(ModelError::batch("the filler has no text to hide a number in"));
    }
    let least = begin + needle.len() + question.len();
    let too_short = || {
        ModelError::batch(format!(
            "number and question take {least} tokens, a length of {length} is too short"
        ))
    };
    let rest = length.checked_sub(least).ok_or_else(too_short)?;
    let before = (rest as f64 * depth.clamp(0.0, 1.0)).round() as usize;
    let mut hay = filler[begin..].iter().copied().cycle();
    let mut tokens = filler[..begin].to_vec();
    tokens.extend(hay.by_ref().take(before));
    tokens.extend(needle);
    tokens.extend(hay.take(rest - before));
    tokens.extend(question);
    Ok(tokens)
}

/// Tokens the tokenizer puts before every text.
fn prefix(tokenizer: &Tokenizer) -> Result<usize, ModelError> {
    let (one, two) = (tokenizer.encode("a")?, tokenizer.encode("b")?);
    Ok(one.iter().zip(&two).take_while(|(one, two)| one == two).count())
}

fn answer(
    decoder: &mut dyn Decoder,
    tokenizer: &Tokenizer,
    prompt: Vec<u32>,
    number: &str,
    chunk_tokens: usize,
    stop: &AtomicBool,
) -> Result<String, ModelError> {
    let new_tokens = tokenizer.encode(number)?.len();
    let how = Generation {
        new_tokens,
        chunk_tokens,
        max_tokens: prompt.len() + new_tokens,
        sampling: Sampling::GREEDY,
        seed: 0,
        stop: Vec::new(),
    };
    let mut all = generate(decoder, tokenizer, &[prompt], &how, stop, |_, _| ())?;
    Ok(all.pop().map(|generated| generated.text).unwrap_or_default())
}
