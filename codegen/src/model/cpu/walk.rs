//! The walk of one tile of lanes, step by step as the generated kernels take it (`cpu/kernels.rs`).

use crate::cpu::Blocking;
use crate::cpu::abi::{LANES, STRIP};
use crate::cpu::parts::{Lanes, MaskedTile, Part, parts};
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
pub struct LaneShape {
    /// Tiles along the sequence.
    pub tiles: u32,
    /// Tiles beside each other that cover the query heads of a group.
    pub tiles_per_group: u32,
    /// Query heads in a tile.
    pub heads: u32,
    /// Tokens in a tile.
    pub tokens: u32,
}

/// The mask of a tile, from none to the whole element test; the larger covers the smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mask {
    /// Every pair is visible.
    None,
    /// Only `j <= i`.
    Edge,
    /// Every pair is tested.
    Pairs,
}

/// Parts of tiles that are alike: what a kernel computes at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Rows and strips.
    pub part: Part,
    /// How many.
    pub times: f64,
    /// The mask on it.
    pub mask: Mask,
    /// Whether its rows went through the row buffers.
    pub gathered: bool,
}

/// What a tile of lanes walks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Walked {
    /// What is computed.
    pub steps: Vec<Step>,
    /// Runs of rows that were looked for.
    pub runs: u64,
    /// Tiles of rows, and those that needed a mask.
    pub tiles: f64,
    pub masked_tiles: f64,
    /// Rows of all tiles, and of those that went through the row buffers.
    pub rows: f64,
    pub gathered_rows: f64,
    /// Pairs of a token and a row that are visible, roughly where a mask is applied.
    pub visible_pairs: f64,
}

impl Walked {
    /// Pairs of a lane and a row that are computed: all of them, and those under a mask.
    pub fn pairs(&self) -> (f64, f64) {
        let pairs = |step: &Step| f64::from(step.part.rows * step.part.strips * STRIP as u32) * step.times;
        let masked = self.steps.iter().filter(|step| step.mask != Mask::None);
        (self.steps.iter().map(pairs).sum(), masked.map(pairs).sum())
    }

    /// Walked so many times over.
    fn repeat(&mut self, times: f64) {
        self.steps.iter_mut().for_each(|step| step.times *= times);
        for count in [&mut self.tiles, &mut self.masked_tiles, &mut self.rows, &mut self.gathered_rows] {
            *count *= times;
        }
    }

    fn push(&mut self, step: Step) {
        let alike = |s: &&mut Step| (s.part, s.mask, s.gathered) == (step.part, step.mask, step.gathered);
        match self.steps.iter_mut().find(alike) {
            Some(same) => same.times += step.times,
            None => self.steps.push(step),
        }
    }
}

/// How the lanes of a kernel cover a sequence.
pub fn shape(workload: &Workload<'_>, blocking: Blocking, side: Side) -> LaneShape {
    if side == Side::DKeyValue {
        let tokens = blocking.lanes.min(workload.keys.max(1));
        return LaneShape { tiles: workload.keys.div_ceil(tokens), tiles_per_group: 1, heads: 1, tokens };
    }
    let heads = workload.group().clamp(1, blocking.lanes);
    let tokens = (blocking.lanes / heads).min(workload.queries.max(1));
    LaneShape {
        tiles: workload.queries.div_ceil(tokens),
        tiles_per_group: workload.group().max(1).div_ceil(heads),
        heads,
        tokens,
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
    let used = (columns.1 - columns.0) * i64::from(lanes.heads);
    let token = |lane: i64| if lane < used { columns.0 + lane / i64::from(lanes.heads) } else { -1 };
    let mut walk = Walk {
        programs,
        blocking,
        side,
        g: g.into(),
        columns,
        lane_index: std::array::from_fn(|lane| token(lane as i64)),
        strips: (used as u32).div_ceil(STRIP as u32),
        walked: Walked::default(),
        waiting: (Vec::new(), Mask::None),
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
        walk.walked.repeat(f64::from(workload.group().max(1)));
    }
    walk.walked
}

struct Walk<'a> {
    programs: &'a Programs,
    blocking: Blocking,
    side: Side,
    g: i64,
    /// First and one past the last token of the lanes.
    columns: (i64, i64),
    /// Token of each lane.
    lane_index: [i64; LANES],
    /// Strips with lanes in use.
    strips: u32,
    walked: Walked,
    /// Gathered rows that wait for a tile, and the mask they need.
    waiting: (Vec<i64>, Mask),
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
            let mask = self.mask((at, stop));
            let is_middle = mask == Mask::None && stop - at == rows && (end - at) / rows > WALKED_STEPS;
            // Runs of full tiles, checked at their far end too.
            let skip = if is_middle { ((end - at) / rows - WALKED_STEPS / 2).max(1) } else { 1 };
            let far = at + skip * rows;
            if skip > 1 && self.mask((at, far)) == Mask::None {
                self.count_visible((at, far), Mask::None);
                self.full_tiles(rows as u32, skip as f64, false);
                at = far;
                continue;
            }
            if !self.is_empty((at, stop)) {
                self.in_place((at, stop), mask);
            }
            at = stop;
        }
    }

    fn in_place(&mut self, (begin, end): (i64, i64), mask: Mask) {
        self.count_visible((begin, end), mask);
        if mask == Mask::None {
            return self.full_tiles((end - begin) as u32, 1.0, false);
        }
        // A masked tile notes its rows where gathered ones are noted: those go first.
        self.flush();
        let rows: Vec<i64> = (begin..end).collect();
        self.masked_tile(&rows, mask, false);
    }

    fn gather(&mut self, begin: i64, end: i64) {
        let mut at = begin;
        while at < end {
            let room = i64::from(self.blocking.rows) - self.waiting.0.len() as i64;
            let stop = (at + room).min(end);
            let mask = self.mask((at, stop));
            self.count_visible((at, stop), mask);
            self.waiting.0.extend(at..stop);
            self.waiting.1 = self.waiting.1.max(mask);
            at = stop;
            if self.waiting.0.len() == self.blocking.rows as usize {
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        let (rows, mask) = std::mem::replace(&mut self.waiting, (Vec::new(), Mask::None));
        match mask {
            _ if rows.is_empty() => {}
            Mask::None => self.full_tiles(rows.len() as u32, 1.0, true),
            _ => self.masked_tile(&rows, mask, true),
        }
    }

    fn full_tiles(&mut self, rows: u32, times: f64, gathered: bool) {
        self.count_tiles(rows, times, gathered);
        let part = Part::whole(rows, self.strips);
        self.walked.push(Step { part, times, mask: Mask::None, gathered });
    }

    fn masked_tile(&mut self, rows: &[i64], mask: Mask, gathered: bool) {
        self.count_tiles(rows.len() as u32, 1.0, gathered);
        self.walked.masked_tiles += 1.0;
        let computed = match &self.programs.closed {
            Some(closed) => parts(&MaskedTile {
                closed,
                lanes: if self.side == Side::DKeyValue { Lanes::Keys } else { Lanes::Queries },
                g: self.g,
                lane_index: &self.lane_index,
                lane_end: self.columns.1,
                strips: self.strips,
                row_index: rows,
            }),
            None => vec![Part::whole(rows.len() as u32, self.strips)],
        };
        for part in computed {
            self.walked.push(Step { part, times: 1.0, mask, gathered });
        }
    }

    fn count_tiles(&mut self, rows: u32, times: f64, gathered: bool) {
        self.walked.tiles += times;
        self.walked.rows += f64::from(rows) * times;
        self.walked.gathered_rows += if gathered { f64::from(rows) * times } else { 0.0 };
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

    fn mask(&self, rows: (i64, i64)) -> Mask {
        let (i, j) = self.sides(rows);
        match &self.programs.closed {
            Some(closed) if closed.all_visible(self.g, i.0, i.1, j.0, j.1) => Mask::None,
            Some(closed) if closed.edge_only(self.g, i.0, i.1, j.0, j.1) => Mask::Edge,
            None if self.cover(rows) == Cover::All => Mask::None,
            _ => Mask::Pairs,
        }
    }

    /// A tile of queries inside the hull that sees none of the keys.
    fn is_empty(&self, rows: (i64, i64)) -> bool {
        let (i, j) = self.sides(rows);
        let closed = self.programs.closed.as_ref().filter(|_| self.side == Side::DKeyValue);
        closed.is_some_and(|closed| closed.next_keys(self.g, i.0, i.1, j.0).begin >= j.1)
    }

    fn count_visible(&mut self, rows: (i64, i64), mask: Mask) {
        let pairs = (rows.1 - rows.0) as f64 * (self.columns.1 - self.columns.0) as f64;
        // Half of a tile on an edge is visible.
        self.walked.visible_pairs += if mask == Mask::None { pairs } else { pairs / 2.0 };
    }
}
