//! The walk of one tile of lanes, step by step as the generated kernels take it (`cpu/kernels.rs`).

use crate::cpu::Blocking;
use crate::ir::Programs;
use crate::model::workload::Workload;
use crate::plan::{Cover, cover};

/// Which kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// O: lanes of queries.
    Forward,
    /// dQ: lanes of queries.
    DQuery,
    /// dK and dV: lanes of keys.
    DKeyValue,
}

/// How lanes cover a sequence.
#[derive(Clone, Copy, Debug)]
pub struct Lanes {
    /// Tiles along the sequence.
    pub tiles: u32,
    /// Tiles beside each other that cover the query heads of a group.
    pub tiles_per_group: u32,
    /// Query heads in a tile.
    pub heads: u32,
    /// Tokens in a tile.
    pub tokens: u32,
    /// Lanes in use.
    pub lanes: u32,
}

/// Steps of equal size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Rows of the score tile.
    pub rows: u32,
    /// How many steps.
    pub times: f64,
    /// Whether a mask is applied.
    pub masked: bool,
    /// Rows that went through the row buffers.
    pub gathered: u32,
}

/// What a tile of lanes walks.
#[derive(Clone, Debug, Default)]
pub struct Walked {
    /// Its steps.
    pub steps: Vec<Step>,
    /// Runs of rows that were looked for.
    pub runs: u64,
    /// Pairs of a token and a row that are visible, roughly where a mask is applied.
    pub visible_pairs: f64,
}

impl Walked {
    /// Rows of all steps.
    pub fn rows(&self) -> f64 {
        self.steps.iter().map(|step| f64::from(step.rows) * step.times).sum()
    }

    /// Rows of the steps with a mask.
    pub fn masked_rows(&self) -> f64 {
        self.steps.iter().filter(|step| step.masked).map(|step| f64::from(step.rows) * step.times).sum()
    }

    fn push(&mut self, step: Step) {
        match self
            .steps
            .iter_mut()
            .find(|s| (s.rows, s.masked, s.gathered) == (step.rows, step.masked, step.gathered))
        {
            Some(same) => same.times += step.times,
            None => self.steps.push(step),
        }
    }
}

/// How the lanes of a kernel cover a sequence.
pub fn shape(workload: &Workload<'_>, blocking: Blocking, side: Side) -> Lanes {
    if side == Side::DKeyValue {
        let tokens = blocking.lanes.min(workload.keys.max(1));
        return Lanes {
            tiles: workload.keys.div_ceil(tokens),
            tiles_per_group: 1,
            heads: 1,
            tokens,
            lanes: tokens,
        };
    }
    let heads = workload.group().clamp(1, blocking.lanes);
    let tokens = (blocking.lanes / heads).min(workload.queries.max(1));
    Lanes {
        tiles: workload.queries.div_ceil(tokens),
        tiles_per_group: workload.group().max(1).div_ceil(heads),
        heads,
        tokens,
        lanes: tokens * heads,
    }
}

/// The walk of tile number `tile` under KV head `g`.
pub fn walk(workload: &Workload<'_>, blocking: Blocking, side: Side, g: u32, tile: u32) -> Walked {
    let programs = workload.programs;
    let lanes = shape(workload, blocking, side);
    let first = i64::from(workload.first_query());
    let end = i64::from(workload.keys);
    let begin = i64::from(tile) * i64::from(lanes.tokens) + if side == Side::DKeyValue { 0 } else { first };
    let columns = (begin, (begin + i64::from(lanes.tokens)).min(end));
    let range = match side {
        Side::DKeyValue => (first.max(columns.0), end),
        _ => (0, columns.1),
    };
    let mut walk = Walk {
        programs,
        blocking,
        side,
        g: g.into(),
        columns,
        walked: Walked::default(),
        waiting: (0, false),
    };
    match &programs.closed {
        Some(closed) => {
            let mut at = range.0;
            while at < range.1 {
                let run = match side {
                    Side::DKeyValue => closed.next_queries(g.into(), columns.0, columns.1, at),
                    _ => closed.next_keys(g.into(), columns.0, columns.1, at),
                };
                if run.begin >= range.1 {
                    break;
                }
                at = run.end.min(range.1);
                walk.run((run.begin, at));
            }
        }
        None => walk.listed(range),
    }
    walk.flush();
    if side == Side::DKeyValue {
        // Each tile of queries is walked once for each query head.
        walk.walked.steps.iter_mut().for_each(|step| step.times *= f64::from(workload.group().max(1)));
    }
    walk.walked
}

struct Walk<'a> {
    programs: &'a Programs,
    blocking: Blocking,
    side: Side,
    g: i64,
    columns: (i64, i64),
    walked: Walked,
    /// Gathered rows that wait for a tile, and whether one of them needs a mask.
    waiting: (u32, bool),
}

impl Walk<'_> {
    fn run(&mut self, (begin, end): (i64, i64)) {
        /// Longer runs are alike in their middle: it is counted, not walked.
        const WALKED_STEPS: i64 = 64;
        self.walked.runs += 1;
        let rows = i64::from(self.blocking.rows);
        let gathers = self.side != Side::DKeyValue && end - begin < i64::from(self.blocking.gather_below);
        if gathers {
            return self.gather(begin, end);
        }
        let mut at = begin;
        while at < end {
            let stop = (at + rows).min(end);
            let masked = self.masked((at, stop));
            let is_middle = !masked && stop - at == rows && (end - at) / rows > WALKED_STEPS;
            // Runs of full tiles, checked at their far end too.
            let skip = if is_middle { ((end - at) / rows - WALKED_STEPS / 2).max(1) } else { 1 };
            let far = at + skip * rows;
            if skip > 1 && !self.masked((at, far)) {
                self.step((at, far), rows as u32, skip as f64, false);
                at = far;
                continue;
            }
            if !self.is_empty((at, stop)) {
                self.step((at, stop), (stop - at) as u32, 1.0, masked);
            }
            at = stop;
        }
    }

    fn step(&mut self, (begin, end): (i64, i64), rows: u32, times: f64, masked: bool) {
        if masked && self.side != Side::DKeyValue {
            self.flush();
        }
        self.count_visible((begin, end), masked);
        self.walked.push(Step { rows, times, masked, gathered: 0 });
    }

    fn gather(&mut self, begin: i64, end: i64) {
        let masked = self.masked((begin, end));
        self.count_visible((begin, end), masked);
        let mut left = (end - begin) as u32;
        while left > 0 {
            let taken = left.min(self.blocking.rows - self.waiting.0);
            self.waiting = (self.waiting.0 + taken, self.waiting.1 || masked);
            left -= taken;
            if self.waiting.0 == self.blocking.rows {
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        let (rows, masked) = std::mem::take(&mut self.waiting);
        if rows > 0 {
            self.walked.push(Step { rows, times: 1.0, masked, gathered: rows });
        }
    }

    fn listed(&mut self, (begin, end): (i64, i64)) {
        const TILE: i64 = 64;
        let mut at = begin;
        let mut open: Option<(i64, i64)> = None;
        while at < end {
            let stop = (at + TILE).min(end);
            if self.cover((at, stop)) == Cover::Nothing {
                if let Some(run) = open.take() {
                    self.run(run);
                }
            } else {
                open = Some((open.map_or(at, |run| run.0), stop));
            }
            at = stop;
        }
        if let Some(run) = open {
            self.run(run);
        }
    }

    /// Queries and keys of a box of lanes and rows.
    fn sides(&self, rows: (i64, i64)) -> ((i64, i64), (i64, i64)) {
        if self.side == Side::DKeyValue { (rows, self.columns) } else { (self.columns, rows) }
    }

    fn cover(&self, rows: (i64, i64)) -> Cover {
        let (queries, keys) = self.sides(rows);
        cover(self.programs, self.g, queries, keys)
    }

    fn masked(&self, rows: (i64, i64)) -> bool {
        let (i, j) = self.sides(rows);
        match &self.programs.closed {
            Some(closed) => !closed.all_visible(self.g, i.0, i.1, j.0, j.1),
            None => self.cover(rows) != Cover::All,
        }
    }

    /// A tile of queries inside the hull that sees none of the keys.
    fn is_empty(&self, rows: (i64, i64)) -> bool {
        let (i, j) = self.sides(rows);
        let closed = self.programs.closed.as_ref().filter(|_| self.side == Side::DKeyValue);
        closed.is_some_and(|closed| closed.next_keys(self.g, i.0, i.1, j.0).begin >= j.1)
    }

    fn count_visible(&mut self, rows: (i64, i64), masked: bool) {
        let pairs = (rows.1 - rows.0) as f64 * (self.columns.1 - self.columns.0) as f64;
        // Half of a tile on an edge is visible.
        self.walked.visible_pairs += if masked { pairs / 2.0 } else { pairs };
    }
}
