//! Work items: tiles of queries and tiles of keys, longest first, and the runs of listed masks.

use longgen_codegen::cpu::Blocking;
use longgen_codegen::cpu::abi::{LANES, ListedRun};
use longgen_codegen::ir::Programs;
use longgen_codegen::plan::{Cover, cover};

use crate::problem::{HeadShape, Sequence, Sequences};

/// Fewer keys than this are not split among threads.
const SHORTEST_SPLIT: i64 = 512;
/// Work items wanted for each thread, so that unequal ones even out.
const ITEMS_PER_THREAD: usize = 4;
/// Pieces wanted for each thread where keys are split; a sparse mask leaves many of them empty.
const PIECES_PER_THREAD: usize = 16;

/// A tile of query rows: some tokens of one sequence and some query heads of one KV head.
#[derive(Clone, Copy, Debug)]
pub struct QueryTile {
    /// The sequence.
    pub sequence: Sequence,
    /// KV head.
    pub g: usize,
    /// First query head.
    pub head: usize,
    /// Query heads; lane `l` is token `l / heads`, head `l % heads`.
    pub heads: usize,
    /// First token among the queries of the sequence.
    pub t_begin: usize,
    /// One past the last.
    pub t_end: usize,
    /// Keys to walk.
    pub keys: (i64, i64),
    /// Which tile this is, when keys are split: pieces of one tile share the number.
    pub tile: usize,
}

impl QueryTile {
    /// Lanes in use.
    pub fn lanes(&self) -> usize {
        (self.t_end - self.t_begin) * self.heads
    }

    /// Token in the packed tensor and query head of each lane in use.
    pub fn rows(&self) -> TileRows {
        let q_start = self.sequence.q_start;
        TileRows {
            token: q_start + self.t_begin,
            token_end: q_start + self.t_end,
            head: self.head,
            heads: (self.head, self.head + self.heads),
        }
    }

    /// First and one past the last token index.
    pub fn indices(&self) -> (i64, i64) {
        (self.sequence.q_offset + self.t_begin as i64, self.sequence.q_offset + self.t_end as i64)
    }
}

/// Token and head of one lane after the other, without a division for each.
#[derive(Clone, Debug)]
pub struct TileRows {
    token: usize,
    token_end: usize,
    head: usize,
    heads: (usize, usize),
}

impl Iterator for TileRows {
    type Item = (usize, usize);

    #[inline]
    fn next(&mut self) -> Option<(usize, usize)> {
        if self.token >= self.token_end {
            return None;
        }
        let row = (self.token, self.head);
        self.head += 1;
        if self.head == self.heads.1 {
            self.head = self.heads.0;
            self.token += 1;
        }
        Some(row)
    }
}

/// A tile of keys of one KV head.
#[derive(Clone, Copy, Debug)]
pub struct KeyTile {
    /// The sequence.
    pub sequence: Sequence,
    /// KV head.
    pub g: usize,
    /// Keys, as indices in the sequence.
    pub keys: (usize, usize),
}

impl KeyTile {
    /// Lanes in use.
    pub fn lanes(&self) -> usize {
        self.keys.1 - self.keys.0
    }

    /// Token in the packed tensor and KV head of each lane.
    pub fn rows(&self) -> TileRows {
        let token = self.sequence.k_start + self.keys.0;
        TileRows { token, token_end: token + self.lanes(), head: self.g, heads: (self.g, self.g + 1) }
    }
}

/// Every query tile, of at most the blocking's lanes, those with the most keys in sight first.
///
/// Tiles are aligned in token indices, so that block patterns fall on tile borders and no tile mixes negative indices,
/// which see nothing, with others.
pub fn query_tiles(shape: HeadShape, sequences: &Sequences, blocking: Blocking) -> Vec<QueryTile> {
    let lanes = blocking.lanes as usize;
    let heads = shape.group().min(lanes);
    let tokens = lanes / heads;
    let mut tiles = Vec::new();
    for sequence in sequences.iter() {
        for g in 0..shape.kv_heads() {
            for head in (0..shape.group()).step_by(heads) {
                let heads = heads.min(shape.group() - head);
                let mut t_begin = 0;
                while t_begin < sequence.q_len {
                    let index = sequence.q_offset + t_begin as i64;
                    let to_border = tokens - index.rem_euclid(tokens as i64) as usize;
                    let t_end = (t_begin + to_border).min(sequence.q_len);
                    let last = sequence.q_offset + t_end as i64;
                    let keys = (0, last.clamp(0, sequence.k_len as i64));
                    let head = g * shape.group() + head;
                    let tile = tiles.len();
                    tiles.push(QueryTile { sequence, g, head, heads, t_begin, t_end, keys, tile });
                    t_begin = t_end;
                }
            }
        }
    }
    tiles.sort_by_key(|tile| std::cmp::Reverse(tile.keys.1));
    for (number, tile) in tiles.iter_mut().enumerate() {
        tile.tile = number;
    }
    tiles
}

/// Pieces of the tiles where there are too few tiles to keep `threads` busy; else nothing is split.
pub fn split_keys(tiles: &[QueryTile], threads: usize) -> Option<Vec<QueryTile>> {
    if threads < 2 || tiles.is_empty() || tiles.len() >= threads * ITEMS_PER_THREAD {
        return None;
    }
    let pieces_per_tile = (threads * PIECES_PER_THREAD).div_ceil(tiles.len()) as i64;
    let mut pieces = Vec::new();
    for &tile in tiles {
        let (begin, end) = tile.keys;
        let each = whole_tiles(((end - begin) / pieces_per_tile).max(SHORTEST_SPLIT));
        let mut at = begin;
        while at < end || at == begin {
            let stop = (at + each).min(end);
            pieces.push(QueryTile { keys: (at, stop), ..tile });
            at = stop.max(at + 1);
        }
    }
    // The newest keys are the likeliest to be seen.
    pieces.sort_by_key(|piece| std::cmp::Reverse(piece.keys.1));
    (pieces.len() > tiles.len()).then_some(pieces)
}

/// Roughly how many tiles walk each row: from the keys that a few of the query tiles walk.
pub fn uses_per_row(programs: &Programs, tiles: &[QueryTile], sequences: &Sequences) -> usize {
    const SAMPLES: usize = 3;
    let samples = (0..SAMPLES).filter_map(|n| tiles.get((2 * n + 1) * tiles.len() / (2 * SAMPLES)));
    let walked: i64 = samples.map(|tile| keys_walked(programs, tile)).sum();
    let heads = tiles.iter().map(|tile| tile.g).max().map_or(1, |g| g + 1);
    walked.max(0) as usize / SAMPLES * tiles.len() / (sequences.total_k() * heads).max(1)
}

fn keys_walked(programs: &Programs, tile: &QueryTile) -> i64 {
    /// Walks of more runs than this are cut off: they are sparse, or long enough either way.
    const MOST_RUNS: usize = 4096;
    let (queries, end) = (tile.indices(), tile.keys.1);
    if queries.1 <= 0 {
        return 0;
    }
    let Some(closed) = &programs.closed else {
        let mut runs = Vec::new();
        list_keys(programs, tile.g, queries, tile.keys, &mut runs);
        return runs.iter().map(|run| run.end - run.begin).sum();
    };
    let (mut at, mut walked) = (tile.keys.0, 0);
    for _ in 0..MOST_RUNS {
        let run = closed.next_keys(tile.g as i64, queries.0, queries.1, at);
        if run.begin >= end {
            break;
        }
        at = run.end.min(end);
        walked += at - run.begin;
    }
    walked
}

/// Every key tile, those with the most queries behind them first.
pub fn key_tiles(shape: HeadShape, sequences: &Sequences, blocking: Blocking) -> Vec<KeyTile> {
    let lanes = blocking.lanes as usize;
    let mut tiles = Vec::new();
    for sequence in sequences.iter() {
        for g in 0..shape.kv_heads() {
            for begin in (0..sequence.k_len).step_by(lanes) {
                let keys = (begin, (begin + lanes).min(sequence.k_len));
                tiles.push(KeyTile { sequence, g, keys });
            }
        }
    }
    tiles.sort_by_key(|tile| {
        let queries = tile.sequence.q_offset + tile.sequence.q_len as i64 - tile.keys.0 as i64;
        std::cmp::Reverse(queries)
    });
    tiles
}

/// The runs of keys in `keys` that queries of `queries` may see, for a mask without closed forms.
pub fn list_keys(
    programs: &Programs,
    g: usize,
    queries: (i64, i64),
    keys: (i64, i64),
    runs: &mut Vec<ListedRun>,
) {
    runs.clear();
    list(keys, runs, &|begin, end| cover(programs, g as i64, queries, (begin, end)));
}

/// The runs of queries in `queries` that may see keys of `keys`.
pub fn list_queries(
    programs: &Programs,
    g: usize,
    keys: (i64, i64),
    queries: (i64, i64),
    runs: &mut Vec<ListedRun>,
) {
    runs.clear();
    list(queries, runs, &|begin, end| cover(programs, g as i64, (begin, end), keys));
}

/// Tile after tile of the range; neighbours of one kind are joined.
fn list((begin, end): (i64, i64), runs: &mut Vec<ListedRun>, cover: &dyn Fn(i64, i64) -> Cover) {
    if begin >= end {
        return;
    }
    let kind = match cover(begin, end) {
        Cover::Nothing => return,
        Cover::All => 0,
        Cover::Part if end - begin <= LANES as i64 => 2,
        Cover::Part => {
            // Halves on tile borders, so that runs stay whole tiles.
            let half = whole_tiles((end - begin) / 2).min(end - begin - 1);
            list((begin, begin + half), runs, cover);
            list((begin + half, end), runs, cover);
            return;
        }
    };
    match runs.last_mut() {
        Some(last) if last.end == begin && last.kind == kind => last.end = end,
        _ => runs.push(ListedRun { begin, end, kind }),
    }
}

/// `count` rounded up to whole tiles.
fn whole_tiles(count: i64) -> i64 {
    (count + LANES as i64 - 1) / LANES as i64 * LANES as i64
}
