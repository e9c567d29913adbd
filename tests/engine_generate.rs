//! Generation: the same text whatever the batch and the chunks, stops, seeds, limits; and the two evaluations.

use std::sync::atomic::{AtomicBool, Ordering};

use longgen_runtime::eval::{Needle, needle_grid, perplexity};
use longgen_runtime::generate::{CpuDecoder, Ending, Generated, Generation, Sampling, generate};
use longgen_runtime::model::{Batch, Llama, LlamaConfig, ModelError, Params, Tokenizer};

struct Setting {
    model: Llama,
    weights: Params,
}

impl Setting {
    fn new(end_token: &str) -> Setting {
        let config = LlamaConfig::parse(&format!(
            r#"{{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
                "num_key_value_heads": 2, "vocab_size": 257, "initializer_range": 0.3,
                "max_position_embeddings": 256{end_token}}}"#
        ))
        .unwrap();
        let weights = Params::random(&config, 3);
        Setting { model: Llama::new(config, &"sink=2, window=9".parse().unwrap()).unwrap(), weights }
    }

    fn run(&self, prompts: &[Vec<u32>], how: &Generation) -> Result<Vec<Generated>, ModelError> {
        let mut shown = vec![String::new(); prompts.len()];
        let stop = AtomicBool::new(false);
        let show = |n: usize, text: &str| shown[n].push_str(text);
        let all = generate(
            &mut CpuDecoder::new(&self.model, &self.weights),
            &Tokenizer::Bytes,
            prompts,
            how,
            &stop,
            show,
        )?;
        // What was streamed is what is returned.
        assert!(all.iter().zip(&shown).all(|(generated, shown)| generated.text == *shown));
        Ok(all)
    }
}

fn how() -> Generation {
    let sampling = Sampling { temperature: 0.9, top_k: 0, top_p: 0.95, min_p: 0.0 };
    Generation { new_tokens: 40, chunk_tokens: 7, max_tokens: 256, sampling, seed: 5, stop: Vec::new() }
}

fn prompt(text: &str) -> Vec<u32> {
    Tokenizer::Bytes.encode(text).unwrap()
}

#[test]
fn batch_and_chunks_do_not_change_the_text() {
    let setting = Setting::new("");
    let prompts = [prompt("the first prompt is the longer one"), prompt("short"), prompt("")];
    let together = setting.run(&prompts, &how()).unwrap();
    for chunk_tokens in [1, 3, 100] {
        assert_eq!(
            setting.run(&prompts, &Generation { chunk_tokens, ..how() }).unwrap()[1].tokens,
            together[1].tokens
        );
    }
    assert_eq!(setting.run(&prompts[..1], &how()).unwrap()[0].tokens, together[0].tokens);
    assert!(together.iter().all(|g| g.tokens.len() == 40 && g.ending == Ending::Length));
    let other = setting.run(&prompts, &Generation { seed: 6, ..how() }).unwrap();
    assert_ne!(other[0].tokens, together[0].tokens);
}

#[test]
fn greedy_tokens_are_those_of_the_whole_sequence() {
    let setting = Setting::new("");
    let start = prompt("a prompt");
    let how = Generation { sampling: Sampling::GREEDY, ..how() };
    let generated = setting.run(std::slice::from_ref(&start), &how).unwrap().remove(0);
    let mut tokens = start.clone();
    for &token in &generated.tokens {
        let logits = setting.model.logits(&setting.weights, &Batch::single(tokens.clone()).unwrap()).unwrap();
        let last = &logits[logits.len() - 257..];
        let best = (0..257).max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap();
        assert_eq!(token as usize, best);
        tokens.push(token);
    }
}

#[test]
fn stop_texts_end_tokens_and_interrupts_end_a_sequence() {
    let setting = Setting::new("");
    let start = [prompt("x")];
    let ascii = |g: &Generated| g.tokens.iter().position(|&t| t < 128).unwrap();
    let free = setting.run(&start, &how()).unwrap().remove(0);
    let at = ascii(&free);
    let stop = String::from(char::from(free.tokens[at] as u8));
    let stopped = setting.run(&start, &Generation { stop: vec![stop.clone()], ..how() }).unwrap().remove(0);
    assert_eq!((stopped.ending, stopped.tokens.len()), (Ending::StopText, at + 1));
    assert!(!stopped.text.contains(&stop));
    let ending = Setting::new(&format!(r#", "eos_token_id": [1, {}]"#, free.tokens[3]));
    let ended = ending.run(&start, &how()).unwrap().remove(0);
    assert_eq!((ended.ending, &ended.tokens[..]), (Ending::EndToken, &free.tokens[..4]));
    let (flag, mut pieces) = (AtomicBool::new(false), 0);
    let show = |_: usize, _: &str| {
        pieces += 1;
        flag.store(pieces == 3, Ordering::Relaxed);
    };
    let cut = generate(
        &mut CpuDecoder::new(&setting.model, &setting.weights),
        &Tokenizer::Bytes,
        &start,
        &how(),
        &flag,
        show,
    )
    .unwrap();
    assert_eq!(cut[0].ending, Ending::Interrupted);
    assert!(cut[0].tokens.len() < 40 && free.tokens.starts_with(&cut[0].tokens));
}

#[test]
fn what_cannot_be_generated_is_refused() {
    let setting = Setting::new("");
    let refused = |prompt: Vec<u32>, how: Generation| setting.run(&[prompt], &how).unwrap_err();
    let error = refused(prompt(&"x".repeat(220)), how());
    assert!(matches!(error, ModelError::PromptTooLong { limit: 256, .. }), "{error}");
    assert!(matches!(refused(vec![], how()), ModelError::Batch { .. }));
    assert!(matches!(refused(vec![300], how()), ModelError::Token { token: 300, .. }));
    let long = Generation { new_tokens: 1 << 50, max_tokens: 1 << 51, sampling: Sampling::GREEDY, ..how() };
    let full = Setting {
        model: Llama::new(setting.model.config().clone(), &"full".parse().unwrap()).unwrap(),
        ..Setting::new("")
    };
    let error = full.run(&[prompt("a")], &long).unwrap_err();
    assert!(matches!(error, ModelError::Memory { .. }), "{error}");
    let hot = Sampling { temperature: f32::NAN, ..Sampling::GREEDY };
    assert!(refused(prompt("a"), Generation { sampling: hot, ..how() }).to_string().contains("temperature"));
}

#[test]
fn perplexity_is_the_loss_of_windows() {
    let setting = Setting::new("");
    let tokens = prompt("some text to be read in windows of ten");
    let run = AtomicBool::new(false);
    let mut read = 0;
    let result = perplexity(
        &tokens,
        10,
        &run,
        |batch| setting.model.loss(&setting.weights, batch),
        |tokens| read = tokens,
    )
    .unwrap();
    let loss = |window: &[u32]| {
        setting.model.loss(&setting.weights, &Batch::single(window.to_vec()).unwrap()).unwrap()
    };
    let sum: f64 = tokens.chunks(10).map(loss).sum();
    assert_eq!((read, result.targets), (tokens.len(), tokens.len() - 4));
    assert!((result.loss - sum / result.targets as f64).abs() < 1e-12);
    assert!(perplexity(&[1], 10, &run, |batch| setting.model.loss(&setting.weights, batch), |_| ()).is_err());
}

#[test]
fn the_needle_grid_tries_every_cell_and_refuses_what_is_too_short() {
    let setting = Setting::new("");
    let needle =
        Needle { lengths: vec![80, 120], depths: vec![0.0, 0.5, 1.0], trials: 2, seed: 1, chunk_tokens: 16 };
    let grid = |needle: &Needle| {
        let run = AtomicBool::new(false);
        let filler = "The grass is green. ";
        needle_grid(
            &mut CpuDecoder::new(&setting.model, &setting.weights),
            &Tokenizer::Bytes,
            filler,
            needle,
            &run,
            |_| (),
        )
    };
    let cells = grid(&needle).unwrap();
    assert_eq!(cells.len(), 6);
    assert!(cells.iter().all(|cell| cell.trials == 2 && cell.found == 0), "random weights find nothing");
    let error = grid(&Needle { lengths: vec![20], ..needle }).unwrap_err();
    assert!(error.to_string().contains("a length of 20 is too short"), "{error}");
}
