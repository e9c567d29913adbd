//! What can go wrong between a directory on disk and a model that runs.

use std::path::PathBuf;

use longgen_codegen::ir::LowerError;
use thiserror::Error;

use crate::blas::BlasError;
use crate::cpu::CpuAttentionError;
use crate::driver::GpuError;
use crate::gpu::GpuAttentionError;
use crate::problem::ProblemError;
use crate::read::ReadError;

/// Why a model cannot be loaded, saved or run.
#[derive(Debug, Error)]
pub enum ModelError {
    /// A file that cannot be read, written or mapped.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file that is read whole, and cannot be.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// `config.json` that is no JSON or lacks a key.
    #[error("`{}`: {problem}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong, in words.
        problem: String,
    },
    /// A safetensors file whose header or length is wrong.
    #[error("`{}` is not a whole safetensors file: {problem}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What the reader says.
        problem: String,
    },
    /// A directory with neither `model.safetensors` nor its index.
    #[error("`{}` has neither `model.safetensors` nor `model.safetensors.index.json`", directory.display())]
    NoWeights {
        /// The directory.
        directory: PathBuf,
    },
    /// A shard the index names that is not there.
    #[error("shard `{}` is missing; the index expects tensor `{tensor}` in it", path.display())]
    MissingShard {
        /// The shard.
        path: PathBuf,
        /// The first tensor it should hold.
        tensor: String,
    },
    /// A tensor the configuration asks for that no file holds.
    #[error("`{}`: tensor `{name}` of shape {shape:?} is in none of the files", directory.display())]
    MissingTensor {
        /// Where the files are.
        directory: PathBuf,
        /// The tensor.
        name: String,
        /// The shape that the configuration implies.
        shape: Vec<usize>,
    },
    /// A tensor that a Llama model has no use for: the checkpoint is of another architecture.
    #[error(
        "`{}`: tensor `{name}` does not belong to a Llama model: biases and other architectures are not supported",
        path.display()
    )]
    UnexpectedTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor of another shape than the configuration implies.
    #[error("`{}`: tensor `{name}` has shape {found:?}, but the configuration implies {expected:?}", path.display())]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The implied shape.
        expected: Vec<usize>,
    },
    /// A tensor that holds no f32, bf16 or fp16 numbers.
    #[error("`{}`: tensor `{name}` holds {found}; f32, bf16 and fp16 are supported", path.display())]
    TensorType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
    },
    /// No tokenizer, and a vocabulary that is not that of bytes.
    #[error(
        "`{}` has no `tokenizer.json`, and a vocabulary of {vocabulary} is not that of bytes (257 to 260)",
        directory.display()
    )]
    NoTokenizer {
        /// The directory.
        directory: PathBuf,
        /// Entries of the vocabulary.
        vocabulary: usize,
    },
    /// A tokenizer the library cannot read.
    #[error("`{}`: {problem}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong, in words.
        problem: String,
    },
    /// A tokenizer that knows more tokens than the model.
    #[error("`{}` has {tokenizer} tokens, the model only {model}: they do not belong together", path.display())]
    Vocabulary {
        /// The tokenizer.
        path: PathBuf,
        /// Tokens of the tokenizer.
        tokenizer: usize,
        /// Rows of the embedding.
        model: usize,
    },
    /// A token outside the vocabulary.
    #[error("token {token} at position {index} is outside the vocabulary of {vocabulary}")]
    Token {
        /// The token.
        token: u32,
        /// Where it stands.
        index: usize,
        /// Entries of the vocabulary.
        vocabulary: usize,
    },
    /// A batch or chunk whose parts do not fit each other.
    #[error("{problem}")]
    Batch {
        /// What is wrong, in words.
        problem: String,
    },
    /// A prompt that with its new tokens is longer than a sequence may be.
    #[error(
        "prompt {prompt} has {tokens} tokens: with {new_tokens} new ones they do not fit the longest sequence, {limit} \
         (`max_position_embeddings`, unless --max-tokens says otherwise)"
    )]
    PromptTooLong {
        /// Which prompt, from 0.
        prompt: usize,
        /// Its tokens.
        tokens: usize,
        /// Tokens to add.
        new_tokens: usize,
        /// The limit.
        limit: usize,
    },
    /// More tokens than the cache was made for.
    #[error("{asked} tokens do not fit: the longest sequence was set to {limit}")]
    TooLong {
        /// Tokens after the call.
        asked: usize,
        /// The limit.
        limit: usize,
    },
    /// More memory than the machine grants.
    #[error("{what} would take {needed}; {limit}")]
    Memory {
        /// What it is for.
        what: &'static str,
        /// How much.
        needed: String,
        /// What there is, in words.
        limit: String,
    },
    /// More memory than the device has free.
    #[error("{what} needs {needed} of device memory, {free} are free{fits}")]
    DeviceMemory {
        /// What it is for.
        what: &'static str,
        /// How much, and its parts.
        needed: String,
        /// What there is.
        free: String,
        /// What would fit instead, in words after a semicolon.
        fits: String,
    },
    /// A model that the GPU engine does not take.
    #[error("{problem}")]
    Unsupported {
        /// What is wrong, in words.
        problem: String,
    },
    /// The driver or the device.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// Attention kernels on the GPU.
    #[error(transparent)]
    GpuAttention(#[from] GpuAttentionError),
    /// Dense products on the GPU.
    #[error(transparent)]
    Blas(#[from] BlasError),
    /// A pattern that does not fit the model.
    #[error("the pattern does not fit the model: {problem}")]
    Pattern {
        /// What is wrong, in words.
        problem: String,
    },
    /// A mask that cannot be lowered.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// Shapes or lengths that are out of range.
    #[error(transparent)]
    Problem(#[from] ProblemError),
    /// Attention cannot be compiled for this shape, or refuses what it was called with.
    #[error(transparent)]
    Attention(#[from] CpuAttentionError),
}

impl ModelError {
    /// For `map_err` on input and output at `path`.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> ModelError {
        let path = path.into();
        move |source| ModelError::Io { path, source }
    }

    /// A batch that does not fit itself.
    pub(crate) fn batch(problem: impl Into<String>) -> ModelError {
        ModelError::Batch { problem: problem.into() }
    }
}
