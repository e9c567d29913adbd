//! `config.json` as transformers writes it for Llama shapes, read strictly: what the engine would ignore it refuses.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::read::{CONFIG_LIMIT, read_limited};

use super::ModelError;
use super::rope_scaling::{Rope, RopeScaling};

/// The shape of a Llama model and the numbers its forward pass needs.
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaConfig {
    /// L, layers.
    pub layers: usize,
    /// C, model width.
    pub width: usize,
    /// F, hidden width of the MLP.
    pub hidden: usize,
    /// H, query heads.
    pub heads: usize,
    /// G, KV heads.
    pub kv_heads: usize,
    /// D, head dimension.
    pub head_dim: usize,
    /// V, vocabulary.
    pub vocabulary: usize,
    /// Added to the mean square in RMSNorm.
    pub norm_eps: f32,
    /// Whether embedding and output head share their weights.
    pub tied: bool,
    /// Rotary embedding.
    pub rope: Rope,
    /// The longest sequence the model is meant for, in tokens.
    pub max_tokens: usize,
    /// The window of every layer's attention, if the configuration has one (Mistral), in tokens.
    pub window_tokens: Option<u32>,
    /// Standard deviation of initial weights.
    pub initializer_range: f32,
    /// Tokens that end a text.
    pub end_tokens: Vec<u32>,
    /// Everything else the file said, written back unchanged.
    other: Map<String, Value>,
}

/// The same for the number of weights.
const MAX_WEIGHTS: u128 = 1 << 40;
/// Sizes beyond this are taken for damage, before anything is allocated.
const MAX_SIZE: u64 = 1 << 24;

impl LlamaConfig {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// A file that cannot be read, lacks a key, or describes something other than a Llama shape.
    pub fn read(path: &Path) -> Result<LlamaConfig, ModelError> {
        let bytes = read_limited(path, "model configuration", CONFIG_LIMIT)?;
        let parsed = match std::str::from_utf8(&bytes) {
            Ok(text) => LlamaConfig::parse(text),
            Err(error) => Err(error.to_string()),
        };
        parsed.map_err(|problem| ModelError::Config { path: path.to_path_buf(), problem })
    }

    /// Reads the text of a `config.json`; the error is in words.
    ///
    /// # Errors
    /// As [`LlamaConfig::read`].
    pub fn parse(text: &str) -> Result<LlamaConfig, String> {
        let root: Map<String, Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let keys = Keys(&root);
        keys.refuse_other_architectures()?;
        let (width, heads) = (keys.size("hidden_size")?, keys.size("num_attention_heads")?);
        let head_dim = keys.optional_size("head_dim")?.unwrap_or(width / heads);
        let max_tokens = keys.optional_size("max_position_embeddings")?.unwrap_or(2048);
        let config = LlamaConfig {
            layers: keys.size("num_hidden_layers")?,
            width,
            hidden: keys.size("intermediate_size")?,
            heads,
            kv_heads: keys.optional_size("num_key_value_heads")?.unwrap_or(heads),
            head_dim,
            vocabulary: keys.size("vocab_size")?,
            norm_eps: keys.optional_number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            tied: keys.flag("tie_word_embeddings")?,
            rope: Rope::from_config(&root, head_dim, max_tokens)?,
            max_tokens,
            window_tokens: keys.window()?,
            initializer_range: keys.optional_number("initializer_range")?.unwrap_or(0.02) as f32,
            end_tokens: keys.end_tokens()?,
            other: root,
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        if !self.heads.is_multiple_of(self.kv_heads) {
            let (heads, kv_heads) = (self.heads, self.kv_heads);
            return Err(format!("{heads} query heads cannot be shared among {kv_heads} KV heads"));
        }
        if !self.head_dim.is_multiple_of(2) || self.head_dim == 0 {
            return Err(format!("rotary embedding needs an even head dimension, found {}", self.head_dim));
        }
        let (c, f, d) = (self.width as u128, self.hidden as u128, self.head_dim as u128);
        let heads = 2 * (self.heads + self.kv_heads) as u128;
        let weights = self.layers as u128 * (heads * d * c + 3 * c * f) + 2 * self.vocabulary as u128 * c;
        if weights > MAX_WEIGHTS {
            return Err(format!("these sizes make {weights} weights, more than {MAX_WEIGHTS}"));
        }
        if !(self.norm_eps.is_finite() && self.norm_eps >= 0.0) {
            return Err(format!("`rms_norm_eps` must be a finite number from 0 on, found {}", self.norm_eps));
        }
        Ok(())
    }

    /// The text of a `config.json` that transformers reads back as this model. `dtype` names the type of its weights.
    pub fn to_json(&self, dtype: &str) -> String {
        let mut root = self.other.clone();
        for stale in ["rope_parameters", "torch_dtype", "transformers_version"] {
            root.remove(stale);
        }
        let (architecture, kind) = match self.window_tokens {
            Some(_) => ("MistralForCausalLM", "mistral"),
            None => ("LlamaForCausalLM", "llama"),
        };
        let known = json!({
            "architectures": [architecture], "model_type": kind, "hidden_act": "silu", "dtype": dtype,
            "num_hidden_layers": self.layers, "hidden_size": self.width, "intermediate_size": self.hidden,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads, "head_dim": self.head_dim,
            "vocab_size": self.vocabulary, "rms_norm_eps": shortest(self.norm_eps), "tie_word_embeddings": self.tied,
            "max_position_embeddings": self.max_tokens, "initializer_range": shortest(self.initializer_range),
            "rope_theta": self.rope.base, "rope_scaling": self.rope.scaling.to_json(),
            "attention_bias": false, "mlp_bias": false,
        });
        if let Value::Object(known) = known {
            root.extend(known);
        }
        if let Some(window) = self.window_tokens {
            root.insert("sliding_window".into(), window.into());
        }
        format!("{:#}\n", Value::Object(root))
    }

    /// Another RoPE base or scaling, as a second training pass on longer sequences sets it.
    ///
    /// # Errors
    /// In words: numbers that are out of range.
    pub fn set_rope(&mut self, base: Option<f64>, scaling: Option<RopeScaling>) -> Result<(), String> {
        let scaling = scaling.unwrap_or(self.rope.scaling);
        self.rope = Rope::new(base.unwrap_or(self.rope.base), scaling, self.head_dim)?;
        Ok(())
    }
}

/// The number as a person would have written it: f32 widened to f64 would print digits nobody set.
fn shortest(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}

/// Typed access to the keys of the file.
struct Keys<'a>(&'a Map<String, Value>);

impl Keys<'_> {
    fn present(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn optional_size(&self, key: &str) -> Result<Option<usize>, String> {
        let Some(value) = self.present(key) else { return Ok(None) };
        match value.as_u64() {
            Some(size) if (1..=MAX_SIZE).contains(&size) => Ok(Some(size as usize)),
            _ => Err(format!("`{key}` must be a whole number from 1 to {MAX_SIZE}, found {value}")),
        }
    }

    fn size(&self, key: &str) -> Result<usize, String> {
        self.optional_size(key)?.ok_or_else(|| format!("`{key}` is missing"))
    }

    fn optional_number(&self, key: &str) -> Result<Option<f64>, String> {
        let Some(value) = self.present(key) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| format!("`{key}` must be a number, found {value}"))
    }

    fn flag(&self, key: &str) -> Result<bool, String> {
        let Some(value) = self.present(key) else { return Ok(false) };
        value.as_bool().ok_or_else(|| format!("`{key}` must be true or false, found {value}"))
    }

    fn refuse_other_architectures(&self) -> Result<(), String> {
        let kind = self.present("model_type").and_then(Value::as_str).unwrap_or("llama");
        if !["llama", "mistral"].contains(&kind) {
            return Err(format!("`model_type` is `{kind}`; `llama` and `mistral` are supported"));
        }
        let activation = self.present("hidden_act").and_then(Value::as_str).unwrap_or("silu");
        if activation != "silu" {
            return Err(format!("`hidden_act` is `{activation}`; `silu` is supported"));
        }
        for key in ["attention_bias", "mlp_bias"] {
            if self.flag(key)? {
                return Err(format!("`{key}` is true; Llama shapes without biases are supported"));
            }
        }
        match self.present("quantization_config") {
            Some(_) => Err("`quantization_config` is set; only unquantised weights are supported".into()),
            None => Ok(()),
        }
    }

    fn window(&self) -> Result<Option<u32>, String> {
        let mistral = self.present("model_type").and_then(Value::as_str) == Some("mistral");
        Ok(self.optional_size("sliding_window")?.filter(|_| mistral).map(|tokens| tokens as u32))
    }

    fn end_tokens(&self) -> Result<Vec<u32>, String> {
        let token = |value: &Value| value.as_u64().and_then(|token| u32::try_from(token).ok());
        let tokens = match self.present("eos_token_id") {
            None => Some(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(token).collect(),
            Some(value) => token(value).map(|token| vec![token]),
        };
        tokens.ok_or_else(|| "`eos_token_id` must be a token or a list of tokens".into())
    }
}
