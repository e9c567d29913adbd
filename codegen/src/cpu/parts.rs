//! Which parts of a masked tile are computed: neighbouring strips of lanes that see the same rows, cut to the rows they see.
//!
//! The rule is written once, over [`Steps`]: kernels are generated from it (`hull.rs`), and the model counts tiles by it
//! ([`parts`]).

use super::abi::{LANES, STRIP};
use crate::ir::programs::ClosedForm;

/// What the lanes of a tile are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lanes {
    /// Lanes are query rows, rows are keys: forward and dQ.
    Queries,
    /// Lanes are keys, rows are queries: dK and dV.
    Keys,
}

/// Rows are left out in whole chunks of this many: as fine as the strips, and few enough to ask for each.
const CHUNK: i64 = STRIP as i64;
/// Strips that are asked for together: the product of a single strip loads a number for each multiply-add, and computes
/// what it saves in the time it loses.
const STRIPS: i64 = 2;

/// What the rule is written in: generated code, or numbers.
pub(super) trait Steps: Sized {
    type Int: Copy;
    type Truth: Copy;
    type Variable: Copy;

    fn int(&mut self, value: i64) -> Self::Int;
    fn plus(&mut self, a: Self::Int, b: i64) -> Self::Int;
    fn sum(&mut self, a: Self::Int, b: Self::Int) -> Self::Int;
    fn difference(&mut self, a: Self::Int, b: Self::Int) -> Self::Int;
    fn times(&mut self, a: Self::Int, b: i64) -> Self::Int;
    /// The next multiple of a power of two, at `a` or above.
    fn round_up(&mut self, a: Self::Int, to: i64) -> Self::Int;
    fn smaller(&mut self, a: Self::Int, b: Self::Int) -> Self::Int;
    fn select(&mut self, condition: Self::Truth, a: Self::Int, b: Self::Int) -> Self::Int;
    fn less(&mut self, a: Self::Int, b: Self::Int) -> Self::Truth;
    fn equal(&mut self, a: Self::Int, b: Self::Int) -> Self::Truth;
    fn not(&mut self, a: Self::Truth) -> Self::Truth;
    /// `b` is looked at only where `a` holds.
    fn both(&mut self, a: Self::Truth, b: impl FnOnce(&mut Self) -> Self::Truth) -> Self::Truth;

    fn variable(&mut self, start: Self::Int) -> Self::Variable;
    fn get(&mut self, variable: Self::Variable) -> Self::Int;
    fn set(&mut self, variable: Self::Variable, value: Self::Int);
    fn while_loop(&mut self, condition: impl FnMut(&mut Self) -> Self::Truth, body: impl FnMut(&mut Self));
    fn if_then(&mut self, condition: Self::Truth, then: impl FnOnce(&mut Self));
}

/// A tile that the rule looks at.
pub(super) trait Tile<S: Steps> {
    /// What its lanes are.
    fn lanes(&self) -> Lanes;
    /// Token of the row number `at`.
    fn row(&self, s: &mut S, at: S::Int) -> S::Int;
    /// Token of the lane number `at`; -1 where it is not in use.
    fn lane(&self, s: &mut S, at: S::Int) -> S::Int;
    /// One past the token of the last lane in use.
    fn lane_end(&self, s: &mut S) -> S::Int;
    /// Where the next run of keys at or after `key` begins that one of these queries sees.
    fn next_keys(&self, s: &mut S, queries: (S::Int, S::Int), key: S::Int) -> S::Int;
}

/// Runs `compute(rows, strips)` for each part of a masked tile that may hold a visible pair; `hull(strip, strips)` is
/// [`hull`].
pub(super) fn each_part<S: Steps>(
    s: &mut S,
    strips: S::Int,
    hull: impl Fn(&mut S, S::Int, S::Int) -> (S::Int, S::Int),
    compute: impl Fn(&mut S, (S::Int, S::Int), (S::Int, S::Int)),
) {
    let zero = s.int(0);
    let strip = s.variable(zero);
    let (open, first, end) = (s.variable(zero), s.variable(zero), s.variable(zero));
    let close = |s: &mut S, strip: S::Int| {
        let (open, first, end) = (s.get(open), s.get(first), s.get(end));
        let some = s.less(first, end);
        s.if_then(some, |s| compute(s, (first, end), (open, strip)));
    };
    s.while_loop(
        |s| {
            let strip = s.get(strip);
            s.less(strip, strips)
        },
        |s| {
            let at = s.get(strip);
            let together = s.int(STRIPS);
            let seen = hull(s, at, together);
            let (first_before, end_before) = (s.get(first), s.get(end));
            let stays = s.equal(seen.0, first_before);
            let same = s.both(stays, |s| s.equal(seen.1, end_before));
            let differs = s.not(same);
            s.if_then(differs, |s| {
                close(s, at);
                s.set(open, at);
                s.set(first, seen.0);
                s.set(end, seen.1);
            });
            let next = s.plus(at, STRIPS);
            s.set(strip, next);
        },
    );
    close(s, strips);
}

/// First and end of the rows outside which no pair of these strips (the first, and how many) is visible. Equal, and behind
/// the tile, where none is.
pub(super) fn hull<S: Steps>(
    s: &mut S,
    tile: &impl Tile<S>,
    rows: S::Int,
    strips: (S::Int, S::Int),
) -> (S::Int, S::Int) {
    let columns = tokens_of(s, tile, strips);
    let zero = s.int(0);
    let first = s.variable(zero);
    s.while_loop(
        |s| {
            let at = s.get(first);
            let inside = s.less(at, rows);
            s.both(inside, |s| is_unseen(s, tile, columns, (at, rows)))
        },
        |s| {
            let at = s.get(first);
            let next = s.plus(at, CHUNK);
            s.set(first, next);
        },
    );
    let first = s.get(first);
    // Behind the tile where nothing is seen: the loop below then stops at once.
    let first = s.smaller(first, rows);
    let behind = s.round_up(rows, CHUNK);
    let end = s.variable(behind);
    s.while_loop(
        |s| {
            let end = s.get(end);
            let last = s.plus(end, -CHUNK);
            let inside = s.less(first, last);
            s.both(inside, |s| is_unseen(s, tile, columns, (last, rows)))
        },
        |s| {
            let end_now = s.get(end);
            let last = s.plus(end_now, -CHUNK);
            s.set(end, last);
        },
    );
    let end = s.get(end);
    (first, s.smaller(end, rows))
}

/// Of the part `(first row, end, first strip)` of two strips: the rows, counted from its first, that both are computed with.
/// Before them only the first sees something, behind them only the last; all of them where it is not so. Whoever asks for two
/// strips together knows all that lies between the first and the last.
pub(super) fn stairs<S: Steps>(
    s: &mut S,
    is_masked_pair: S::Truth,
    (first_row, end_row, strip): (S::Int, S::Int, S::Int),
    hull: impl Fn(&mut S, S::Int, S::Int) -> (S::Int, S::Int),
) -> (S::Int, S::Int) {
    let zero = s.int(0);
    let rows = s.difference(end_row, first_row);
    let (first, end) = (s.variable(zero), s.variable(rows));
    s.if_then(is_masked_pair, |s| {
        let one = s.int(1);
        let last = s.plus(strip, 1);
        let upper = hull(s, strip, one);
        let lower = hull(s, last, one);
        let later_first = s.less(lower.0, upper.0);
        let firsts = s.not(later_first);
        let has_stairs = s.both(firsts, |s| {
            let earlier_end = s.less(lower.1, upper.1);
            let ends = s.not(earlier_end);
            s.both(ends, |s| {
                let apart = s.less(upper.1, lower.0);
                s.not(apart)
            })
        });
        s.if_then(has_stairs, |s| {
            let lower_first = s.difference(lower.0, first_row);
            s.set(first, lower_first);
            let upper_end = s.difference(upper.1, first_row);
            s.set(end, upper_end);
        });
    });
    (s.get(first), s.get(end))
}

/// Whether the chunk at row `at` of `rows` shows these columns nothing.
fn is_unseen<S: Steps>(
    s: &mut S,
    tile: &impl Tile<S>,
    columns: (S::Int, S::Int),
    (at, rows): (S::Int, S::Int),
) -> S::Truth {
    let stop = s.plus(at, CHUNK);
    let stop = s.smaller(stop, rows);
    let last = s.plus(stop, -1);
    let begin = tile.row(s, at);
    let end = tile.row(s, last);
    let end = s.plus(end, 1);
    let (queries, keys) = match tile.lanes() {
        Lanes::Queries => (columns, (begin, end)),
        Lanes::Keys => ((begin, end), columns),
    };
    let run = tile.next_keys(s, queries, keys.0);
    let seen = s.less(run, keys.1);
    s.not(seen)
}

/// First and one past the last token of the lanes of these strips. Lanes not in use come last.
fn tokens_of<S: Steps>(
    s: &mut S,
    tile: &impl Tile<S>,
    (strip, strips): (S::Int, S::Int),
) -> (S::Int, S::Int) {
    let first = s.times(strip, STRIP as i64);
    let behind = s.sum(strip, strips);
    let behind = s.times(behind, STRIP as i64);
    let last = s.plus(behind, -1);
    let first = tile.lane(s, first);
    let last = tile.lane(s, last);
    let end = s.plus(last, 1);
    let lane_end = tile.lane_end(s);
    let clipped = s.smaller(end, lane_end);
    let unused = s.less(last, first);
    (first, s.select(unused, lane_end, clipped))
}

/// Rows and strips of one part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Rows.
    pub rows: u32,
    /// Strips of lanes.
    pub strips: u32,
    /// Rows among them of which only one strip is computed: the first ones, and the last ones.
    pub alone: (u32, u32),
}

impl Part {
    /// All strips of these rows.
    pub fn whole(rows: u32, strips: u32) -> Part {
        Part { rows, strips, alone: (0, 0) }
    }
}

/// A masked tile as the model sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MaskedTile<'a> {
    pub closed: &'a ClosedForm,
    pub lanes: Lanes,
    /// KV head.
    pub g: i64,
    /// Tokens of all lanes, -1 for those not in use.
    pub lane_index: &'a [i64; LANES],
    /// One past the token of the last lane in use.
    pub lane_end: i64,
    /// Strips with lanes in use.
    pub strips: u32,
    /// Tokens of the rows.
    pub row_index: &'a [i64],
}

/// The parts of a tile that a kernel computes.
pub(crate) fn parts(tile: &MaskedTile<'_>) -> Vec<Part> {
    let rows = tile.row_index.len() as i64;
    let mut numbers = Numbers::default();
    each_part(
        &mut numbers,
        tile.strips.into(),
        |n, strip, together| hull(n, tile, rows, (strip, together)),
        |n, (first_row, end_row), (strip, end_strip)| {
            let (rows, strips) = (end_row - first_row, end_strip - strip);
            let seen = |n: &mut Numbers, strip, strips| hull(n, tile, end_row, (strip, strips));
            let (first, end) = stairs(n, strips == 2, (first_row, end_row, strip), seen);
            let alone = (first as u32, (rows - end) as u32);
            n.parts.push(Part { rows: rows as u32, strips: strips as u32, alone });
        },
    );
    numbers.parts
}

/// The rule on numbers.
#[derive(Default)]
struct Numbers {
    variables: Vec<i64>,
    parts: Vec<Part>,
}

impl Steps for Numbers {
    type Int = i64;
    type Truth = bool;
    type Variable = usize;

    fn int(&mut self, value: i64) -> i64 {
        value
    }
    fn plus(&mut self, a: i64, b: i64) -> i64 {
        a + b
    }
    fn sum(&mut self, a: i64, b: i64) -> i64 {
        a + b
    }
    fn difference(&mut self, a: i64, b: i64) -> i64 {
        a - b
    }
    fn times(&mut self, a: i64, b: i64) -> i64 {
        a * b
    }
    fn round_up(&mut self, a: i64, to: i64) -> i64 {
        (a + to - 1) & -to
    }
    fn smaller(&mut self, a: i64, b: i64) -> i64 {
        a.min(b)
    }
    fn select(&mut self, condition: bool, a: i64, b: i64) -> i64 {
        if condition { a } else { b }
    }
    fn less(&mut self, a: i64, b: i64) -> bool {
        a < b
    }
    fn equal(&mut self, a: i64, b: i64) -> bool {
        a == b
    }
    fn not(&mut self, a: bool) -> bool {
        !a
    }
    fn both(&mut self, a: bool, b: impl FnOnce(&mut Self) -> bool) -> bool {
        a && b(self)
    }
    fn variable(&mut self, start: i64) -> usize {
        self.variables.push(start);
        self.variables.len() - 1
    }
    fn get(&mut self, variable: usize) -> i64 {
        self.variables[variable]
    }
    fn set(&mut self, variable: usize, value: i64) {
        self.variables[variable] = value;
    }
    fn while_loop(&mut self, mut condition: impl FnMut(&mut Self) -> bool, mut body: impl FnMut(&mut Self)) {
        while condition(self) {
            body(self);
        }
    }
    fn if_then(&mut self, condition: bool, then: impl FnOnce(&mut Self)) {
        if condition {
            then(self);
        }
    }
}

impl Tile<Numbers> for MaskedTile<'_> {
    fn lanes(&self) -> Lanes {
        self.lanes
    }
    fn row(&self, _: &mut Numbers, at: i64) -> i64 {
        self.row_index[at as usize]
    }
    fn lane(&self, _: &mut Numbers, at: i64) -> i64 {
        self.lane_index[at as usize]
    }
    fn lane_end(&self, _: &mut Numbers) -> i64 {
        self.lane_end
    }
    fn next_keys(&self, _: &mut Numbers, queries: (i64, i64), key: i64) -> i64 {
        self.closed.next_keys(self.g, queries.0, queries.1, key).begin
    }
}
