//! Walking the tiles of a row or of a column, ascending, each with a visible pair and none twice.
//!
//! This is the same walk as the kernels' (`walk.cuh`), over the same functions; what it yields is what they compute.

use super::boxes::{Cover, cover};
use super::{Extent, Tile, TileKind, TilePlan};
use crate::ir::programs::ClosedForm;

impl TilePlan {
    /// The key tiles of query tile `m` for KV head `g`.
    pub fn key_tiles(&self, g: u32, extent: Extent, m: u32) -> impl Iterator<Item = Tile> + '_ {
        let rows = extent.query_rows(m, self.shape());
        let key_end = i64::from(extent.keys).min(rows.1);
        let mut walk = KeyWalk { plan: self, g: g.into(), rows, extent, key_end, next: 0, run_end: 0 };
        std::iter::from_fn(move || walk.step())
    }

    /// The query tiles of key tile `n` for KV head `g`: the transpose, for dK and dV.
    pub fn query_tiles(&self, g: u32, extent: Extent, n: u32) -> impl Iterator<Item = Tile> + '_ {
        let columns = extent.key_columns(n, self.shape());
        let mut walk = QueryWalk { plan: self, g: g.into(), columns, n, extent, next: 0, hull_end: 0 };
        std::iter::from_fn(move || walk.step())
    }

    /// Number of key tiles of query tile `m`: a closed form is counted run by run, not tile by tile.
    pub fn count_key_tiles(&self, g: u32, extent: Extent, m: u32) -> u32 {
        let rows = extent.query_rows(m, self.shape());
        let key_end = i64::from(extent.keys).min(rows.1);
        let mut walk = KeyWalk { plan: self, g: g.into(), rows, extent, key_end, next: 0, run_end: 0 };
        let mut tiles = 0;
        if let Some(closed) = &self.programs().closed {
            while walk.seek(closed).is_some() {
                tiles += walk.run_end - walk.next;
                walk.next = walk.run_end;
            }
        } else {
            while walk.step_listed().is_some() {
                tiles += 1;
            }
        }
        tiles
    }

    /// The kind of a tile with a visible pair. A tile cut by the end of the keys is never [`TileKind::Full`].
    fn kind(&self, closed: &ClosedForm, g: i64, rows: (i64, i64), n: u32, extent: Extent) -> TileKind {
        let (j0, j1) = extent.key_columns(n, self.shape());
        if closed.all_visible(g, rows.0, rows.1, j0, j1) {
            let whole = j1 - j0 == i64::from(self.shape().keys);
            return if whole { TileKind::Full } else { TileKind::Edge };
        }
        if closed.edge_only(g, rows.0, rows.1, j0, j1) { TileKind::Edge } else { TileKind::Partial }
    }

    /// The tile of a listed mask, if any of its pairs is visible.
    fn listed_tile(&self, g: i64, rows: (i64, i64), n: u32, extent: Extent) -> Option<TileKind> {
        let columns = extent.key_columns(n, self.shape());
        match cover(self.programs(), g, rows, columns) {
            Cover::Nothing => None,
            Cover::All if columns.1 - columns.0 == i64::from(self.shape().keys) => Some(TileKind::Full),
            Cover::All => Some(TileKind::Edge),
            Cover::Part => Some(TileKind::Partial),
        }
    }
}

struct KeyWalk<'a> {
    plan: &'a TilePlan,
    g: i64,
    rows: (i64, i64),
    extent: Extent,
    /// No visible key at or past it.
    key_end: i64,
    next: u32,
    run_end: u32,
}

impl KeyWalk<'_> {
    fn step(&mut self) -> Option<Tile> {
        let Some(closed) = &self.plan.programs().closed else { return self.step_listed() };
        self.seek(closed)?;
        let index = self.next;
        self.next += 1;
        Some(Tile { index, kind: self.plan.kind(closed, self.g, self.rows, index, self.extent) })
    }

    /// Makes `next..run_end` the next non-empty run of tiles.
    fn seek(&mut self, closed: &ClosedForm) -> Option<()> {
        if self.next < self.run_end {
            return Some(());
        }
        let keys = i64::from(self.plan.shape().keys);
        let from = i64::from(self.next) * keys;
        if from >= self.key_end {
            return None;
        }
        let run = closed.next_keys(self.g, self.rows.0, self.rows.1, from);
        if run.begin >= self.key_end {
            return None;
        }
        self.next = (run.begin / keys) as u32;
        self.run_end = (run.end.min(self.key_end) as u64).div_ceil(keys as u64) as u32;
        Some(())
    }

    fn step_listed(&mut self) -> Option<Tile> {
        while i64::from(self.next) * i64::from(self.plan.shape().keys) < self.key_end {
            let index = self.next;
            self.next += 1;
            if let Some(kind) = self.plan.listed_tile(self.g, self.rows, index, self.extent) {
                return Some(Tile { index, kind });
            }
        }
        None
    }
}

struct QueryWalk<'a> {
    plan: &'a TilePlan,
    g: i64,
    columns: (i64, i64),
    n: u32,
    extent: Extent,
    next: u32,
    hull_end: u32,
}

impl QueryWalk<'_> {
    fn step(&mut self) -> Option<Tile> {
        let Some(closed) = &self.plan.programs().closed else { return self.step_listed() };
        loop {
            if self.next >= self.hull_end {
                self.seek(closed)?;
            }
            let index = self.next;
            self.next += 1;
            let rows = self.extent.query_rows(index, self.plan.shape());
            if closed.next_keys(self.g, rows.0, rows.1, self.columns.0).begin < self.columns.1 {
                return Some(Tile { index, kind: self.plan.kind(closed, self.g, rows, self.n, self.extent) });
            }
        }
    }

    /// Moves to the next hull of query tiles.
    fn seek(&mut self, closed: &ClosedForm) -> Option<()> {
        let shape = self.plan.shape();
        let first = i64::from(self.extent.first_query);
        let end = first + i64::from(self.extent.queries);
        let (from, _) = self.extent.query_rows(self.next, shape);
        if from >= end {
            return None;
        }
        let hull = closed.next_queries(self.g, self.columns.0, self.columns.1, from);
        if hull.begin >= end {
            return None;
        }
        let tile = i64::from(shape.queries);
        self.next = ((hull.begin - first) / tile) as u32;
        self.hull_end = ((hull.end.min(end) - first) as u64).div_ceil(tile as u64) as u32;
        Some(())
    }

    fn step_listed(&mut self) -> Option<Tile> {
        while self.next < self.extent.query_tiles(self.plan.shape()) {
            let index = self.next;
            self.next += 1;
            let rows = self.extent.query_rows(index, self.plan.shape());
            if let Some(kind) = self.plan.listed_tile(self.g, rows, self.n, self.extent) {
                return Some(Tile { index, kind });
            }
        }
        None
    }
}
