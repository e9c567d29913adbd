//! The plans worth trying, best first, and why the others are not.

use super::GpuWorkload;
use super::machine::GpuMachine;
use super::plan::{GpuPlan, PlannedKernel};
use super::registers::{MOST_REGISTERS, SPILLS_FROM, occupancy, predicted_registers, starves_consumers};
use super::time::estimate;
use crate::model::{PassGroup, Ranked, Rejection, rank};
use crate::schedule::{Schedule, candidates as heuristics};
use crate::spec::Pass;
use crate::target::Family;

/// More candidates of one pass than this are not measured.
const MOST_CANDIDATES: usize = 10;
/// Nor those that are expected to take longer than so many times the first guess.
const WORTH_A_MEASUREMENT: f64 = 1.6;

/// Every plan of a pass with its expected time, best first; those with a reason cannot run or are not worth a measurement.
pub fn candidates(machine: &GpuMachine, workload: &GpuWorkload<'_>) -> Vec<Ranked<GpuPlan>> {
    let all = match workload.work.pass {
        PassGroup::Forward => single(machine, workload, Pass::Forward),
        PassGroup::Decode => single(machine, workload, Pass::Decode),
        PassGroup::Backward => backward(machine, workload),
    };
    let mut ranked = rank(all, WORTH_A_MEASUREMENT);
    for late in ranked.iter_mut().filter(|ranked| ranked.rejected.is_none()).skip(MOST_CANDIDATES) {
        let reason = format!("{MOST_CANDIDATES} others are expected to be quicker");
        late.rejected = Some(Rejection::Slow(reason));
    }
    ranked
}

/// The plan to take where nothing was measured; `None` where no template computes the pass.
pub fn first_choice(machine: &GpuMachine, workload: &GpuWorkload<'_>) -> Option<GpuPlan> {
    candidates(machine, workload)
        .into_iter()
        .find(|ranked| ranked.rejected.is_none())
        .map(|ranked| ranked.candidate)
}

/// Plans of one kernel.
fn single(machine: &GpuMachine, workload: &GpuWorkload<'_>, pass: Pass) -> Vec<Ranked<GpuPlan>> {
    let of_family = |family| {
        let plan = move |schedule| GpuPlan { kernels: vec![PlannedKernel { pass, family, schedule }] };
        schedules(workload, pass, family).into_iter().map(plan)
    };
    let plans = families(workload, pass).into_iter().flat_map(of_family);
    plans.map(|plan| ranked(machine, workload, plan)).collect()
}

/// The fused backward, and the split one with each schedule of its two kernels: their times add up, so each is varied
/// beside the other's best.
fn backward(machine: &GpuMachine, workload: &GpuWorkload<'_>) -> Vec<Ranked<GpuPlan>> {
    let mut all = Vec::new();
    let Some(delta) = usual(workload, Pass::BackwardDelta) else { return all };
    // A list does not say which key tile comes next.
    let listed = workload.work.programs.closed.is_none();
    let pass = if workload.deterministic { Pass::BackwardOrdered } else { Pass::BackwardFused };
    if !(workload.deterministic && listed) {
        for family in families(workload, pass) {
            for schedule in schedules(workload, pass, family) {
                let fused = PlannedKernel { pass, family, schedule };
                let convert = usual(workload, Pass::BackwardConvertDq);
                let kernels = [Some(delta), Some(fused), convert].into_iter().flatten().collect();
                all.push(ranked(machine, workload, GpuPlan { kernels }));
            }
        }
    }
    let side = |pass: Pass| rank(single(machine, workload, pass), f64::INFINITY);
    let (dkv, dq) = (side(Pass::BackwardDkv), side(Pass::BackwardDq));
    let (Some(best_dkv), Some(best_dq)) = (dkv.first(), dq.first()) else { return all };
    let pairs = dkv.iter().map(|d| (d, best_dq)).chain(dq.iter().skip(1).map(|d| (best_dkv, d)));
    for (dkv, dq) in pairs {
        let kernels = [vec![delta], dkv.candidate.kernels.clone(), dq.candidate.kernels.clone()].concat();
        all.push(ranked(machine, workload, GpuPlan { kernels }));
    }
    all
}

fn families(workload: &GpuWorkload<'_>, pass: Pass) -> Vec<Family> {
    let mut families = vec![workload.target.family(), Family::Sm80];
    families.dedup();
    families.retain(|&family| pass.exists(family, &workload.shape));
    families
}

/// A kernel with the schedule that heuristics choose: those whose time is bytes alone.
fn usual(workload: &GpuWorkload<'_>, pass: Pass) -> Option<PlannedKernel> {
    let family = *families(workload, pass).first()?;
    let schedule = *heuristics(pass, family, &workload.shape, workload.target).first()?;
    Some(PlannedKernel { pass, family, schedule })
}

/// Every schedule of the space.
fn schedules(workload: &GpuWorkload<'_>, pass: Pass, family: Family) -> Vec<Schedule> {
    let mut found = heuristics(pass, family, &workload.shape, workload.target);
    let mut add = |schedule: Schedule| {
        if !found.contains(&schedule) {
            found.push(schedule);
        }
    };
    match (pass, family) {
        (Pass::Forward, Family::Sm90) => {
            for consumers in 1..=3 {
                for stages in [1, 2, 4] {
                    let threads = 128 * (consumers + 1);
                    add(Schedule { tile_m: 64 * consumers, tile_n: 128, stages, threads, consumers });
                }
            }
        }
        // Its tile is bound to the layout of dQ's sums.
        (Pass::BackwardFused | Pass::BackwardOrdered, _) => {}
        (Pass::Decode, _) => {
            for (tile_n, stages, threads) in product(&[32, 64, 128], &[2, 3, 4], &[64, 128, 256]) {
                add(Schedule { tile_m: 16, tile_n, stages, threads, consumers: 0 });
            }
        }
        _ => {
            for tile_m in [16, 32, 64, 128] {
                for (tile_n, stages, threads) in product(&[16, 32, 64, 128], &[2, 3], &[64, 128, 256]) {
                    add(Schedule { tile_m, tile_n, stages, threads, consumers: 0 });
                }
            }
        }
    }
    found
}

fn product(a: &[u32], b: &[u32], c: &[u32]) -> Vec<(u32, u32, u32)> {
    let pair = |&a| b.iter().flat_map(move |&b| c.iter().map(move |&c| (a, b, c)));
    a.iter().flat_map(pair).collect()
}

fn ranked(machine: &GpuMachine, workload: &GpuWorkload<'_>, plan: GpuPlan) -> Ranked<GpuPlan> {
    match plan.kernels.iter().find_map(|kernel| impossible(machine, workload, kernel)) {
        Some(reason) => {
            Ranked { candidate: plan, seconds: f64::INFINITY, rejected: Some(Rejection::Impossible(reason)) }
        }
        None => {
            let seconds = estimate(machine, workload, &plan).seconds;
            Ranked { candidate: plan, seconds, rejected: None }
        }
    }
}

/// Why a kernel cannot be compiled and launched as it is meant to.
fn impossible(machine: &GpuMachine, workload: &GpuWorkload<'_>, kernel: &PlannedKernel) -> Option<String> {
    let PlannedKernel { pass, family, schedule } = *kernel;
    let shape = &workload.shape;
    if let Err(error) = schedule.check(pass, family, shape, workload.target) {
        return Some(error.to_string());
    }
    let registers = predicted_registers(pass, family, shape, &schedule);
    if registers >= SPILLS_FROM {
        return Some(format!(
            "{registers} registers are expected where a thread has {MOST_REGISTERS}: it would spill"
        ));
    }
    if starves_consumers(pass, family, shape, &schedule) {
        let reason = "three consumers have too few registers for this head dimension: they would spill";
        return Some(reason.to_owned());
    }
    let found = occupancy(machine, (pass, family), shape, &schedule, registers);
    (found.blocks == 0).then(|| format!("not one block fits a multiprocessor: too much {}", found.limit))
}
