//! A peer's numbers: `lgc run` on tensors that PyTorch made must give the outputs and gradients that PyTorch computed.
//! `tests/peer/make_fixtures.py` remakes the fixtures.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::Deserialize;

#[derive(Deserialize)]
struct Record {
    cases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    pattern: String,
    /// Only the first so many rows of `q` are queries: the last tokens of the sequence.
    queries: Option<usize>,
    cu_seqlens: Option<Vec<i64>>,
    #[serde(default)]
    sink_logit: bool,
    /// PyTorch's own float32 error against its float64 run, by output.
    torch_float32_error: BTreeMap<String, f64>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peer")
}

#[test]
fn lgc_run_gives_pytorchs_numbers() {
    let record = fs::read(folder().join("cases.json")).expect("the fixtures");
    let record: Record = serde_json::from_slice(&record).expect("the record of the fixtures");
    assert!(record.cases.len() >= 12);
    let failures: Vec<String> = record.cases.iter().flat_map(|(name, case)| check(name, case)).collect();
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

fn check(name: &str, case: &Case) -> Vec<String> {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let (input, output) = (scratch.path().join("in.safetensors"), scratch.path().join("out.safetensors"));
    write_input(case, &input);
    let run = Command::new(env!("CARGO_BIN_EXE_lgc"))
        .args(["run", &case.pattern, "--backward", "--input"])
        .arg(&input)
        .arg("--output")
        .arg(&output)
        .output()
        .expect("lgc starts");
    if !run.status.success() {
        return vec![format!("{name}: {}", String::from_utf8_lossy(&run.stderr))];
    }
    let ours = fs::read(&output).expect("the output");
    let ours = SafeTensors::deserialize(&ours).expect("safetensors");
    let theirs = fs::read(folder().join(format!("{name}.safetensors"))).expect("a fixture");
    let theirs = SafeTensors::deserialize(&theirs).expect("safetensors");
    let compare = |(output, rough): (&String, &f64)| {
        let found = floats(&ours.tensor(output).expect("an output of ours"));
        let exact = floats(&theirs.tensor(output).expect("an output of theirs"));
        let (error, limit) = (relative_error(&found, &exact), factor(output) * rough);
        (error > limit).then(|| format!("{name}: {output} is off by {error:.2e}, allowed {limit:.2e}"))
    };
    case.torch_float32_error.iter().filter_map(compare).collect()
}

/// How many times PyTorch's float32 error ours may be.
fn factor(output: &str) -> f64 {
    match output {
        // Nearly all of its error is the last rounding of the stored number; ours is taken in base 2 and brought to
        // natural units, which rounds once more.
        "lse" | "dsink_logit" => 4.0,
        _ => 2.0,
    }
}

fn write_input(case: &Case, path: &Path) {
    let shared = fs::read(folder().join("inputs.safetensors")).expect("the inputs");
    let shared = SafeTensors::deserialize(&shared).expect("safetensors");
    let cuts: Option<Vec<u8>> =
        case.cu_seqlens.as_ref().map(|cuts| cuts.iter().flat_map(|n| n.to_le_bytes()).collect());
    let mut tensors: HashMap<&str, TensorView<'_>> = HashMap::new();
    for name in ["q", "k", "v", "do", "sink_logit"] {
        let tensor = shared.tensor(name).expect("an input");
        let rows = case.queries.filter(|_| name == "q" || name == "do");
        if name != "sink_logit" || case.sink_logit {
            tensors.insert(name, first_rows(tensor, rows));
        }
    }
    if let (Some(bytes), Some(cuts)) = (&cuts, &case.cu_seqlens) {
        tensors.insert("cu_seqlens", TensorView::new(Dtype::I64, vec![cuts.len()], bytes).expect("a vector"));
    }
    safetensors::serialize_to_file(tensors, None, path).expect("the input is written");
}

fn first_rows(tensor: TensorView<'_>, rows: Option<usize>) -> TensorView<'_> {
    let Some(rows) = rows else { return tensor };
    let mut shape = tensor.shape().to_vec();
    let row_bytes = tensor.data().len() / shape[0];
    shape[0] = rows;
    let data = &tensor.data()[..rows * row_bytes];
    TensorView::new(tensor.dtype(), shape, data).expect("fewer rows of the same tensor")
}

fn floats(tensor: &TensorView<'_>) -> Vec<f64> {
    assert_eq!(tensor.dtype(), Dtype::F32);
    let value = |bytes: &[u8; 4]| f64::from(f32::from_le_bytes(*bytes));
    tensor.data().as_chunks::<4>().0.iter().map(value).collect()
}

/// Norm of the difference over the norm. What is not finite must be the same in both, else the error is infinite.
fn relative_error(found: &[f64], exact: &[f64]) -> f64 {
    assert_eq!(found.len(), exact.len());
    let (mut difference, mut norm) = (0.0, 0.0);
    for (f, e) in found.iter().zip(exact).filter(|(f, e)| f != e) {
        difference += (f - e) * (f - e);
    }
    exact.iter().filter(|e| e.is_finite()).for_each(|e| norm += e * e);
    if difference.is_finite() { (difference / norm).sqrt() } else { f64::INFINITY }
}
