//! Text to tokens and back: a `tokenizer.json`, or plain bytes where there is none.

use std::path::Path;

use crate::read::{TOKENIZER_LIMIT, read_limited};

use super::ModelError;

/// The file a tokenizer is read from.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// The token that begins and ends documents of bytes.
pub const BYTES_SEPARATOR: u32 = 256;
/// Vocabularies that are taken for bytes: 256 of them, the separator, and room to round up.
const BYTES_VOCABULARY: std::ops::RangeInclusive<usize> = 257..=260;

/// Text to tokens and back.
#[derive(Clone, Debug)]
pub enum Tokenizer {
    /// One token per byte of UTF-8; 256 separates documents.
    Bytes,
    /// A tokenizer of the tokenizers library.
    Library(Box<tokenizers::Tokenizer>),
}

impl Tokenizer {
    /// The tokenizer of a model directory.
    ///
    /// # Errors
    /// No `tokenizer.json` where the vocabulary is not that of bytes; one that cannot be read, or with more tokens than
    /// the model has.
    pub fn load(directory: &Path, vocabulary: usize) -> Result<Tokenizer, ModelError> {
        let path = directory.join(TOKENIZER_FILE);
        if path.is_file() {
            return Tokenizer::read(&path, vocabulary);
        }
        let directory = directory.to_path_buf();
        Tokenizer::of_bytes(vocabulary).ok_or(ModelError::NoTokenizer { directory, vocabulary })
    }

    /// Bytes, if the vocabulary is theirs.
    pub fn of_bytes(vocabulary: usize) -> Option<Tokenizer> {
        BYTES_VOCABULARY.contains(&vocabulary).then_some(Tokenizer::Bytes)
    }

    /// A `tokenizer.json` for a model of this vocabulary.
    ///
    /// # Errors
    /// A file that cannot be read or parsed, or with tokens that the model does not have.
    pub fn read(path: &Path, vocabulary: usize) -> Result<Tokenizer, ModelError> {
        let bytes = read_limited(path, "tokenizer", TOKENIZER_LIMIT)?;
        let library = tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| ModelError::Tokenizer {
            path: path.to_path_buf(),
            problem: error.to_string(),
        })?;
        let tokens = library.get_vocab(true).into_values().max().map_or(0, |largest| largest as usize + 1);
        if tokens > vocabulary {
            let path = path.to_path_buf();
            return Err(ModelError::Vocabulary { path, tokenizer: tokens, model: vocabulary });
        }
        Ok(Tokenizer::Library(Box::new(library)))
    }

    /// The tokens of a text, with the ones that begin (and, if the tokenizer says so, end) a document.
    ///
    /// # Errors
    /// A text the tokenizer cannot split.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        match self {
            Tokenizer::Bytes => {
                Ok([BYTES_SEPARATOR].into_iter().chain(text.bytes().map(u32::from)).collect())
            }
            Tokenizer::Library(library) => {
                let encoding = library.encode(text, true).map_err(|error| ModelError::Tokenizer {
                    path: TOKENIZER_FILE.into(),
                    problem: error.to_string(),
                })?;
                Ok(encoding.get_ids().to_vec())
            }
        }
    }

    /// The text of tokens; special tokens leave no trace, broken UTF-8 becomes U+FFFD.
    ///
    /// # Errors
    /// Tokens the tokenizer cannot join.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, ModelError> {
        match self {
            Tokenizer::Bytes => {
                let bytes: Vec<u8> = tokens.iter().filter_map(|&token| u8::try_from(token).ok()).collect();
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
            Tokenizer::Library(library) => library.decode(tokens, true).map_err(|error| {
                ModelError::Tokenizer { path: TOKENIZER_FILE.into(), problem: error.to_string() }
            }),
        }
    }
}

/// Text as it comes: yields what each token adds, and holds back the bytes of a character that is not yet whole.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    tokens: Vec<u32>,
    /// Tokens before this one are wholly printed and only give context.
    context: usize,
    printed: usize,
}

impl<'a> TextStream<'a> {
    /// An empty stream.
    pub fn new(tokenizer: &'a Tokenizer) -> TextStream<'a> {
        TextStream { tokenizer, tokens: Vec::new(), context: 0, printed: 0 }
    }

    /// The tokenizer it reads with.
    pub fn tokenizer(&self) -> &'a Tokenizer {
        self.tokenizer
    }

    /// The text that `token` completes.
    ///
    /// # Errors
    /// Tokens the tokenizer cannot join.
    pub fn push(&mut self, token: u32) -> Result<String, ModelError> {
        self.tokens.push(token);
        let before = self.tokenizer.decode(&self.tokens[self.context..self.printed])?;
        let now = self.tokenizer.decode(&self.tokens[self.context..])?;
        if now.ends_with('\u{fffd}') || now.len() <= before.len() {
            return Ok(String::new());
        }
        (self.context, self.printed) = (self.printed, self.tokens.len());
        Ok(now.get(before.len()..).unwrap_or_default().to_owned())
    }

    /// What is left when no token follows.
    ///
    /// # Errors
    /// Tokens the tokenizer cannot join.
    pub fn finish(self) -> Result<String, ModelError> {
        let before = self.tokenizer.decode(&self.tokens[self.context..self.printed])?;
        let now = self.tokenizer.decode(&self.tokens[self.context..])?;
        Ok(now.get(before.len()..).unwrap_or_default().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stream_whole_characters() {
        let tokenizer = Tokenizer::Bytes;
        let text = "né 日本 ok";
        let tokens = tokenizer.encode(text).unwrap();
        assert_eq!(tokens.len(), text.len() + 1);
        let mut stream = TextStream::new(&tokenizer);
        let pieces: Vec<String> = tokens.iter().map(|&token| stream.push(token).unwrap()).collect();
        assert_eq!(pieces.concat(), text);
        assert!(pieces.iter().all(|piece| piece.chars().count() <= 1));
        assert_eq!(stream.finish().unwrap(), "");
    }
}
