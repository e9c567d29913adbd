//! The `--model` argument of commands that need a model's shape alone: a known model, or a `config.json` as Hugging Face
//! writes it for Llama-like models, by itself or in the directories that `lgc generate` takes.

use std::path::{Path, PathBuf};

use longgen_codegen::analysis::model::ModelShape;
use longgen_runtime::read::{CONFIG_LIMIT, ReadError, read_limited};
use serde_json::Value;
use thiserror::Error;

use super::CliError;
use super::engine::{EngineError, find_model};

/// Why a model was refused.
#[derive(Debug, Error)]
enum ModelError {
    #[error("there is no model `{name}`: give llama-2-7b, llama-3-8b, a model directory or a config.json")]
    Unknown { name: String },
    #[error("`{}` is no JSON", .path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("`{}` is no model configuration: `{key}` {problem}", .path.display())]
    Key { path: PathBuf, key: &'static str, problem: String },
}

/// The model an argument means.
///
/// # Errors
/// [`CliError::Usage`] for what describes no model, [`CliError::Failure`] for a file that cannot be read.
pub fn resolve(argument: &str) -> Result<ModelShape, CliError> {
    match argument {
        "llama-2-7b" => return Ok(ModelShape::llama_2_7b()),
        "llama-3-8b" => return Ok(ModelShape::llama_3_8b()),
        _ => {}
    }
    let mut path = PathBuf::from(argument);
    if path.is_dir() {
        let found = find_model(&path)?;
        path = found.ok_or_else(|| CliError::usage(EngineError::NoModel(path)))?.join("config.json");
    }
    if !path.exists() {
        return Err(CliError::usage(ModelError::Unknown { name: argument.to_string() }));
    }
    let bytes = read_limited(&path, "model configuration", CONFIG_LIMIT).map_err(|error| match error {
        ReadError::System { .. } => CliError::failure(error),
        _ => CliError::usage(error),
    })?;
    let json: Value = serde_json::from_slice(&bytes)
        .map_err(|source| CliError::usage(ModelError::Json { path: path.clone(), source }))?;
    // Multimodal models keep the language model's shape one level down.
    let config = Config { path: &path, json: json.get("text_config").unwrap_or(&json) };
    config.shape().map_err(CliError::usage)
}

struct Config<'a> {
    path: &'a Path,
    json: &'a Value,
}

impl Config<'_> {
    fn shape(&self) -> Result<ModelShape, ModelError> {
        let heads = self.required("num_attention_heads", 1 << 10)?;
        let width = self.required("hidden_size", 1 << 20)?;
        let kv_heads = self.optional("num_key_value_heads", 1 << 10)?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            let problem = format!("is {kv_heads}, which does not divide the {heads} query heads");
            return Err(self.wrong("num_key_value_heads", problem));
        }
        let head_dim = match self.optional("head_dim", 1 << 10)? {
            Some(head_dim) => head_dim,
            None if width.is_multiple_of(heads) => width / heads,
            None => {
                let problem = format!("is missing, and {width} wide is no multiple of {heads} heads");
                return Err(self.wrong("head_dim", problem));
            }
        };
        Ok(ModelShape {
            name: self.path.display().to_string(),
            layers: self.required("num_hidden_layers", 1 << 10)?,
            width,
            hidden: self.required("intermediate_size", 1 << 22)?,
            heads,
            kv_heads,
            head_dim,
            vocabulary: self.required("vocab_size", 1 << 24)?,
            element_bytes: self.element_bytes()?,
            tied: self.json.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false),
        })
    }

    /// Newer files say `dtype`, older ones `torch_dtype`; without either, weights are served in 16 bits.
    fn element_bytes(&self) -> Result<u32, ModelError> {
        let dtype = self.json.get("dtype").or_else(|| self.json.get("torch_dtype"));
        match dtype.map(Value::as_str) {
            None | Some(Some("bfloat16" | "float16")) => Ok(2),
            Some(Some("float32")) => Ok(4),
            Some(_) => Err(self.wrong("torch_dtype", "must be bfloat16, float16 or float32".to_string())),
        }
    }

    fn required(&self, key: &'static str, most: u64) -> Result<u32, ModelError> {
        self.optional(key, most)?.ok_or_else(|| self.wrong(key, "is missing".to_string()))
    }

    fn optional(&self, key: &'static str, most: u64) -> Result<Option<u32>, ModelError> {
        match self.json.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64() {
                Some(number) if (1..=most).contains(&number) => Ok(u32::try_from(number).ok()),
                _ => Err(self.wrong(key, format!("must be a whole number from 1 to {most}"))),
            },
        }
    }

    fn wrong(&self, key: &'static str, problem: String) -> ModelError {
        ModelError::Key { path: self.path.into(), key, problem }
    }
}
