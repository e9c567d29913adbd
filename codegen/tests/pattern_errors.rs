//! Bad input, one by one: each is a clear error at the right place, and none a panic.

use longgen_codegen::pattern::{Clause, IndexSet, MAX_TOML_BYTES, Mask, Pattern, PatternError, Predicate};

/// The error of a TOML text, its line and column in front.
fn toml(text: &str) -> String {
    match Pattern::from_toml_str("p.toml", text) {
        Ok(pattern) => panic!("accepted: {pattern}"),
        Err(error) => located(&error),
    }
}

fn located(error: &PatternError) -> String {
    match error.place() {
        Some(place) => format!("{}:{}: {}", place.line(), place.column(), error.problem()),
        None => error.problem().to_string(),
    }
}

#[track_caller]
fn is(found: &str, expected: &str) {
    assert!(found.starts_with(expected), "\n  found    {found}\n  expected {expected}");
}

#[test]
fn toml_values() {
    for (text, expected) in [
        ("window = 0", "1:10: `window = 0`: must be 1 to 1073741824 tokens"),
        ("sink = 4\nstride = 0", "2:10: `stride = 0`: must be 1 to 1048576 blocks"),
        ("window = -5", "1:10: `window = -5`: must not be negative"),
        ("window = 18446744073709551615", "1:10: `window = 18446744073709551615`: must be 1 to"),
        ("window = 99999999999999999999999999", "1:10: `window = 99999999999999999999999999`: must be 1 to"),
        ("window = 4.5", "1:10: `window` takes a whole number, not the number 4.5"),
        ("window = \"4096\"", "1:10: `window` takes a whole number, not the string \"4096\""),
        ("window = [1]", "1:10: `window` takes a whole number, not an array"),
        ("full = 1", "1:8: `full` takes `true` or `false`, not the number 1"),
        ("stride = 8\nblock = 48", "2:9: `block = 48`: must be a power of two"),
        ("window_blocks = 1000000\nblock = 4096", "1:1: `window_blocks = 1000000`: spans more than"),
        ("group = 7", "1:9: `group = 7`: must be an even number"),
        ("window = 1979-05-27", "1:10: `window` takes a whole number, not a date"),
        ("full = true\n[softmax]\nsoftcap = nan", "3:11: `softcap = NaN`: must be a number from 0.001"),
        ("full = true\n[softmax]\nsoftcap = 0", "3:11: `softcap = 0`: must be"),
        ("full = true\nname = \"a\\nb\"", "2:8: `name = a\u{fffd}b`: must be 1 to 64 letters"),
        (
            "preset = \"mistrall\"",
            "1:10: unknown preset `mistrall`, did you mean `mistral`?; there are: longgen-sink",
        ),
    ] {
        is(&toml(text), expected);
    }
}

#[test]
fn toml_keys() {
    for (text, expected) in [
        ("windw = 1", "1:1: unknown key `windw`, did you mean `window`?; allowed here: sink, sink_blocks"),
        ("window = 1\n[layer]\ncount = 1", "2:2: unknown key `layer`, did you mean `layers`?"),
        (
            "window = 1\n[layers]\ncont = 1",
            "3:1: unknown key `cont`, did you mean `count`?; allowed here: count, full",
        ),
        ("window = 1\n[softmax]\nsoft_cap = 1", "3:1: unknown key `soft_cap`, did you mean `softcap`?"),
        ("window = 1\nwindow = 2", "2:1: not valid TOML: duplicate key"),
        ("window = 1\nstep = 2", "2:1: `step` has no effect here: it belongs to `stride`"),
        ("union = [{ sink = 1 }, { widow = 2 }]", "1:26: unknown key `widow`, did you mean `window`?"),
        ("union = [{ name = \"a\", sink = 1 }]", "1:12: unknown key `name`"),
        ("preset = \"duo\"\nunion = [{ sink = 1 }]", "2:1: `union` cannot change a preset"),
    ] {
        is(&toml(text), expected);
    }
}

#[test]
fn toml_structure() {
    for (text, expected) in [
        ("", "1:1: the pattern is missing"),
        ("# nothing\n", "1:1: the pattern is missing"),
        ("full = false", "1:1: a clause is missing"),
        ("name = \"a\"", "1:1: a clause is missing"),
        ("window", "1:7: not valid TOML"),
        ("window = ", "1:10: not valid TOML"),
        ("union = []", "1:9: a mask is missing"),
        ("union = [{}]", "1:10: a clause is missing"),
        ("union = [1]", "1:10: `union` takes a table, not the number 1"),
        ("union = { sink = 1 }", "1:9: `union` takes an array of tables"),
        ("difference = [{ sink = 1 }]", "1:14: a mask is missing"),
        ("full = true\n[[heads]]\nheads = 1", "2:1: a clause is missing"),
        ("full = true\nheads = 1", "2:9: `heads` takes tables, each under `[[heads]]`"),
        ("full = true\nlayers = 3", "2:10: `layers` takes a table"),
    ] {
        is(&toml(text), expected);
    }
}

#[test]
fn toml_layers_and_heads() {
    let layers = |value: &str| toml(&format!("window = 1\n[layers]\ncount = 4\nfull = {value}"));
    for (value, expected) in [
        ("4", "4:8: `full = 4`: the plan has layers 0 to 3"),
        ("\"2..=9\"", "4:8: `full = 2..=9`: the plan has layers 0 to 3"),
        ("\"3..=1\"", "4:9: `index = 3..=1`: runs backwards"),
        ("\"1..3\"", "4:10: unexpected character `.`"),
        ("\"some\"", "4:9: expected indices like `3`"),
        ("[0, true]", "4:12: `full` takes indices"),
        ("[[0]]", "4:9: `full` takes numbers and ranges"),
        ("{ from = 1 }", "4:8: `every` is missing"),
        ("{ every = 0 }", "4:18: `every = 0`: `every` must be 1 to 1024"),
        ("-1", "4:8: `full = -1`: must not be negative"),
        ("1.5", "4:8: `full` takes indices"),
    ] {
        is(&layers(value), expected);
    }
    is(&toml("window = 1\n[layers]\ncount = 0"), "3:9: `count = 0`: must be 1 to 1024 layers");
    is(
        &toml("window = 1\n[[heads]]\nheads = 1024\nfull = true"),
        "3:9: `heads = 1024`: KV heads and layers count from 0 to 1023",
    );
    is(
        &toml("window = 1\n[layers]\ncount = 4\n[[heads]]\nlayers = 5\nfull = true"),
        "5:10: `layers = 5`: the plan has layers 0 to 3",
    );
}

#[test]
fn predicates_point_into_their_string() {
    for (text, expected) in [
        (
            "where = \"q - z < 3\"",
            "1:14: the name `z` cannot be used in a predicate; it knows `q`, `k`, `head`",
        ),
        ("where = '''\nq < 3 &&\n  k.pow(2) > 1'''", "3:5: the method `pow` cannot be used"),
        ("where = \"q <\"", "1:13: unexpected end of input"),
        ("where = \"\"", "1:9: expected an expression at the end"),
        ("where = \"q\"", "1:10: expected a condition, found a number"),
        ("where = 3", "1:9: `where` takes a string"),
        ("where = \"'\"", "1:10: this is not a Rust expression"),
        (
            "where = \"q / head == 0\"",
            "1:14: this divisor cannot be used in a predicate; a divisor must be a positive",
        ),
    ] {
        is(&toml(text), expected);
    }
}

#[test]
fn the_message_reads_like_a_compilers() {
    let text = "sink = 4\nwindw = 4096 # typo\n";
    let error = Pattern::from_toml_str("my/pattern.toml", text).expect_err("a typo");
    let expected = "unknown key `windw`, did you mean `window`?; allowed here: sink, sink_blocks, window, window_blocks, \
                    stride, block, step, offset, group, shifted, full, where, union, intersection, difference, name, \
                    preset, heads, layers, softmax\n \
                    --> my/pattern.toml:2:1\n  |\n2 | windw = 4096 # typo\n  | ^^^^^";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn hostile_files() {
    let read =
        |bytes: &[u8]| located(&Pattern::from_toml_bytes("p.toml", bytes).expect_err("a hostile file"));
    is(&read(b"window = 1\n\xff\xfe"), "2:1: not a text: the bytes from here on are not UTF-8");
    is(&read(&[0; 64]), "1:1: not a text: it holds a zero byte");
    is(&read(&vec![b'#'; MAX_TOML_BYTES + 1]), "the size of p.toml is more than the limit of 1 MiB");
    for (open, count) in
        [("[", 500_000), ("{a=", 300_000), ("a.", 500_000), ("[a.", 300_000), ("((", 500_000)]
    {
        read(format!("union = {}", open.repeat(count)).as_bytes());
        read(open.repeat(count).as_bytes());
    }
    // Deep, closed and made of legal pieces.
    let deep = "{ union = [".repeat(30) + "{ full = true }" + &"] }".repeat(30);
    is(
        &toml(&format!("union = [{deep}]")),
        "1:1: the nesting of unions, intersections and differences is more than",
    );
    let wide = format!("union = [{}]", "{ sink = 1 }, ".repeat(60_000));
    is(&toml(&wide), "1:3596: `clauses = 257`: must be 1 to 256 clauses");
    let chain = format!("difference = [{}]", "{ sink = 1 }, ".repeat(60_000));
    is(&toml(&chain), "1:3601: `clauses = 257`: must be 1 to 256 clauses");
    let rules = "[[heads]]\nfull = true\n".repeat(40_000);
    is(&toml(&format!("full = true\n{rules}")), "2:3: `rules = 40000`: must be at most 4096");
    let long = "q".repeat(20_000);
    is(&toml(&format!("where = '{long} < 3'")), "1:10: the length of the predicate is more than the limit");
    is(
        &toml(&format!("where = '{}q{} < 3'", "(".repeat(90), ")".repeat(90))),
        "1:74: the nesting of brackets",
    );
    is(&toml(&format!("where = 'q < {}'", "9".repeat(16_000))), "1:14: so long a literal cannot be used");
    is(&toml(&format!("where = '{} < 3'", "-".repeat(9000) + "q")), "1:");
    is(&toml(&format!("where = 'q{} < 3'", " + q".repeat(3000))), "1:");
    is(&toml(&format!("where = '{} true'", "let x = 1;".repeat(1500))), "1:");
    is(&toml(&format!("where = '{} {{ true }}'", "if q < 1 { true } else ".repeat(650))), "1:");
}

#[test]
fn texts() {
    let text = |text: &str| located(&text.parse::<Pattern>().expect_err("a wrong text"));
    for (wrong, expected) in [
        ("", "1:1: the pattern is missing"),
        ("  ", "1:1: the pattern is missing"),
        ("sink=4, windw=8", "1:9: unknown key `windw`, did you mean `window`?"),
        ("sink=4, sink=8", "1:9: `sink` is given twice"),
        ("sink=4 window=8", "1:8: expected `,`, `|`, `&`, `-`, `;` or the end, found `window`"),
        ("sink=4,, window=8", "1:8: expected `,`, `|`"),
        ("stride=0", "1:8: `stride = 0`: must be 1 to 1048576 blocks"),
        ("window=-3", "1:8: `window = a negative number`: must not be negative"),
        ("window=1e3", "1:8: `window` takes a whole number, not `1e3`"),
        ("window=99999999999999999999", "1:8: `window = 99999999999999999999`: must be 1 to"),
        ("window=8, step=2", "1:11: `step` has no effect here"),
        ("sink=4, window=8 & stride=2", "1:7: put parentheses around the list"),
        ("(sink=4", "1:8: expected `)`, found the end"),
        ("where(q < 3", "1:6: this parenthesis is never closed"),
        ("where(q < z)", "1:11: the name `z` cannot be used"),
        ("full; heads 1: sink=0", "1:21: `sink = 0`"),
        ("full; heads 3..=1: sink=1", "1:13: `index = 3..=1`: runs backwards"),
        ("full; layers = 4; full_layers = 4", "1:33: `full = 4`: the plan has layers 0 to 3"),
        ("full; softcap = x", "1:17: `softcap` takes a number, not `x`"),
        ("full; sink_logit; sink_logit", "1:19: `sink_logit` is given twice"),
        ("full; name = a", "1:14: `name` takes a text in double quotes, not `a`"),
        ("full; nonsense", "1:7: unknown key `nonsense`; allowed here: heads, layers"),
        ("preset = \"gemma\"", "1:10: unknown preset `gemma`, did you mean `gemma3`?"),
        ("window = ü", "1:10: unexpected character `ü`"),
    ] {
        is(&text(wrong), expected);
    }
    is(&text(&"where(q<1)|".repeat(50_000)), "1:2817: `clauses = 257`: must be 1 to 256 clauses");
    is(&text(&("full".to_string() + &"; heads 1: full".repeat(50_000))), "1:61447: `rules = 4097`");
    assert!("(".repeat(1 << 19).parse::<Pattern>().is_err());
    assert!(("full".to_string() + &" - full".repeat(100_000)).parse::<Pattern>().is_err());
    assert!(" ".repeat(2 << 20).parse::<Mask>().is_err());
    assert!("0, 5..=3".parse::<IndexSet>().is_err());
}

#[test]
fn the_largest_mask_reads_back() {
    let strides =
        (0..256).map(|n| Clause::Stride { every: 8, block: 1 << (n % 4), step: n, offset: n / 4 }.into());
    let pattern = Pattern::builder(Mask::Union(strides.collect())).build().expect("256 clauses");
    assert_eq!(pattern.to_string().parse(), Ok(pattern.clone()));
    assert_eq!(Pattern::from_toml_str("p.toml", &pattern.to_toml()), Ok(pattern));
}

#[test]
fn builders() {
    let built = |mask: Mask| located(&Pattern::builder(mask).build().expect_err("a wrong mask"));
    is(&built(Mask::window(0)), "`window = 0`: must be 1 to");
    is(&built(Mask::window(u32::MAX)), "`window = 4294967295`: must be 1 to");
    is(&built(Mask::sink_blocks(1 << 30, 2)), "`sink_blocks = 1073741824`: spans more than");
    is(&built(Mask::Union(Vec::new())), "a clause is missing");
    is(&built((0..20).fold(Mask::full(), |mask, _| mask - Mask::sink(1))), "the nesting of unions");
    let named = Pattern::builder(Mask::full()).name("").build().expect_err("an empty name");
    is(&located(&named), "`name = `: must be 1 to 64");
    let full = Pattern::builder(Mask::full()).layers(2).full_layers(IndexSet::range(1..=2)).build();
    is(&located(&full.expect_err("past the last layer")), "`full = 1..=2`: the plan has layers 0 to 1");
    assert!(Predicate::of_function(["i", "j", "h"], "i - j < h").is_ok());
    assert!(Predicate::of_function(["i", "j", "h"], "q < 3").is_err());
}
