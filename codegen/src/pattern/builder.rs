//! The Rust way in: a builder whose `build` goes through every rule.

use super::{HeadRule, IndexSet, Mask, Pattern, PatternError};

/// Collects the parts of a [`Pattern`].
#[derive(Debug, Clone)]
pub struct PatternBuilder {
    pattern: Pattern,
}

impl PatternBuilder {
    pub(super) fn new(mask: Mask) -> Self {
        Self { pattern: Pattern::unchecked(mask) }
    }

    /// Names the pattern, for people.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.pattern.name = Some(name.into());
        self
    }

    /// Gives the KV heads `heads` another mask, in all layers. A later rule wins over an earlier one.
    pub fn heads(self, heads: IndexSet, mask: impl Into<Mask>) -> Self {
        self.rule(HeadRule { heads, layers: IndexSet::All, mask: mask.into() })
    }

    /// Adds a rule for some heads in some layers. A later rule wins over an earlier one.
    pub fn rule(mut self, rule: HeadRule) -> Self {
        self.pattern.rules.push(rule);
        self
    }

    /// Says how many layers the model has.
    pub fn layers(mut self, count: u32) -> Self {
        self.pattern.layers.count = Some(count);
        self
    }

    /// Makes these layers full causal attention.
    pub fn full_layers(mut self, full: IndexSet) -> Self {
        self.pattern.layers.full = full;
        self
    }

    /// Caps scores: `softcap * tanh(score / softcap)`.
    pub fn softcap(mut self, softcap: f32) -> Self {
        self.pattern.softmax.softcap = Some(softcap);
        self
    }

    /// Adds one learned logit per query head to the softmax denominator.
    pub fn sink_logit(mut self) -> Self {
        self.pattern.softmax.sink_logit = true;
        self
    }

    /// Checks the pattern and brings it into canonical order.
    ///
    /// # Errors
    /// [`PatternError`] with the key, the value and what is allowed.
    pub fn build(self) -> Result<Pattern, PatternError> {
        self.pattern.checked().map_err(|(_, problem)| PatternError::from(problem))
    }
}

/// Goes on from a finished pattern, a preset for example.
impl From<Pattern> for PatternBuilder {
    fn from(pattern: Pattern) -> Self {
        Self { pattern }
    }
}
