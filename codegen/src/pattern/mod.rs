//! What the user means: a [`Pattern`], its three ways in (text, TOML, builder; the attribute expands to the builder)
//! and the rules they share. Knows nothing of tiles, kernels or lengths.

#[doc(hidden)]
pub mod attribute;
mod builder;
mod check;
mod error;
mod flat;
mod index_set;
mod mask;
mod place;
mod predicate;
mod presets;
pub mod rules;
mod text;
mod toml;

pub use attribute::SparsePattern;
pub use builder::PatternBuilder;
pub use error::{PatternError, Problem};
pub use index_set::{IndexSet, Span};
pub use mask::{Clause, DEFAULT_BLOCK, Mask};
pub use place::Place;
pub use predicate::Predicate;
pub use presets::PRESETS;
pub use toml::MAX_TOML_BYTES;

/// Every token count in a pattern is at most this, so that 32-bit index arithmetic in kernels cannot overflow.
pub const MAX_TOKENS: u32 = 1 << 30;

/// Which keys each query may see, per KV head and per layer, and how the softmax treats the scores.
///
/// Attention is always causal; documents are separate sequences. A pattern knows no lengths and no head count.
#[derive(Debug, Clone, PartialEq)]
pub struct Pattern {
    name: Option<String>,
    mask: Mask,
    rules: Vec<HeadRule>,
    layers: LayerPlan,
    softmax: Softmax,
}

/// Another mask for some KV heads in some layers. Where several rules match, the last one holds.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadRule {
    /// The KV heads that get the mask.
    pub heads: IndexSet,
    /// The layers in which they get it.
    pub layers: IndexSet,
    /// The mask in place of the pattern's own.
    pub mask: Mask,
}

/// Which layers are full causal attention, whatever the masks say.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerPlan {
    /// How many layers the model has, where the pattern is made for one model.
    pub count: Option<u32>,
    /// The full layers; none by default.
    pub full: IndexSet,
}

impl Default for LayerPlan {
    fn default() -> Self {
        Self { count: None, full: IndexSet::none() }
    }
}

/// What happens to the scores beside the mask.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Softmax {
    /// Scores become `softcap * tanh(score / softcap)`.
    pub softcap: Option<f32>,
    /// One learned logit per query head joins the denominator.
    pub sink_logit: bool,
}

impl Pattern {
    /// Starts a pattern with this mask in every layer and for every head; `build` checks it.
    pub fn builder(mask: impl Into<Mask>) -> PatternBuilder {
        PatternBuilder::new(mask.into())
    }

    /// The pattern's name, for people.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The mask of every head that no rule names, in every layer that is not full.
    pub fn mask(&self) -> &Mask {
        &self.mask
    }

    /// The rules for single heads and layers, in order; the last one that matches holds.
    pub fn rules(&self) -> &[HeadRule] {
        &self.rules
    }

    /// The layer plan.
    pub fn layers(&self) -> &LayerPlan {
        &self.layers
    }

    /// What happens to the scores beside the mask.
    pub fn softmax(&self) -> Softmax {
        self.softmax
    }

    /// The mask of KV head `g` in `layer`. Without a layer: that of a layer which is not full, where only rules for
    /// all layers hold.
    pub fn mask_for(&self, layer: Option<u32>, g: u32) -> &Mask {
        static FULL: Mask = Mask::full();
        if layer.is_some_and(|layer| self.layers.full.contains(layer)) {
            return &FULL;
        }
        let matches = |rule: &&HeadRule| {
            rule.heads.contains(g)
                && layer.map_or(rule.layers == IndexSet::All, |layer| rule.layers.contains(layer))
        };
        self.rules.iter().rev().find(matches).map_or(&self.mask, |rule| &rule.mask)
    }

    /// Whether query `i` sees key `j` under KV head `g`: the definition, and the oracle of everything derived from it.
    pub fn sees(&self, layer: Option<u32>, g: u32, i: u32, j: u32) -> bool {
        j <= i && self.mask_for(layer, g).contains(g, i, j)
    }
}
