//! What a search found.

use serde::Serialize;

/// What became of a candidate.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The model left it out, and why.
    Pruned(String),
    /// It was not admitted: it does not compile, or it computes something else.
    Refused(String),
    /// It was timed.
    Timed {
        /// Its time.
        seconds: f64,
        /// Half the distance between the quartiles over the time.
        spread: f64,
        /// How often.
        repeats: usize,
    },
    /// The budget ended first.
    Untimed,
}

/// A candidate at the end.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Standing {
    /// The schedule.
    pub schedule: String,
    /// What the model expected.
    pub expected_seconds: f64,
    /// What came of it.
    pub outcome: Outcome,
}

/// The search of one pass at one length.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TuneReport {
    /// `forward`, `backward` or `decode`.
    pub pass: String,
    /// Tokens of the keys.
    pub tokens: u64,
    /// What was timed: heads, queries.
    pub problem: String,
    /// Candidates in the model's order, the first guess first.
    pub standings: Vec<Standing>,
    /// The choice, as an index into `standings`.
    pub winner: Option<usize>,
    /// The least time that arithmetic and bytes allow.
    pub floor_seconds: f64,
    /// Measurements taken from an earlier run.
    pub resumed: usize,
    /// Measurements of this run.
    pub measured: usize,
    /// The search ran to its end.
    pub finished: bool,
}

impl Standing {
    /// Its measured time.
    pub fn seconds(&self) -> Option<f64> {
        match self.outcome {
            Outcome::Timed { seconds, .. } => Some(seconds),
            _ => None,
        }
    }
}

impl TuneReport {
    /// The winner.
    pub fn best(&self) -> Option<&Standing> {
        self.winner.map(|winner| &self.standings[winner])
    }

    /// The model's first guess that was admitted.
    pub fn first_guess(&self) -> Option<&Standing> {
        self.standings
            .iter()
            .find(|standing| !matches!(standing.outcome, Outcome::Pruned(_) | Outcome::Refused(_)))
    }

    /// How many were timed.
    pub fn timed(&self) -> usize {
        self.standings.iter().filter(|standing| standing.seconds().is_some()).count()
    }
}
