//! Which template holds which kernel, under which names, with which grid and which arguments: the contract between the
//! templates and whoever launches them.

use serde::{Deserialize, Serialize};

use crate::schedule::{PART_QUERIES, PIECE_KEYS, Schedule};
use crate::spec::Pass;
use crate::target::Family;

/// A template file and its entry points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Template {
    /// Name in the templates.
    pub file: &'static str,
    /// C++ constant that holds the dynamic shared memory the kernel counts on, if the template names one. The generated
    /// source asserts that it is what the host computes.
    pub smem_constant: Option<&'static str>,
    /// Entry points, in launch order.
    pub entries: &'static [Entry],
}

/// One entry point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The `extern "C"` name.
    pub name: &'static str,
    /// Blocks along x, y, z.
    pub grid: [GridAxis; 3],
    /// Arguments after the parameter struct, in order.
    pub extra: &'static [Extra],
    /// Takes the schedule's dynamic shared memory.
    pub uses_smem: bool,
    /// Launched only when there are sink logits.
    pub needs_sink_logit: bool,
    /// Waits itself for the kernels before it (`wait_for_predecessor`), so that it may be launched while they run.
    pub starts_early: bool,
}

/// What one axis of the grid counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GridAxis {
    /// `ceil(max_q / tile_m)`.
    QueryTiles,
    /// `ceil(max_k / tile_n)`.
    KeyTiles,
    /// Any number up to the work items (query tiles times H times B); one per multiprocessor keeps all busy.
    QueryWork,
    /// Any number up to the work items of the fused backward (see `tile/sm90_key_unit.cuh`); one per multiprocessor
    /// keeps all busy.
    KeyWork,
    /// H.
    Heads,
    /// G.
    KvHeads,
    /// Tiles of [`DECODE_HEADS`] query heads that share a KV head: `G * ceil(H / G / 16)`.
    HeadTiles,
    /// B.
    Batch,
    /// Pieces the keys of a decode step are split into.
    Splits,
    /// 1.
    One,
}

impl GridAxis {
    /// The formula, in the names of the parameter struct.
    pub fn rule(self, schedule: &Schedule) -> String {
        let Schedule { tile_m, tile_n, .. } = schedule;
        match self {
            GridAxis::QueryTiles => format!("ceil(max_q / {tile_m})"),
            GridAxis::KeyTiles => format!("ceil(max_k / {tile_n})"),
            GridAxis::QueryWork => format!("min(multiprocessors, ceil(max_q / {tile_m}) * heads * batch)"),
            GridAxis::KeyWork => {
                let far = format!("far_pairs * ceil(max_q / {PART_QUERIES}) * heads / kv_heads");
                format!("min(multiprocessors, ({far} + ceil(max_k / {tile_n})) * kv_heads * batch)")
            }
            GridAxis::Heads => "heads".to_owned(),
            GridAxis::KvHeads => "kv_heads".to_owned(),
            GridAxis::HeadTiles => format!("kv_heads * ceil(heads / kv_heads / {DECODE_HEADS})"),
            GridAxis::Batch => "batch".to_owned(),
            GridAxis::Splits => "splits".to_owned(),
            GridAxis::One => "1".to_owned(),
        }
    }
}

/// An argument after the parameter struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Extra {
    /// A tensor map: 3-D [token, head, D], 16-bit elements, 128-byte swizzle, inner box of 64 elements, zeros out of
    /// bounds.
    Map {
        /// Which tensor of the parameter struct.
        tensor: MapTensor,
        /// How many tokens a box holds.
        rows: MapRows,
    },
    /// A pointer to one int, zero before the launch, from which blocks draw their work; or null.
    WorkCounter,
}

/// The tensors that kernels reach through a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MapTensor {
    /// Q.
    Q,
    /// K.
    K,
    /// V.
    V,
    /// dO.
    DO,
}

/// The token extent of a box.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MapRows {
    /// `tile_m`.
    TileM,
    /// [`PIECE_KEYS`].
    Piece,
}

/// Keys of one entry of a listed pattern's list for this pass, or of one step of its walk.
pub fn walk_keys(pass: Pass, family: Family, schedule: &Schedule) -> u32 {
    match (pass, family) {
        (Pass::Forward, Family::Sm90) => PIECE_KEYS,
        _ => schedule.tile_n,
    }
}

/// Query heads of a decode block: the rows of its mma tile.
pub const DECODE_HEADS: u32 = 16;

/// The template of a pass in a family (see [`Pass::family`]).
pub fn template(pass: Pass, family: Family) -> Template {
    match (pass, family) {
        (Pass::Forward, Family::Sm80) => FORWARD,
        (Pass::Forward, Family::Sm90) => FORWARD_SM90,
        (Pass::BackwardDelta, _) => DELTA,
        (Pass::BackwardDkv, _) => DKV,
        (Pass::BackwardDq, _) => DQ,
        (Pass::BackwardFused | Pass::BackwardOrdered, Family::Sm80) => FUSED,
        (Pass::BackwardFused | Pass::BackwardOrdered, Family::Sm90) => FUSED_SM90,
        (Pass::BackwardConvertDq, _) => CONVERT_DQ,
        (Pass::Decode, _) => DECODE,
    }
}

const QUERY_TILES: [GridAxis; 3] = [GridAxis::QueryTiles, GridAxis::Heads, GridAxis::Batch];
const KEY_TILES: [GridAxis; 3] = [GridAxis::KeyTiles, GridAxis::KvHeads, GridAxis::Batch];

/// A kernel with neither dynamic shared memory nor further arguments.
const fn small(name: &'static str, grid: [GridAxis; 3]) -> Entry {
    Entry { name, grid, extra: &[], uses_smem: false, needs_sink_logit: false, starts_early: false }
}

/// A kernel with dynamic shared memory.
const fn tiled(name: &'static str, grid: [GridAxis; 3]) -> Entry {
    Entry { uses_smem: true, ..small(name, grid) }
}

const fn map(tensor: MapTensor, rows: MapRows) -> Extra {
    Extra::Map { tensor, rows }
}

const FORWARD: Template = Template {
    file: "sm80/forward.cu",
    smem_constant: Some("kForwardSmemBytes"),
    entries: &[tiled("attention_forward", QUERY_TILES)],
};

const FORWARD_SM90: Template = Template {
    file: "sm90/forward.cu",
    smem_constant: Some("kForwardSmemBytes"),
    entries: &[Entry {
        extra: &[
            map(MapTensor::Q, MapRows::TileM),
            map(MapTensor::K, MapRows::Piece),
            map(MapTensor::V, MapRows::Piece),
            Extra::WorkCounter,
        ],
        ..tiled("attention_forward", [GridAxis::QueryWork, GridAxis::One, GridAxis::One])
    }],
};

const DELTA: Template = Template {
    file: "sm80/backward_delta.cu",
    smem_constant: None,
    entries: &[
        small("attention_backward_delta", QUERY_TILES),
        Entry {
            needs_sink_logit: true,
            ..small("attention_backward_d_sink", [GridAxis::Heads, GridAxis::One, GridAxis::One])
        },
    ],
};

const DKV: Template = Template {
    file: "sm80/backward_dkv.cu",
    smem_constant: Some("kBackwardDkvSmemBytes"),
    entries: &[tiled("attention_backward_dkv", KEY_TILES)],
};

const DQ: Template = Template {
    file: "sm80/backward_dq.cu",
    smem_constant: Some("kBackwardDqSmemBytes"),
    entries: &[tiled("attention_backward_dq", QUERY_TILES)],
};

const FUSED: Template = Template {
    file: "sm80/backward.cu",
    smem_constant: Some("kBackwardSmemBytes"),
    entries: &[tiled("attention_backward", KEY_TILES)],
};

const FUSED_SM90: Template = Template {
    file: "sm90/backward.cu",
    smem_constant: Some("kBackwardSmemBytes"),
    entries: &[Entry {
        extra: &[
            map(MapTensor::Q, MapRows::TileM),
            map(MapTensor::K, MapRows::Piece),
            map(MapTensor::V, MapRows::Piece),
            map(MapTensor::DO, MapRows::TileM),
            Extra::WorkCounter,
        ],
        ..tiled("attention_backward", [GridAxis::KeyWork, GridAxis::One, GridAxis::One])
    }],
};

const CONVERT_DQ: Template = Template {
    file: "sm80/backward_convert_dq.cu",
    smem_constant: None,
    entries: &[small("attention_backward_convert_dq", QUERY_TILES)],
};

const DECODE: Template = Template {
    file: "decode.cu",
    smem_constant: Some("kDecodeSmemBytes"),
    entries: &[Entry {
        starts_early: true,
        ..tiled("attention_decode", [GridAxis::Splits, GridAxis::HeadTiles, GridAxis::Batch])
    }],
};
