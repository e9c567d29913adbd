//! What a kernel will take and cost, told before anything is compiled: shared memory, registers, occupancy, the tiles that a
//! pattern makes a kernel visit, and time. Ranks and prunes schedules for the tuner, and gives the first choice where nothing
//! was tuned. Knows machines by their published figures; measures nothing.

pub mod cpu;
pub mod gpu;
mod workload;

use std::cmp::Ordering;
use std::fmt;

pub use workload::{PassGroup, Workload};

/// One candidate with what the model thinks of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked<C> {
    /// The candidate.
    pub candidate: C,
    /// Expected time in seconds; infinite where it cannot run.
    pub seconds: f64,
    /// Why it is left out; `None` for those that are worth a measurement.
    pub rejected: Option<Rejection>,
}

/// Why a candidate is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// It cannot be compiled, or not be launched.
    Impossible(String),
    /// It does for this problem what another one does.
    Twin(String),
    /// It is expected to be too slow to be the best.
    Slow(String),
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Rejection::Impossible(reason) | Rejection::Twin(reason) | Rejection::Slow(reason)) = self;
        f.write_str(reason)
    }
}

impl<C: fmt::Display> Ranked<C> {
    /// The same with the candidate as text.
    pub fn to_text(&self) -> Ranked<String> {
        Ranked {
            candidate: self.candidate.to_string(),
            seconds: self.seconds,
            rejected: self.rejected.clone(),
        }
    }
}

/// Sorts by expected time, what cannot run last, and rejects what is expected to take more than `most` times the best.
fn rank<C>(mut all: Vec<Ranked<C>>, most: f64) -> Vec<Ranked<C>> {
    let key = |ranked: &Ranked<C>| (ranked.rejected.is_some(), ranked.seconds);
    all.sort_by(|a, b| key(a).partial_cmp(&key(b)).unwrap_or(Ordering::Equal));
    let best =
        all.first().filter(|first| first.rejected.is_none()).map_or(f64::INFINITY, |first| first.seconds);
    for ranked in all.iter_mut().filter(|ranked| ranked.rejected.is_none()) {
        let ratio = ranked.seconds / best;
        if ratio > most {
            let reason = format!("expected to take {ratio:.2} times as long as the first guess");
            ranked.rejected = Some(Rejection::Slow(reason));
        }
    }
    all
}
