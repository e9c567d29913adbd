//! What a training run is, apart from its model and its data: everything its numbers depend on.

use serde::{Deserialize, Serialize};

use crate::model::Recompute;

use super::OptimizerConfig;

/// The settings of a run. A resumed run must have the same ones, or its losses would not be those of an unbroken run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSettings {
    /// Updates of the weights in the whole run.
    pub steps: u64,
    /// Tokens of a sequence.
    pub sequence_tokens: usize,
    /// Sequences of a micro-batch.
    pub batch_sequences: usize,
    /// Micro-batches whose gradients are summed for one update.
    pub accumulate: usize,
    /// The learning rate after warm-up.
    pub learning_rate: f32,
    /// The learning rate at the last step.
    pub min_learning_rate: f32,
    /// Steps over which the learning rate rises from 0.
    pub warmup_steps: u64,
    /// Documents do not see each other, and positions restart in each.
    pub document_mask: bool,
    /// Compute activations again in the backward pass.
    pub recompute: bool,
    /// Seed of the order of the data.
    pub seed: u64,
    /// AdamW.
    pub optimizer: OptimizerConfig,
}

impl Default for TrainSettings {
    fn default() -> TrainSettings {
        TrainSettings {
            steps: 1000,
            sequence_tokens: 512,
            batch_sequences: 4,
            accumulate: 1,
            learning_rate: 1e-3,
            min_learning_rate: 1e-4,
            warmup_steps: 50,
            document_mask: false,
            recompute: true,
            seed: 0,
            optimizer: OptimizerConfig::default(),
        }
    }
}

impl TrainSettings {
    /// The learning rate of a step, counted from 1: linear warm-up, then a cosine down to the minimum.
    pub fn learning_rate_at(&self, step: u64) -> f32 {
        if step <= self.warmup_steps {
            return (f64::from(self.learning_rate) * step as f64 / self.warmup_steps as f64) as f32;
        }
        let left = (self.steps.max(self.warmup_steps + 1) - self.warmup_steps) as f64;
        let progress = ((step - self.warmup_steps) as f64 / left).min(1.0);
        let (high, low) = (f64::from(self.learning_rate), f64::from(self.min_learning_rate));
        (low + (high - low) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())) as f32
    }

    /// What the backward pass keeps.
    pub(super) fn kept(&self) -> Recompute {
        if self.recompute { Recompute::Layers } else { Recompute::Nothing }
    }

    /// Tokens that one update reads.
    pub fn tokens_per_step(&self) -> usize {
        self.sequence_tokens * self.batch_sequences * self.accumulate
    }

    /// What is out of range, in words; `None` if nothing is.
    pub fn defect(&self) -> Option<String> {
        let counts = [
            ("steps", self.steps as usize),
            ("batch_sequences", self.batch_sequences),
            ("accumulate", self.accumulate),
        ];
        if let Some((name, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return Some(format!("`{name}` must be at least 1"));
        }
        if self.sequence_tokens < 2 {
            return Some("`sequence_tokens` must be at least 2: the first token predicts the second".into());
        }
        let OptimizerConfig { beta1, beta2, eps, weight_decay, clip_norm, .. } = self.optimizer;
        let numbers = [
            ("learning_rate", self.learning_rate, 0.0..f32::MAX),
            ("min_learning_rate", self.min_learning_rate, 0.0..f32::MAX),
            ("beta1", beta1, 0.0..1.0),
            ("beta2", beta2, 0.0..1.0),
            ("eps", eps, f32::MIN_POSITIVE..1.0),
            ("weight_decay", weight_decay, 0.0..f32::MAX),
            ("clip_norm", clip_norm.unwrap_or(1.0), f32::MIN_POSITIVE..f32::MAX),
        ];
        let wrong = numbers.iter().find(|(_, value, range)| !range.contains(value));
        wrong.map(|(name, value, range)| {
            format!("`{name}` must be from {} to below {}, found {value}", range.start, range.end)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_rises_and_falls() {
        let settings = TrainSettings {
            steps: 100,
            warmup_steps: 10,
            learning_rate: 1.0,
            min_learning_rate: 0.1,
            ..TrainSettings::default()
        };
        let rates: Vec<f32> = (1..=100).map(|step| settings.learning_rate_at(step)).collect();
        assert!((rates[0] - 0.1).abs() < 1e-6 && rates[9] == 1.0 && (rates[99] - 0.1).abs() < 1e-6);
        assert!((settings.learning_rate_at(55) - 0.55).abs() < 1e-6);
        assert!(rates[9..].windows(2).all(|pair| pair[1] < pair[0]));
        let none = TrainSettings { warmup_steps: 0, ..settings };
        assert!(none.learning_rate_at(1) > 0.99 * none.learning_rate);
    }
}
