//! A problem on the device: its sequences, the tile lists of listed patterns, and the workspaces. Everything that a launch
//! needs is allocated here, so that launches can be captured.

use longgen_codegen::analysis::{far_pieces, tiles_at_most};
use longgen_codegen::cuda::abi::Params;
use longgen_codegen::cuda::kernels::{DECODE_HEADS, GridAxis};
use longgen_codegen::ir::Programs;
use longgen_codegen::plan::{Extent, TileList, TilePlan};
use longgen_codegen::schedule::{PART_QUERIES, PIECE_KEYS};
use longgen_codegen::spec::Pass;

use super::attention::{GpuAttention, Loaded};
use super::{GpuAttentionError, tensor::on_stream};
use crate::driver::{Buffer, GpuError};
use crate::problem::{AttentionProblem, MAX_TOKENS};

/// One problem, ready to be launched again and again with other numbers.
#[derive(Debug)]
pub struct Prepared {
    problem: AttentionProblem,
    cu_q: Buffer,
    cu_k: Buffer,
    q_offset: Buffer,
    lists: Vec<(Pass, DeviceList)>,
    /// [H, total_q], float; written by the backward.
    delta: Option<Buffer>,
    pub(super) fused: Option<FusedSums>,
    splits: Option<Splits>,
    /// One int from which blocks draw their work.
    pub(super) work_counter: Buffer,
}

#[derive(Debug)]
struct DeviceList {
    rows: Buffer,
    tiles: Buffer,
    rows_per_head: u32,
}

/// Workspace of the fused backward.
#[derive(Debug)]
pub(super) struct FusedSums {
    /// dQ before it is rounded: float, in whole query tiles (`tile/dq_sums.cuh`).
    dq: Buffer,
    /// The kernel knows no first block that stores: dQ too is zero when it starts.
    all_add: bool,
    /// Who came to a query tile of a head before: int, zero when the kernel starts.
    turn: Buffer,
    /// dK and dV of the far pieces whose walks are cut into parts: [slots, 2, 64 D], float, zero when the kernel starts.
    dkv: Buffer,
    /// How many parts have added theirs: `[slots]`, int, zero when the kernel starts.
    shares: Buffer,
    /// Slots of a KV head in earlier sequences: [B + 1], int.
    far_slot: Buffer,
    /// Pairs of far pieces: the most of any sequence and KV head.
    far_pairs: u32,
}

impl FusedSums {
    /// Clears what must be zero.
    pub fn clear(&mut self) -> Result<(), GpuError> {
        if self.all_add {
            self.dq.fill(0)?;
        }
        [&mut self.turn, &mut self.dkv, &mut self.shares].into_iter().try_for_each(|sums| sums.fill(0))
    }

    /// Spoils what the kernels themselves must write before they read it, so that a check finds out.
    pub fn poison(&mut self, byte: u8) -> Result<(), GpuError> {
        self.dq.fill(byte)
    }
}

/// Workspace of a decode step.
#[derive(Debug)]
struct Splits {
    /// The most shares of a row whose keys are in order: it sees some of their tiles.
    in_order: u32,
    /// The most shares of a row on a compact cache: all its tiles are visible.
    compact: u32,
    /// [B, H, splits, D], float, splits the larger of the two.
    o: Buffer,
    /// [B, H, splits], float.
    lse: Buffer,
    /// [B, head tiles], int: zero, and left zero by each launch.
    arrivals: Buffer,
}

/// As many shares as the decode kernel merges (`kMostShares`).
const MOST_SPLITS: usize = 128;
/// Extent of a grid along y and z.
const GRID_LIMIT: usize = 65_535;

/// Query tiles of all heads. Those of sequence b begin at tile cu_q[b] / tile_m + b, so that each sequence has whole tiles.
fn dq_tiles(problem: &AttentionProblem, tile_m: u32) -> usize {
    (problem.sequences.total_q() / tile_m as usize + problem.sequences.len()) * problem.shape.heads()
}

impl GpuAttention {
    /// Puts a problem on the device. Costs uploads and allocations, once per batch of sequence lengths.
    ///
    /// # Errors
    /// [`GpuAttentionError::Unsupported`] when the problem is not one of these kernels', [`GpuAttentionError::Gpu`]
    /// when memory runs out.
    pub fn prepare(&self, problem: &AttentionProblem) -> Result<Prepared, GpuAttentionError> {
        self.check_problem(problem)?;
        let stream = &self.stream;
        let ints = |values: &[usize]| -> Vec<i32> { values.iter().map(|&n| n as i32).collect() };
        let offsets: Vec<i32> = problem.sequences.q_offset().iter().map(|&n| n as i32).collect();
        let lse_bytes = problem.lse_elements() * 4;
        let delta = if self.backward.is_empty() { None } else { Some(Buffer::zeros(stream, lse_bytes)?) };
        let fused = self.backward.iter().find(|loaded| loaded.pass.is_fused());
        let fused = fused.map(|loaded| self.fused_sums(problem, loaded)).transpose()?;
        Ok(Prepared {
            cu_q: Buffer::from_slice(stream, &ints(problem.sequences.cu_q()))?,
            cu_k: Buffer::from_slice(stream, &ints(problem.sequences.cu_k()))?,
            q_offset: Buffer::from_slice(stream, &offsets)?,
            lists: self.lists(problem)?,
            delta,
            fused,
            splits: self.splits(problem)?,
            work_counter: Buffer::zeros(stream, 4)?,
            problem: problem.clone(),
        })
    }

    fn fused_sums(
        &self,
        problem: &AttentionProblem,
        loaded: &Loaded,
    ) -> Result<FusedSums, GpuAttentionError> {
        let stream = &self.stream;
        let (heads, head_dim) = (problem.shape.heads(), problem.shape.head_dim());
        let (kv_heads, tile_m) = (problem.shape.kv_heads(), loaded.tiles().queries);
        let programs = Programs::new(&self.ir);
        // Hopper's kernels take work items, some of them parts of a walk unless sums have an order.
        let has_items = loaded.compiled.manifest.kernels.iter().any(|k| k.grid.contains(&GridAxis::KeyWork));
        let cuts = has_items && loaded.pass != Pass::BackwardOrdered;
        let most_far = |keys: usize| {
            let of_head = |g| far_pieces(&self.ir, &programs, g, keys as u32, PIECE_KEYS);
            if cuts { (0..kv_heads as u32).map(of_head).max().unwrap_or(0) } else { 0 }
        };
        let (mut far_slot, mut most_pieces) = (vec![0i32], 0);
        for sequence in problem.sequences.iter() {
            let pieces = most_far(sequence.k_len);
            let parts = sequence.q_len.div_ceil(PART_QUERIES as usize).max(1) * (heads / kv_heads);
            let slots = if parts > 1 { pieces as i32 } else { 0 };
            far_slot.push(far_slot[far_slot.len() - 1] + slots);
            most_pieces = most_pieces.max(pieces);
        }
        let slots = far_slot[far_slot.len() - 1] as usize * kv_heads;
        let tiles = dq_tiles(problem, tile_m);
        Ok(FusedSums {
            dq: Buffer::zeros(stream, tiles * tile_m as usize * head_dim * 4)?,
            all_add: !has_items,
            turn: Buffer::zeros(stream, tiles * 4)?,
            dkv: Buffer::zeros(stream, slots * 2 * PIECE_KEYS as usize * head_dim * 4)?,
            shares: Buffer::zeros(stream, slots * 4)?,
            far_slot: Buffer::from_slice(stream, &far_slot)?,
            far_pairs: most_pieces.div_ceil(2),
        })
    }

    fn check_problem(&self, problem: &AttentionProblem) -> Result<(), GpuAttentionError> {
        let unsupported = |text: String| Err(GpuAttentionError::Unsupported(text));
        let compiled = self.shape.head_dim as usize;
        if problem.shape.head_dim() != compiled {
            let found = problem.shape.head_dim();
            return unsupported(format!(
                "the kernels are for head dimension {compiled}, the problem has {found}"
            ));
        }
        if problem.softcap().is_some() != self.shape.softcap {
            return unsupported(
                "softcap is compiled in: the kernels and the problem differ in it".to_owned(),
            );
        }
        // The running maximum is taken before the scale, which must therefore keep the order of the scores.
        if problem.scale() <= 0.0 {
            return unsupported(format!(
                "the softmax scale must be above 0 on the GPU, found {}",
                problem.scale()
            ));
        }
        if problem.shape.heads() > GRID_LIMIT || problem.sequences.len() > GRID_LIMIT {
            return unsupported(format!("at most {GRID_LIMIT} heads and as many sequences fit a grid"));
        }
        // Without keys the offset does not matter, and is what the default makes it.
        let negative = problem.sequences.iter().find(|s| s.q_offset < 0 && s.k_len > 0);
        if let (true, Some(offset)) = (self.listed, negative.map(|s| s.q_offset)) {
            return unsupported(format!(
                "query offset {offset}: patterns without closed form take none below 0"
            ));
        }
        Ok(())
    }

    fn lists(&self, problem: &AttentionProblem) -> Result<Vec<(Pass, DeviceList)>, GpuAttentionError> {
        if !self.listed {
            return Ok(Vec::new());
        }
        let extents: Vec<Extent> = problem
            .sequences
            .iter()
            .map(|s| Extent {
                first_query: s.q_offset.max(0) as u32,
                queries: s.q_len as u32,
                keys: s.k_len as u32,
            })
            .collect();
        let kv_heads = problem.shape.kv_heads() as u32;
        let mut lists = Vec::new();
        for loaded in self.forward.iter().chain(&self.backward).chain(&self.decode) {
            let plan = TilePlan::new(&self.ir, loaded.listed_tiles());
            let list = match loaded.pass {
                Pass::Forward | Pass::BackwardDq => plan.list_key_tiles(&extents, kv_heads),
                Pass::BackwardDkv | Pass::BackwardFused => plan.list_query_tiles(&extents, kv_heads),
                Pass::Decode if problem.sequences.max_q() <= 1 => plan.list_key_tiles(&extents, kv_heads),
                _ => continue,
            };
            lists.push((loaded.pass, self.upload(&list)?));
        }
        Ok(lists)
    }

    fn upload(&self, list: &TileList) -> Result<DeviceList, GpuAttentionError> {
        Ok(DeviceList {
            rows: Buffer::from_slice(&self.stream, &list.rows)?,
            tiles: Buffer::from_slice(&self.stream, &list.tiles)?,
            rows_per_head: list.rows_per_head,
        })
    }

    fn splits(&self, problem: &AttentionProblem) -> Result<Option<Splits>, GpuAttentionError> {
        let Some(decode) = self.decode.as_ref().filter(|_| problem.sequences.max_q() <= 1) else {
            return Ok(None);
        };
        let (kv_heads, group) = (problem.shape.kv_heads(), problem.shape.group());
        let rows = problem.sequences.len() * kv_heads * group.div_ceil(DECODE_HEADS as usize);
        let (keys, tile) = (problem.sequences.max_k() as u64, decode.tiles().keys);
        // The query moves through the cache: counted where it stands at its end.
        let visible = |g| tiles_at_most(&self.ir, g, keys.saturating_sub(1), keys, tile);
        let visible = (0..kv_heads as u32).map(visible).max().unwrap_or(0);
        let slots = (self.multiprocessors * decode.blocks_per_multiprocessor()?) as usize;
        let count = |tiles: u64| split_count(rows, tiles as usize, group.min(DECODE_HEADS as usize), slots);
        let (in_order, compact) = (count(visible), count(keys.div_ceil(tile.into())));
        let elements = in_order.max(compact) * problem.sequences.len() * problem.shape.heads();
        Ok(Some(Splits {
            in_order: in_order as u32,
            compact: compact as u32,
            o: Buffer::zeros(&self.stream, elements * problem.shape.head_dim() * 4)?,
            lse: Buffer::zeros(&self.stream, elements * 4)?,
            arrivals: Buffer::zeros(&self.stream, rows * 4)?,
        }))
    }
}

/// Into how many shares to cut the `tiles` visible key tiles of each of `rows` (sequence, head tile) pairs, when the GPU holds `slots`
/// blocks at a time: the cheapest in units of 1/256 of the time of a tile. Blocks run in waves, each as long as its share and
/// what a block costs besides (its start, and the merge of its warps: about two tiles); the merge of the shares is one
/// block's work and grows with them and with the query `heads` of a tile.
fn split_count(rows: usize, tiles: usize, heads: usize, slots: usize) -> usize {
    let cost = |splits: usize| {
        let waves = (rows * splits).div_ceil(slots.max(1)).max(1);
        waves * (tiles.div_ceil(splits) + 2) * 256 + splits * heads
    };
    (1..=MOST_SPLITS.min(tiles.max(1))).min_by_key(|&splits| cost(splits)).unwrap_or(1)
}

impl Prepared {
    /// The problem.
    pub fn problem(&self) -> &AttentionProblem {
        &self.problem
    }

    /// Whether the problem is a decode step: one query token a sequence at most.
    pub fn is_decode(&self) -> bool {
        self.splits.is_some()
    }

    /// The most shares that the keys of a decode step are cut into, in a compact cache or in one that holds the keys in
    /// order; `None` when the problem is no decode step.
    pub fn splits(&self, is_compact: bool) -> Option<u32> {
        self.splits.as_ref().map(|splits| if is_compact { splits.compact } else { splits.in_order })
    }

    /// Index of each sequence's first query token, `[B]`, int, on the device. Kernels read it at every launch, so a
    /// kernel of the caller's that raises it by one, captured with a decode step in one graph, makes each replay
    /// decode the next token: see [`GpuAttention::decode`].
    ///
    /// Not for listed patterns, whose tiles were listed for the offsets of [`Prepared::problem`].
    pub fn query_offsets_mut(&mut self) -> &mut Buffer {
        &mut self.q_offset
    }

    /// Replaces those indices from the host: the next decode steps, replays of captured ones included, stand there.
    ///
    /// # Errors
    /// [`GpuAttentionError::Unsupported`] for another number of sequences, an offset outside -2^30 ..= 2^30 or a
    /// listed pattern; [`GpuAttentionError::Gpu`] from the copy.
    pub fn set_query_offsets(&mut self, offsets: &[i64]) -> Result<(), GpuAttentionError> {
        let sequences = self.problem.sequences.len();
        if offsets.len() != sequences {
            let found = offsets.len();
            let text = format!("{found} query offsets for {sequences} sequences");
            return Err(GpuAttentionError::Unsupported(text));
        }
        if !self.lists.is_empty() {
            let text = "patterns without closed form are prepared for one query offset".to_owned();
            return Err(GpuAttentionError::Unsupported(text));
        }
        if let Some(offset) = offsets.iter().find(|offset| offset.unsigned_abs() > MAX_TOKENS as u64) {
            let text = format!("query offset {offset} is outside -{MAX_TOKENS} ..= {MAX_TOKENS}");
            return Err(GpuAttentionError::Unsupported(text));
        }
        let ints: Vec<i32> = offsets.iter().map(|&offset| offset as i32).collect();
        Ok(self.q_offset.write(&ints)?)
    }

    /// Fills in the parameters that do not depend on tensors, except that with a `slot_key` decode has other shares.
    pub(super) fn fill(
        &self,
        attention: &GpuAttention,
        loaded: &Loaded,
        params: &mut Params,
    ) -> Result<(), GpuAttentionError> {
        // Prepared by another object, whose stream nothing orders with this one's.
        on_stream("prepared problem", &self.cu_q, &attention.stream)?;
        let address = |buffer: &Option<Buffer>| buffer.as_ref().map_or(0, Buffer::address);
        params.cu_q = self.cu_q.address();
        params.cu_k = self.cu_k.address();
        params.q_offset = self.q_offset.address();
        params.delta = address(&self.delta);
        if let Some(sums) = &self.fused {
            params.dq_accum = sums.dq.address();
            params.dq_turn = sums.turn.address();
            params.dkv_sums = sums.dkv.address();
            params.dkv_shares = sums.shares.address();
            params.far_slot = sums.far_slot.address();
            params.far_pairs = sums.far_pairs as i32;
        }
        let sequences = &self.problem.sequences;
        params.batch = sequences.len() as i32;
        params.heads = self.problem.shape.heads() as i32;
        params.kv_heads = self.problem.shape.kv_heads() as i32;
        params.max_q = sequences.max_q() as i32;
        params.max_k = sequences.max_k() as i32;
        params.total_q = sequences.total_q() as i32;
        params.total_k = sequences.total_k() as i32;
        params.scale = self.problem.scale();
        params.softcap = self.problem.softcap().unwrap_or(0.0);
        if let Some((_, list)) = self.lists.iter().find(|(pass, _)| *pass == loaded.pass) {
            params.list_row = list.rows.address();
            params.list_tile = list.tiles.address();
            params.list_rows = list.rows_per_head as i32;
        }
        if let (Some(splits), Some(count)) = (&self.splits, self.splits(params.slot_key != 0)) {
            params.split_o = splits.o.address();
            params.split_lse = splits.lse.address();
            params.split_arrivals = splits.arrivals.address();
            params.splits = count as i32;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::split_count;

    #[test]
    fn splits_fill_the_slots_in_whole_waves() {
        // 132 multiprocessors with two blocks each.
        let splits = |rows, tiles, heads| split_count(rows, tiles, heads, 264);
        assert_eq!(splits(32, 64, 1), 8, "one wave of 256 blocks, not a second one of 24");
        assert_eq!(splits(8, 64, 4), 32, "two tiles to a block");
        assert_eq!(splits(256, 512, 1), 1);
        assert_eq!(splits(1024, 64, 4), 1);
        assert_eq!(splits(2, 64, 16), 32, "two blocks merge 16 heads each");
        assert_eq!((splits(4, 0, 1), splits(0, 9, 1)), (1, 9), "nothing to do");
    }
}
