//! A mask cut into a bounded number of square cells.

use longgen_codegen::ir::programs::ClosedForm;
use longgen_codegen::ir::{MaskIr, Programs};
use longgen_codegen::plan::{Extent, TileKind, TilePlan, TileShape};
use longgen_codegen::scalar::Interval;

/// What kernels do with the tile that a cell lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Nothing: all its keys are later than its queries.
    Future,
    /// Nothing: no pair is visible.
    Skipped,
    /// Every element is tested.
    Partial,
    /// Only `j <= i` is tested.
    Edge,
    /// No element is tested.
    Full,
}

/// One cell of a grid.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cell {
    /// The class of its tile.
    pub class: Class,
    /// The share of its pairs that is visible, 0 to 1, estimated from some of its rows.
    pub share: f32,
}

/// Queries downwards, keys to the right, from token 0.
#[derive(Clone, Debug)]
pub struct MaskGrid {
    tokens: u32,
    cell_tokens: u32,
    tile: TileShape,
    side: u32,
    exact: bool,
    cells: Vec<Cell>,
}

/// Listed masks are classified tile by tile up to this length; beyond, by what interval arithmetic proves of a cell.
const LISTED_TOKENS: u32 = 4096;

/// Query rows of a cell row that are looked at.
const SAMPLED_ROWS: u32 = 16;

/// Runs of keys that are walked in one row; rows with more are looked at pair by pair.
const WALKED_RUNS: u32 = 2048;

/// Pairs of a cell that are looked at, where runs are not.
const SAMPLED_POINTS: u32 = 48;

impl MaskGrid {
    /// The mask of KV head `g` over a sequence of `tokens` tokens, in at most `most_cells` cells a side. Cells are
    /// powers of two; where a cell is larger than the tile, classes are those of tiles of the size of a cell.
    ///
    /// `tile` has powers of two as sides.
    pub fn new(ir: &MaskIr, g: u32, tokens: u32, tile: TileShape, most_cells: u32) -> MaskGrid {
        let cell_tokens = tokens.div_ceil(most_cells.max(1)).next_power_of_two();
        let tile = TileShape { queries: tile.queries.max(cell_tokens), keys: tile.keys.max(cell_tokens) };
        let side = tokens.div_ceil(cell_tokens);
        let blank = Cell { class: Class::Future, share: 0.0 };
        let mut grid = MaskGrid {
            tokens,
            cell_tokens,
            tile,
            side,
            exact: true,
            cells: vec![blank; side as usize * side as usize],
        };
        let plan = TilePlan::new(ir, tile);
        if ir.is_closed_form() || tokens <= LISTED_TOKENS {
            grid.classify(&plan, g);
            grid.measure(plan.programs(), g);
        } else {
            grid.exact = false;
            grid.classify_by_bounds(plan.programs(), g);
            grid.measure(plan.programs(), g);
        }
        grid
    }

    /// Tokens of the sequence.
    pub fn tokens(&self) -> u32 {
        self.tokens
    }

    /// Tokens on a side of a cell.
    pub fn cell_tokens(&self) -> u32 {
        self.cell_tokens
    }

    /// The tile whose class the cells show.
    pub fn tile(&self) -> TileShape {
        self.tile
    }

    /// Cells on a side.
    pub fn side(&self) -> u32 {
        self.side
    }

    /// Whether classes are the plan's. Otherwise a cell is partial where nothing simpler was proven about it.
    pub fn is_exact(&self) -> bool {
        self.exact
    }

    /// The cell of these queries and keys, both counted in cells.
    ///
    /// # Panics
    /// Past the side of the grid.
    pub fn cell(&self, query: u32, key: u32) -> Cell {
        assert!(query < self.side && key < self.side, "a cell inside the grid");
        self.cells[(query * self.side + key) as usize]
    }

    fn row_mut(&mut self, query: u32) -> &mut [Cell] {
        let side = self.side as usize;
        &mut self.cells[query as usize * side..][..side]
    }

    /// Tokens `[first, end)` of a cell along either axis.
    fn span(&self, cell: u32) -> (u32, u32) {
        let first = cell * self.cell_tokens;
        (first, self.tokens.min(first + self.cell_tokens))
    }

    fn classify(&mut self, plan: &TilePlan, g: u32) {
        let extent = Extent::square(self.tokens);
        let (rows, columns) = (self.tile.queries / self.cell_tokens, self.tile.keys / self.cell_tokens);
        for m in 0..extent.query_tiles(self.tile) {
            let (_, last_query) = extent.query_rows(m, self.tile);
            let mut classes: Vec<Class> = (0..self.side)
                .map(|key| {
                    let first_key = key / columns * self.tile.keys;
                    if i64::from(first_key) < last_query { Class::Skipped } else { Class::Future }
                })
                .collect();
            for tile in plan.key_tiles(g, extent, m) {
                let class = match tile.kind {
                    TileKind::Full => Class::Full,
                    TileKind::Edge => Class::Edge,
                    TileKind::Partial => Class::Partial,
                };
                let keys = tile.index * columns..self.side.min((tile.index + 1) * columns);
                classes[keys.start as usize..keys.end as usize].fill(class);
            }
            for query in m * rows..self.side.min((m + 1) * rows) {
                for (cell, class) in self.row_mut(query).iter_mut().zip(&classes) {
                    cell.class = *class;
                }
            }
        }
    }

    /// What interval arithmetic proves about each cell; `Partial` where it proves nothing.
    fn classify_by_bounds(&mut self, programs: &Programs, g: u32) {
        for query in 0..self.side {
            let (i0, i1) = self.span(query);
            for key in 0..=query {
                let (j0, j1) = self.span(key);
                let rows = Interval::new(i0.into(), i64::from(i1) - 1);
                let columns = Interval::new(j0.into(), i64::from(j1) - 1);
                let seen = programs.visible.bounds(&[Interval::point(g.into()), rows, columns])[0];
                self.row_mut(query)[key as usize].class = match (seen.low, seen.high) {
                    (1, _) => Class::Full,
                    (_, 0) => Class::Skipped,
                    _ => Class::Partial,
                };
            }
        }
    }

    fn measure(&mut self, programs: &Programs, g: u32) {
        for query in 0..self.side {
            let by_run = programs.closed.as_ref().and_then(|closed| self.shares_by_run(closed, g, query));
            let shares = by_run.unwrap_or_else(|| self.shares_by_point(programs, g, query));
            for (cell, share) in self.row_mut(query).iter_mut().zip(shares) {
                cell.share = share;
            }
        }
    }

    /// Some queries of a row of cells, evenly spread.
    fn sampled(&self, cell: u32, most: u32) -> impl Iterator<Item = i64> + Clone + use<> {
        let (first, end) = self.span(cell);
        let count = (end - first).min(most);
        (0..count).map(move |n| {
            let step = u64::from(end - first) * u64::from(2 * n + 1) / u64::from(2 * count);
            i64::from(first) + step as i64
        })
    }

    /// `None` when a row has too many runs to walk.
    fn shares_by_run(&self, closed: &ClosedForm, g: u32, query: u32) -> Option<Vec<f32>> {
        let mut seen = vec![0u64; self.side as usize];
        let rows = self.sampled(query, SAMPLED_ROWS);
        for i in rows.clone() {
            let (mut from, mut runs) = (0, 0);
            loop {
                let run = closed.next_keys(g.into(), i, i + 1, from);
                if run.begin > i {
                    break;
                }
                runs += 1;
                if runs > WALKED_RUNS {
                    return None;
                }
                self.add_run(&mut seen, run.begin as u32, run.end.min(i + 1) as u32);
                from = run.end;
            }
        }
        let rows = rows.count() as u64;
        let share = |(key, seen): (u32, u64)| {
            let (first, end) = self.span(key);
            seen as f32 / (rows * u64::from(end - first)) as f32
        };
        Some((0..self.side).zip(seen).map(share).collect())
    }

    fn add_run(&self, seen: &mut [u64], begin: u32, end: u32) {
        for key in begin / self.cell_tokens..end.div_ceil(self.cell_tokens) {
            let (first, last) = self.span(key);
            seen[key as usize] += u64::from(end.min(last).saturating_sub(begin.max(first)));
        }
    }

    fn shares_by_point(&self, programs: &Programs, g: u32, query: u32) -> Vec<f32> {
        let share = |key: u32| match self.cell(query, key).class {
            Class::Future | Class::Skipped => 0.0,
            Class::Full => 1.0,
            Class::Partial | Class::Edge => self.share_of_cell(programs, g, query, key),
        };
        (0..self.side).map(share).collect()
    }

    fn share_of_cell(&self, programs: &Programs, g: u32, query: u32, key: u32) -> f32 {
        let seen = |i: u32, j: u32| j <= i && programs.visible(g.into(), i.into(), j.into());
        let (i0, i1) = self.span(query);
        let (j0, j1) = self.span(key);
        let pairs = (i1 - i0).saturating_mul(j1 - j0);
        if pairs <= SAMPLED_POINTS {
            let visible =
                (i0..i1).flat_map(|i| (j0..j1).map(move |j| seen(i, j))).filter(|&seen| seen).count();
            return visible as f32 / pairs as f32;
        }
        // Scattered, since a regular grid of points would beat against a predicate with a period of its own.
        let mut state = u64::from(query) << 32 | u64::from(key);
        let mut below = |end: u32| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (((state >> 32) * u64::from(end)) >> 32) as u32
        };
        let visible = (0..SAMPLED_POINTS).filter(|_| seen(i0 + below(i1 - i0), j0 + below(j1 - j0))).count();
        visible as f32 / SAMPLED_POINTS as f32
    }
}

#[cfg(test)]
mod tests {
    use longgen_codegen::pattern::{Mask, Pattern};

    use super::*;

    fn grid(mask: Mask, tokens: u32, tile: u32, most_cells: u32) -> MaskGrid {
        let pattern = Pattern::builder(mask).build().unwrap();
        let ir = MaskIr::lower(&pattern, None).unwrap();
        MaskGrid::new(&ir, 0, tokens, TileShape { queries: tile, keys: tile }, most_cells)
    }

    #[test]
    fn one_cell_a_token_is_the_mask() {
        let mask = Mask::sink(3) | Mask::window(5);
        let grid = grid(mask.clone(), 50, 8, 64);
        assert_eq!((grid.side(), grid.cell_tokens()), (50, 1));
        for (i, j) in (0..50).flat_map(|i| (0..50).map(move |j| (i, j))) {
            let seen = j <= i && mask.contains(0, i, j);
            assert_eq!(grid.cell(i, j).share, f32::from(u8::from(seen)), "{i} {j}");
        }
        assert_eq!(grid.cell(40, 20).class, Class::Skipped);
        assert_eq!(grid.cell(20, 40).class, Class::Future);
    }

    #[test]
    fn long_sequences_stay_small() {
        let grid = grid(Mask::window(4096), 1 << 30, 128, 256);
        assert_eq!((grid.side(), grid.cell_tokens()), (256, 1 << 22));
        assert_eq!(grid.cell(9, 9).class, Class::Partial);
        assert_eq!(grid.cell(9, 3).class, Class::Skipped);
    }
}
