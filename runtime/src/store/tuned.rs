//! What tuning found: the choice for each problem, and every measurement on the way.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

use super::{Store, checksum, now};

/// All that a choice depends on but the length. Equal keys mean that one's measurement holds for the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TuneProblem {
    /// `PatternCode::hash`.
    pub pattern_hash: String,
    /// What is computed: `forward`, `backward_fused`, `decode`, ...
    pub pass: String,
    /// D.
    pub head_dim: u32,
    /// Query heads of a KV head.
    pub group: u32,
    /// `bf16`, `fp16` or `f32`.
    pub dtype: String,
    /// Scores are capped.
    pub softcap: bool,
    /// There are sink logits.
    pub sink_logit: bool,
    /// Architecture: `sm_90a`, or the CPU's instruction set.
    pub target: String,
    /// The device's own name.
    pub device: String,
    /// Version of the driver; on a CPU, the threads in use.
    pub driver: String,
    /// What compiles the kernels, with its version: `nvrtc 13.0`.
    pub compiler: String,
    /// Name and version of the generator, and a sum of its templates.
    pub generator: String,
}

/// A problem at lengths of one bucket.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TuneKey {
    /// The rest of the key.
    pub problem: TuneProblem,
    /// [`length_bucket`], in tokens.
    pub bucket: u64,
}

impl TuneKey {
    /// The key of a problem at a length.
    pub fn new(problem: TuneProblem, tokens: u64) -> Self {
        TuneKey { problem, bucket: length_bucket(tokens) }
    }

    /// Ten hexadecimal digits to name it by.
    pub fn id(&self) -> String {
        let bytes = checksum(&[self.problem.to_json().as_bytes(), &self.bucket.to_le_bytes()]);
        blake3::Hash::from_bytes(bytes).to_hex()[..10].to_owned()
    }
}

/// The bucket of a length: the next power of two, so that 4097 to 8192 tokens are one.
pub fn length_bucket(tokens: u64) -> u64 {
    // Above 2^62 there is no length that fits a database's integer, nor a machine's memory.
    tokens.clamp(1, 1 << 62).next_power_of_two()
}

/// The winner of a tune.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TunedChoice {
    /// The schedule, as `Schedule` prints and parses.
    pub schedule: String,
    /// Its time, in seconds.
    pub seconds: f64,
    /// Spread of its repeats over their median.
    pub spread: f64,
    /// Where it comes from.
    pub provenance: Provenance,
}

/// Where a choice comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The pattern, in its canonical text.
    pub pattern: String,
    /// What was timed: length, batch, heads.
    pub problem: String,
    /// How many candidates were timed.
    pub candidates_timed: u32,
    /// How many there were.
    pub candidates: u32,
    /// Whether the search ran to its end, or was cut short by its budget.
    pub finished: bool,
}

/// One step of a tune.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// The candidate, as `Schedule` prints.
    pub schedule: String,
    /// What was timed, as [`Provenance::problem`] has it: a key stands for many lengths and numbers of heads, whose times do
    /// not compare.
    pub problem: String,
    /// What came of it.
    pub outcome: TrialOutcome,
}

/// What came of a candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrialOutcome {
    /// One measurement, in seconds.
    Measured(f64),
    /// It was compiled and computes what the oracle computes.
    Checked,
    /// It is out of the race: it does not compile, or it computes something else.
    Refused(String),
}

/// A choice of the store.
#[derive(Clone, Debug, PartialEq)]
pub struct TunedRow {
    /// What for.
    pub key: TuneKey,
    /// When, in seconds since 1970.
    pub made: i64,
    /// The choice.
    pub choice: TunedChoice,
}

impl TuneProblem {
    pub(super) fn to_json(&self) -> String {
        // A plain struct of strings and numbers: nothing in it can fail to serialise.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// A row of `tuned` or `trial` as it lies in the file.
pub(super) struct RawValue {
    pub problem: String,
    pub bucket: i64,
    pub made: i64,
    pub value: String,
    pub checksum: Vec<u8>,
}

pub(super) const CHOICES: &str = "problem, bucket, made, choice, checksum FROM tuned";
pub(super) const TRIALS: &str = "problem, bucket, made, trial, checksum FROM trial";

impl RawValue {
    fn new(key: &TuneKey, value: &impl Serialize) -> Self {
        let problem = key.problem.to_json();
        let bucket = key.bucket as i64;
        let value = serde_json::to_string(value).unwrap_or_default();
        let checksum = sum(&problem, bucket, &value).to_vec();
        RawValue { problem, bucket, made: now(), value, checksum }
    }

    pub fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        let (problem, bucket, made, value, checksum) =
            (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
        Ok(RawValue { problem, bucket, made, value, checksum })
    }

    /// Whether key and value, a `T`, have every part that they have now: those of an older layout tell too little apart.
    pub fn is_of_this_form<T: for<'a> Deserialize<'a>>(&self) -> bool {
        serde_json::from_str::<TuneProblem>(&self.problem).is_ok()
            && serde_json::from_str::<T>(&self.value).is_ok()
    }

    pub fn is_whole(&self) -> bool {
        sum(&self.problem, self.bucket, &self.value)[..] == self.checksum[..]
    }

    fn decode<T: for<'a> Deserialize<'a>>(&self) -> Option<T> {
        self.is_whole().then(|| serde_json::from_str(&self.value).ok()).flatten()
    }

    fn put_choice(&self, connection: &Connection) -> rusqlite::Result<usize> {
        connection.execute(
            "INSERT OR REPLACE INTO tuned (problem, bucket, made, choice, checksum) \
             VALUES (?1, ?2, ?3, ?4, ?5)",
            params![self.problem, self.bucket, self.made, self.value, self.checksum],
        )
    }

    /// Puts the choice where there is none, or an earlier one. Returns the rows that changed: 0 or 1.
    pub fn merge_choice(&self, connection: &Connection) -> rusqlite::Result<usize> {
        let here = "SELECT 1 FROM tuned WHERE problem = ?1 AND bucket = ?2 AND made >= ?3";
        let is_here = connection.prepare(here)?.exists(params![self.problem, self.bucket, self.made])?;
        if is_here { Ok(0) } else { self.put_choice(connection) }
    }

    fn put_trial(&self, connection: &Connection) -> rusqlite::Result<usize> {
        connection.execute(
            "INSERT INTO trial (problem, bucket, made, trial, checksum) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![self.problem, self.bucket, self.made, self.value, self.checksum],
        )
    }

    /// Adds the measurement unless it is there. Returns the rows that changed: 0 or 1.
    pub fn merge_trial(&self, connection: &Connection) -> rusqlite::Result<usize> {
        let here = "SELECT 1 FROM trial WHERE problem = ?1 AND bucket = ?2 AND made = ?3 AND checksum = ?4";
        let values = params![self.problem, self.bucket, self.made, self.checksum];
        let is_here = connection.prepare(here)?.exists(values)?;
        if is_here { Ok(0) } else { self.put_trial(connection) }
    }
}

fn sum(problem: &str, bucket: i64, value: &str) -> [u8; 32] {
    checksum(&[problem.as_bytes(), &bucket.to_le_bytes(), value.as_bytes()])
}

impl Store {
    /// The choice for a problem at its bucket of lengths.
    pub fn tuned(&self, key: &TuneKey) -> Option<TunedChoice> {
        let problem = key.problem.to_json();
        let sql = format!("SELECT {CHOICES} WHERE problem = ?1 AND bucket = ?2");
        let raw = self.read(|connection| {
            let mut statement = connection.prepare(&sql)?;
            statement.query_row(params![problem, key.bucket as i64], RawValue::from_row).optional()
        })?;
        let choice = raw.decode();
        if choice.is_none() {
            self.remove_choice(&problem, key.bucket as i64);
        }
        choice
    }

    /// The choices for a problem at every length there is one for: (bucket, choice), shortest first.
    pub fn tuned_buckets(&self, problem: &TuneProblem) -> Vec<(u64, TunedChoice)> {
        let problem = problem.to_json();
        let sql = format!("SELECT {CHOICES} WHERE problem = ?1");
        let mut found = Vec::new();
        for raw in self.rows(&sql, params![problem]) {
            match raw.decode() {
                Some(choice) => found.push((raw.bucket.unsigned_abs(), choice)),
                None => self.remove_choice(&problem, raw.bucket),
            }
        }
        found.sort_by_key(|(bucket, _)| *bucket);
        found
    }

    /// Keeps a choice, in place of an older one for this key.
    pub fn put_tuned(&self, key: &TuneKey, choice: &TunedChoice) {
        let raw = RawValue::new(key, choice);
        self.write(|connection| raw.put_choice(connection));
    }

    /// Every step of the tunes of this key, in the order they were made, whatever problem was timed.
    pub fn trials(&self, key: &TuneKey) -> Vec<Trial> {
        let sql = format!("SELECT {TRIALS} WHERE problem = ?1 AND bucket = ?2 ORDER BY id");
        let rows = self.rows(&sql, params![key.problem.to_json(), key.bucket as i64]);
        // A measurement that is damaged is made again.
        rows.iter().filter_map(RawValue::decode).collect()
    }

    /// Adds a step to the tune of this key.
    pub fn put_trial(&self, key: &TuneKey, trial: &Trial) {
        let raw = RawValue::new(key, trial);
        self.write(|connection| raw.put_trial(connection));
    }

    /// Forgets the steps of a key that timed one problem, as [`Trial::problem`] says it, to tune that from scratch.
    pub fn forget_trials(&self, key: &TuneKey, timed: &str) {
        let problem = key.problem.to_json();
        // A damaged row is no JSON, and no look-up finds it.
        let sql = "DELETE FROM trial WHERE problem = ?1 AND bucket = ?2 \
                   AND CASE WHEN json_valid(trial) THEN json_extract(trial, '$.problem') = ?3 END";
        self.write(|connection| connection.execute(sql, params![problem, key.bucket as i64, timed]));
    }

    /// All choices, latest first.
    pub fn tuned_rows(&self) -> Vec<TunedRow> {
        let sql = format!("SELECT {CHOICES} ORDER BY made DESC, problem, bucket");
        let decoded = self.rows(&sql, params![]).into_iter().filter_map(|raw| {
            let problem = serde_json::from_str(&raw.problem).ok()?;
            let key = TuneKey { problem, bucket: raw.bucket.unsigned_abs() };
            Some(TunedRow { key, made: raw.made, choice: raw.decode()? })
        });
        decoded.collect()
    }

    fn rows(&self, sql: &str, values: &[&dyn rusqlite::ToSql]) -> Vec<RawValue> {
        self.read_all(|connection| {
            let mut statement = connection.prepare(sql)?;
            statement.query_map(values, RawValue::from_row)?.collect()
        })
    }

    fn remove_choice(&self, problem: &str, bucket: i64) {
        let sql = "DELETE FROM tuned WHERE problem = ?1 AND bucket = ?2";
        self.write(|connection| connection.execute(sql, params![problem, bucket]));
        self.tell_damaged();
    }
}
