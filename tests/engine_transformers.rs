//! transformers reading what the engine saves: the models of tests/engine_fixtures, cut into shards of a few tensors, must give the
//! fixtures' logits. Without a Python (`python3`, or LONGGEN_PYTHON) that has PyTorch and transformers the test is reported as
//! ignored, by name.

use std::path::Path;
use std::process::{Command, Stdio};

use libtest_mimic::{Arguments, Failed, Trial};
use longgen_runtime::model::{LlamaConfig, load_weights, save_model};
use longgen_runtime::problem::DType;

/// Holds the largest tensor of the fixtures, and a fraction of each model.
const SHARD_BYTES: usize = 30_000;

fn python() -> Command {
    Command::new(std::env::var("LONGGEN_PYTHON").unwrap_or("python3".to_owned()))
}

fn has_transformers() -> bool {
    let look = "import importlib.util as i; exit(not all(map(i.find_spec, ['torch', 'transformers'])))";
    let found = python().args(["-c", look]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.is_ok_and(|status| status.success())
}

fn reads_the_shards_we_save() -> Result<(), Failed> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/engine_fixtures");
    let record: serde_json::Value = serde_json::from_slice(&std::fs::read(fixtures.join("cases.json"))?)?;
    let root = tempfile::tempdir()?;
    for case in record["cases"].as_array().ok_or("no cases")? {
        let name = case["name"].as_str().ok_or("a case without a name")?;
        let (original, saved) = (fixtures.join(name), root.path().join(name));
        std::fs::create_dir(&saved)?;
        let config = LlamaConfig::read(&original.join("config.json"))?;
        let weights = load_weights(&original, &config, &mut |_, _| ())?;
        save_model(&saved, &config, &weights, DType::F32, SHARD_BYTES)?;
    }
    let answer = python().arg(fixtures.join("make.py")).arg("--saved").arg(root.path()).output()?;
    let text = String::from_utf8_lossy(&answer.stdout);
    eprint!("{text}");
    if answer.status.success() {
        return Ok(());
    }
    Err(format!("{text}{}", String::from_utf8_lossy(&answer.stderr)).into())
}

fn main() {
    let arguments = Arguments::from_args();
    let trial = Trial::test("transformers_reads_the_shards_we_save", reads_the_shards_we_save);
    libtest_mimic::run(&arguments, vec![trial.with_ignored_flag(!has_transformers())]).exit();
}
