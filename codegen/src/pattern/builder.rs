//! The Rust way in: a builder whose `build` goes through every rule.

use super::{HeadRule, IndexSet, LayerPlan, Mask, Pattern, PatternError, Softmax};

/// Collects the parts of a [`Pattern`].
#[derive(Debug, Clone)]
pub struct PatternBuilder {
    pattern: Pattern,
}

impl PatternBuilder {
    pub(super) fn new(mask: Mask) -> Self {
        let (layers, softmax) = (LayerPlan::default(), Softmax::default());
        Self { pattern: Pattern { name: None, mask, rules: Vec::new(), layers, softmax } }
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

    /// Brings the pattern into canonical order and checks it.
    ///
    /// # Errors
    /// [`PatternError`] with the key, the value and what is allowed.
    pub fn build(self) -> Result<Pattern, PatternError> {
        let mut pattern = self.pattern;
        pattern.mask = pattern.mask.normalised();
        pattern.layers.full = pattern.layers.full.normalised();
        for rule in &mut pattern.rules {
            rule.mask = std::mem::replace(&mut rule.mask, Mask::full()).normalised();
            rule.heads = std::mem::replace(&mut rule.heads, IndexSet::All).normalised();
            rule.layers = std::mem::replace(&mut rule.layers, IndexSet::All).normalised();
        }
        Ok(pattern)
    }
}
