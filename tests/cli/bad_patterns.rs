//! PATTERN arguments that are wrong: exit code 2, and a message with the key, the value and what is allowed.

use super::{fails, path};

fn refused(pattern: &str, words: &[&str]) {
    fails(&["report", pattern, "--length", "4096"], 2, words);
    fails(&["show", pattern, "--length", "4096"], 2, words);
}

#[test]
fn unknown_key() {
    refused("snk=4", &["snk", "sink", "window_blocks"]);
}

#[test]
fn negative_and_huge_values() {
    refused("sink=-1", &["sink", "negative"]);
    refused("window=18446744073709551615", &["window = 18446744073709551615", "1073741824"]);
    refused("window=99999999999999999999999999", &["window", "1073741824"]);
    refused("sink=4294967296", &["sink", "1073741824"]);
    refused("stride=1048576, block=4096", &["stride"]);
}

#[test]
fn zero() {
    refused("window=0", &["window = 0"]);
    refused("stride=0", &["stride = 0"]);
    refused("sink_blocks=0", &["sink_blocks = 0"]);
}

#[test]
fn block_that_is_no_power_of_two() {
    refused("stride=8, block=48", &["block = 48", "power of two"]);
}

#[test]
fn layer_plan_past_the_last_layer() {
    refused("window=64; layers=4; full_layers=3..=9", &["3..=9", "0 to 3"]);
    let longer = ["report", "window=64; full_layers=40", "--length", "4096"];
    fails(&longer, 2, &["layer 40", "llama-2-7b", "0 to 31"]);
    let other = ["report", "window=64; layers=24; full_layers=8..=15", "--length", "4096"];
    fails(&other, 2, &["24 layers", "32", "full_layers = 10..=20"]);
    fails(&["show", "longgen-sink", "--length", "4096", "--layer", "32"], 2, &["0 to 31"]);
}

#[test]
fn nothing_at_all() {
    refused("", &["pattern is missing"]);
    refused("   ", &["pattern is missing"]);
}

#[test]
fn a_word_that_is_nothing() {
    refused("longgen-snk", &["no preset", "no such file", "longgen-sink"]);
    refused("./no-such.toml", &["no pattern file"]);
}

#[test]
fn empty_file_binary_file_directory() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    refused(path(&file("empty.toml", b"")), &["missing", "empty.toml"]);
    refused(
        path(&file("binary.toml", &[0x7f, b'E', b'L', b'F', 0xff, 0xfe, 0, 1])),
        &["UTF-8", "binary.toml"],
    );
    refused(path(folder.path()), &["is a directory"]);
    // Without a slash it could be a preset or a text: tests run in the folder of the project.
    refused("docs", &["`docs` is a directory"]);
    refused("/dev/null", &["missing"]);
    refused("/dev/zero", &["1048576 bytes"]);
}

#[test]
fn toml_bombs() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    refused(path(&file("deep.toml", format!("sink = {}", "[".repeat(100_000)))), &["deep.toml"]);
    refused(path(&file("tables.toml", format!("{}a]", "[".repeat(100_000)))), &["tables.toml"]);
    refused(path(&file("dots.toml", format!("{}a = 1", "a.".repeat(100_000)))), &["dots.toml"]);
    refused(path(&file("where.toml", format!("where = \"{}\"", "(".repeat(100_000)))), &["where.toml"]);
    let huge = folder.path().join("huge.toml");
    std::fs::File::create(&huge).unwrap().set_len(100 << 20).unwrap();
    refused(path(&huge), &["huge.toml", "1048576 bytes"]);
}

#[test]
fn bombs_on_the_command_line() {
    refused(&format!("{}window=4{}", "(".repeat(20_000), ")".repeat(20_000)), &["nesting"]);
    refused(&format!("where({}q{})", "(".repeat(20_000), ")".repeat(20_000)), &["limit"]);
    refused(&format!("where({}q > k)", "!".repeat(20_000)), &["limit"]);
    refused("where(k / 0 == 1)", &["divisor"]);
}

#[test]
fn set_algebra_that_explodes() {
    let union =
        |n: u32| format!("(stride={}, block=1 | stride={}, block=2 | sink={n})", 2 * n + 1, 3 * n + 2);
    let product: Vec<String> = (1..9).map(union).collect();
    let product = product.join(" & ");
    fails(&["report", &product, "--length", "4096"], 2, &["terms"]);
}

#[test]
fn wrong_numbers_on_the_command_line() {
    for length in ["0", "-1", "1e5", "2000M", "99999999999999999999999", ""] {
        for option in [&["--length", length][..], &[&format!("--length={length}")]] {
            let ran = super::lgc(&[&["report", "mistral"], option].concat());
            assert_eq!(ran.code, 2, "{length}: {}", ran.err);
            assert!(ran.err.contains("a number of tokens from 1"), "{}", ran.err);
        }
    }
    // A negative scale is a number like any other, and so the tensors are what is missing.
    let scaled = ["run", "mistral", "--scale", "-0.5", "--input", "nowhere", "--output", "nowhere"];
    fails(&scaled, 1, &["`nowhere` cannot be read"]);
    for head_dim in ["80", "0", "-64", "512", "99999999999"] {
        let ran = super::lgc(&["compile", "mistral", &format!("--head-dim={head_dim}")]);
        assert_eq!(ran.code, 2, "{head_dim}: {}", ran.err);
        assert!(ran.err.contains("multiple of 32"), "{}", ran.err);
    }
    fails(&["compile", "mistral", "--arch", "sm_10"], 2, &["sm_10", "sm_90a"]);
    fails(&["compile", "mistral", "--dtype", "int8"], 2, &["int8", "bf16"]);
    fails(&["show", "mistral", "--length", "64", "--tile", "0x64"], 2, &["powers of two"]);
}
