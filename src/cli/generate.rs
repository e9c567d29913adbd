//! `lgc generate`: text from a model, through the pattern-shaped cache.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Instant;

use longgen_runtime::generate::{Ending, Generated, Generation, Sampling, generate};
use thiserror::Error;

use super::engine::{self, Loaded};
use super::{CliError, files, number};

const EXAMPLES: &str = "\
Examples:
  lgc generate --model /tmp/run --prompt 'The window' --new-tokens 200
  lgc generate --model llama/ --pattern longgen-sink --prompt-file long.txt --temperature 0.8 --top-p 0.95 --seed 7
  echo 'Once' | lgc generate --model /tmp/run --prompt-file - --stop '.'";

/// Arguments of `lgc generate`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Model or training directory
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// A text to continue; several times for a batch
    #[arg(long, value_name = "TEXT")]
    prompt: Vec<String>,
    /// A file with a text to continue, `-` for standard input; several times for a batch
    #[arg(long, value_name = "FILE")]
    prompt_file: Vec<PathBuf>,
    /// Attention of the layers; by default that of the model
    #[arg(long, value_name = "PATTERN")]
    pattern: Option<String>,
    /// Most tokens to add
    #[arg(long, value_name = "N", default_value = "128", value_parser = number::count)]
    new_tokens: usize,
    /// The longest sequence; by default what the model is meant for
    #[arg(long, value_name = "N", value_parser = number::count)]
    max_tokens: Option<usize>,
    /// Tokens of a prompt that go through the model at once
    #[arg(long, value_name = "N", default_value = "256", value_parser = number::count)]
    chunk: usize,
    /// 0 takes the most likely token
    #[arg(long, value_name = "X", default_value = "0")]
    temperature: f32,
    /// Draw among the K most likely tokens; 0 for all
    #[arg(long, value_name = "K", default_value = "0")]
    top_k: usize,
    /// Draw among the most likely tokens that together have this probability
    #[arg(long, value_name = "P", default_value = "1")]
    top_p: f32,
    /// Draw among tokens at least this likely, relative to the most likely one
    #[arg(long, value_name = "P", default_value = "0")]
    min_p: f32,
    /// Seed of the draws
    #[arg(long, value_name = "N", default_value = "0")]
    seed: u64,
    /// End at this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Tell speed, cache size and the reason of the end on standard error
    #[arg(long)]
    stats: bool,
    /// Threads of all computation; by default as many as there are cores
    #[arg(long, value_name = "N", value_parser = number::count)]
    threads: Option<usize>,
    #[command(flatten)]
    place: engine::Place,
}

#[derive(Debug, Error)]
enum GenerateError {
    #[error("there is nothing to continue: give --prompt TEXT or --prompt-file FILE")]
    NoPrompt,
    #[error("{0}")]
    Sampling(String),
}

/// Continues the prompts. One prompt streams; several are printed one after the other, each under its number.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), CliError> {
    engine::set_threads(args.threads)?;
    let sampling = args.sampling()?;
    let texts = args.texts()?;
    let loaded = engine::load(&args.model, args.pattern.as_deref(), &args.place)?;
    let Loaded { model, tokenizer, .. } = &loaded;
    let encode = |text: &String| tokenizer.encode(text).map_err(CliError::failure);
    let prompts: Vec<Vec<u32>> = texts.iter().map(encode).collect::<Result<_, _>>()?;
    let how = Generation {
        new_tokens: args.new_tokens,
        chunk_tokens: args.chunk,
        max_tokens: args.max_tokens.unwrap_or(model.config().max_tokens),
        sampling,
        seed: args.seed,
        stop: args.stop.clone(),
    };
    let stop = engine::stop_flag()?;
    let started = Instant::now();
    let mut broken = None;
    let show = |_, text: &str| {
        if texts.len() == 1 {
            let shown = write!(out, "{text}").and_then(|()| out.flush());
            if let Err(error) = shown {
                // Nobody reads any more: stop, and tell why afterwards.
                stop.store(true, std::sync::atomic::Ordering::Relaxed);
                broken = Some(error);
            }
        }
    };
    let generated = loaded
        .with_decoder(|decoder| generate(decoder, tokenizer, &prompts, &how, &stop, show))
        .map_err(CliError::failure)?;
    if let Some(error) = broken {
        return Err(CliError::Stdout(error));
    }
    match texts.len() {
        1 => writeln!(out)?,
        _ => print_batch(&generated, out)?,
    }
    if args.stats {
        // The text comes first where both end in one terminal.
        out.flush()?;
        print_stats(&generated, &prompts, started.elapsed().as_secs_f64());
    }
    Ok(())
}

impl Args {
    fn sampling(&self) -> Result<Sampling, CliError> {
        let sampling = Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
        };
        match sampling.defect() {
            Some(problem) => Err(CliError::usage(GenerateError::Sampling(problem))),
            None => Ok(sampling),
        }
    }

    fn texts(&self) -> Result<Vec<String>, CliError> {
        let mut texts = self.prompt.clone();
        for path in &self.prompt_file {
            texts.push(files::read_text(path).map_err(CliError::failure)?);
        }
        if texts.is_empty() {
            return Err(CliError::usage(GenerateError::NoPrompt));
        }
        Ok(texts)
    }
}

fn print_batch(generated: &[Generated], out: &mut dyn Write) -> io::Result<()> {
    for (n, generated) in generated.iter().enumerate() {
        writeln!(out, "--- {n} ---\n{}", generated.text)?;
    }
    Ok(())
}

fn print_stats(generated: &[Generated], prompts: &[Vec<u32>], seconds: f64) {
    for (n, (generated, prompt)) in generated.iter().zip(prompts).enumerate() {
        let why = match generated.ending {
            Ending::Length => "the length asked for",
            Ending::EndToken => "the end token",
            Ending::StopText => "a stop text",
            Ending::Interrupted => "Ctrl-C",
        };
        let (read, new, bytes) = (prompt.len(), generated.tokens.len(), generated.cache_bytes);
        let bytes = number::grouped(bytes as u128);
        let line =
            format!("prompt {n}: {read} tokens read, {new} new, ended by {why}, KV cache {bytes} bytes\n");
        // Nothing is left to be told if standard error is closed.
        let _ = io::stderr().write_all(line.as_bytes());
    }
    let tokens: usize = generated.iter().map(|generated| generated.tokens.len()).sum();
    let line = format!("{tokens} tokens in {seconds:.2} s, prompts included\n");
    let _ = io::stderr().write_all(line.as_bytes());
}
