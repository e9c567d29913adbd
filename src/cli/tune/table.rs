//! The report as a table.

use std::fmt;

use longgen_codegen::model::Ranked;
use longgen_runtime::tune::{Outcome, Standing, TuneReport};
use serde_json::{Value, json};

use super::request::Search;
use crate::cli::number::{grouped, milliseconds};

/// Candidates of a search that are printed; the JSON has all of them.
const SHOWN: usize = 6;

/// The reports of a run.
pub struct Reports<'a> {
    pub pattern: &'a str,
    pub reports: &'a [TuneReport],
    /// Searches that Ctrl-C came before.
    pub left: usize,
}

impl fmt::Display for Reports<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.pattern)?;
        for report in self.reports {
            search(f, report)?;
        }
        match self.left {
            0 => Ok(()),
            left => writeln!(
                f,
                "\nnot begun: {left} of {} searches; the same command goes on",
                self.reports.len() + left
            ),
        }
    }
}

fn search(f: &mut fmt::Formatter<'_>, report: &TuneReport) -> fmt::Result {
    let TuneReport { pass, tokens, problem, resumed, measured, finished, .. } = report;
    let ended = if *finished { "" } else { "; ended early, the same command goes on" };
    let before = if *resumed > 0 { format!(" and {resumed} from before") } else { String::new() };
    writeln!(
        f,
        "\n{pass} at {} tokens ({problem}): {measured} measurements{before}{ended}",
        grouped((*tokens).into())
    )?;
    let mut timed: Vec<&Standing> = report.standings.iter().filter(|s| s.seconds().is_some()).collect();
    timed.sort_by(|a, b| a.seconds().partial_cmp(&b.seconds()).unwrap_or(std::cmp::Ordering::Equal));
    if !timed.is_empty() {
        writeln!(f, "  {:>10} {:>10} {:>7} {:>8}  schedule", "ms", "expected", "spread", "repeats")?;
    }
    for standing in timed.iter().take(SHOWN) {
        line(f, standing)?;
    }
    let refused = report.standings.iter().filter(|s| matches!(s.outcome, Outcome::Refused(_)));
    for standing in refused {
        if let Outcome::Refused(reason) = &standing.outcome {
            writeln!(f, "  refused: {}: {reason}", standing.schedule)?;
        }
    }
    let (all, kept) = (report.standings.len(), report.timed());
    writeln!(f, "  {kept} of {all} candidates timed; --explain says why the others were not")?;
    summary(f, report)
}

fn line(f: &mut fmt::Formatter<'_>, standing: &Standing) -> fmt::Result {
    let Outcome::Timed { seconds, spread, repeats } = standing.outcome else { return Ok(()) };
    let expected = milliseconds(standing.expected_seconds);
    let ms = milliseconds(seconds);
    // One measurement spreads over nothing.
    let spread = if repeats > 1 { format!("{:.1}%", 100.0 * spread) } else { "-".to_owned() };
    writeln!(f, "  {ms:>10} {expected:>10} {spread:>7} {repeats:>8}  {}", standing.schedule)
}

fn summary(f: &mut fmt::Formatter<'_>, report: &TuneReport) -> fmt::Result {
    let Some(best) = report.best() else {
        return writeln!(
            f,
            "  nothing was measured in the time it had: each search has its share of --budget"
        );
    };
    let seconds = best.seconds().unwrap_or(f64::NAN);
    writeln!(f, "  choice: {}", best.schedule)?;
    if let Some((guess, guessed)) = report.first_guess().and_then(|g| Some((g, g.seconds()?))) {
        let gain = guessed / seconds;
        let same = guess.schedule == best.schedule;
        let text = if same {
            "it is the model's first guess".to_owned()
        } else {
            format!("{gain:.3} times as fast as the model's first guess")
        };
        writeln!(f, "  {text}; {:.0} % of the floor's rate", 100.0 * report.floor_seconds / seconds)?;
    }
    Ok(())
}

/// What the model proposes for a search.
pub struct Candidates<'a> {
    pub search: &'a Search,
    pub list: &'a [Ranked<String>],
}

impl fmt::Display for Candidates<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.list.iter().filter(|ranked| ranked.rejected.is_none()).count();
        writeln!(f, "{}: {kept} of {} candidates are worth a measurement", self.search, self.list.len())?;
        for ranked in self.list {
            let seconds =
                if ranked.seconds.is_finite() { milliseconds(ranked.seconds) } else { "-".to_owned() };
            match &ranked.rejected {
                None => writeln!(f, "  {seconds:>10} ms  {}", ranked.candidate)?,
                Some(reason) => writeln!(f, "  {seconds:>10} ms  {}  left out: {reason}", ranked.candidate)?,
            }
        }
        writeln!(f)
    }
}

/// The same as JSON.
pub fn candidates_json(lists: &[(Search, Vec<Ranked<String>>)]) -> Value {
    let candidate = |r: &Ranked<String>| json!({ "schedule": r.candidate, "expected_seconds": r.seconds, "rejected": r.rejected.as_ref().map(ToString::to_string) });
    let search = |(search, list): &(Search, Vec<Ranked<String>>)| {
        let candidates: Vec<Value> = list.iter().map(candidate).collect();
        json!({ "pass": search.pass.name(), "tokens": search.tokens, "candidates": candidates })
    };
    Value::Array(lists.iter().map(search).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(outcomes: &[Outcome]) -> String {
        let standing = |outcome: &Outcome| Standing {
            schedule: "lanes=64".to_owned(),
            expected_seconds: 1e-3,
            outcome: outcome.clone(),
        };
        let report = TuneReport {
            pass: "forward".to_owned(),
            tokens: 1024,
            problem: "1024 queries".to_owned(),
            standings: outcomes.iter().map(standing).collect(),
            winner: outcomes.iter().position(|outcome| matches!(outcome, Outcome::Timed { .. })),
            floor_seconds: 1e-3,
            resumed: 0,
            measured: 0,
            finished: false,
        };
        Reports { pattern: "full", reports: &[report], left: 2 }.to_string()
    }

    #[test]
    fn a_search_without_time_says_so_and_still_what_was_refused() {
        let text = printed(&[Outcome::Refused("o is wrong".to_owned()), Outcome::Untimed]);
        assert!(text.contains("nothing was measured in the time it had"), "{text}");
        assert!(text.contains("not begun: 2 of 3 searches"), "{text}");
        assert!(text.contains("refused: lanes=64: o is wrong") && !text.contains("repeats"), "{text}");
    }

    #[test]
    fn one_measurement_has_no_spread() {
        let timed = |repeats| printed(&[Outcome::Timed { seconds: 2e-3, spread: 0.25, repeats }]);
        assert!(
            timed(4).contains("25.0%") && timed(1).contains("       -        1  lanes=64"),
            "{}",
            timed(1)
        );
    }
}
