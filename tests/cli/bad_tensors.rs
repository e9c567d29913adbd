//! Tensors that do not fit together: exit code 1, a message with names and shapes, no output file.

use std::path::Path;

use super::tensors::{Tensors, read};
use super::{fails, names_in, path, succeeds};

fn refused(tensors: Tensors, words: &[&str]) {
    let input = tensors.write();
    let output = tensors.folder.path().join("out.safetensors");
    fails(&["run", "window=8", "--backward", "--input", path(&input), "--output", path(&output)], 1, words);
    assert_eq!(names_in(tensors.folder.path()), ["in.safetensors"], "something stayed behind");
}

/// Runs and reads what was written.
fn run(pattern: &str, tensors: &Tensors) -> Vec<u8> {
    let input = tensors.write();
    let output = tensors.folder.path().join("out.safetensors");
    succeeds(&["run", pattern, "--backward", "--input", path(&input), "--output", path(&output)]);
    std::fs::read(output).unwrap()
}

#[test]
fn wrong_rank() {
    refused(Tensors::qkv(10, 2, 1, 8).ramp("q", &[10, 16]), &["`q`", "[10, 16]", "[tokens, heads, D]"]);
    refused(Tensors::qkv(10, 2, 1, 8).ramp("v", &[1, 10, 1, 8]), &["`v`", "[1, 10, 1, 8]"]);
}

#[test]
fn mismatched_shapes() {
    refused(Tensors::qkv(10, 2, 1, 8).ramp("v", &[9, 1, 8]), &["`v`", "9", "10"]);
    refused(Tensors::qkv(10, 2, 1, 8).ramp("do", &[10, 2, 16]), &["`do`", "16"]);
    refused(Tensors::qkv(10, 2, 1, 8).ramp("k", &[10, 1, 16]), &["`k`", "16"]);
}

#[test]
fn heads_that_do_not_divide() {
    refused(Tensors::qkv(10, 3, 2, 8), &["3 query heads", "2 KV heads"]);
    refused(Tensors::qkv(10, 0, 1, 8), &["at least 1"]);
}

#[test]
fn missing_tensors() {
    refused(Tensors::new(), &["no tensor `q`"]);
    let no_gradient = Tensors::new().ramp("q", &[4, 1, 8]).ramp("k", &[4, 1, 8]).ramp("v", &[4, 1, 8]);
    refused(no_gradient, &["`do`", "--backward"]);
}

#[test]
fn cumulative_lengths() {
    let with = |cuts: &[i64]| Tensors::qkv(10, 2, 1, 8).integers("cu_seqlens", cuts);
    refused(with(&[0, 7, 5, 10]), &["decreases from 7 to 5"]);
    refused(with(&[0, 7]), &["ends at 7", "10 tokens"]);
    refused(with(&[1, 10]), &["must start with 0"]);
    refused(with(&[]), &["empty"]);
    refused(with(&[0, -3, 10]), &["-3"]);
    refused(with(&[0, i64::MAX]), &["2^30"]);
    refused(Tensors::qkv(10, 2, 1, 8).ramp("cu_seqlens", &[2]), &["`cu_seqlens`", "i32 or i64"]);
    refused(Tensors::qkv(10, 2, 1, 8).integers("q_offset", &[1, 2]), &["q_offset"]);
    refused(Tensors::qkv(10, 2, 1, 8).integers("q_offset", &[i64::MAX]), &["q_offset"]);
}

#[test]
fn head_dimension_without_kernels() {
    refused(Tensors::qkv(10, 2, 1, 12), &["12", "multiple"]);
}

#[test]
fn files_that_hold_no_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in.safetensors");
    let output = folder.path().join("out.safetensors");
    let refused = |words: &[&str]| {
        fails(&["run", "mistral", "--input", path(&input), "--output", path(&output)], 1, words);
        assert!(!Path::new(&output).exists());
    };
    refused(&["cannot be read"]);
    for bytes in [&b""[..], b"hello", &[0xff; 64], &[8, 0, 0, 0, 0, 0, 0, 0, b'{', b'}', 0, 0, 0, 0, 0, 0]] {
        std::fs::write(&input, bytes).unwrap();
        refused(&["in.safetensors"]);
    }
    std::fs::write(&input, u64::MAX.to_le_bytes()).unwrap();
    refused(&["no safetensors file"]);
    std::fs::remove_file(&input).unwrap();
    std::fs::create_dir(&input).unwrap();
    refused(&["is a directory"]);
}

#[test]
fn zero_length_sequences() {
    let all = Tensors::qkv(10, 2, 1, 8).integers("cu_seqlens", &[0, 0, 4, 4, 10, 10]);
    let one = Tensors::qkv(10, 2, 1, 8).integers("cu_seqlens", &[0, 4, 10]);
    assert_eq!(read(&run("window=8", &all), "o"), read(&run("window=8", &one), "o"));
    let nothing = Tensors::qkv(0, 2, 1, 8);
    assert_eq!(read(&run("window=8", &nothing), "o").0, [0, 2, 8]);
}

/// Equal but for the last bits: beside a NaN kernels may sum in another order.
fn same(found: &[f32], expected: &[f32]) -> bool {
    found.iter().zip(expected).all(|(x, y)| (x - y).abs() <= 1e-6)
}

#[test]
fn a_nan_stays_in_its_row() {
    let plain = read(&run("window=4", &Tensors::qkv(40, 2, 1, 8)), "o").1;
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        // Query 20 of head 1.
        let o = read(&run("window=4", &Tensors::qkv(40, 2, 1, 8).set("q", (20 * 2 + 1) * 8, bad)), "o").1;
        for (row, (found, expected)) in o.chunks(8).zip(plain.chunks(8)).enumerate() {
            assert!(row == 41 || same(found, expected), "{bad} in q reached row {row}: {found:?}");
        }
        // Key and value 20 are seen by queries 20 to 23 of both heads.
        for name in ["k", "v"] {
            let o = read(&run("window=4", &Tensors::qkv(40, 2, 1, 8).set(name, 20 * 8, bad)), "o").1;
            for (row, (found, expected)) in o.chunks(8).zip(plain.chunks(8)).enumerate() {
                let sees = (40..48).contains(&row);
                assert!(sees || same(found, expected), "{bad} in {name} reached row {row}: {found:?}");
            }
        }
    }
}

#[test]
fn rows_without_a_key_are_zero() {
    let bytes = run("(window=8) - (window=2)", &Tensors::qkv(10, 2, 1, 8));
    let (shape, o) = read(&bytes, "o");
    assert_eq!(shape, [10, 2, 8]);
    assert!(o[..2 * 2 * 8].iter().all(|&x| x == 0.0), "{:?}", &o[..32]);
    let (shape, lse) = read(&bytes, "lse");
    assert_eq!(shape, [2, 10]);
    assert_eq!((lse[0], lse[1]), (f32::NEG_INFINITY, f32::NEG_INFINITY));
    assert!(lse[2].is_finite());
    assert!(read(&bytes, "dq").1[..32].iter().all(|&x| x == 0.0));
}
