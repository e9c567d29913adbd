//! Planning a million tokens takes no longer than planning four thousand: the closed forms know no length.
//!
//! `cargo bench --bench plan` prints, for each pattern and length, the time of everything a host asks of a plan that
//! does not walk tiles: the plan itself, the exact cost, the computed pairs, the keys that must be kept.

use std::hint::black_box;
use std::time::{Duration, Instant};

use longgen_codegen::analysis::{Cost, Liveness, tile_pairs};
use longgen_codegen::ir::MaskIr;
use longgen_codegen::pattern::Pattern;
use longgen_codegen::plan::{TilePlan, TileShape};

const LENGTHS: [u32; 3] = [4096, 65_536, 1_048_576];
const HEADS: u32 = 32;
const TILE: TileShape = TileShape { queries: 128, keys: 128 };
const REPETITIONS: usize = 15;

const PATTERNS: [&str; 6] = [
    "sink=4, window=1024",
    "sink_blocks=1, window_blocks=32",
    "window_blocks=2, stride=16, step=2",
    "window_blocks=16, stride=8, offset=1",
    "group=2048",
    "(window=1024) - (window=128) | sink=64",
];

fn main() {
    println!("{:42}{:>14}{:>14}{:>14}{:>10}", "pattern", "4,096", "65,536", "1,048,576", "ratio");
    for text in PATTERNS {
        let pattern: Pattern = text.parse().expect("a pattern of this file");
        let ir = MaskIr::lower(&pattern, None).expect("a pattern of this file");
        let times = LENGTHS.map(|tokens| fastest(|| planned(&ir, tokens)));
        let ratio = times[2].as_secs_f64() / times[0].as_secs_f64();
        let [short, middle, long] = times.map(|time| format!("{:.1} us", time.as_secs_f64() * 1e6));
        println!("{text:42}{short:>14}{middle:>14}{long:>14}{ratio:>9.2}x");
    }
}

/// Everything, for all heads of a layer.
fn planned(ir: &MaskIr, tokens: u32) -> u128 {
    let plan = TilePlan::new(ir, TILE);
    let cost = Cost::new(ir, tokens, HEADS, HEADS, 128).expect("no predicate");
    let kept = |g| u128::from(Liveness::new(ir, g).kept_keys(tokens));
    let heads = (0..HEADS).map(|g| tile_pairs(ir, &plan, g, tokens) + kept(g));
    cost.visible_pairs + heads.sum::<u128>()
}

fn fastest(work: impl Fn() -> u128) -> Duration {
    let time = |_| {
        let start = Instant::now();
        black_box(work());
        start.elapsed()
    };
    (0..REPETITIONS).map(time).min().unwrap_or_default()
}
