//! What each kernel does, in words.

use longgen_codegen::model::gpu::PlannedKernel;
use longgen_codegen::schedule::{PIECE_KEYS, Schedule};
use longgen_codegen::spec::Pass;
use longgen_codegen::target::Family;

/// The loops of a kernel and the roles of its warps, a sentence or a few each.
pub fn of(kernel: &PlannedKernel) -> Vec<String> {
    let PlannedKernel { pass, family, schedule } = *kernel;
    let Schedule { tile_m, tile_n, stages, threads, consumers } = schedule;
    let warps = threads / 32;
    match (pass, family) {
        (Pass::Forward, Family::Sm90) => vec![
            format!(
                "A block of {threads} threads draws tiles of {tile_m} queries of one head from a counter, the longest first."
            ),
            format!(
                "For each it walks the keys that the tile sees, {tile_n} at a time, gathered from pieces of {PIECE_KEYS}: \
                 a piece that every query sees whole needs no mask, one on the causal edge one comparison, others the pattern's test."
            ),
            format!(
                "One warpgroup produces: it walks the pattern ahead and copies K and V by TMA into {stages} stages. {} consume: \
                 64 query rows each, both products by wgmma, the softmax between them in the shadow of the others' products.",
                counted(consumers, "warpgroup")
            ),
        ],
        (Pass::Forward, Family::Sm80) => vec![
            format!(
                "A block takes {tile_m} queries of one head and walks the tiles of {tile_n} keys that they see."
            ),
            format!(
                "Each of its {warps} warps owns {} query rows with their scores, maximum, sum and output in registers; \
                 all share the key tiles, which cp.async brings {stages} deep.",
                tile_m / warps.max(1)
            ),
        ],
        (Pass::BackwardDelta, _) => {
            vec!["For each query row: the sum of dO times O, and the sink logit's gradient.".to_owned()]
        }
        (Pass::BackwardDkv, _) => vec![
            format!(
                "A block takes {tile_n} keys of one KV head and walks the tiles of {tile_m} queries that see them, head by head of the group."
            ),
            format!(
                "Each of its {warps} warps owns {} keys with their dK and dV in registers; nothing is added across blocks.",
                tile_n / warps.max(1)
            ),
        ],
        (Pass::BackwardDq, _) => vec![
            format!(
                "A block takes {tile_m} queries of one head and walks the tiles of {tile_n} keys that they see."
            ),
            format!(
                "Each of its {warps} warps owns {} query rows with their dQ in registers.",
                tile_m / warps.max(1)
            ),
        ],
        (Pass::BackwardConvertDq, _) => vec!["The f32 sums of dQ are scaled and rounded.".to_owned()],
        (Pass::Decode, _) => vec![
            format!(
                "The keys of a KV head are cut into shares, one a block; a block walks the tiles of {tile_n} keys that the new token sees."
            ),
            format!(
                "Its {warps} warps divide each tile; all query heads of the group ride along in one product. The last block of a KV head merges the shares."
            ),
        ],
        (Pass::BackwardFused, Family::Sm80) => vec![
            format!(
                "A block takes {tile_n} keys of one KV head and walks the tiles of {tile_m} queries that see them, head by head of the group."
            ),
            format!(
                "Each pair of its {warps} warps owns {} keys, each warp of it half the columns of their dK and dV, in registers; its part of dQ is added in f32 by reductions.",
                2 * tile_n / warps.max(1)
            ),
        ],
        // The fused backward of Hopper.
        _ => vec![
            format!(
                "A block takes {tile_n} keys of one KV head and walks the tiles of {tile_m} queries that see them, head by head of the group."
            ),
            format!(
                "One warpgroup produces: Q and dO by TMA, {stages} stages deep, and dQ's pieces added in f32 by the copy engine. {} consume: \
                 64 keys each with dK and dV in registers, five products by wgmma.",
                counted(consumers, "warpgroup")
            ),
        ],
    }
}

fn counted(count: u32, what: &str) -> String {
    let number = match count {
        1 => "One",
        2 => "Two",
        _ => "Three",
    };
    format!("{number} {what}{}", if count == 1 { "" } else { "s" })
}
