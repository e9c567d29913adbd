//! Training data: files to one stream of tokens with document boundaries, and the stream to batches.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::model::{Batch, Tokenizer};
use crate::problem::Sequences;
use crate::random::Random;

use super::{TrainError, TrainSettings};

/// Tokens of all documents, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    tokens: Vec<u32>,
    /// Where each document begins, in ascending order.
    starts: Vec<usize>,
    /// Files that were neither text nor tokens.
    skipped: usize,
}

impl Dataset {
    /// Reads a file, or every file below a directory in the order of their names (hidden ones apart):
    ///
    /// - `.jsonl`: one document per line, an object with `text`, or with `tokens` or `input_ids` already made;
    /// - `.u16`, `.u32`: tokens as little-endian integers, one document per file;
    /// - anything else that is UTF-8: text, one document per file. Other files are counted and skipped.
    ///
    /// Without a tokenizer only tokens can be read.
    ///
    /// # Errors
    /// Files that cannot be read, lines that are no documents, text without a tokenizer, tokens the model does not have, no token at
    /// all.
    pub fn read(
        path: &Path,
        tokenizer: Option<&Tokenizer>,
        vocabulary: usize,
    ) -> Result<Dataset, TrainError> {
        let mut dataset = Dataset { tokens: Vec::new(), starts: Vec::new(), skipped: 0 };
        for file in files(path)? {
            let first = dataset.tokens.len();
            let encode = |text: &str| encode(text, tokenizer, vocabulary);
            dataset.add_file(&file, &encode)?;
            let added = &dataset.tokens[first..];
            if let Some(index) = added.iter().position(|&token| token as usize >= vocabulary) {
                let token = added[index];
                let problem =
                    format!("has token {token} at position {index}, outside the vocabulary of {vocabulary}");
                return Err(TrainError::data(&file, problem));
            }
        }
        if dataset.tokens.is_empty() {
            return Err(TrainError::data(path, "holds no text and no tokens"));
        }
        Ok(dataset)
    }

    /// Documents that are already tokens.
    pub fn from_documents(documents: impl IntoIterator<Item = Vec<u32>>) -> Dataset {
        let mut dataset = Dataset { tokens: Vec::new(), starts: Vec::new(), skipped: 0 };
        documents.into_iter().for_each(|document| dataset.add(&document));
        dataset
    }

    /// Tokens of all documents.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// How many documents there are.
    pub fn documents(&self) -> usize {
        self.starts.len()
    }

    /// How many files were skipped.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// A number that another stream of tokens or other boundaries would not have.
    pub fn fingerprint(&self) -> u64 {
        let numbers = self.tokens.iter().map(|&t| u64::from(t)).chain(self.starts.iter().map(|&s| s as u64));
        numbers.fold(0xcbf2_9ce4_8422_2325, |hash, x| (hash ^ x).wrapping_mul(0x0000_0100_0000_01b3))
    }

    /// Sequences of `sequence_tokens` that the stream holds; what is left at its end is not used.
    pub fn sequences(&self, sequence_tokens: usize) -> usize {
        self.tokens.len() / sequence_tokens
    }

    /// Micro-batch `index` of the run. It depends on the settings and the index alone, so that a resumed run goes on
    /// where it stopped: every epoch goes through all sequences once, in an order of its own.
    ///
    /// # Errors
    /// Fewer tokens than one sequence.
    pub fn batch(&self, settings: &TrainSettings, index: u64) -> Result<Batch, TrainError> {
        let length = settings.sequence_tokens;
        let count = self.sequences(length);
        if count == 0 {
            let tokens = self.tokens.len();
            return Err(TrainError::TooLittleData { tokens, needed: length });
        }
        let (mut tokens, mut targets, mut cu_seqlens) = (Vec::new(), Vec::new(), vec![0]);
        let first = index * settings.batch_sequences as u64;
        for nth in first..first + settings.batch_sequences as u64 {
            let start = self.place(settings.seed, nth, count) * length;
            let end = start + length;
            let next = |t: usize| {
                self.tokens
                    .get(t + 1)
                    .copied()
                    .filter(|_| !settings.document_mask || self.starts.binary_search(&(t + 1)).is_err())
            };
            targets.extend((start..end).map(next));
            if settings.document_mask {
                let inside = self.starts_between(start + 1, end).iter();
                cu_seqlens.extend(inside.map(|s| tokens.len() + s - start));
            }
            tokens.extend_from_slice(&self.tokens[start..end]);
            cu_seqlens.push(tokens.len());
        }
        Ok(Batch::packed(tokens, cu_seqlens)?.with_targets(targets)?)
    }

    /// Which sequence of the stream the `nth` of the run is.
    fn place(&self, seed: u64, nth: u64, count: usize) -> usize {
        let (epoch, nth) = (nth / count as u64, (nth % count as u64) as usize);
        let mut order: Vec<usize> = (0..count).collect();
        Random::new(seed ^ (epoch << 32)).shuffle(&mut order);
        order[nth]
    }

    fn starts_between(&self, from: usize, to: usize) -> &[usize] {
        let at = |bound: usize| self.starts.partition_point(|&start| start < bound);
        &self.starts[at(from)..at(to)]
    }

    fn add(&mut self, document: &[u32]) {
        if !document.is_empty() {
            self.starts.push(self.tokens.len());
            self.tokens.extend_from_slice(document);
        }
    }

    fn add_file(&mut self, path: &Path, encode: &Encode<'_>) -> Result<(), TrainError> {
        let bytes = fs::read(path).map_err(TrainError::io(path))?;
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("jsonl") => {
                let text = String::from_utf8(bytes).map_err(|_| TrainError::data(path, "is not UTF-8"))?;
                for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
                    let document = json_document(line, encode).map_err(|problem| {
                        TrainError::data(path, format!("line {}: {problem}", number + 1))
                    })?;
                    self.add(&document);
                }
            }
            Some("u16") => {
                let (pairs, rest) = bytes.as_chunks::<2>();
                self.add(&whole(path, rest, pairs.iter().map(|&b| u16::from_le_bytes(b).into()).collect())?);
            }
            Some("u32") => {
                let (quads, rest) = bytes.as_chunks::<4>();
                self.add(&whole(path, rest, quads.iter().map(|&b| u32::from_le_bytes(b)).collect())?);
            }
            _ => match String::from_utf8(bytes) {
                Ok(text) if !text.is_empty() => {
                    self.add(&encode(&text).map_err(|problem| TrainError::data(path, problem))?);
                }
                Ok(_) => (),
                Err(_) => self.skipped += 1,
            },
        }
        Ok(())
    }
}

/// A text's tokens, or in words why it has none.
type Encode<'a> = dyn Fn(&str) -> Result<Vec<u32>, String> + 'a;

fn encode(text: &str, tokenizer: Option<&Tokenizer>, vocabulary: usize) -> Result<Vec<u32>, String> {
    let tokenizer = tokenizer.ok_or_else(|| {
        format!(
            "is text, and there is no tokenizer for a vocabulary of {vocabulary} (257 to 260 would be bytes): give a \
             tokenizer.json, or tokens (.u16, .u32, .jsonl)"
        )
    })?;
    tokenizer.encode(text).map_err(|error| error.to_string())
}

fn whole(path: &Path, rest: &[u8], tokens: Vec<u32>) -> Result<Vec<u32>, TrainError> {
    if rest.is_empty() { Ok(tokens) } else { Err(TrainError::data(path, "ends in the middle of a token")) }
}

fn json_document(line: &str, encode: &Encode<'_>) -> Result<Vec<u32>, String> {
    let value: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
    if let Some(text) = value.get("text").and_then(Value::as_str) {
        return encode(text);
    }
    let tokens = value.get("tokens").or(value.get("input_ids")).and_then(Value::as_array);
    let token = |value: &Value| value.as_u64().and_then(|token| u32::try_from(token).ok());
    tokens
        .and_then(|tokens| tokens.iter().map(token).collect())
        .ok_or_else(|| "neither a string `text` nor a list of tokens `tokens` or `input_ids`".into())
}

/// The file, or all files below the directory in the order of their paths.
fn files(path: &Path) -> Result<Vec<PathBuf>, TrainError> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let entries = fs::read_dir(path).map_err(TrainError::io(path))?;
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(TrainError::io(path))?;
    paths.retain(|path| path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b".")));
    paths.sort();
    let mut all = Vec::new();
    for path in paths {
        // Links are not followed: a loop of them would never end.
        let kind = fs::symlink_metadata(&path).map_err(TrainError::io(&path))?.file_type();
        if kind.is_dir() {
            all.extend(files(&path)?);
        } else if kind.is_file() {
            all.push(path);
        }
    }
    Ok(all)
}

/// Sequences of a batch by their lengths, for counting its work.
pub(super) fn lengths(sequences: &Sequences) -> impl Iterator<Item = u32> + '_ {
    sequences.iter().map(|sequence| sequence.q_len as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(document_mask: bool) -> TrainSettings {
        TrainSettings { sequence_tokens: 4, batch_sequences: 3, document_mask, ..TrainSettings::default() }
    }

    #[test]
    fn an_epoch_reads_every_sequence_once() {
        let data = Dataset::from_documents([(0..25).collect()]);
        let mut seen: Vec<u32> =
            (0..2).flat_map(|index| data.batch(&settings(false), index).unwrap().tokens().to_vec()).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..24).collect::<Vec<_>>());
        let again = data.batch(&settings(false), 1).unwrap();
        assert_eq!(again, data.batch(&settings(false), 1).unwrap());
    }

    #[test]
    fn documents_restart_positions_and_predict_nothing_across() {
        let data = Dataset::from_documents([vec![1, 2, 3, 4, 5, 6], vec![7, 8], vec![9, 10, 11, 12, 13]]);
        let settings = TrainSettings { batch_sequences: 1, ..settings(true) };
        for index in 0..3 {
            let batch = data.batch(&settings, index).unwrap();
            match batch.tokens()[0] {
                1 => assert_eq!(batch.targets(), [2, 3, 4, 5].map(Some)),
                5 => {
                    assert_eq!(batch.targets(), [Some(6), None, Some(8), None]);
                    assert_eq!(batch.positions(), [0.0, 1.0, 0.0, 1.0]);
                    assert_eq!(batch.sequences().cu_q(), [0, 2, 4]);
                }
                first => assert_eq!((first, batch.sequences().cu_q()), (9, &[0, 4][..])),
            }
        }
    }

    #[test]
    fn without_the_mask_documents_are_one_text() {
        let data = Dataset::from_documents([vec![1, 2, 3], vec![4, 5]]);
        let settings = TrainSettings { batch_sequences: 1, ..settings(false) };
        let batch = data.batch(&settings, 0).unwrap();
        assert_eq!(batch.targets(), [2, 3, 4, 5].map(Some));
        assert_eq!(batch.sequences().cu_q(), [0, 4]);
    }
}
