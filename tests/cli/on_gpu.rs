//! Commands with `--device cuda`, on an emulated GPU: what they compute is compared with the CPU, how they behave is as on any GPU.

use std::path::Path;

use longgen_emulator::Emulated;
use tempfile::TempDir;

use super::tensors::{Tensors, read};
use super::{command, path, succeeds};

#[path = "../cuda/mod.rs"]
mod cuda;

const PATTERN: &str = "sink=4, window=40";

/// A machine with an emulated GPU, and a folder for caches and outputs.
struct Machine {
    gpu: Emulated,
    folder: TempDir,
}

impl Machine {
    /// `None` where there is no NVRTC.
    fn new() -> Option<Machine> {
        let nvrtc = cuda::nvrtc().inspect_err(|reason| eprintln!("skipped: {reason}")).ok()?;
        let gpu = Emulated::new(nvrtc.path()).expect("the emulator is built with the tests");
        Some(Machine { gpu, folder: tempfile::tempdir().unwrap() })
    }

    fn file(&self, name: &str) -> String {
        path(&self.folder.path().join(name)).to_owned()
    }

    /// What `lgc` prints there.
    fn lgc(&self, arguments: &[&str]) -> String {
        let mut command = command(arguments);
        command.envs(self.gpu.variables()).env("LONGGEN_CACHE", self.folder.path().join("cache"));
        let output = command.output().expect("lgc starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{arguments:?}:\n{}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }
}

#[test]
fn doctor_and_check() {
    let Some(machine) = Machine::new() else { return };
    let doctor = machine.lgc(&["doctor"]);
    assert!(doctor.contains("LongGen emulator: compute capability 9.0"), "{doctor}");
    let checked = machine.lgc(&["check", PATTERN, "--device", "cuda", "--head-dim", "64", "--dtype", "bf16"]);
    assert!(checked.contains("outputs within their limits") && checked.contains("decode o"), "{checked}");
}

fn outputs(file: &str) -> Vec<f32> {
    let bytes = std::fs::read(Path::new(file)).unwrap();
    ["o", "dq", "dk", "dv"].iter().flat_map(|name| read(&bytes, name).1).collect()
}

#[test]
fn run_after_a_tune_gives_what_the_cpu_gives() {
    let Some(machine) = Machine::new() else { return };
    let tensors = Tensors::qkv(150, 4, 2, 64);
    let (in_f32, in_bf16) = (tensors.write(), tensors.in_bf16());
    let (on_cpu, on_gpu) = (machine.file("cpu.safetensors"), machine.file("gpu.safetensors"));
    succeeds(&["run", PATTERN, "--input", path(&in_f32), "--output", &on_cpu, "--backward"]);
    let run =
        ["run", PATTERN, "--input", path(&in_bf16), "--output", &on_gpu, "--backward", "--device", "cuda"];
    let untuned = machine.lgc(&run);
    assert!(!untuned.contains("(tuned)"), "{untuned}");
    let (found, expected) = (outputs(&on_gpu), outputs(&on_cpu));
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>().sqrt();
    let apart = norm(&mut found.iter().zip(&expected).map(|(a, b)| a - b));
    assert!(found.len() == expected.len() && apart < 0.02 * norm(&mut expected.iter().copied()), "{apart}");

    let model = machine.file("config.json");
    let config = r#"{ "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 256, "num_hidden_layers": 1,
        "intermediate_size": 64, "vocab_size": 100 }"#;
    std::fs::write(&model, config).unwrap();
    // Times mean nothing here; that they are measured, kept and used does.
    let tune =
        ["tune", PATTERN, "--device", "cuda", "--model", &model, "--length", "150", "--pass", "forward"];
    let report = machine.lgc(&[&tune[..], &["--budget", "10m"]].concat());
    assert!(report.contains("choice: forward"), "{report}");
    let again = machine.lgc(&[&tune[..], &["--json"]].concat());
    assert!(again.contains("\"measured\": 0"), "{again}");
    let tuned = machine.lgc(&run);
    let is_tuned = |text: &str| [text.matches("(tuned)").count(), text.matches("(not tuned)").count()];
    assert!(is_tuned(&tuned) == [1, 3] && tuned.contains("cuda --deterministic`"), "{tuned}");
    let (found, before) = (outputs(&on_gpu), found);
    assert!(found.iter().zip(&before).all(|(a, b)| (a - b).abs() <= 0.02 * b.abs().max(1.0)));

    let backward = ["--pass", "backward", "--deterministic", "--budget", "10m"];
    machine.lgc(&[&tune[..tune.len() - 2], &backward].concat());
    let tuned = machine.lgc(&run);
    assert!(is_tuned(&tuned) == [4, 0] && !tuned.contains("did not measure"), "{tuned}");
}

#[test]
fn a_model_trains_and_generates() {
    let Some(machine) = Machine::new() else { return };
    let (init, run, data) = (machine.file("init.json"), machine.file("run"), machine.file("data.txt"));
    let config = r#"{ "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "vocab_size": 257, "eos_token_id": 256 }"#;
    std::fs::write(&init, config).unwrap();
    std::fs::write(&data, "the mask says which keys a query may see; ".repeat(60)).unwrap();
    let shape = ["--pattern", PATTERN, "--steps", "3", "--sequence-tokens", "96", "--device", "cuda"];
    let trained =
        machine.lgc(&[&["train", "--init", &init, "--data", &data, "--out", &run][..], &shape].concat());
    assert!(trained.contains("loss"), "{trained}");
    let generate =
        ["generate", "--model", &run, "--prompt", "the mask", "--new-tokens", "6", "--device", "cuda"];
    assert!(!machine.lgc(&generate).is_empty());
}
