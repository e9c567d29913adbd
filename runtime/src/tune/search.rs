//! One search: the race over the candidates of a bench, within limits, with every step kept in the store.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use longgen_codegen::model::Ranked;

use super::race::{Race, RaceRules, Step};
use super::report::{Outcome, Standing, TuneReport};
use crate::store::{Provenance, Store, Trial, TrialOutcome, TuneKey, TunedChoice};

/// A pass at a length on a device, which can be run with any of its candidates.
pub trait Bench {
    /// What stops a search; a candidate that fails is refused and is no error.
    type Error;

    /// Every candidate in the model's order, as text, those that were pruned with their reasons.
    fn candidates(&self) -> &[Ranked<String>];

    /// Starts making these ready, in this order; may return at once.
    fn prepare(&mut self, _candidates: &[usize]) {}

    /// Whether a candidate can be admitted now.
    fn is_ready(&mut self, _candidate: usize) -> bool {
        true
    }

    /// Blocks until another candidate is ready.
    fn wait(&mut self) {}

    /// Checks a candidate against the oracle: `Err` of the inner result is the reason it is refused.
    ///
    /// # Errors
    /// What stops the search.
    fn admit(&mut self, candidate: usize) -> Result<Result<(), String>, Self::Error>;

    /// Runs an admitted candidate once and tells the seconds.
    ///
    /// # Errors
    /// What stops the search.
    fn time(&mut self, candidate: usize) -> Result<f64, Self::Error>;

    /// What is timed and how, in words: measurements of benches that say the same compare.
    fn describe(&self) -> String;

    /// The least time that arithmetic and bytes allow, in seconds.
    fn floor_seconds(&self) -> f64;

    /// How candidates are compared.
    fn rules(&self) -> RaceRules;
}

/// When a search ends before its end.
#[derive(Clone, Copy, Debug)]
pub struct Limits<'a> {
    /// No measurement starts after this.
    pub deadline: Instant,
    /// Set when the user has had enough.
    pub stop: &'a AtomicBool,
}

impl Limits<'_> {
    fn reached(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || Instant::now() >= self.deadline
    }
}

/// Where a search stands.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// Candidates to time.
    pub candidates: usize,
    /// Those that are still in the race.
    pub running: usize,
    /// Measurements made.
    pub measured: usize,
    /// The best so far and its time.
    pub best: Option<(&'a str, f64)>,
}

/// Races the candidates that the model has not pruned. What an earlier search of this key has measured on the same problem is
/// not measured again; what this one measures is kept as it goes, so that nothing is lost whenever it ends. The winner becomes the choice.
///
/// # Errors
/// What stops the bench.
pub fn search<B: Bench>(
    bench: &mut B,
    (store, key, pattern): (&Store, &TuneKey, &str),
    limits: Limits<'_>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<TuneReport, B::Error> {
    let candidates = bench.candidates().to_vec();
    let entries: Vec<usize> = (0..candidates.len()).filter(|&n| candidates[n].rejected.is_none()).collect();
    let mut contest = Contest {
        race: Race::new(entries.len(), bench.rules()),
        admitted: vec![false; entries.len()],
        refused: vec![None; entries.len()],
        resumed: 0,
        measured: 0,
    };
    let name = |entry: usize| candidates[entries[entry]].candidate.as_str();
    let problem = bench.describe();
    let mut trials = store.trials(key);
    trials.retain(|trial| trial.problem == problem);
    contest.resume(&trials, |schedule| (0..entries.len()).find(|&n| name(n) == schedule));
    bench.prepare(&entries);
    while !limits.reached() {
        let step = contest.race.next(|n| bench.is_ready(entries[n]));
        let entry = match step {
            Step::Done => break,
            Step::Wait => {
                bench.wait();
                continue;
            }
            Step::Time(entry) => entry,
        };
        let keep = |outcome| {
            let (schedule, problem) = (name(entry).to_owned(), problem.clone());
            store.put_trial(key, &Trial { schedule, problem, outcome });
        };
        if !contest.admitted[entry] {
            match bench.admit(entries[entry])? {
                Ok(()) => keep(TrialOutcome::Checked),
                Err(reason) => {
                    keep(TrialOutcome::Refused(reason.clone()));
                    contest.race.refuse(entry);
                    contest.refused[entry] = Some(reason);
                    continue;
                }
            }
            contest.admitted[entry] = true;
        }
        let seconds = bench.time(entries[entry])?;
        keep(TrialOutcome::Measured(seconds));
        contest.race.record(entry, seconds);
        contest.measured += 1;
        let best = contest.race.winner().map(|n| (name(n), contest.race.time(n).unwrap_or(f64::NAN)));
        progress(Progress {
            candidates: entries.len(),
            running: contest.race.running().len(),
            measured: contest.measured,
            best,
        });
    }
    let report = contest.report(bench, &candidates, &entries, key);
    if let Some(choice) = choice(&report, pattern, entries.len()) {
        store.put_tuned(key, &choice);
    }
    Ok(report)
}

struct Contest {
    race: Race,
    /// Checked in this process: kernels are checked anew after a restart.
    admitted: Vec<bool>,
    refused: Vec<Option<String>>,
    resumed: usize,
    measured: usize,
}

impl Contest {
    fn resume(&mut self, trials: &[Trial], entry: impl Fn(&str) -> Option<usize>) {
        for trial in trials {
            let Some(entry) = entry(&trial.schedule) else { continue };
            match &trial.outcome {
                TrialOutcome::Measured(seconds) => {
                    self.race.record(entry, *seconds);
                    self.resumed += 1;
                }
                TrialOutcome::Refused(reason) => {
                    self.race.refuse(entry);
                    self.refused[entry] = Some(reason.clone());
                }
                TrialOutcome::Checked => {}
            }
        }
    }

    fn report<B: Bench>(
        &self,
        bench: &B,
        candidates: &[Ranked<String>],
        entries: &[usize],
        key: &TuneKey,
    ) -> TuneReport {
        let standing = |(n, ranked): (usize, &Ranked<String>)| {
            let outcome = match (&ranked.rejected, entries.iter().position(|&entry| entry == n)) {
                (Some(reason), _) => Outcome::Pruned(reason.to_string()),
                (None, None) => Outcome::Untimed,
                (None, Some(entry)) => match (&self.refused[entry], self.race.time(entry)) {
                    (Some(reason), _) => Outcome::Refused(reason.clone()),
                    (None, None) => Outcome::Untimed,
                    (None, Some(seconds)) => Outcome::Timed {
                        seconds,
                        spread: self.race.spread(entry),
                        repeats: self.race.repeats(entry),
                    },
                },
            };
            Standing { schedule: ranked.candidate.clone(), expected_seconds: ranked.seconds, outcome }
        };
        TuneReport {
            pass: key.problem.pass.clone(),
            tokens: key.bucket,
            problem: bench.describe(),
            standings: candidates.iter().enumerate().map(standing).collect(),
            winner: self.race.winner().map(|entry| entries[entry]),
            floor_seconds: bench.floor_seconds(),
            resumed: self.resumed,
            measured: self.measured,
            finished: self.race.is_done(),
        }
    }
}

fn choice(report: &TuneReport, pattern: &str, candidates: usize) -> Option<TunedChoice> {
    let best = report.best()?;
    let Outcome::Timed { seconds, spread, .. } = best.outcome else { return None };
    let provenance = Provenance {
        pattern: pattern.to_owned(),
        problem: report.problem.clone(),
        candidates_timed: u32::try_from(report.timed()).unwrap_or(u32::MAX),
        candidates: u32::try_from(candidates).unwrap_or(u32::MAX),
        finished: report.finished,
    };
    Some(TunedChoice { schedule: best.schedule.clone(), seconds, spread, provenance })
}

#[cfg(test)]
#[path = "search_tests.rs"]
mod tests;
