//! The model of the CPU kernels: what their tiles walk under a pattern, and what a core takes for it.
//!
//! Products are counted in clocks from the register blocks that the micro-kernels are made of: a block of `R` rows by `N`
//! vectors needs `R N` multiply-adds, `R + N` loads and at least the latency of one multiply-add for each step of depth. What
//! surrounds them (softmax, masks, transposes, calls) has a cost per element, fitted once on a Sapphire Rapids core.

mod space;
mod walk;

pub use space::{candidates, first_choice};

use super::workload::{PassGroup, Workload, samples};
use crate::cpu::Blocking;
use crate::cpu::parts::Part;
use walk::{Mask, Side, Step, Walked};

/// A machine, as the model sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CpuMachine {
    /// Worker threads.
    pub threads: u32,
    /// The vectors of the micro-kernels.
    pub vectors: Vectors,
    /// Clock rate.
    pub hertz: f64,
}

/// Vector registers and the register blocks that suit them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vectors {
    /// 16 lanes: one block over all strips of a tile.
    Wide,
    /// 8 lanes: a block for each strip of 16.
    Middle,
    /// 4 lanes: a block for each half of a strip, or for a strip.
    Narrow,
}

/// The expected time and where it goes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CpuEstimate {
    /// Expected time.
    pub seconds: f64,
    /// Its floor: the multiply-adds of visible pairs at the peak rate of all threads.
    pub floor_seconds: f64,
    /// Tiles of lanes.
    pub tiles: f64,
    /// Score tiles: steps of the walks.
    pub steps: f64,
    /// Pairs computed.
    pub pairs: f64,
    /// Those of them under a mask.
    pub masked_pairs: f64,
}

/// Clocks for what is not a product.
struct Costs {
    /// Online softmax, per 16 scores.
    softmax: f64,
    /// Scores to gradients, per 16 pairs.
    gradient: f64,
    /// Mask of the edge, and of tested pairs, per 16 of them.
    edge: f64,
    pairs: f64,
    /// Look for infinities under a mask, per 16 elements of V.
    finite: f64,
    /// Accumulator to registers and back, per 16 elements of a part.
    update: f64,
    /// Transposes of a tile's own rows, per 16 elements.
    transpose: f64,
    /// Row into a buffer, per 16 elements.
    gather: f64,
    /// The copy of all rows of a head into memory that is new to the process, per 16 elements.
    copy: f64,
    /// Bookkeeping of a part, of a tile of rows, of the parts of a masked one, and of a run.
    part: f64,
    tile: f64,
    masked_tile: f64,
    run: f64,
    /// Address of a page that is not known any more.
    page: f64,
    /// Measured time of the products over the clocks counted, by strips of lanes: narrow blocks load more for each multiply-add.
    products: [f64; 4],
    /// The same for the backward, whose products share more of what they load.
    products_backward: [f64; 4],
}

const COSTS: Costs = Costs {
    softmax: 15.0,
    gradient: 26.0,
    edge: 12.0,
    pairs: 40.0,
    finite: 1.0,
    update: 1.5,
    transpose: 12.0,
    gather: 2.5,
    copy: 20.0,
    part: 60.0,
    tile: 60.0,
    masked_tile: 300.0,
    run: 50.0,
    page: 80.0,
    products: [2.0, 1.45, 1.4, 1.25],
    products_backward: [1.95, 1.4, 1.22, 1.15],
};
/// Pages that a core's table of addresses holds; those of further rows are looked up anew by each tile.
const KNOWN_PAGES: f64 = 2048.0;
const PAGE_BYTES: f64 = 4096.0;
/// Score tiles beyond this share the first-level cache with too much else.
const SCORES_BYTES: f64 = 16384.0;
/// What the products lose for each further such tile.
const CROWDED: f64 = 0.06;

impl CpuMachine {
    /// Multiply-adds of f32 in a clock of one thread.
    fn multiply_adds_per_clock(&self) -> f64 {
        match self.vectors {
            Vectors::Wide => 32.0,
            Vectors::Middle => 16.0,
            Vectors::Narrow => 8.0,
        }
    }

    /// Clocks of a product of `rows` rows and `depth` steps over `strips` strips of 16 lanes.
    fn product(&self, rows: u32, depth: u32, strips: u32, side: Side) -> f64 {
        let (block, vectors, passes) = match (self.vectors, strips) {
            (Vectors::Wide, 4) => (6, 4, 1),
            (Vectors::Wide, 3) => (8, 3, 1),
            (Vectors::Wide, 2) => (12, 2, 1),
            (Vectors::Wide, _) => (16, 1, 1),
            (Vectors::Middle, strips) => (6, 2, strips),
            (Vectors::Narrow, strips) => (4, 2, 2 * strips),
        };
        let (mut left, mut a_step) = (rows, 0.0);
        for block in [block, 8, 4, 2, 1] {
            let (rows, vectors) = (f64::from(block), f64::from(vectors));
            let clocks = (rows * vectors / 2.0).max((rows + vectors) / 2.0).max(4.0);
            a_step += f64::from(left / block) * clocks;
            left %= block;
        }
        let by_strips = if side == Side::Forward { COSTS.products } else { COSTS.products_backward };
        f64::from(depth) * a_step * f64::from(passes) * by_strips[strips.clamp(1, 4) as usize - 1]
    }

    /// Clocks of what one tile of lanes walks.
    fn walk_clocks(&self, work: &Work, walked: &Walked) -> f64 {
        let d = f64::from(work.head_dim);
        let mut clocks = walked.runs as f64 * COSTS.run
            + walked.tiles * COSTS.tile
            + walked.masked_tiles * COSTS.masked_tile
            + walked.gathered_rows * d * 2.0 / 16.0 * COSTS.gather;
        for step in &walked.steps {
            clocks += step.times * (self.part_clocks(work, step) + COSTS.part);
        }
        let own = match work.side {
            Side::Forward => 2.0,
            Side::DQuery | Side::DKeyValue => 4.0,
        };
        clocks + own * d * f64::from(work.blocking.lanes) / 16.0 * COSTS.transpose
    }

    /// Clocks of one part of a tile.
    fn part_clocks(&self, work: &Work, step: &Step) -> f64 {
        let Part { rows, strips, .. } = step.part;
        let (before, behind) = step.part.alone;
        let both = rows - before - behind;
        let product = |rows, depth, strips| self.product(rows, depth, strips, work.side);
        let d = work.head_dim;
        let by_rows = product(before, d, 1) + product(both, d, strips) + product(behind, d, 1);
        let by_columns = product(d, before + behind, 1) + product(d, both, strips);
        let (d, rows, strips) = (f64::from(d), f64::from(rows), f64::from(strips));
        let update = d * strips * COSTS.update;
        let scores = rows * strips;
        // Of rows, and of columns.
        let (products, sums) = match work.side {
            Side::Forward => (by_rows + by_columns + update, scores * COSTS.softmax),
            Side::DQuery => (2.0 * by_rows + by_columns + update, scores * COSTS.gradient),
            Side::DKeyValue => (2.0 * (by_rows + by_columns + update), scores * COSTS.gradient),
        };
        let looks = rows * d / 16.0 * COSTS.finite;
        let mask = match step.mask {
            Mask::None => 0.0,
            Mask::Edge => scores * COSTS.edge + looks,
            Mask::Pairs => scores * COSTS.pairs + looks,
        };
        let crowded = 1.0 + CROWDED * (rows * strips * 64.0 / SCORES_BYTES - 1.0).max(0.0);
        (products + sums) * crowded + mask
    }

    /// What a pass takes with a blocking.
    pub fn estimate(&self, workload: &Workload<'_>, blocking: Blocking) -> CpuEstimate {
        let sides: &[Side] = match workload.pass {
            PassGroup::Forward | PassGroup::Decode => &[Side::Forward],
            PassGroup::Backward => &[Side::DQuery, Side::DKeyValue],
        };
        let mut estimate = CpuEstimate::default();
        let mut clocks = 0.0;
        for &side in sides {
            clocks += self.side_clocks(workload, blocking, side, &mut estimate);
        }
        let d = f64::from(workload.head_dim);
        estimate.seconds = clocks / self.hertz / f64::from(self.threads);
        let products = if workload.pass == PassGroup::Backward { 5.0 } else { 2.0 };
        let peak = self.multiply_adds_per_clock() * self.hertz * f64::from(self.threads);
        estimate.floor_seconds = estimate.floor_seconds * products * d / peak;
        estimate
    }

    /// Adds up one kernel; `floor_seconds` collects visible pairs until the end.
    fn side_clocks(
        &self,
        workload: &Workload<'_>,
        blocking: Blocking,
        side: Side,
        estimate: &mut CpuEstimate,
    ) -> f64 {
        /// Tiles looked at, of each head.
        const SAMPLES: u32 = 12;
        let batch = f64::from(workload.batch);
        let shape = walk::shape(workload, blocking, side);
        let mut clocks = 0.0;
        for (g, heads) in workload.sampled_heads() {
            let (tiles, each) = samples(shape.tiles, SAMPLES);
            let mut copies = false;
            let times = heads * each * batch * f64::from(shape.tiles_per_group);
            for tile in tiles {
                let mut walked = walk::walk(workload, blocking, side, g, tile);
                let uses = walked.rows * f64::from(shape.tiles) / f64::from(workload.keys.max(1));
                let copied = !is_compact(workload) && uses >= f64::from(blocking.copy_uses);
                // 16-bit rows that are not copied are widened each time they are read.
                let widened = workload.element_bytes < 4 && !copied;
                if widened {
                    let gathered = Blocking { gather_below: u32::MAX, ..blocking };
                    walked = walk::walk(workload, gathered, side, g, tile);
                    walked.gathered_rows = walked.rows;
                }
                copies |= copied;
                let pages = pages(workload, side, copied) * walked.rows;
                let work = Work { head_dim: workload.head_dim, blocking, side };
                clocks += times * self.walk_clocks(&work, &walked);
                clocks += times * (pages - KNOWN_PAGES).max(0.0) * COSTS.page;
                let (pairs, masked_pairs) = walked.pairs();
                estimate.tiles += times;
                estimate.steps += times * walked.tiles;
                estimate.pairs += times * pairs;
                estimate.masked_pairs += times * masked_pairs;
                if side != Side::DKeyValue {
                    estimate.floor_seconds += times * walked.visible_pairs * f64::from(shape.heads);
                }
            }
            if copies {
                let elements = f64::from(workload.keys) * f64::from(workload.head_dim) * 2.0;
                clocks += heads * batch * elements / 16.0 * COSTS.copy;
            }
        }
        clocks
    }
}

/// What one tile of lanes is computed with.
struct Work {
    head_dim: u32,
    blocking: Blocking,
    side: Side,
}

/// Pages that the two rows of one token take for themselves: rows of a head lie as far apart as a token's heads are wide.
fn pages(workload: &Workload<'_>, side: Side, copied: bool) -> f64 {
    let heads = if side == Side::DKeyValue { workload.heads } else { workload.kv_heads };
    let copy = workload.head_dim * size_of::<f32>() as u32;
    let bytes = if copied { copy } else { heads * workload.head_dim * workload.element_bytes };
    2.0 * (f64::from(bytes) / PAGE_BYTES).min(1.0)
}

/// Whether the rows of a head follow each other in f32 already.
fn is_compact(workload: &Workload<'_>) -> bool {
    workload.kv_heads <= 1 && workload.element_bytes == 4
}
