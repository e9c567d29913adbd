//! The time of a plan: clocks of a step of the tile loop, times the steps that the pattern makes kernels take.
//!
//! A step's products bound it from below, by the tensor cores or by the shared memory they are fed from; what of the softmax is
//! not hidden behind other warps' products is added. The constants stand for what was measured on an H200
//! (`docs/performance.md`); between schedules of one pass it is the ratios that matter.

use super::GpuWorkload;
use super::machine::GpuMachine;
use super::plan::{GpuPlan, PlannedKernel};
use super::registers::{occupancy, predicted_registers};
use crate::model::workload::samples;
use crate::plan::{Extent, TileKind, TilePlan, TileShape};
use crate::schedule::{PIECE_KEYS, Schedule, column_parts};
use crate::spec::Pass;
use crate::target::Family;

/// The expected time of a plan and where it goes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GpuEstimate {
    /// Expected time.
    pub seconds: f64,
    /// The FLOPs or bytes of visible pairs at the machine's peak, whichever takes longer.
    pub floor_seconds: f64,
    /// Steps of tile loops, over all kernels.
    pub steps: f64,
    /// Steps that need a mask.
    pub masked_steps: f64,
    /// Blocks, or work items of a persistent grid.
    pub items: f64,
}

/// Clocks that a block spends before its first and after its last step, and for the barriers of a step.
const ITEM_CLOCKS: f64 = 2600.0;
const STEP_CLOCKS: f64 = 160.0;
/// A launch, in seconds.
const LAUNCH_SECONDS: f64 = 3e-6;
/// Share of the tensor cores' peak that dense loops reach by each family.
const WGMMA_SHARE: f64 = 0.78;
const WGMMA_BACKWARD_SHARE: f64 = 0.58;
const MMA_SHARE: f64 = 0.72;

/// What a pass takes with a plan.
pub fn estimate(machine: &GpuMachine, workload: &GpuWorkload<'_>, plan: &GpuPlan) -> GpuEstimate {
    let mut total = GpuEstimate::default();
    for kernel in &plan.kernels {
        let one = match kernel.pass {
            Pass::Decode => decode(machine, workload, kernel),
            pass if pass.is_tiled() => tiled(machine, workload, kernel),
            _ => bytes_only(machine, workload, kernel),
        };
        total.seconds += one.seconds + LAUNCH_SECONDS;
        total.steps += one.steps;
        total.masked_steps += one.masked_steps;
        total.items += one.items;
        total.floor_seconds = total.floor_seconds.max(one.floor_seconds);
    }
    total
}

/// A kernel that reads and writes rows once.
fn bytes_only(machine: &GpuMachine, workload: &GpuWorkload<'_>, kernel: &PlannedKernel) -> GpuEstimate {
    let work = &workload.work;
    let rows = f64::from(work.queries) * f64::from(work.heads) * f64::from(work.batch);
    let row_bytes = match kernel.pass {
        Pass::BackwardConvertDq => 6.0,
        _ => 4.0,
    };
    let bytes = rows * row_bytes * f64::from(work.head_dim);
    GpuEstimate { seconds: bytes / machine.memory_bytes_per_second, ..GpuEstimate::default() }
}

/// Steps of all blocks.
struct Steps {
    all: f64,
    masked: f64,
    items: f64,
    longest: f64,
    /// Pairs seen, those of masked tiles by half.
    visible: f64,
}

fn count(workload: &GpuWorkload<'_>, kernel: &PlannedKernel) -> Steps {
    /// Tiles looked at, of each head.
    const SAMPLES: u32 = 12;
    let work = &workload.work;
    let Schedule { tile_m, tile_n, .. } = kernel.schedule;
    let gathers = kernel.pass == Pass::Forward && kernel.family == Family::Sm90;
    let shape = TileShape { queries: tile_m, keys: if gathers { PIECE_KEYS } else { tile_n } };
    let plan = TilePlan::with_programs(work.programs.clone(), shape);
    let extent = Extent { first_query: work.first_query(), queries: work.queries, keys: work.keys };
    let by_keys = kernel.pass == Pass::BackwardDkv || kernel.pass.is_fused();
    let tiles = if by_keys { extent.key_tiles(shape) } else { extent.query_tiles(shape) };
    // A block of a key tile walks the query tiles of all query heads of its group.
    let (blocks, steps_each) =
        if by_keys { (1.0, f64::from(work.group())) } else { (f64::from(work.group()), 1.0) };
    let mut steps = Steps { all: 0.0, masked: 0.0, items: 0.0, longest: 0.0, visible: 0.0 };
    for (g, heads) in work.sampled_heads() {
        let (chosen, each) = samples(tiles, SAMPLES);
        let times = heads * each * blocks * f64::from(work.batch);
        for tile in chosen {
            let (mut all, mut masked) = (0.0, 0.0);
            let mut look = |kind: TileKind| {
                all += 1.0;
                masked += if kind == TileKind::Full { 0.0 } else { 1.0 };
            };
            if by_keys {
                plan.query_tiles(g, extent, tile).for_each(|tile| look(tile.kind));
            } else {
                plan.key_tiles(g, extent, tile).for_each(|tile| look(tile.kind));
            }
            let area = f64::from(shape.queries) * f64::from(shape.keys);
            steps.visible += times * steps_each * area * (all - masked / 2.0);
            let pieces = f64::from(tile_n / shape.keys);
            let (all, masked) = ((all / pieces).ceil() * steps_each, (masked / pieces).ceil() * steps_each);
            steps.all += times * all;
            steps.masked += times * masked;
            steps.items += times;
            steps.longest = steps.longest.max(all);
        }
    }
    steps
}

fn tiled(machine: &GpuMachine, workload: &GpuWorkload<'_>, kernel: &PlannedKernel) -> GpuEstimate {
    let work = &workload.work;
    let steps = count(workload, kernel);
    let Schedule { tile_m, tile_n, threads, stages, consumers } = kernel.schedule;
    let d = f64::from(work.head_dim);
    let pairs = f64::from(tile_m) * f64::from(tile_n);
    let parts = f64::from(column_parts(work.head_dim));
    let products = match kernel.pass {
        Pass::Forward => 2.0,
        Pass::BackwardDq => 3.0,
        // Scores and dP anew for each part of the columns.
        Pass::BackwardDkv => 2.0 + 2.0 * parts,
        _ => 5.0,
    };
    let flops = 2.0 * products * pairs * d;
    let exponentials = pairs / machine.exponentials;
    let registers = predicted_registers(kernel.pass, kernel.family, &workload.shape, &kernel.schedule);
    let blocks =
        occupancy(machine, (kernel.pass, kernel.family), &workload.shape, &kernel.schedule, registers).blocks;
    let blocks = f64::from(blocks.max(1));
    let step = if kernel.family == Family::Sm90 {
        let share = if kernel.pass == Pass::Forward { WGMMA_SHARE } else { WGMMA_BACKWARD_SHARE };
        let tensor = flops / (machine.wgmma_flops * share);
        // With one consumer nothing covers its softmax.
        let bare = if consumers > 1 { 0.1 } else { 0.9 };
        let waiting = if stages > 1 { 0.0 } else { 900.0 };
        tensor + bare * exponentials * 2.0 + waiting + STEP_CLOCKS / f64::from(consumers.max(1))
    } else {
        let tensor = flops / (machine.mma_flops * MMA_SHARE);
        let warps = f64::from(threads / 32);
        // Each warp reads the whole tile of the other side for each of its products. The fused kernel's reads both operands of 32
        // by 32 scores, twice, and of as much of dQ, and for 32 by 64 of dK and of dV half of the left one.
        let others = match kernel.pass {
            Pass::BackwardDkv => (2.0 + 2.0 / parts) * f64::from(tile_m),
            Pass::BackwardFused => 4.25 * f64::from(tile_m),
            _ => products * f64::from(tile_n),
        };
        let smem = warps * others * d * 2.0 / machine.smem_bytes_per_clock;
        // Softmax in the shadow of other warps of the same quarter of the multiprocessor.
        let covered = (blocks * warps / 4.0).min(3.0);
        let waiting = STEP_CLOCKS * 4.0 / (blocks * f64::from(stages.min(3)));
        tensor.max(smem) + exponentials * 3.0 / covered + waiting
    };
    let mask_clocks = pairs / 64.0;
    let item = ITEM_CLOCKS / blocks.min(2.0);
    let clocks = steps.all * step + steps.masked * mask_clocks + steps.items * item;
    let slots = f64::from(machine.multiprocessors);
    // The last blocks run alone; a block can be no quicker than its own steps.
    let alone = steps.longest * step + item;
    let busy = (clocks / slots + alone / 2.0).max(alone) / machine.hertz;
    // The tickets of a persistent grid are set to zero before it starts.
    let seconds = if kernel.family == Family::Sm90 { busy + LAUNCH_SECONDS } else { busy };
    let peak = machine.wgmma_flops.max(machine.mma_flops) * machine.hertz * slots;
    let per_pair = if kernel.pass == Pass::Forward { 4.0 } else { 10.0 };
    let floor_seconds = steps.visible * per_pair * d / peak;
    GpuEstimate { seconds, floor_seconds, steps: steps.all, masked_steps: steps.masked, items: steps.items }
}

fn decode(machine: &GpuMachine, workload: &GpuWorkload<'_>, kernel: &PlannedKernel) -> GpuEstimate {
    /// From a copy's start to its data, with everything a step of the loop waits for.
    const LATENCY_SECONDS: f64 = 1.1e-6;
    let work = &workload.work;
    let Schedule { tile_n, stages, threads, .. } = kernel.schedule;
    let shape = TileShape { queries: 1, keys: tile_n };
    let plan = TilePlan::with_programs(work.programs.clone(), shape);
    let extent = Extent { first_query: work.keys.saturating_sub(1), queries: 1, keys: work.keys };
    let (mut tiles, mut all) = (0.0, 0.0);
    for (g, heads) in work.sampled_heads() {
        let found = f64::from(plan.count_key_tiles(g, extent, 0));
        tiles += found * heads * f64::from(work.batch);
        all += heads * f64::from(work.batch);
    }
    let bytes = tiles * f64::from(tile_n) * f64::from(work.head_dim) * 4.0;
    let registers = predicted_registers(kernel.pass, kernel.family, &workload.shape, &kernel.schedule);
    let blocks =
        occupancy(machine, (kernel.pass, kernel.family), &workload.shape, &kernel.schedule, registers).blocks;
    let slots = f64::from(machine.multiprocessors * blocks.clamp(1, 2));
    // Tiles that one block walks, one after the other, `stages` in flight.
    let deep = (tiles / slots.min(tiles.max(1.0))).ceil();
    let in_flight = slots.min(tiles) * f64::from(stages) * f64::from(tile_n) * f64::from(work.head_dim) * 4.0;
    let rate = machine.memory_bytes_per_second.min(in_flight / LATENCY_SECONDS);
    // A warp multiplies its own keys of a tile, 16 at a time; with two stages it also waits for them.
    let turns = f64::from((tile_n / (threads / 32).max(1)).div_ceil(16));
    let step_seconds = 0.1e-6 * turns + if stages > 2 { 0.0 } else { 0.03e-6 };
    let merge = f64::from(threads / 32).log2() * 0.3e-6;
    let seconds = bytes / rate + LATENCY_SECONDS + deep * step_seconds + merge;
    let floor_seconds = bytes / machine.memory_bytes_per_second;
    GpuEstimate { seconds, floor_seconds, steps: tiles, masked_steps: 0.0, items: all }
}
