//! The compiler's proofs against the oracle: for random masks, lengths, heads and tile shapes, the closed forms say
//! exactly what looking at every pair says.

mod common;

use common::patterns::pattern;
use longgen_codegen::analysis::{
    KvLayout, Liveness, empty_rows, far_pieces, tile_pairs, tiles_at_most, visible_pairs,
};
use longgen_codegen::ir::{MaskIr, Programs};
use longgen_codegen::pattern::Pattern;
use longgen_codegen::plan::{Extent, TileKind, TilePlan, TileShape};
use longgen_codegen::scalar::Interval;
use proptest::prelude::*;

fn shape() -> impl Strategy<Value = TileShape> {
    let side = prop_oneof![Just(1u32), 2u32..40, Just(16), Just(64)];
    (side.clone(), side).prop_map(|(queries, keys)| TileShape { queries, keys })
}

fn extent() -> impl Strategy<Value = Extent> {
    (0u32..60, 0u32..90, 0u32..20).prop_map(|(first_query, queries, ahead)| Extent {
        first_query,
        queries,
        keys: (first_query + queries).saturating_sub(if ahead < 14 { 0 } else { ahead }),
    })
}

fn lower(pattern: &Pattern) -> Result<MaskIr, TestCaseError> {
    MaskIr::lower(pattern, None).map_err(|error| TestCaseError::reject(error.to_string()))
}

/// Visible pairs of a box, by the definition.
fn count(pattern: &Pattern, g: u32, rows: (i64, i64), columns: (i64, i64)) -> usize {
    let pairs = (rows.0..rows.1).flat_map(|i| (columns.0..columns.1).map(move |j| (i as u32, j as u32)));
    pairs.filter(|&(i, j)| pattern.sees(None, g, i, j)).count()
}

fn check_tile(
    pattern: &Pattern,
    g: u32,
    extent: Extent,
    shape: TileShape,
    (m, n): (u32, u32),
    kind: Option<TileKind>,
) -> Result<(), TestCaseError> {
    let (rows, columns) = (extent.query_rows(m, shape), extent.key_columns(n, shape));
    let visible = count(pattern, g, rows, columns);
    let area = ((rows.1 - rows.0) * (columns.1 - columns.0)) as usize;
    match kind {
        None => prop_assert_eq!(visible, 0, "tile ({}, {}) left out", m, n),
        Some(TileKind::Full) => {
            prop_assert_eq!(visible, area);
            prop_assert_eq!(columns.1 - columns.0, i64::from(shape.keys));
        }
        Some(TileKind::Edge) => {
            for (i, j) in (rows.0..rows.1).flat_map(|i| (columns.0..columns.1).map(move |j| (i, j))) {
                prop_assert_eq!(pattern.sees(None, g, i as u32, j as u32), j <= i);
            }
            prop_assert!(visible > 0);
        }
        Some(TileKind::Partial) => prop_assert!(visible > 0, "tile ({}, {}) holds nothing", m, n),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// The IR means what the pattern means.
    #[test]
    fn ir_is_the_pattern(pattern in pattern(), g in 0u32..4) {
        let ir = lower(&pattern)?;
        ir.verify().map_err(|defect| TestCaseError::fail(defect.to_string()))?;
        for (i, j) in (0..100).flat_map(|i| (0..100).map(move |j| (i, j))) {
            prop_assert_eq!(ir.sees(g, i, j), pattern.sees(None, g, i, j), "({}, {})\n{}", i, j, ir);
        }
    }

    /// A mask of which it is said that a step along the diagonal changes nothing is not changed by it.
    #[test]
    fn what_does_not_rise_stays(pattern in pattern(), g in 0u32..4, from in 0i64..40) {
        let programs = Programs::new(&lower(&pattern)?);
        let side = Interval::new(from, 99);
        if programs.visible.rises(&[Interval::point(g.into()), side, side], &[0, 1, 1]) == [Some(0)] {
            for (i, j) in (from..99).flat_map(|i| (from..99).map(move |j| (i, j))) {
                let (here, there) = (programs.visible(g.into(), i, j), programs.visible(g.into(), i + 1, j + 1));
                prop_assert_eq!(here, there, "({}, {})", i, j);
            }
        }
    }

    /// Masks by distance are counted, up to 8,388,608 tokens.
    #[test]
    fn distances_are_counted(every in 2i64..40, window in 1i64..300, sink in 0i64..9, tokens in 1u32..200_000) {
        let text = format!("sink={}, where((q - k) % {every} == 0 || q - k < {window})", sink + 1);
        let ir = MaskIr::lower(&text.parse().unwrap(), None).unwrap();
        let sees = |distance: i64| distance % every == 0 || distance < window;
        let n = i64::from(tokens);
        let behind = |key: i64| (0..n - key).filter(move |&d| key <= sink || sees(d)).count() as i64;
        let sinks: i64 = (0..=sink.min(n - 1)).map(behind).sum();
        let others: i64 = (0..n).filter(|&d| sees(d)).map(|d| (n - sink - 1 - d).max(0)).sum();
        prop_assert_eq!(visible_pairs(&ir, 0, tokens), Ok((sinks + others) as u128));
    }

    /// No row has more visible tiles than the bound says, which is never more than there are.
    #[test]
    fn tiles_of_a_row_are_bounded(
        pattern in pattern(), g in 0u32..4, i in 0u32..300, behind in 0u32..20, tile in 1u32..70
    ) {
        let ir = lower(&pattern)?;
        let keys = (i + 1).saturating_sub(behind);
        let visible = (0..keys.div_ceil(tile)).filter(|n| {
            (n * tile..keys.min((n + 1) * tile)).any(|j| pattern.sees(None, g, i, j))
        });
        let bound = tiles_at_most(&ir, g, i.into(), keys.into(), tile);
        prop_assert!((visible.count() as u64..=keys.div_ceil(tile).into()).contains(&bound), "{bound} tiles\n{ir}");
    }

    /// Of a window and of a stride the bound leaves out what the row does not see.
    #[test]
    fn tiles_of_windows_and_strides_are_few(i in 2_000u32..1_000_000, tile in prop::sample::select(vec![16u32, 32, 64])) {
        let bound = |text: &str| {
            let ir = MaskIr::lower(&text.parse().unwrap(), None).unwrap();
            tiles_at_most(&ir, 0, i.into(), u64::from(i) + 1, tile)
        };
        prop_assert!(bound("sink=4, window=1024") <= u64::from(1024 / tile + 3));
        let strided = bound("window=128, stride=64, block=64");
        prop_assert!(strided <= u64::from(128 / tile + 1 + (i / 4096 + 3) * (64 / tile)), "{strided}");
    }

    /// The IR's text parses back.
    #[test]
    fn ir_text_round_trips(pattern in pattern()) {
        let ir = lower(&pattern)?;
        prop_assert_eq!(ir.to_string().parse::<MaskIr>().map_err(|e| TestCaseError::fail(e.to_string()))?, ir);
    }

    /// The tiles of a row are those with a visible pair, ascending, none twice, and of the right kind.
    #[test]
    fn key_tiles_are_exact(pattern in pattern(), g in 0u32..4, extent in extent(), shape in shape()) {
        let ir = lower(&pattern)?;
        let plan = TilePlan::new(&ir, shape);
        for m in 0..extent.query_tiles(shape) {
            let tiles: Vec<_> = plan.key_tiles(g, extent, m).collect();
            prop_assert!(tiles.is_sorted_by(|a, b| a.index < b.index));
            prop_assert_eq!(plan.count_key_tiles(g, extent, m) as usize, tiles.len());
            for n in 0..extent.key_tiles(shape) {
                let kind = tiles.iter().find(|tile| tile.index == n).map(|tile| tile.kind);
                check_tile(&pattern, g, extent, shape, (m, n), kind)?;
            }
        }
    }

    /// The transpose holds the same tiles with the same kinds.
    #[test]
    fn transpose_agrees(pattern in pattern(), g in 0u32..4, extent in extent(), shape in shape()) {
        let ir = lower(&pattern)?;
        let plan = TilePlan::new(&ir, shape);
        let mut forward: Vec<_> = (0..extent.query_tiles(shape))
            .flat_map(|m| plan.key_tiles(g, extent, m).map(move |tile| (tile.index, m, tile.kind)))
            .collect();
        forward.sort();
        let backward: Vec<_> = (0..extent.key_tiles(shape))
            .flat_map(|n| plan.query_tiles(g, extent, n).map(move |tile| (n, tile.index, tile.kind)))
            .collect();
        prop_assert_eq!(forward, backward, "{}", ir);
    }

    /// Pairs are counted exactly, below and far beyond the point where the mask repeats.
    #[test]
    fn pairs_are_exact(pattern in pattern(), g in 0u32..4, tokens in 0u32..400) {
        let ir = lower(&pattern)?;
        let side = (0, i64::from(tokens));
        let counted = visible_pairs(&ir, g, tokens).map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert_eq!(counted, count(&pattern, g, side, side) as u128, "{}", ir);
    }

    /// So are the pairs of visited tiles.
    #[test]
    fn tile_pairs_are_exact(pattern in pattern(), g in 0u32..4, tokens in 0u32..900, shape in shape()) {
        let ir = lower(&pattern)?;
        let plan = TilePlan::new(&ir, shape);
        let extent = Extent::square(tokens);
        let tiles: usize = (0..extent.query_tiles(shape)).map(|m| plan.key_tiles(g, extent, m).count()).sum();
        let area = u128::from(shape.queries) * u128::from(shape.keys);
        prop_assert_eq!(tile_pairs(&ir, &plan, g, tokens), tiles as u128 * area, "{}", ir);
    }

    /// Far pieces are those of which a query beyond every window still sees a key; none when one run holds every key.
    #[test]
    fn far_pieces_are_exact(pattern in pattern(), g in 0u32..4, keys in 0u32..3000) {
        let ir = lower(&pattern)?;
        prop_assume!(ir.is_closed_form());
        // A multiple of every block and stride of these patterns, so that shifted patterns stand as they do at 0.
        let far_query = 1 << 30;
        let sees = |j: u32| pattern.sees(None, g, far_query, j);
        let pieces = (0..keys.div_ceil(64)).filter(|n| (n * 64..keys.min(n * 64 + 64)).any(sees)).count();
        let programs = Programs::new(&ir);
        let run = programs.closed.as_ref().unwrap().next_keys(g.into(), far_query.into(), i64::from(far_query) + 1, 0);
        let in_one_run = (0..keys).all(sees) && run.end >= keys.into();
        let expected = if in_one_run { 0 } else { pieces as u32 };
        prop_assert_eq!(far_pieces(&ir, &programs, g, keys, 64), expected, "{}", ir);
    }

    /// Kept keys are those that the last query or a later one sees; a monotone mask never sees a key again.
    #[test]
    fn liveness_is_exact(pattern in pattern(), g in 0u32..4, tokens in 1u32..120) {
        let ir = lower(&pattern)?;
        let live = Liveness::new(&ir, g);
        // Of a predicate nothing is proven: every key is kept.
        prop_assume!(!ir.has_predicates());
        let horizon = 400;
        let kept = (0..tokens).filter(|&j| (tokens - 1..horizon).any(|i| pattern.sees(None, g, i, j))).count();
        prop_assert_eq!(live.kept_keys(tokens), kept as u64, "{}", ir);
        let gap = (0..150u32).any(|j| {
            let seen: Vec<bool> = (j..horizon).map(|i| pattern.sees(None, g, i, j)).collect();
            seen.windows(2).filter(|pair| pair[0] && !pair[1]).count() > 1
                || (seen.windows(2).any(|pair| pair[0] && !pair[1]) && seen[seen.len() - 1])
        });
        prop_assert_eq!(live.monotone(), !gap, "{}", ir);
    }

    /// Every key that will be seen has a slot, and no two keys that are needed at once share one.
    #[test]
    fn slots_hold_what_is_seen(pattern in pattern(), g in 0u32..4, max_tokens in 1u64..200, chunk in 1u64..9) {
        let ir = lower(&pattern)?;
        let layout = KvLayout::new(&ir, g);
        let slots = layout.slots(g, max_tokens, chunk);
        prop_assert!(slots <= max_tokens);
        let mut owner = vec![None; slots as usize];
        let mut first = 0;
        while first < max_tokens {
            let last = (first + chunk).min(max_tokens);
            for j in first..last {
                match layout.slot(g, j, max_tokens, chunk) {
                    Some(slot) => owner[slot as usize] = Some(j),
                    None => {
                        let seen = (j..max_tokens).any(|i| pattern.sees(None, g, i as u32, j as u32));
                        prop_assert!(!seen, "key {} has no slot but is seen", j);
                    }
                }
            }
            for i in first..last {
                for j in (0..=i).filter(|&j| pattern.sees(None, g, i as u32, j as u32)) {
                    let slot = layout.slot(g, j, max_tokens, chunk);
                    prop_assert_eq!(slot.and_then(|s| owner[s as usize]), Some(j), "query {} key {}", i, j);
                }
            }
            first = last;
        }
    }

    /// Empty rows are found wherever they are.
    #[test]
    fn empty_rows_are_found(pattern in pattern(), g in 0u32..4, tokens in 1u32..200) {
        let ir = lower(&pattern)?;
        let empty = (0..tokens).any(|i| (0..=i).all(|j| !pattern.sees(None, g, i, j)));
        prop_assert_eq!(empty_rows(&ir, g, tokens), Some(empty));
    }
}

/// The longest sequence whose distances are counted, as docs/engine.md says.
#[test]
fn distances_are_counted_up_to_8_m_tokens() {
    let ir = MaskIr::lower(&"where((q - k) % 4 == 0)".parse().unwrap(), None).unwrap();
    let tokens = 1u32 << 23;
    // Each of the distances 0, 4, ... has one pair less than there are tokens behind it.
    let quarter = u128::from(tokens / 4);
    assert_eq!(visible_pairs(&ir, 0, tokens), Ok(4 * quarter * (quarter + 1) / 2));
}
