use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use longgen_codegen::model::Rejection;

use super::*;
use crate::store::{StoreLocation, TuneProblem};

/// A bench whose times are known; it notes what it was asked.
struct Known {
    candidates: Vec<Ranked<String>>,
    truth: Vec<f64>,
    wrong: Option<usize>,
    timed: Vec<usize>,
    checked: Vec<usize>,
    /// The user has had enough after so many measurements.
    stop_after: usize,
    /// What is timed.
    problem: &'static str,
}

impl Known {
    fn new(truth: &[f64], stop_after: usize) -> Known {
        let candidate = |(n, &seconds): (usize, &f64)| Ranked {
            candidate: format!("tile={n}"),
            seconds,
            rejected: (seconds > 100.0).then(|| Rejection::Slow("too slow by far".to_owned())),
        };
        Known {
            candidates: truth.iter().enumerate().map(candidate).collect(),
            truth: truth.to_vec(),
            wrong: None,
            timed: Vec::new(),
            checked: Vec::new(),
            stop_after,
            problem: "32 heads",
        }
    }
}

impl Bench for Known {
    type Error = std::convert::Infallible;

    fn candidates(&self) -> &[Ranked<String>] {
        &self.candidates
    }

    fn admit(&mut self, candidate: usize) -> Result<Result<(), String>, Self::Error> {
        self.checked.push(candidate);
        Ok(if self.wrong == Some(candidate) { Err("o is WRONG".to_owned()) } else { Ok(()) })
    }

    fn time(&mut self, candidate: usize) -> Result<f64, Self::Error> {
        assert!(self.checked.contains(&candidate), "timed before it was checked");
        self.timed.push(candidate);
        Ok(self.truth[candidate])
    }

    fn describe(&self) -> String {
        self.problem.to_owned()
    }

    fn floor_seconds(&self) -> f64 {
        0.5
    }

    fn rules(&self) -> RaceRules {
        RaceRules::GPU
    }
}

fn key() -> TuneKey {
    TuneKey::new(TuneProblem { pass: "forward".to_owned(), ..TuneProblem::default() }, 8192)
}

fn run(bench: &mut Known, store: &Store, seconds: u64) -> TuneReport {
    let stop = AtomicBool::new(false);
    let limits = Limits { deadline: Instant::now() + Duration::from_secs(seconds), stop: &stop };
    let most = bench.stop_after;
    search(bench, (store, &key(), "window=4"), limits, &mut |progress| {
        stop.store(progress.measured >= most, Ordering::Relaxed);
    })
    .unwrap()
}

#[test]
fn the_best_is_found_and_chosen() {
    let store = Store::open(StoreLocation::Memory);
    let mut bench = Known::new(&[2.0, 1.0, 3.0, 1.5, 200.0], usize::MAX);
    let report = run(&mut bench, &store, 60);
    assert!(report.finished && !bench.timed.contains(&4), "what the model pruned is never run");
    assert_eq!(report.best().unwrap().schedule, "tile=1");
    assert_eq!(store.tuned(&key()).unwrap().schedule, "tile=1");
    assert!(matches!(report.standings[4].outcome, Outcome::Pruned(_)));
}

#[test]
fn a_wrong_candidate_never_wins() {
    let store = Store::open(StoreLocation::Memory);
    let mut bench = Known::new(&[2.0, 1.0, 3.0], usize::MAX);
    bench.wrong = Some(1);
    let report = run(&mut bench, &store, 60);
    assert_eq!(report.best().unwrap().schedule, "tile=0");
    assert!(!bench.timed.contains(&1) && matches!(report.standings[1].outcome, Outcome::Refused(_)));
}

#[test]
fn an_interruption_loses_nothing_and_nothing_is_measured_twice() {
    let truth = [2.0, 1.0, 3.0, 1.01, 2.5, 4.0];
    let whole = {
        let mut bench = Known::new(&truth, usize::MAX);
        run(&mut bench, &Store::open(StoreLocation::Memory), 60);
        bench.timed
    };
    for cut in [1, 4, 7, 11, whole.len() - 1] {
        let store = Store::open(StoreLocation::Memory);
        let mut first = Known::new(&truth, cut);
        let report = run(&mut first, &store, 60);
        assert!(!report.finished && report.winner.is_some() && store.tuned(&key()).is_some(), "{cut}");
        let mut second = Known::new(&truth, usize::MAX);
        let report = run(&mut second, &store, 60);
        assert_eq!((report.resumed, report.finished), (cut, true));
        assert_eq!([first.timed, second.timed].concat(), whole, "cut at {cut}");
    }
}

#[test]
fn a_finished_search_measures_nothing_again() {
    let store = Store::open(StoreLocation::Memory);
    run(&mut Known::new(&[2.0, 1.0], usize::MAX), &store, 60);
    let mut again = Known::new(&[2.0, 1.0], usize::MAX);
    let report = run(&mut again, &store, 60);
    assert!(again.timed.is_empty() && again.checked.is_empty());
    assert_eq!(report.best().unwrap().schedule, "tile=1");
}

#[test]
fn times_of_another_problem_are_not_compared() {
    let store = Store::open(StoreLocation::Memory);
    run(&mut Known::new(&[2.0, 1.0], usize::MAX), &store, 60);
    // Half the heads, where the other candidate is the best, though slower than either was before.
    let mut other = Known { problem: "16 heads", ..Known::new(&[3.0, 4.0], usize::MAX) };
    let report = run(&mut other, &store, 60);
    assert_eq!((report.resumed, report.best().unwrap().schedule.as_str()), (0, "tile=0"));
    let mut first = Known::new(&[2.0, 1.0], usize::MAX);
    let report = run(&mut first, &store, 60);
    assert!(first.timed.is_empty() && report.resumed > 0, "the first problem's own times are still there");
}

#[test]
fn without_time_nothing_is_chosen() {
    let store = Store::open(StoreLocation::Memory);
    let report = run(&mut Known::new(&[2.0, 1.0], usize::MAX), &store, 0);
    assert!(report.winner.is_none() && store.tuned(&key()).is_none() && report.measured == 0);
}
