//! Attribute, TOML, text and builder: several ways in, one meaning.

use longgen::pattern::{Clause, HeadRule, IndexSet, Mask, PRESETS, Pattern, Predicate};
use longgen::{SparsePattern, sparse_pattern};

#[sparse_pattern(sink = 4, window = 4096, stride = 8)]
struct Local;

#[sparse_pattern(sink_blocks = 1, window_blocks = 32, stride = 64, block = 32, step = 2, offset = 1)]
struct Blocks;

#[sparse_pattern((sink = 4, window = 1_000) - where(k % 2 == 1) | (group = 64, shifted) & stride = 2)]
struct Unusual;

#[sparse_pattern(
    window = 128, full = true;
    heads [0, 4..=7] in layers every 2 from 1: full;
    heads none: sink = 1 | sink_blocks = 2, block = 16;
    layers = 24; full_layers = 10..=21; softcap = 50.0; sink_logit; name = "all of it"
)]
struct Whole;

#[sparse_pattern(preset = "gpt-oss"; softcap = 30)]
struct Preset;

/// Every second block of the past, and the near.
#[sparse_pattern]
pub fn sees(q: i64, k: i64, head: i64) -> bool {
    let distance = q - k;
    let block: i64 = 16 * 4;
    // Comments and other people's names for things survive.
    if distance < 100 {
        true
    } else {
        (k / block + head) % 2 == 0 || std::cmp::min(k, 7) != 7 && !(k.max(3) == 5 || head == 2)
    }
}

#[sparse_pattern]
const fn swapped(k: i64, q: i64, _head: i64) -> bool {
    let head = k - q;
    head.abs() < 10
}

fn toml(text: &str) -> Pattern {
    Pattern::from_toml_str("test.toml", text).unwrap_or_else(|error| panic!("{error}"))
}

fn built(mask: Mask) -> Pattern {
    Pattern::builder(mask).build().expect("within the rules")
}

#[test]
fn a_flat_list() {
    let expected = built(Mask::sink(4) | Mask::window(4096) | Mask::stride(8));
    assert_eq!(Local::pattern(), expected);
    assert_eq!(toml("stride = 8\nsink = 4\nwindow = 4096"), expected);
    assert_eq!("sink=4, window=4096, stride=8".parse::<Pattern>().expect("a pattern"), expected);
}

#[test]
fn options_belong_to_their_list() {
    let stride = Clause::Stride { every: 64, block: 32, step: 2, offset: 1 };
    let expected = built(Mask::sink_blocks(1, 32) | Mask::window_blocks(32, 32) | stride.into());
    assert_eq!(Blocks::pattern(), expected);
    let text = "sink_blocks = 1\nwindow_blocks = 32\nstride = 64\nblock = 32\nstep = 2\noffset = 1";
    assert_eq!(toml(text), expected);
}

#[test]
fn set_algebra() {
    let odd = Predicate::parse("k % 2 == 1").expect("a predicate");
    let difference = (Mask::sink(4) | Mask::window(1000)) - odd.into();
    let expected = built(difference | (Mask::shifted_group(64) & Mask::stride(2)));
    let text = "union = [
        { difference = [{ sink = 4, window = 1000 }, { where = 'k % 2 == 1' }] },
        { intersection = [{ group = 64, shifted = true }, { stride = 2 }] },
    ]";
    assert_eq!(toml(text), expected);
    assert_eq!(Unusual::pattern(), expected);
}

#[test]
fn every_section() {
    let expected = Pattern::builder(Mask::window(128) | Mask::full())
        .rule(HeadRule {
            heads: IndexSet::of([0, 4, 5, 6, 7]),
            layers: IndexSet::Every { every: 2, from: 1 },
            mask: Mask::full(),
        })
        .heads(IndexSet::none(), Mask::sink(1) | Mask::sink_blocks(2, 16))
        .layers(24)
        .full_layers(IndexSet::range(10..=21))
        .softcap(50.0)
        .sink_logit()
        .name("all of it")
        .build()
        .expect("within the rules");
    assert_eq!(Whole::pattern(), expected);
    let text = r#"
        name = "all of it"
        window = 128
        full = true
        [layers]
        count = 24
        full = [10, "11..=21"]
        [softmax]
        softcap = 50
        sink_logit = true
        [[heads]]
        heads = [0, "4..=7"]
        layers = { every = 2, from = 1 }
        full = true
        [[heads]]
        heads = "none"
        union = [{ sink = 1 }, { sink_blocks = 2, block = 16 }]
    "#;
    assert_eq!(toml(text), expected);
}

#[test]
fn a_preset_with_changes() {
    let expected = toml("preset = \"gpt-oss\"\n[softmax]\nsoftcap = 30.0");
    assert_eq!(Preset::pattern(), expected);
    assert!(expected.softmax().sink_logit && expected.softmax().softcap == Some(30.0));
    let changed = toml("preset = \"phi3-small\"\nstride = 16\n[layers]\ncount = 40");
    assert_eq!(changed.mask().to_string(), "window_blocks=16, stride=16, offset=1");
    assert_eq!((changed.layers().count, changed.layers().full.contains(39)), (Some(40), true));
}

#[test]
fn a_function_is_its_own_mask() {
    for (pattern, function) in [
        (sees::pattern(), sees as fn(i64, i64, i64) -> bool),
        (swapped::pattern(), |q, k, g| swapped(q, k, g)),
    ] {
        for g in 0..3 {
            for i in 0..400 {
                for j in 0..=i {
                    let seen = function(i64::from(i), i64::from(j), i64::from(g));
                    assert_eq!(pattern.sees(None, g, i, j), seen, "{pattern} at ({g}, {i}, {j})");
                }
            }
        }
    }
}

#[test]
fn examples_are_the_presets() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/patterns");
    for name in PRESETS {
        let path = folder.join(format!("{name}.toml"));
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(toml(&text), Pattern::preset(name).expect("a preset"), "{name}");
    }
}

#[test]
fn full_layers_and_head_rules_choose_the_mask() {
    let pattern = Whole::pattern();
    assert_eq!(pattern.mask_for(Some(10), 0), &Mask::full());
    assert_eq!(pattern.mask_for(Some(3), 4), &Mask::full());
    assert_eq!(pattern.mask_for(Some(2), 4), pattern.mask());
    assert_eq!(pattern.mask_for(None, 4), pattern.mask());
}
