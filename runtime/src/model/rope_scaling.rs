//! The frequencies of rotary embedding, plain or stretched to longer sequences.
//!
//! Plain: `frequency[d] = base^(-2d/D)`. Linear (arXiv 2306.15595) divides all by the factor. NTK-aware raises the base
//! so that the lowest frequency is divided by the factor and the highest stays. Llama-3 and YaRN (arXiv 2309.00071)
//! divide only frequencies whose wave is long against the original context, with a ramp between.

use std::f64::consts::PI;

use serde_json::{Map, Value, json};

/// How frequencies are stretched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All positions divided by the factor.
    Linear {
        /// How many times longer.
        factor: f64,
    },
    /// Llama 3.1 and later.
    Llama3 {
        /// How many times longer.
        factor: f64,
        /// Waves longer than `original_tokens / low_freq_factor` are divided by the whole factor.
        low_freq_factor: f64,
        /// Waves shorter than `original_tokens / high_freq_factor` stay.
        high_freq_factor: f64,
        /// The context of the first training, in tokens.
        original_tokens: f64,
    },
    /// YaRN.
    Yarn {
        /// How many times longer.
        factor: f64,
        /// The context of the first training, in tokens.
        original_tokens: f64,
        /// Frequencies that turn more often than this in the original context stay.
        beta_fast: f64,
        /// Frequencies that turn less often than this are divided by the whole factor.
        beta_slow: f64,
        /// Factor on cosines and sines.
        attention_factor: f64,
        /// Whether the ramp begins and ends at whole dimensions.
        truncate: bool,
    },
}

/// Rotary embedding of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the geometric series of frequencies.
    pub base: f64,
    /// How they are stretched.
    pub scaling: RopeScaling,
    /// Radians per position, (D/2).
    pub frequencies: Vec<f32>,
}

impl Rope {
    /// Frequencies for a head dimension.
    ///
    /// # Errors
    /// In words: numbers that are not finite and positive.
    pub fn new(base: f64, scaling: RopeScaling, head_dim: usize) -> Result<Rope, String> {
        positive("rope_theta", base)?;
        scaling.check()?;
        let frequencies = scaling.frequencies(base, head_dim);
        if frequencies.iter().any(|frequency| !frequency.is_finite()) {
            return Err(format!(
                "`rope_theta` {base} with this scaling gives frequencies that are not finite"
            ));
        }
        Ok(Rope { base, scaling, frequencies })
    }

    /// The factor on cosines and sines; 1 but for YaRN.
    pub fn attention_factor(&self) -> f32 {
        match self.scaling {
            RopeScaling::Yarn { attention_factor, .. } => attention_factor as f32,
            _ => 1.0,
        }
    }

    /// From the keys of a `config.json`, old (`rope_theta`, `rope_scaling`) or new (`rope_parameters`).
    pub(super) fn from_config(
        root: &Map<String, Value>,
        head_dim: usize,
        max_tokens: usize,
    ) -> Result<Rope, String> {
        let object = |key: &str| match root.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(other) => Err(format!("`{key}` must be an object, found {other}")),
        };
        let parameters = object("rope_parameters")?.or(object("rope_scaling")?);
        let empty = Map::new();
        let keys = ScalingKeys(parameters.unwrap_or(&empty));
        let base = match keys.optional("rope_theta")? {
            Some(base) => base,
            None => ScalingKeys(root).optional("rope_theta")?.unwrap_or(10_000.0),
        };
        let (base, scaling) = keys.scaling(base, head_dim, max_tokens as f64)?;
        Rope::new(base, scaling, head_dim)
    }
}

impl RopeScaling {
    /// NTK-aware scaling is nothing but a larger base: `base * factor^(D / (D - 2))`.
    pub fn ntk_base(base: f64, factor: f64, head_dim: usize) -> f64 {
        let d = head_dim as f64;
        base * factor.powf(d / (d - 2.0).max(1.0))
    }

    /// YaRN with the constants of its paper.
    pub fn yarn(factor: f64, original_tokens: f64) -> RopeScaling {
        let attention_factor = mscale(factor, 1.0);
        RopeScaling::Yarn {
            factor,
            original_tokens,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor,
            truncate: true,
        }
    }

    fn check(&self) -> Result<(), String> {
        match *self {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } => positive("factor", factor),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_tokens } => {
                positive("factor", factor)?;
                positive("low_freq_factor", low_freq_factor)?;
                positive("original_max_position_embeddings", original_tokens)?;
                if high_freq_factor <= low_freq_factor || !high_freq_factor.is_finite() {
                    return Err(format!(
                        "`high_freq_factor` ({high_freq_factor}) must be above `low_freq_factor` ({low_freq_factor})"
                    ));
                }
                Ok(())
            }
            RopeScaling::Yarn { factor, original_tokens, beta_fast, beta_slow, attention_factor, .. } => {
                positive("factor", factor)?;
                positive("original_max_position_embeddings", original_tokens)?;
                positive("beta_fast", beta_fast)?;
                positive("beta_slow", beta_slow)?;
                positive("attention_factor", attention_factor)
            }
        }
    }

    fn frequencies(&self, base: f64, head_dim: usize) -> Vec<f32> {
        let plain = |d: usize| base.powf(-2.0 * d as f64 / head_dim as f64);
        (0..head_dim / 2).map(|d| self.stretch(plain(d), d, base, head_dim) as f32).collect()
    }

    /// The stretched form of frequency `plain`, that of dimension `d`.
    fn stretch(&self, plain: f64, d: usize, base: f64, head_dim: usize) -> f64 {
        match *self {
            RopeScaling::None => plain,
            RopeScaling::Linear { factor } => plain / factor,
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_tokens } => {
                let turns = original_tokens * plain / (2.0 * PI);
                let kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                blend(plain, factor, kept.clamp(0.0, 1.0))
            }
            RopeScaling::Yarn { factor, original_tokens, beta_fast, beta_slow, truncate, .. } => {
                let dimension_of = |turns: f64| {
                    head_dim as f64 * (original_tokens / (turns * 2.0 * PI)).ln() / (2.0 * base.ln())
                };
                let (mut low, mut high) = (dimension_of(beta_fast), dimension_of(beta_slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min(head_dim as f64 - 1.0));
                if low == high {
                    high += 0.001;
                }
                blend(plain, factor, 1.0 - ((d as f64 - low) / (high - low)).clamp(0.0, 1.0))
            }
        }
    }

    pub(super) fn to_json(self) -> Value {
        match self {
            RopeScaling::None => Value::Null,
            RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_tokens } => json!({
                "rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor, "original_max_position_embeddings": original_tokens as u64,
            }),
            RopeScaling::Yarn {
                factor,
                original_tokens,
                beta_fast,
                beta_slow,
                attention_factor,
                truncate,
            } => {
                json!({
                    "rope_type": "yarn", "factor": factor,
                    "original_max_position_embeddings": original_tokens as u64, "beta_fast": beta_fast,
                    "beta_slow": beta_slow, "attention_factor": attention_factor, "truncate": truncate,
                })
            }
        }
    }
}

fn blend(plain: f64, factor: f64, kept: f64) -> f64 {
    plain * kept + plain / factor * (1.0 - kept)
}

fn mscale(factor: f64, weight: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 }
}

fn positive(name: &str, value: f64) -> Result<(), String> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(format!("`{name}` must be a finite number above 0, found {value}"))
}

/// Typed access to the keys of `rope_parameters` or `rope_scaling`.
struct ScalingKeys<'a>(&'a Map<String, Value>);

impl ScalingKeys<'_> {
    fn optional(&self, key: &str) -> Result<Option<f64>, String> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                value.as_f64().map(Some).ok_or_else(|| format!("`{key}` must be a number, found {value}"))
            }
        }
    }

    fn required(&self, key: &str) -> Result<f64, String> {
        self.optional(key)?.ok_or_else(|| format!("rotary scaling lacks `{key}`"))
    }

    /// The base, which NTK-aware scaling moves, and the scaling.
    fn scaling(&self, base: f64, head_dim: usize, max_tokens: f64) -> Result<(f64, RopeScaling), String> {
        let kind =
            self.0.get("rope_type").or(self.0.get("type")).and_then(Value::as_str).unwrap_or("default");
        let original = || {
            let tokens = self.optional("original_max_position_embeddings")?;
            Ok::<f64, String>(tokens.unwrap_or(max_tokens))
        };
        Ok(match kind {
            "default" => (base, RopeScaling::None),
            "linear" => (base, RopeScaling::Linear { factor: self.required("factor")? }),
            "ntk" => (RopeScaling::ntk_base(base, self.required("factor")?, head_dim), RopeScaling::None),
            "llama3" => (
                base,
                RopeScaling::Llama3 {
                    factor: self.required("factor")?,
                    low_freq_factor: self.required("low_freq_factor")?,
                    high_freq_factor: self.required("high_freq_factor")?,
                    original_tokens: original()?,
                },
            ),
            "yarn" => (base, self.yarn(original()?)?),
            other => {
                return Err(format!(
                    "rotary scaling `{other}` is not supported; `default`, `linear`, `ntk`, `llama3` and `yarn` are"
                ));
            }
        })
    }

    fn yarn(&self, original_tokens: f64) -> Result<RopeScaling, String> {
        let factor = self.required("factor")?;
        let attention_factor = match (self.optional("mscale")?, self.optional("mscale_all_dim")?) {
            (Some(one), Some(all)) if one != 0.0 && all != 0.0 => mscale(factor, one) / mscale(factor, all),
            _ => mscale(factor, 1.0),
        };
        Ok(RopeScaling::Yarn {
            factor,
            original_tokens,
            beta_fast: self.optional("beta_fast")?.unwrap_or(32.0),
            beta_slow: self.optional("beta_slow")?.unwrap_or(1.0),
            attention_factor: self.optional("attention_factor")?.unwrap_or(attention_factor),
            truncate: self.0.get("truncate").and_then(Value::as_bool).unwrap_or(true),
        })
    }
}
