//! Decoding: prompts in chunks through the model, then one token of every sequence at a time, each against its own
//! pattern-shaped cache.

mod decoder;
mod sample;
mod stop;

use std::sync::atomic::{AtomicBool, Ordering};

use crate::model::{LlamaConfig, ModelError, TextStream, Tokenizer};
use crate::random::Random;

pub use decoder::{CpuDecoder, Decoder, Room};
pub use sample::Sampling;
use stop::StopFilter;

/// How to decode.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// The most tokens to add to a prompt.
    pub new_tokens: usize,
    /// Tokens of a prompt that go through the model at once.
    pub chunk_tokens: usize,
    /// The longest sequence, prompt and new tokens together; the model's own limit unless a caller knows better.
    pub max_tokens: usize,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Seed of the draws; each prompt has a stream of its own, whatever else is in the batch.
    pub seed: u64,
    /// Texts that end a sequence.
    pub stop: Vec<String>,
}

impl Generation {
    fn room(&self, prompt: usize) -> Room {
        Room { max_tokens: prompt + self.new_tokens, chunk_tokens: self.chunk_tokens.clamp(1, prompt.max(1)) }
    }
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The most tokens asked for.
    Length,
    /// The model's token for the end of a text.
    EndToken,
    /// A stop text.
    StopText,
    /// The caller's wish.
    Interrupted,
}

/// A decoded sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// New tokens, the end token included.
    pub tokens: Vec<u32>,
    /// Their text, without the stop text.
    pub text: String,
    /// Why it ended.
    pub ending: Ending,
    /// Bytes of its cache.
    pub cache_bytes: usize,
}

/// A sequence being decoded.
struct Active<'a> {
    random: Random,
    stream: TextStream<'a>,
    filter: StopFilter,
    tokens: Vec<u32>,
    text: String,
    ending: Option<Ending>,
    logits: Vec<f32>,
}

/// Continues prompts. `show` gets the number of a prompt and the text that was added to it, as it comes.
///
/// # Errors
/// An empty prompt, one that is too long for the limit, tokens outside the vocabulary.
pub fn generate(
    decoder: &mut dyn Decoder,
    tokenizer: &Tokenizer,
    prompts: &[Vec<u32>],
    how: &Generation,
    stop: &AtomicBool,
    mut show: impl FnMut(usize, &str),
) -> Result<Vec<Generated>, ModelError> {
    if let Some(problem) = how.sampling.defect() {
        return Err(ModelError::batch(problem));
    }
    prompts.iter().enumerate().try_for_each(|(n, prompt)| check_prompt(n, prompt, how))?;
    let rooms: Vec<Room> = prompts.iter().map(|prompt| how.room(prompt.len())).collect();
    decoder.open(&rooms)?;
    let mut all: Vec<Active<'_>> = (0..prompts.len()).map(|n| Active::new(tokenizer, n, how)).collect();
    for (n, (active, prompt)) in all.iter_mut().zip(prompts).enumerate() {
        active.prefill(decoder, n, prompt, rooms[n].chunk_tokens, stop)?;
    }
    while let Some(tokens) = draw(decoder.config(), &mut all, how, stop, &mut show)? {
        let logits = decoder.step(&tokens)?;
        all.iter_mut().zip(logits).for_each(|(active, logits)| active.logits = logits);
    }
    let finish = |(n, active): (usize, Active<'_>)| active.finish(n, decoder.cache_bytes(n), &mut show);
    all.into_iter().enumerate().map(finish).collect()
}

fn check_prompt(n: usize, prompt: &[u32], how: &Generation) -> Result<(), ModelError> {
    if prompt.is_empty() {
        return Err(ModelError::batch(format!("prompt {n} has no tokens")));
    }
    let (tokens, new_tokens, limit) = (prompt.len(), how.new_tokens, how.max_tokens);
    if tokens + new_tokens > limit {
        return Err(ModelError::PromptTooLong { prompt: n, tokens, new_tokens, limit });
    }
    Ok(())
}

/// Draws a token for every sequence that goes on, `None` for the others; `None` when none does. A token that ends its
/// sequence is not fed back.
fn draw(
    config: &LlamaConfig,
    all: &mut [Active<'_>],
    how: &Generation,
    stop: &AtomicBool,
    show: &mut impl FnMut(usize, &str),
) -> Result<Option<Vec<Option<u32>>>, ModelError> {
    let mut drawn = vec![None; all.len()];
    for (n, active) in all.iter_mut().enumerate().filter(|(_, active)| active.ending.is_none()) {
        if stop.load(Ordering::Relaxed) {
            active.ending = Some(Ending::Interrupted);
        } else if active.tokens.len() == how.new_tokens {
            active.ending = Some(Ending::Length);
        } else {
            let token = how.sampling.draw(&active.logits, &mut active.random);
            active.push(n, token, config, show)?;
            if active.ending.is_none() && active.tokens.len() == how.new_tokens {
                active.ending = Some(Ending::Length);
            }
            drawn[n] = active.ending.is_none().then_some(token);
        }
    }
    Ok(drawn.iter().any(Option::is_some).then_some(drawn))
}

impl<'a> Active<'a> {
    fn new(tokenizer: &'a Tokenizer, n: usize, how: &Generation) -> Active<'a> {
        Active {
            random: Random::new(how.seed.wrapping_add(n as u64)),
            stream: TextStream::new(tokenizer),
            filter: StopFilter::new(&how.stop),
            tokens: Vec::new(),
            text: String::new(),
            ending: None,
            logits: Vec::new(),
        }
    }

    fn prefill(
        &mut self,
        decoder: &mut dyn Decoder,
        n: usize,
        prompt: &[u32],
        chunk_tokens: usize,
        stop: &AtomicBool,
    ) -> Result<(), ModelError> {
        for tokens in prompt.chunks(chunk_tokens) {
            if stop.load(Ordering::Relaxed) {
                self.ending = Some(Ending::Interrupted);
                return Ok(());
            }
            self.logits = decoder.extend(n, tokens)?;
        }
        Ok(())
    }

    fn push(
        &mut self,
        n: usize,
        token: u32,
        config: &LlamaConfig,
        show: &mut impl FnMut(usize, &str),
    ) -> Result<(), ModelError> {
        self.tokens.push(token);
        if config.end_tokens.contains(&token) {
            self.ending = Some(Ending::EndToken);
            return Ok(());
        }
        let passed = self.filter.push(&self.stream.push(token)?);
        self.show(n, &passed.text, show);
        if passed.stopped {
            self.ending = Some(Ending::StopText);
        }
        Ok(())
    }

    fn show(&mut self, n: usize, text: &str, show: &mut impl FnMut(usize, &str)) {
        if !text.is_empty() {
            self.text.push_str(text);
            show(n, text);
        }
    }

    /// Shows what was held back, unless a stop text ended the sequence.
    fn finish(
        mut self,
        n: usize,
        cache_bytes: usize,
        show: &mut impl FnMut(usize, &str),
    ) -> Result<Generated, ModelError> {
        let ending = self.ending.unwrap_or(Ending::Length);
        if ending != Ending::StopText {
            let tokenizer = self.stream.tokenizer();
            let stream = std::mem::replace(&mut self.stream, TextStream::new(tokenizer));
            let last = self.filter.push(&stream.finish()?);
            let filter = std::mem::replace(&mut self.filter, StopFilter::new(&[]));
            let rest = if last.stopped { last.text } else { last.text + &filter.finish() };
            self.show(n, &rest, show);
        }
        Ok(Generated { tokens: self.tokens, text: self.text, ending, cache_bytes })
    }
}
