//! The engine's commands as a user runs them: train, stop, resume, a recipe of two passes, generate, eval, plot.

use std::fs;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const CONFIG: &str = r#"{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 257, "initializer_range": 0.08, "max_position_embeddings": 256}"#;

struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("tiny.json"), CONFIG).unwrap();
        let text = "the window slides over the keys, and the sink stays where it is; ".repeat(60);
        fs::write(folder.path().join("data.txt"), text).unwrap();
        Place { folder }
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lgc"));
        // Quoted words do not occur; patterns are written without spaces.
        command.args(arguments.split_whitespace()).current_dir(self.folder.path());
        command
    }

    fn run(&self, arguments: &str) -> Output {
        self.command(arguments).output().unwrap()
    }

    #[track_caller]
    fn done(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn refused(&self, arguments: &str, code: i32, message: &str) {
        let output = self.run(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments}: {error}");
        assert!(error.contains(message), "{arguments}: {error}");
    }

    fn losses(&self, run: &str) -> Vec<String> {
        let log = fs::read_to_string(self.folder.path().join(run).join("log.jsonl")).unwrap();
        let loss = |line: &str| {
            let json: serde_json::Value = serde_json::from_str(line).unwrap();
            format!("{} {}", json["step"], json["loss"])
        };
        log.lines().map(loss).collect()
    }
}

const TRAIN: &str = "train --init tiny.json --data data.txt --pattern sink=2,window=9 --sequence-tokens 64 \
                     --batch-sequences 2 --warmup-steps 2 --learning-rate 1e-2 --document-mask";

#[test]
fn train_generate_evaluate_and_draw() {
    let place = Place::new();
    let out = place.done(&format!("{TRAIN} --out run --steps 30 --save-every 20 --weights bf16"));
    assert!(out.contains("pattern  sink=2, window=9") && out.contains("step 30/30: loss"), "{out}");
    let losses = place.losses("run");
    let value = |line: &String| line.split(' ').nth(1).unwrap().parse::<f64>().unwrap();
    assert!(value(&losses[29]) < 0.8 * value(&losses[0]), "{losses:?}");

    let text = place.done("generate --model run --prompt the --new-tokens 12 --chunk 2");
    assert_eq!(text.trim_end_matches('\n').len(), 12, "{text:?}");
    let one =
        place.done("generate --model run --prompt the --new-tokens 12 --temperature 1 --seed 4 --stats");
    assert_eq!(one, place.done("generate --model run --prompt the --new-tokens 12 --temperature 1 --seed 4"));
    let batch = place.done("generate --model run --prompt the --prompt window --new-tokens 4");
    assert!(batch.contains("--- 0 ---") && batch.contains("--- 1 ---"), "{batch}");

    let perplexity = place.done("eval perplexity --model run --data data.txt --window 64");
    assert!(perplexity.starts_with("perplexity ") && perplexity.contains("nats over"), "{perplexity}");
    let needle = place
        .done("eval needle --model run --filler data.txt --lengths 80,100 --depths 2 --trials 1 -o map.png");
    assert_eq!(needle.lines().count(), 5, "{needle}");
    place.done("plot run -o loss.svg");
    place.done("plot run run/log.jsonl -o loss.png");
    for picture in ["map.png", "loss.svg", "loss.png"] {
        assert!(fs::metadata(place.folder.path().join(picture)).unwrap().len() > 1000);
    }
}

/// Starts a long training and waits until its log has a few lines.
fn started(place: &Place, out: &str) -> Child {
    let mut command = place.command(&format!("{TRAIN} --out {out} --steps 100000 --save-every 100000"));
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let log = place.folder.path().join(out).join("log.jsonl");
    let begun = Instant::now();
    while fs::read_to_string(&log).unwrap_or_default().lines().count() < 3 {
        assert!(begun.elapsed() < Duration::from_secs(120), "training did not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_a_checkpoint_and_a_second_training_is_kept_out() {
    let place = Place::new();
    let mut child = started(&place, "run");
    place.refused(&format!("{TRAIN} --out run --steps 5"), 1, "another training is running");
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(child.wait().unwrap().success());
    let losses = place.losses("run");
    let newest = longgen_runtime::train::checkpoint::checkpoints(&place.folder.path().join("run")).unwrap();
    assert_eq!(newest.last().unwrap().0 as usize, losses.len());
    place.done("generate --model run --prompt the --new-tokens 3");
    place.refused(&format!("{TRAIN} --out run --steps 5"), 2, "already holds a training");
}

#[test]
fn a_killed_training_goes_on_with_the_same_losses() {
    let place = Place::new();
    place.done(&format!("{TRAIN} --out whole --steps 8 --save-every 3"));
    let mut child = place
        .command(&format!("{TRAIN} --out broken --steps 8 --save-every 3"))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    while !place.folder.path().join("broken/step-00000003").exists() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
    // It may have finished already on a fast machine; resuming then has nothing to do.
    let _ = child.kill();
    child.wait().unwrap();
    place.done(&format!("{TRAIN} --out broken --steps 8 --save-every 3 --resume"));
    assert_eq!(place.losses("whole"), place.losses("broken"));
}

#[test]
fn a_recipe_of_two_passes_changes_length_rope_and_plan() {
    let place = Place::new();
    let recipe = r#"
        [[pass]]
        name = "short"
        init = "tiny.json"
        data = "data.txt"
        pattern = "full"
        sequence_tokens = 32
        steps = 4
        [[pass]]
        name = "long"
        data = "data.txt"
        pattern = "hybrid.toml"
        rope_base = 50000.0
        rope_scaling = "yarn:4:256"
        sequence_tokens = 128
        batch_sequences = 1
        steps = 3
    "#;
    fs::write(place.folder.path().join("recipe.toml"), recipe).unwrap();
    let hybrid = "sink = 2\nwindow = 8\n[layers]\ncount = 3\nfull = 1\n";
    fs::write(place.folder.path().join("hybrid.toml"), hybrid).unwrap();
    place.done("train --recipe recipe.toml --out two");
    let config = fs::read_to_string(place.folder.path().join("two/long/step-00000003/config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    assert_eq!(
        (&config["rope_theta"], &config["rope_scaling"]["rope_type"]),
        (&50000.0.into(), &"yarn".into())
    );
    let stored = place.folder.path().join("two/long/step-00000003/pattern.toml");
    assert!(fs::read_to_string(stored).unwrap().contains("[layers]"));
    // Done passes are left as they are, their rotary embedding too.
    let again = place.done("train --recipe recipe.toml --out two");
    assert!(!again.contains("saved"), "{again}");
    fs::write(place.folder.path().join("bad.toml"), "[[pass]]\nstepz = 4\n").unwrap();
    place.refused("train --recipe bad.toml --out three", 2, "stepz");
}

#[test]
fn a_large_vocabulary_without_a_tokenizer_trains_on_tokens_only() {
    let place = Place::new();
    let at = |name: &str| place.folder.path().join(name);
    fs::write(at("tiny.json"), CONFIG.replace("257", "1000")).unwrap();
    place.refused(&format!("{TRAIN} --out run --steps 1"), 1, "data.txt` is text, and there is no tokenizer");
    let tokens: Vec<u8> = (0..600u16).flat_map(u16::to_le_bytes).collect();
    fs::write(at("data.u16"), tokens).unwrap();
    let train = TRAIN.replace("data.txt", "data.u16");
    place.done(&format!("{train} --out run --steps 2"));
    place.done(&format!("{train} --out run --steps 2 --resume"));
    let message = "`steps` = 2, not 3";
    place.refused(&format!("{train} --out run --steps 3 --resume"), 1, message);
}

#[test]
fn a_folder_called_like_a_pattern_is_not_meant() {
    let place = Place::new();
    fs::create_dir(place.folder.path().join("full")).unwrap();
    place.done(&format!("{} --out run --steps 1", TRAIN.replace("sink=2,window=9", "full")));
}

#[test]
fn what_the_gpu_does_not_take_is_said() {
    let place = Place::new();
    place.done(&format!("{TRAIN} --out run --steps 1"));
    // Heads of 8 are for the CPU; without a driver that is what is missing first.
    let has_driver = longgen_runtime::driver::Device::count().is_ok_and(|count| count > 0);
    let message = if has_driver { "`head_dim` is 8" } else { "NVIDIA GPU" };
    place.refused("generate --model run --prompt a --device cuda", 1, message);
    place.refused("eval perplexity --model run --data data.txt --device cuda", 1, message);
    place.refused(&format!("{TRAIN} --out other --steps 1 --device cuda"), 1, message);
    place.refused("generate --model run --prompt a --device gpu", 2, "cuda");
}

#[test]
fn what_is_wrong_is_said_with_its_exit_code() {
    let place = Place::new();
    // Files without an end, folders, bytes that are no text.
    place.refused("train --init /dev/zero --data data.txt --pattern full --out zero", 1, "16777216 bytes");
    fs::write(place.folder.path().join("latin.txt"), b"caf\xe9").unwrap();
    place.refused("generate --model run --prompt-file latin.txt", 1, "`latin.txt` is no text");
    place.refused("generate --model run --prompt-file .", 1, "`.` is a directory");
    place.refused("eval perplexity --model run --data latin.txt", 1, "`latin.txt` is no text");
    let train = |change: &str| format!("{TRAIN} --out run {change}");
    place.refused("train --out run --data data.txt", 2, "--model DIR or --init FILE");
    place.refused(&train("--learning-rate=-1"), 2, "cannot be used multiple times");
    place.refused(
        "train --init tiny.json --data data.txt --pattern full --out run --clip-norm=-1",
        2,
        "`clip_norm`",
    );
    place.refused("train --init tiny.json --pattern full --out run", 2, "--data");
    place.refused("train --init none.json --data data.txt --pattern full --out run", 1, "none.json");
    place.refused("train --init tiny.json --data none --pattern full --out run", 1, "none");
    place.refused("train --init tiny.json --data data.txt --pattern gpt-oss --out run", 1, "sink logits");
    place.refused(&train("--resume"), 1, "no model directory");
    place.refused(&train("--rope-scaling dynamic:2"), 2, "no rotary scaling");
    place.refused("generate --model none --prompt a", 1, "no model directory");
    assert!(!place.folder.path().join("run").exists());
    place.done(&train("--steps 1"));
    let state = place.folder.path().join("run/step-00000001/training.json");
    let whole = fs::read(&state).unwrap();
    // 17 MB without a byte on the disk.
    fs::File::create(&state).unwrap().set_len(17 << 20).unwrap();
    place.refused(&train("--steps 2 --resume"), 1, "16777216 bytes, which is no state of a training");
    fs::write(&state, whole).unwrap();
    place.refused("generate --model run --prompt a --new-tokens 300", 1, "do not fit");
    place.refused("generate --model run --prompt a --threads 100000", 2, "--threads 100000 is too many");
    place.refused("eval perplexity --model run --data data.txt --window 1", 2, "--window 1 is too short");
    place.refused("plot none -o loss.png", 1, "there is no log `none`");
    place.refused("generate --model run", 2, "nothing to continue");
    place.refused("generate --model run --prompt a --top-p 0", 2, "top-p");
    place.refused("plot run -o loss.gif", 2, "the name says what to draw");
}
