//! Published patterns by name.

use super::flat::Flat;
use super::{Clause, IndexSet, Mask, Pattern, PatternBuilder, Problem};

/// The names of all presets.
pub const PRESETS: [&str; 9] = [
    "longgen-sink",
    "longgen-stride",
    "phi3-small",
    "streaming-llm",
    "mistral",
    "gemma3",
    "gpt-oss",
    "duo",
    "longlora",
];

/// Tokens in a LongLoRA group, as its supervised fine-tuning script fixes it: a quarter of 32,768.
const LONGLORA_GROUP: u32 = 8192;

impl Pattern {
    /// The preset of this name; [`PRESETS`] lists them.
    ///
    /// # Errors
    /// An unknown name, with the closest one that exists.
    pub fn preset(name: &str) -> Result<Self, super::PatternError> {
        Ok(preset(name)?)
    }
}

pub(super) fn preset(name: &str) -> Result<Pattern, Problem> {
    let builder = match name {
        "longgen-sink" => longgen_sink(),
        "longgen-stride" => longgen_stride(),
        "phi3-small" => phi3_small(),
        "streaming-llm" => streaming_llm(),
        "mistral" => mistral(),
        "gemma3" => gemma3(),
        "gpt-oss" => gpt_oss(),
        "duo" => duo(),
        "longlora" => longlora(),
        _ => return Err(Problem::unknown_preset(name, &PRESETS)),
    };
    builder.name(name).build().map_err(|error| error.problem().clone())
}

/// The base mask of a preset as a flat list, for single keys to be replaced. Every preset's is one.
pub(super) fn flat(preset: &Pattern) -> Flat {
    let masks = match preset.mask() {
        Mask::Union(masks) => masks.as_slice(),
        mask => std::slice::from_ref(mask),
    };
    let mut flat = Flat::default();
    Flat::split(masks).into_iter().flatten().for_each(|list| flat.overlay(list));
    flat
}

/// LongGen, arXiv 2410.01485 section 4.1: block 64, the first block and the 32 most recent ones, 12 of 32 layers full.
/// That the full layers are centred (10 to 21) is ours; the paper says "the middle".
fn longgen_sink() -> PatternBuilder {
    longgen(Mask::sink_blocks(1, 64) | Mask::window_blocks(32, 64))
}

/// LongGen's block-sparse variant: every 64th block of 64 tokens. The paper gives neither a window nor a shift from
/// head to head; ours are two blocks of window (so that every token sees at least 64 before it, at little cost) and a
/// step of 2 blocks, which spreads the 32 heads of Llama-2-7B evenly over the 64 residues.
fn longgen_stride() -> PatternBuilder {
    longgen(Mask::window_blocks(2, 64) | Clause::Stride { every: 64, block: 64, step: 2, offset: 0 }.into())
}

fn longgen(mask: Mask) -> PatternBuilder {
    Pattern::builder(mask).layers(32).full_layers(IndexSet::range(10..=21))
}

/// Phi-3-small, microsoft/Phi-3-small-128k-instruct config.json: block 64, 16 local blocks, stride 8, per-head shift
/// max(1, 8 / 32 heads) = 1 and offset 1 as trained, every second layer dense.
fn phi3_small() -> PatternBuilder {
    let stride = Clause::Stride { every: 8, block: 64, step: 1, offset: 1 };
    let full = IndexSet::Every { every: 2, from: 1 };
    Pattern::builder(Mask::window_blocks(16, 64) | stride.into()).layers(32).full_layers(full)
}

/// StreamingLLM, arXiv 2309.17453, mit-han-lab/streaming-llm: 4 sinks and the 2,000 most recent tokens, all heads.
fn streaming_llm() -> PatternBuilder {
    Pattern::builder(Mask::sink(4) | Mask::window(2000))
}

/// Mistral 7B v0.1, arXiv 2310.06825 section 2: a window of 4,096 tokens in every layer.
fn mistral() -> PatternBuilder {
    Pattern::builder(Mask::window(4096))
}

/// Gemma 3, arXiv 2503.19786 section 2: five layers with a window of 1,024 tokens, then one full layer.
fn gemma3() -> PatternBuilder {
    Pattern::builder(Mask::window(1024)).full_layers(IndexSet::Every { every: 6, from: 5 })
}

/// gpt-oss, openai/gpt-oss gpt_oss/torch/model.py: window 128 in even layers, odd layers full, and one learned logit
/// per query head in the softmax denominator.
fn gpt_oss() -> PatternBuilder {
    Pattern::builder(Mask::window(128)).full_layers(IndexSet::Every { every: 2, from: 1 }).sink_logit()
}

/// DuoAttention, arXiv 2410.10819, as deployed: streaming heads with 64 sinks and 256 recent tokens. Which heads stay
/// full is learned per model; the table here, the odd KV heads, stands in for it and keeps the half that the paper
/// gives for GQA models. Replace it with `heads` rules of your own.
fn duo() -> PatternBuilder {
    let full = IndexSet::Every { every: 2, from: 1 };
    Pattern::builder(Mask::sink(64) | Mask::window(256)).heads(full, Mask::full())
}

/// LongLoRA, arXiv 2309.12307 section 3.2, without wrap-around as in its FlashAttention path: groups of a quarter of the
/// training length, half of the heads shifted by half a group. Which half is the shifted one follows from the number
/// of heads; the rule here takes the upper half of 32.
fn longlora() -> PatternBuilder {
    Pattern::builder(Mask::group(LONGLORA_GROUP))
        .heads(IndexSet::range(16..=31), Mask::shifted_group(LONGLORA_GROUP))
}
