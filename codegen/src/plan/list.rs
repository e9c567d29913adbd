//! Compact tile lists (CSR) for kernels whose mask has no closed form.

use super::{Extent, Tile, TilePlan};

/// Rows of tiles, one row per (sequence, KV head, tile), as kernels read them.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TileList {
    /// Row `(sequence * kv_heads + g) * rows_per_head + tile` holds entries `rows[r]..rows[r + 1]`.
    pub rows: Vec<i32>,
    /// `tile * 4 + kind`.
    pub tiles: Vec<i32>,
    /// Tiles of the longest sequence: the stride between heads.
    pub rows_per_head: u32,
}

impl TilePlan {
    /// The key tiles of every query tile, for forward and dQ.
    pub fn list_key_tiles(&self, extents: &[Extent], kv_heads: u32) -> TileList {
        let rows_per_head = extents.iter().map(|e| e.query_tiles(self.shape())).max().unwrap_or(0);
        self.list(extents, kv_heads, rows_per_head, |g, extent, tile, out| {
            if tile < extent.query_tiles(self.shape()) {
                out.extend(self.key_tiles(g, extent, tile).map(entry));
            }
        })
    }

    /// The query tiles of every key tile, for dK and dV.
    pub fn list_query_tiles(&self, extents: &[Extent], kv_heads: u32) -> TileList {
        let rows_per_head = extents.iter().map(|e| e.key_tiles(self.shape())).max().unwrap_or(0);
        self.list(extents, kv_heads, rows_per_head, |g, extent, tile, out| {
            if tile < extent.key_tiles(self.shape()) {
                out.extend(self.query_tiles(g, extent, tile).map(entry));
            }
        })
    }

    fn list(
        &self,
        extents: &[Extent],
        kv_heads: u32,
        rows_per_head: u32,
        mut fill: impl FnMut(u32, Extent, u32, &mut Vec<i32>),
    ) -> TileList {
        let mut list = TileList { rows: vec![0], tiles: Vec::new(), rows_per_head };
        for &extent in extents {
            for g in 0..kv_heads {
                for tile in 0..rows_per_head {
                    fill(g, extent, tile, &mut list.tiles);
                    list.rows.push(list.tiles.len() as i32);
                }
            }
        }
        list
    }
}

fn entry(tile: Tile) -> i32 {
    (tile.index as i32) * 4 + tile.kind as i32
}
