//! `lgc tune` on the CPU, `lgc run` after it, and `lgc explain`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use super::tensors::Tensors;
use super::{Ran, command, fails, path, succeeds};

const PATTERN: &str = "sink=4, window=40";

/// `lgc` with this cache folder.
fn lgc(cache: &Path, arguments: &[&str]) -> Ran {
    let output = command(arguments).env("LONGGEN_CACHE", cache).output().expect("lgc starts");
    let text = |bytes| String::from_utf8(bytes).expect("lgc prints UTF-8");
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert!(!err.contains("panicked"), "{arguments:?} panicked:\n{err}");
    Ran { code: output.status.code().expect("lgc ends by itself"), out, err }
}

/// A model of two heads of 16, so that a measurement takes no time.
fn model(folder: &Path) -> PathBuf {
    let config = folder.join("config.json");
    let text = r#"{ "num_attention_heads": 2, "num_key_value_heads": 2, "hidden_size": 32, "num_hidden_layers": 1,
        "intermediate_size": 64, "vocab_size": 100 }"#;
    std::fs::write(&config, text).unwrap();
    config
}

fn tune(cache: &Path, model: &Path, options: &[&str]) -> Vec<Value> {
    tune_of(PATTERN, cache, model, options)
}

fn tune_of(pattern: &str, cache: &Path, model: &Path, options: &[&str]) -> Vec<Value> {
    let arguments = [&["tune", pattern, "--model", path(model), "--json"][..], options].concat();
    let ran = lgc(cache, &arguments);
    assert_eq!(ran.code, 0, "{}", ran.err);
    serde_json::from_str(&ran.out).expect("a list of reports")
}

#[test]
fn a_tune_is_remembered_and_used() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, model) = (folder.path().join("cache"), model(folder.path()));
    let tensors = Tensors::qkv(100, 2, 2, 16);
    let (input, output) = (tensors.write(), folder.path().join("o.safetensors"));
    let run = || {
        let ran = lgc(&cache, &["run", PATTERN, "--input", path(&input), "--output", path(&output)]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        ran.out
    };
    let untuned = run();
    assert!(untuned.contains("the model's choice") && untuned.contains("as many threads"), "{untuned}");
    let plot = folder.path().join("tune.svg");
    let options = ["--length", "128", "--pass", "forward,decode", "--budget", "10s"];
    let reports = tune(&cache, &model, &[&options[..], &["--plot", path(&plot)]].concat());
    assert_eq!(reports.len(), 2);
    let measured = |reports: &[Value]| reports.iter().map(|r| r["measured"].as_u64().unwrap()).sum::<u64>();
    let winner = |report: &Value| report["standings"][report["winner"].as_u64().unwrap() as usize].clone();
    assert!(measured(&reports) > 0 && reports.iter().all(|report| report["winner"].is_u64()));
    assert!(std::fs::read_to_string(folder.path().join("tune-forward-128.svg")).unwrap().contains("floor"));
    let text = run();
    let schedule = winner(&reports[0])["schedule"].as_str().unwrap().to_owned();
    assert!(text.contains(&format!("{schedule} (tuned)")), "{schedule} is not in {text}");
    let listed = lgc(&cache, &["cache", "list", "--json"]).out;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let shown = lgc(&cache, &["cache", "show", listed["tuned"][0]["id"].as_str().unwrap()]).out;
    assert!(shown.contains(" threads, cranelift") && !shown.contains("driver"), "{shown}");
    // The search is over: the same command measures nothing.
    if reports.iter().all(|report| report["finished"] == true) {
        assert_eq!(measured(&tune(&cache, &model, &options)), 0);
        let again = tune(&cache, &model, &[&options[..], &["--again"]].concat());
        assert!(measured(&again) > 0);
    }
}

/// A capped score is more work for the same blocking: each kind of call keeps and finds the choice that was timed for it.
#[test]
fn a_softcap_has_choices_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, model) = (folder.path().join("cache"), model(folder.path()));
    let capped = format!("{PATTERN}; softcap=20.0");
    let tensors = Tensors::qkv(100, 2, 2, 16);
    let (input, output) = (tensors.write(), folder.path().join("o.safetensors"));
    let config = path(&model).to_owned();
    let is_tuned = |pattern: &str| {
        let run = lgc(&cache, &["run", pattern, "--input", path(&input), "--output", path(&output)]);
        let explain = ["explain", pattern, "--device", "cpu", "--model", &config, "--no-source"];
        let explained = lgc(&cache, &explain);
        assert_eq!((run.code, explained.code), (0, 0), "{}{}", run.err, explained.err);
        let found = [run.out, explained.out].map(|text| text.contains("(tuned)"));
        assert_eq!(found[0], found[1], "`run` and `explain` disagree on {pattern}");
        found[0]
    };
    let options = ["--length", "128", "--pass", "forward", "--budget", "2s"];
    let choice = |pattern: &str| tune_of(pattern, &cache, &model, &options);
    let count = || {
        let listed = lgc(&cache, &["cache", "list", "--json"]).out;
        serde_json::from_str::<Value>(&listed).unwrap()["tuned"].as_array().unwrap().len()
    };
    choice(PATTERN);
    assert_eq!([PATTERN, &capped].map(is_tuned), [true, false]);
    choice(&capped);
    assert_eq!((count(), [PATTERN, &capped].map(is_tuned)), (2, [true, true]));
    // Every cap is the same work.
    assert!(is_tuned(&format!("{PATTERN}; softcap=30.0")));
}

/// The key tells neither how large a cap is nor the length within its bucket, and the times of one problem are not those of
/// another.
#[test]
fn problems_of_one_key_keep_measurements_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, model) = (folder.path().join("cache"), model(folder.path()));
    let [capped, more] = ["20.0", "30.0"].map(|cap| format!("{PATTERN}; softcap={cap}"));
    let tune = |pattern: &str, tokens: &str, again: &[&str]| {
        let options = ["--length", tokens, "--pass", "decode", "--budget", "1s"];
        let report = tune_of(pattern, &cache, &model, &[&options[..], again].concat()).remove(0);
        (report["resumed"].as_u64().unwrap(), report["measured"].as_u64().unwrap())
    };
    let (_, first) = tune(&capped, "128", &[]);
    assert!(first > 0);
    assert_eq!(tune(&more, "128", &[]).0, 0, "with another cap");
    for (pattern, tokens) in [(more.as_str(), "128"), (PATTERN, "128"), (capped.as_str(), "120")] {
        assert_eq!(tune(pattern, tokens, &["--again"]).0, 0);
        assert!(tune(&capped, "128", &[]).0 >= first, "another problem started over");
    }
}

#[cfg(unix)]
#[test]
fn an_interrupted_tune_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, model) = (folder.path().join("cache"), model(folder.path()));
    let arguments =
        ["tune", PATTERN, "--model", path(&model), "--length", "8k,16k", "--pass", "backward", "--json"];
    let mut child = command(&arguments);
    child.env("LONGGEN_CACHE", &cache).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = child.spawn().unwrap();
    // When the database is there, measuring has begun or is about to.
    while !cache.join("longgen.db").exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(700));
    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{err}");
    let first: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(first.len(), 1, "what was not begun is left for the next time");
    let before = first[0]["measured"].as_u64().unwrap();
    let options = ["--length", "8k", "--pass", "backward", "--budget", "1s"];
    let second = tune(&cache, &model, &options);
    assert_eq!(second[0]["resumed"], before, "what the interrupted run measured");
}

#[test]
fn candidates_are_explained() {
    let text = succeeds(&["tune", "longgen-stride", "--explain", "--length", "4k", "--pass", "forward"]);
    assert!(text.contains("worth a measurement") && text.contains("left out: "), "{text}");
    assert!(text.contains("copy_uses=never") && !text.contains(&u32::MAX.to_string()), "{text}");
    let text = succeeds(&["tune", PATTERN, "--explain", "--device", "cuda", "--length", "8k"]);
    for reason in ["shared memory are needed", "it would spill", "times as long as the first guess"] {
        assert!(text.contains(reason), "no candidate is left out because `{reason}`");
    }
    let backward = ["tune", PATTERN, "--explain", "--device", "cuda", "--length", "8k", "--pass", "backward"];
    for (option, wanted, other) in [
        (&[][..], "backward_fused", "backward_ordered"),
        (&["--deterministic"], "backward_ordered", "backward_fused"),
    ] {
        let text = succeeds(&[&backward[..], option].concat());
        assert!(text.contains(wanted) && !text.contains(other), "{option:?}");
    }
}

#[test]
fn kernels_are_explained() {
    let text = succeeds(&["explain", PATTERN, "--arch", "sm_90a"]);
    for part in ["wgmma", "bytes a block", "ms expected", "| __device__", ": constexpr int kTileM"] {
        assert!(text.contains(part), "no `{part}`");
    }
    // What runs untuned, and what the model would rather have.
    let decode = ["explain", "longgen-stride", "--pass", "decode", "--arch", "sm_90a", "--no-source"];
    let text = succeeds(&decode);
    let runs = succeeds(&["emit", "longgen-stride", "--stage", "schedule", "--arch", "sm_90a"]);
    let schedule =
        runs.lines().find_map(|line| line.strip_prefix("decode:")).expect("a decode kernel").trim();
    assert!(
        text.contains("(not tuned)") && text.contains(&format!("decode, sm_80 family: {schedule}")),
        "{text}"
    );
    assert!(text.contains("the model's first guess is another"), "{text}");
    let text = succeeds(&["explain", PATTERN, "--device", "cpu", "--pass", "backward"]);
    assert!(text.contains("lanes=") && text.contains("| ; next_keys"), "{text}");
}

#[test]
fn bad_requests() {
    fails(&["tune", PATTERN, "--length", "8k..4k"], 2, &["ascend"]);
    fails(&["tune", PATTERN, "--budget", "0s"], 2, &["90s"]);
    fails(&["tune", PATTERN, "--pass", "sideways"], 2, &["forward, backward or decode"]);
    fails(&["tune", PATTERN, "--plot", "tune.txt"], 2, &[".png"]);
    fails(&["tune", PATTERN, "--device", "cuda", "--dtype", "f32"], 2, &["bf16 and fp16"]);
    fails(&["tune", "window=0"], 2, &["window"]);
    fails(&["tune", PATTERN, "--model", "llama-9"], 2, &["llama-9"]);
    fails(&["explain", PATTERN, "--arch", "sm_70"], 2, &["sm_70"]);
    fails(&["explain", PATTERN, "--device", "cpu", "--arch", "sm_80"], 2, &["--device cuda"]);
}
