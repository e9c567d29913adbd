//! The facts of a report, in the form of its JSON.

use std::collections::BTreeMap;
use std::convert::Infallible;

use longgen_codegen::analysis::model::{ModelCost, ModelShape};
use longgen_codegen::analysis::{
    Cost, Liveness, advice, empty_rows, head_twins, stride_coverage, sum_over_heads, tile_pairs,
};
use longgen_codegen::ir::{MaskIr, Term};
use longgen_codegen::pattern::{IndexSet, Pattern};
use longgen_codegen::plan::{TilePlan, TileShape};
use serde::Serialize;
use thiserror::Error;

use crate::cli::CliError;

/// A pattern in a model at a length. Totals are over all layers and all query heads.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The pattern, as its canonical text.
    pub pattern: String,
    /// The model.
    pub model: Model,
    /// Tokens of the sequence.
    pub length: u32,
    /// Pairs (layer, query head, query, key) that are visible.
    pub visible_pairs: u128,
    /// The same under full causal attention.
    pub dense_pairs: u128,
    /// Attention only: 4 * pairs * D.
    pub flops_forward: u128,
    /// Attention only: 10 * pairs * D.
    pub flops_backward: u128,
    /// KV cache of every key in every layer.
    pub kv_bytes_dense: u128,
    /// KV cache of the keys that may still be seen.
    pub kv_bytes_kept: u128,
    /// The same, one entry for each layer.
    pub kv_bytes_by_layer: Vec<u128>,
    /// Keys that must be kept, for each KV head of the first sparse layer (of layer 0 where all are full).
    pub kept_keys: Vec<u64>,
    /// Whether in every layer a key that stops being seen is never seen again, so that its slot can be freed.
    pub monotone: bool,
    /// Whether some query of some head sees no key; null where that was not established.
    pub empty_rows: Option<bool>,
    /// Upper bounds of the speed-up over full attention.
    pub ideal_speedup: Speedup,
    /// Tile of the kernels.
    pub tile: Tile,
    /// Visible pairs over computed pairs, all layers; null where it takes too long to count.
    pub tile_efficiency: Option<f64>,
    /// One entry for each different mask among the layers.
    pub layers: Vec<Layers>,
    /// What to change to waste less.
    pub advice: Vec<String>,
    /// What fits the model badly.
    pub notes: Vec<String>,
}

/// The model's shape.
#[derive(Debug, Serialize)]
pub struct Model {
    /// Name or path.
    pub name: String,
    /// L.
    pub layers: u32,
    /// H.
    pub heads: u32,
    /// G.
    pub kv_heads: u32,
    /// D.
    pub head_dim: u32,
    /// Bytes of a weight and of a KV element.
    pub element_bytes: u32,
    /// Bytes of all weights.
    pub weight_bytes: u128,
}

/// Upper bounds of the speed-up over full attention.
#[derive(Debug, Serialize)]
pub struct Speedup {
    /// By FLOPs of the whole forward pass.
    pub prefill: f64,
    /// By FLOPs of forward, recompute and backward.
    pub train: f64,
    /// By bytes of weights and KV cache, batch 1.
    pub decode: f64,
}

/// A tile.
#[derive(Debug, Serialize)]
pub struct Tile {
    /// Query rows.
    pub queries: u32,
    /// Keys.
    pub keys: u32,
}

/// Layers with the same mask. Counts are of one such layer.
#[derive(Debug, Serialize)]
pub struct Layers {
    /// `full` or `sparse`, numbered where there are several.
    pub kind: String,
    /// The layers, from 0.
    pub layers: Vec<u32>,
    /// Over all query heads.
    pub visible_pairs: u128,
    /// Over all query heads.
    pub dense_pairs: u128,
    /// Over all query heads: whole tiles.
    pub tile_pairs: Option<u128>,
    /// Over all KV heads.
    pub kv_bytes: u128,
    /// For each KV head.
    pub kept_keys: Vec<u64>,
    /// For all KV heads.
    pub monotone: bool,
    /// For any KV head.
    pub empty_rows: Option<bool>,
    /// Whether kernels compute their tiles; otherwise the host lists them.
    pub closed_form: bool,
    /// For each stride, the residues that at least one KV head sees.
    pub coverage: Vec<Coverage>,
}

/// How much of a stride the heads of a layer reach together.
#[derive(Debug, Serialize)]
pub struct Coverage {
    /// The stride, in blocks.
    pub stride: u64,
    /// Keys per block.
    pub block: u64,
    /// Residues that some KV head sees.
    pub reached: u64,
}

/// A layer plan that does not fit the model.
#[derive(Debug, Error)]
enum PlanError {
    #[error(
        "the pattern plans {planned} layers, {model} has {layers}; give the plan for this model in the pattern, for \
         example '{pattern}; layers = {layers}; full_layers = {suggestion}'"
    )]
    LayerCount { planned: u32, model: String, layers: u32, pattern: String, suggestion: IndexSet },
    #[error("the layer plan names layer {named} as full, but {model} has layers 0 to {}", .layers - 1)]
    PastTheEnd { named: u32, model: String, layers: u32 },
}

impl Report {
    /// The report of `tokens` tokens.
    ///
    /// # Errors
    /// [`CliError::Usage`] for a layer plan of another model and for a mask that cannot be lowered,
    /// [`CliError::Failure`] for a predicate that cannot be counted.
    pub fn new(
        pattern: &Pattern,
        model: &ModelShape,
        tokens: u32,
        tile: TileShape,
    ) -> Result<Report, CliError> {
        fits(pattern, model)?;
        let masks = (0..model.layers)
            .map(|layer| MaskIr::lower(pattern, Some(layer)))
            .collect::<Result<Vec<_>, _>>()
            .map_err(CliError::usage)?;
        let cost = ModelCost::new(model, &masks, tokens).map_err(CliError::failure)?;
        let layers = kinds(model, &masks, tokens, tile)?;
        let shown = layers.iter().find(|l| l.kind != "full").or(layers.first());
        let mut advice: Vec<String> =
            masks.iter().flat_map(|ir| advice::alignment(ir, tile)).map(|advice| advice.0).collect();
        advice.sort();
        advice.dedup();
        let all_layers = |count: fn(&Layers) -> Option<u128>| -> Option<u128> {
            layers.iter().map(|l| count(l).map(|n| n * l.layers.len() as u128)).sum()
        };
        let computed = all_layers(|l| l.tile_pairs);
        Ok(Report {
            pattern: pattern.to_string(),
            model: Model::new(model),
            length: tokens,
            visible_pairs: cost.attention.visible_pairs,
            dense_pairs: cost.attention.dense_pairs,
            flops_forward: cost.attention.flops_forward,
            flops_backward: cost.attention.flops_backward,
            kv_bytes_dense: cost.kv_bytes_dense,
            kv_bytes_kept: cost.kv_bytes_kept,
            kv_bytes_by_layer: cost.kv_bytes_by_layer,
            kept_keys: shown.map(|l| l.kept_keys.clone()).unwrap_or_default(),
            monotone: layers.iter().all(|l| l.monotone),
            empty_rows: any(layers.iter().map(|l| l.empty_rows)),
            ideal_speedup: Speedup {
                prefill: cost.ideal_speedup.prefill,
                train: cost.ideal_speedup.train,
                decode: cost.ideal_speedup.decode,
            },
            tile: Tile { queries: tile.queries, keys: tile.keys },
            tile_efficiency: computed.map(|pairs| ratio(cost.attention.visible_pairs, pairs)),
            advice,
            notes: notes(pattern, model),
            layers,
        })
    }
}

impl Model {
    fn new(model: &ModelShape) -> Model {
        Model {
            name: model.name.clone(),
            layers: model.layers,
            heads: model.heads,
            kv_heads: model.kv_heads,
            head_dim: model.head_dim,
            element_bytes: model.element_bytes,
            weight_bytes: model.weight_bytes(),
        }
    }
}

impl Layers {
    /// The share of the dense pairs.
    pub fn density(&self) -> f64 {
        ratio(self.visible_pairs, self.dense_pairs)
    }

    /// Visible pairs over computed pairs.
    pub fn tile_efficiency(&self) -> Option<f64> {
        self.tile_pairs.map(|pairs| ratio(self.visible_pairs, pairs))
    }
}

/// `part / whole`, and 1 where both are nothing.
pub fn ratio(part: u128, whole: u128) -> f64 {
    if whole == 0 { 1.0 } else { part as f64 / whole as f64 }
}

/// Refuses a layer plan made for another model.
fn fits(pattern: &Pattern, model: &ModelShape) -> Result<(), CliError> {
    let (plan, layers) = (pattern.layers(), model.layers);
    if let Some(planned) = plan.count.filter(|&planned| planned != layers) {
        // As many full layers in proportion, in the middle.
        let full = (0..planned).filter(|&layer| plan.full.contains(layer)).count() as u64;
        let full = (full * u64::from(layers)).div_ceil(planned.into()) as u32;
        let first = (layers - full.min(layers)) / 2;
        let suggestion =
            if full == 0 { IndexSet::none() } else { IndexSet::range(first..=first + full.min(layers) - 1) };
        let pattern = match pattern.name() {
            Some(name) => format!("preset = \"{name}\""),
            None => pattern.mask().to_string(),
        };
        let model = model.name.clone();
        return Err(CliError::usage(PlanError::LayerCount { planned, model, layers, pattern, suggestion }));
    }
    match plan.full.largest_named() {
        Some(named) if named >= layers => {
            Err(CliError::usage(PlanError::PastTheEnd { named, model: model.name.clone(), layers }))
        }
        _ => Ok(()),
    }
}

/// Rules that name heads or layers which the model does not have: allowed, since one pattern serves several models.
fn notes(pattern: &Pattern, model: &ModelShape) -> Vec<String> {
    let mut notes = Vec::new();
    for rule in pattern.rules() {
        if rule.heads.largest_named().is_some_and(|head| head >= model.kv_heads) {
            let heads = model.kv_heads;
            notes.push(format!(
                "the rule for heads {} goes past the {heads} KV heads of the model",
                rule.heads
            ));
        }
        if rule.layers.largest_named().is_some_and(|layer| layer >= model.layers) {
            let layers = model.layers;
            notes.push(format!(
                "the rule for layers {} goes past the {layers} layers of the model",
                rule.layers
            ));
        }
    }
    notes
}

/// The different masks among the layers, in the order of their first layer.
fn kinds(
    model: &ModelShape,
    masks: &[MaskIr],
    tokens: u32,
    tile: TileShape,
) -> Result<Vec<Layers>, CliError> {
    let mut groups: Vec<(&MaskIr, Vec<u32>)> = Vec::new();
    for (layer, mask) in (0..).zip(masks) {
        match groups.iter_mut().find(|(seen, _)| *seen == mask) {
            Some((_, layers)) => layers.push(layer),
            None => groups.push((mask, vec![layer])),
        }
    }
    let sparse = groups.iter().filter(|(mask, _)| !is_full(mask)).count();
    let mut number = 0;
    let mut kinds = Vec::with_capacity(groups.len());
    for (mask, layers) in groups {
        let kind = match (is_full(mask), sparse) {
            (true, _) => "full".to_string(),
            (false, 1) => "sparse".to_string(),
            (false, _) => {
                number += 1;
                format!("sparse {number}")
            }
        };
        kinds.push(one_kind(kind, model, mask, layers, tokens, tile)?);
    }
    Ok(kinds)
}

fn is_full(mask: &MaskIr) -> bool {
    mask.classes.iter().all(|class| class.terms == [Term::causal()])
}

fn one_kind(
    kind: String,
    model: &ModelShape,
    mask: &MaskIr,
    layers: Vec<u32>,
    tokens: u32,
    tile: TileShape,
) -> Result<Layers, CliError> {
    let cost =
        Cost::new(mask, tokens, model.heads, model.kv_heads, model.head_dim).map_err(CliError::failure)?;
    // Heads with equal masks are looked at once.
    let twin = head_twins(mask, model.kv_heads);
    let heads = || (0..).zip(&twin).filter(|(g, twin)| g == *twin).map(|(g, _)| g);
    let kept: BTreeMap<u32, u64> = heads().map(|g| (g, Liveness::new(mask, g).kept_keys(tokens))).collect();
    let kept_keys: Vec<u64> = twin.iter().map(|twin| kept[twin]).collect();
    let key_bytes = 2 * u128::from(model.head_dim) * u128::from(model.element_bytes);
    let coverage = stride_coverage(mask, model.kv_heads);
    Ok(Layers {
        kind,
        layers,
        visible_pairs: cost.visible_pairs,
        dense_pairs: cost.dense_pairs,
        tile_pairs: computed_pairs(model, mask, tokens, tile),
        kv_bytes: kept_keys.iter().map(|&keys| u128::from(keys)).sum::<u128>() * key_bytes,
        kept_keys,
        monotone: heads().all(|g| Liveness::new(mask, g).monotone()),
        empty_rows: any(heads().map(|g| empty_rows(mask, g, tokens))),
        closed_form: mask.is_closed_form(),
        coverage: coverage
            .iter()
            .map(|c| Coverage { stride: c.every, block: c.block, reached: c.reached })
            .collect(),
    })
}

/// Tiles of a listed mask that are looked at one by one, at most.
const LISTED_TILES: u64 = 1 << 22;

/// Pairs in the tiles of one layer, all query heads; `None` for a listed mask with too many tiles.
fn computed_pairs(model: &ModelShape, mask: &MaskIr, tokens: u32, tile: TileShape) -> Option<u128> {
    let tiles = u64::from(tokens.div_ceil(tile.queries)) * u64::from(tokens.div_ceil(tile.keys));
    if !mask.is_closed_form() && tiles.saturating_mul(model.kv_heads.into()) > LISTED_TILES {
        return None;
    }
    let plan = TilePlan::new(mask, tile);
    let group = u128::from(model.heads / model.kv_heads);
    let pairs = |g| Ok::<_, Infallible>(tile_pairs(mask, &plan, g, tokens) * group);
    sum_over_heads(mask, model.kv_heads, pairs).ok()
}

/// Whether any is true; `None` where none is and some are not known.
fn any(answers: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut known = Some(false);
    for answer in answers {
        match answer {
            Some(true) => return Some(true),
            Some(false) => {}
            None => known = None,
        }
    }
    known
}
