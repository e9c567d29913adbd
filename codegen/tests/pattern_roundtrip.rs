//! Every text form of a pattern reads back to the pattern it was printed from.

mod common;

use longgen_codegen::pattern::{IndexSet, Mask, PRESETS, Pattern, Predicate};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn text_round_trip_is_the_identity(pattern in common::pattern()) {
        let text = pattern.to_string();
        let back: Pattern = text.parse().map_err(|error| TestCaseError::fail(format!("{error}")))?;
        prop_assert_eq!(&back, &pattern, "{}", text);
        prop_assert_eq!(back.to_string(), text);
    }

    #[test]
    fn toml_round_trip_is_the_identity(pattern in common::pattern()) {
        let text = pattern.to_toml();
        let back = Pattern::from_toml_str("p.toml", &text).map_err(|error| TestCaseError::fail(format!("{error}")))?;
        prop_assert_eq!(&back, &pattern, "{}", text);
        prop_assert_eq!(back.to_toml(), text);
    }

    #[test]
    fn canonical_order_keeps_the_meaning(mask in common::mask(), g in 0..4u32, i in 0..600u32, j in 0..600u32) {
        let built = Pattern::builder(mask.clone()).build().expect("within the rules");
        prop_assert_eq!(built.mask().contains(g, i, j), mask.contains(g, i, j));
    }

    #[test]
    fn predicates_keep_their_meaning(
        text in common::condition(4),
        (i, j, g) in (0..1i64 << 30, 0..1i64 << 30, 0..1024i64),
        (x, y, z) in any::<(i64, i64, i64)>(),
    ) {
        let predicate = Predicate::parse(&text).map_err(|error| TestCaseError::fail(format!("{error}")))?;
        let back = Predicate::parse(predicate.source()).map_err(|error| TestCaseError::fail(format!("{error}")))?;
        prop_assert_eq!(back.source(), predicate.source());
        for (i, j, g) in [(i, j, g), (x, y, z), (i % 100, j % 100, g % 4)] {
            let [program] = predicate.program().eval::<1>(&[i, j, g]);
            prop_assert_eq!(predicate.holds(i, j, g), program != 0, "{}", predicate.source());
            prop_assert_eq!(back.holds(i, j, g), program != 0, "{}", predicate.source());
        }
    }

    #[test]
    fn index_sets_read_back(set in common::index_set(1024)) {
        let back: IndexSet = set.to_string().parse().map_err(|error| TestCaseError::fail(format!("{error}")))?;
        for index in 0..1024 {
            prop_assert_eq!(back.contains(index), set.contains(index));
        }
    }
}

#[test]
fn presets_read_back() {
    for name in PRESETS {
        let preset = Pattern::preset(name).expect("a preset");
        assert_eq!(preset.to_string().parse::<Pattern>().expect("its own text"), preset);
        assert_eq!(Pattern::from_toml_str(name, &preset.to_toml()).expect("its own TOML"), preset);
        assert_eq!(format!("preset = \"{name}\"").parse::<Pattern>().expect("by name"), preset);
        assert_eq!(preset.name(), Some(name));
    }
}

#[test]
fn canonical_texts() {
    let canonical =
        |text: &str| text.parse::<Pattern>().unwrap_or_else(|error| panic!("{error}")).to_string();
    for (text, expected) in [
        ("stride=8,window = 4_096, sink=4,", "sink=4, window=4096, stride=8"),
        ("(sink=4, window=8) & stride=2 - window=3", "(sink=4, window=8) & (stride=2 - window=3)"),
        ("stride=8, block=64, step=1, offset=0", "stride=8"),
        (
            "window_blocks=2, block=16 | sink_blocks=1, block=32",
            "sink_blocks=1, block=32 | window_blocks=2, block=16",
        ),
        ("group=8, shifted=true", "group=8, shifted"),
        ("where(head==1&&q-k<5)", "where(head == 1 && q - k < 5)"),
        ("full; sink_logit; softcap=30", "full; softcap = 30.0; sink_logit"),
        (
            "window=8; heads [3, 1, 2]: full; layers = 4; full_layers = every 2 from 1;",
            "window=8; heads 1..=3: full; layers = 4; full_layers = every 2 from 1",
        ),
        ("preset = \"mistral\", window=8", "window=8; name = \"mistral\""),
    ] {
        assert_eq!(canonical(text), expected);
    }
}

#[test]
fn set_operators_build_the_same() {
    let mask = (Mask::sink(4) | Mask::window(8)) & (Mask::stride(2) - Mask::window(3));
    let built = Pattern::builder(mask).build().expect("within the rules");
    assert_eq!("(sink=4, window=8) & (stride=2 - window=3)".parse::<Pattern>().expect("a mask"), built);
}
