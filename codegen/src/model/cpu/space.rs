//! The blockings worth trying, best first, and why the others are not.

use super::super::workload::Workload;
use super::super::{Ranked, Rejection, rank};
use super::{CpuMachine, Side, is_compact, walk};
use crate::cpu::Blocking;
use crate::model::PassGroup;

const LANES: [u32; 4] = [64, 48, 32, 16];
const ROWS: [u32; 7] = [32, 48, 64, 80, 96, 112, 128];
const GATHER: [u32; 4] = [32, 8, 16, 64];
const COPY: [u32; 2] = [12, Blocking::NEVER];
/// Candidates that are expected to take longer than so many times the first guess are not measured.
const WORTH_A_MEASUREMENT: f64 = 1.15;

/// Every blocking of the space with its expected time, best first; those with a reason are not worth a measurement.
pub fn candidates(machine: &CpuMachine, workload: &Workload<'_>) -> Vec<Ranked<Blocking>> {
    let mut all: Vec<Ranked<Blocking>> = Vec::new();
    for lanes in LANES {
        for rows in ROWS {
            let mut walks: Vec<(Vec<walk::Walked>, Blocking)> = Vec::new();
            for gather_below in GATHER {
                let blocking = Blocking { lanes, rows, gather_below, copy_uses: COPY[0] };
                let walked = sampled_walks(workload, blocking);
                let twin = walks.iter().find(|(other, _)| same(other, &walked)).map(|(_, twin)| *twin);
                let copying = machine.estimate(workload, blocking);
                for copy_uses in COPY {
                    let candidate = Blocking { copy_uses, ..blocking };
                    let estimate = machine.estimate(workload, candidate);
                    let seconds = estimate.seconds;
                    let rejected = match twin {
                        Some(twin) => {
                            let other = twin.gather_below;
                            Some(Rejection::Twin(format!("walks the same tiles as gather_below={other}")))
                        }
                        None => idle_lanes(workload, candidate)
                            .or_else(|| copies_nothing(workload, candidate, estimate == copying)),
                    };
                    all.push(Ranked { candidate, seconds, rejected });
                }
                if twin.is_none() {
                    walks.push((walked, blocking));
                }
            }
        }
    }
    rank(all, WORTH_A_MEASUREMENT)
}

/// The blocking to take where nothing was measured.
pub fn first_choice(machine: &CpuMachine, workload: &Workload<'_>) -> Blocking {
    let default = Blocking::default();
    let mut best = (machine.estimate(workload, default).seconds, default);
    for lanes in LANES {
        for rows in ROWS {
            let candidate = Blocking { lanes, rows, ..default };
            if idle_lanes(workload, candidate).is_some() {
                continue;
            }
            let seconds = machine.estimate(workload, candidate).seconds;
            if seconds < best.0 {
                best = (seconds, candidate);
            }
        }
    }
    best.1
}

/// Lanes beyond those that a problem fills.
fn idle_lanes(workload: &Workload<'_>, blocking: Blocking) -> Option<Rejection> {
    if workload.pass == PassGroup::Backward {
        return None;
    }
    let filled = workload.queries.saturating_mul(workload.group().max(1)).max(1).next_multiple_of(16);
    (blocking.lanes > filled.max(16)).then(|| Rejection::Twin(format!("{filled} lanes hold every query")))
}

/// A copy that does not happen: rows of a single KV head lie together already, or too few tiles walk a row.
fn copies_nothing(workload: &Workload<'_>, blocking: Blocking, same_as_copying: bool) -> Option<Rejection> {
    let needless = workload.pass == PassGroup::Decode || is_compact(workload) || same_as_copying;
    (blocking.copy_uses == Blocking::NEVER && needless)
        .then(|| Rejection::Twin("there is nothing to copy".to_owned()))
}

fn sampled_walks(workload: &Workload<'_>, blocking: Blocking) -> Vec<walk::Walked> {
    let tiles = walk::shape(workload, blocking, Side::Forward).tiles;
    let at = [tiles / 3, tiles.saturating_sub(1)];
    at.iter().map(|&tile| walk::walk(workload, blocking, Side::Forward, 0, tile)).collect()
}

fn same(a: &[walk::Walked], b: &[walk::Walked]) -> bool {
    a == b
}
