//! The task, and how large it is.
//!
//! Records, each a key and a value in one token, lie scattered in filler; at the end the keys come as questions, and the model must
//! name the record of each. With two hops half of the keys have a pointer to another key in place of a record: their answer is
//! the record of that one.

use longgen_runtime::model::{Batch, LlamaConfig, ModelError};
use longgen_runtime::random::Random;

/// Keys, and the questions about them.
const KEYS: u32 = 32;
const VALUES: u32 = 4;
const FILLERS: u32 = 8;
/// The first record and the first pointer among the tokens; questions come before.
const RECORDS: u32 = KEYS;
const POINTERS: u32 = RECORDS + KEYS * VALUES;
/// A key and its question for every so many tokens, so that long sequences teach as much as short ones.
const TOKENS_PER_KEY: usize = 10;

/// A task with a model for it.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    /// 1, or 2 for pointers to records.
    pub hops: u8,
    /// Tokens of the sequences that the dense model learns on, that the plans go on with, and of a last test.
    pub lengths: [usize; 3],
    /// Tokens of a training step.
    pub batch_tokens: usize,
    pub learning_rate: f32,
    pub width: usize,
    pub heads: usize,
    pub layers: u32,
    /// Of the first weights.
    pub deviation: f64,
}

impl Task {
    pub fn config(&self) -> Result<LlamaConfig, ModelError> {
        let Task { width, heads, layers, .. } = self;
        let text = format!(
            r#"{{"hidden_size": {width}, "intermediate_size": {}, "num_hidden_layers": {layers},
                "num_attention_heads": {heads}, "vocab_size": {}, "initializer_range": {},
                "max_position_embeddings": 8192}}"#,
            2 * width,
            self.fillers() + FILLERS,
            self.deviation,
        );
        LlamaConfig::parse(&text).map_err(|problem| ModelError::Config { path: "mechanism".into(), problem })
    }

    /// The first token of filler.
    fn fillers(&self) -> u32 {
        POINTERS + if self.hops > 1 { KEYS * KEYS } else { 0 }
    }

    /// One sequence: its tokens, and the record that each question asks for.
    fn sequence(&self, random: &mut Random, length: usize) -> (Vec<u32>, Vec<Option<u32>>) {
        let mut tokens: Vec<u32> =
            (0..length).map(|_| self.fillers() + random.below(FILLERS as usize) as u32).collect();
        let mut targets = vec![None; length];
        let count = (length / TOKENS_PER_KEY).min(KEYS as usize);
        let (mut keys, body) = ((0..KEYS).collect::<Vec<u32>>(), length - count);
        let mut places: Vec<usize> = (0..body).collect();
        random.shuffle(&mut keys);
        random.shuffle(&mut places);
        // Pointers are asked for before the records that they lead to.
        let pointers = if self.hops > 1 { count / 2 } else { 0 };
        for (n, (&key, &place)) in keys.iter().zip(&places).take(count - pointers).enumerate() {
            let record = RECORDS + key * VALUES + random.below(VALUES as usize) as u32;
            tokens[place] = record;
            (tokens[body + pointers + n], targets[body + pointers + n]) = (key, Some(record));
        }
        for n in 0..pointers {
            let (from, to) = (keys[count - 1 - n], keys[n]);
            tokens[places[count - 1 - n]] = POINTERS + from * KEYS + to;
            (tokens[body + n], targets[body + n]) = (from, targets[body + pointers + n]);
        }
        (tokens, targets)
    }

    /// As many sequences as a training step takes.
    pub fn batch(&self, random: &mut Random, length: usize) -> Result<Batch, ModelError> {
        let count = self.batch_tokens / length;
        let (mut tokens, mut targets) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let (more_tokens, more_targets) = self.sequence(random, length);
            tokens.extend(more_tokens);
            targets.extend(more_targets);
        }
        Batch::packed(tokens, (0..=count).map(|n| n * length).collect())?.with_targets(targets)
    }

    /// Whether a question takes as many hops as the task has.
    pub fn is_hard(&self, question: u32, record: u32) -> bool {
        let key = (record - RECORDS) / VALUES;
        self.hops == 1 || key != question
    }
}
