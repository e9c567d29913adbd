//! Training runs: losses fall, a resumed run is the unbroken one to the bit, and nothing that happens to the process or
//! the disk costs more than the newest checkpoint.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use longgen_codegen::pattern::Pattern;
use longgen_runtime::model::{Llama, LlamaConfig, Params, SINGLE_FILE, Tokenizer};
use longgen_runtime::problem::DType;
use longgen_runtime::train::checkpoint::{ModelFiles, checkpoints};
use longgen_runtime::train::{
    Dataset, Event, LOG_FILE, OptimizerConfig, Outcome, Placement, RunDirectory, Saving, StepReport,
    TrainError, TrainSettings, Trainer, read_log,
};

const EVERY: Saving = Saving { every: 2, keep: 2 };

struct Setting {
    model: Llama,
    data: Dataset,
    settings: TrainSettings,
    pattern: &'static str,
}

impl Setting {
    fn new() -> Setting {
        let config = LlamaConfig::parse(
            r#"{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
                "num_key_value_heads": 2, "vocab_size": 257, "initializer_range": 0.08}"#,
        )
        .unwrap();
        let pattern: Pattern = "sink=2, window=8".parse().unwrap();
        let text = "the window slides over the keys and the sink stays where it is; ".repeat(20);
        let documents = (0..4).map(|n| Tokenizer::Bytes.encode(&text[n * 5..]).unwrap());
        let settings = TrainSettings {
            steps: 6,
            sequence_tokens: 48,
            batch_sequences: 2,
            accumulate: 2,
            learning_rate: 1e-2,
            min_learning_rate: 1e-3,
            warmup_steps: 2,
            document_mask: true,
            optimizer: OptimizerConfig { weights: DType::Bf16, ..OptimizerConfig::default() },
            ..TrainSettings::default()
        };
        let model = Llama::new(config, &pattern).unwrap();
        Setting {
            model,
            data: Dataset::from_documents(documents),
            settings,
            pattern: "sink = 2\nwindow = 8\n",
        }
    }

    fn files(&self) -> ModelFiles<'_> {
        ModelFiles { config: self.model.config(), pattern: self.pattern, tokenizer: None }
    }

    fn start(&self, directory: &Path) -> Result<Trainer<'_>, TrainError> {
        let weights = Params::random(self.model.config(), 7);
        let directory = RunDirectory::open(directory)?;
        Trainer::start(
            &self.model,
            &self.data,
            self.files(),
            directory,
            self.settings.clone(),
            weights,
            Placement::Cpu,
        )
    }

    fn resume(&self, directory: &Path) -> Result<Trainer<'_>, TrainError> {
        let directory = RunDirectory::open(directory)?;
        Trainer::resume(
            &self.model,
            &self.data,
            self.files(),
            directory,
            self.settings.clone(),
            Placement::Cpu,
        )
    }
}

fn run(trainer: &mut Trainer<'_>) -> Outcome {
    trainer.run(EVERY, &AtomicBool::new(false), |_| ()).unwrap()
}

fn run_to_error(trainer: &mut Trainer<'_>) -> TrainError {
    trainer.run(EVERY, &AtomicBool::new(false), |_| ()).unwrap_err()
}

/// Runs until `step` is done, as Ctrl-C would end it.
fn run_until(trainer: &mut Trainer<'_>, step: u64) -> Outcome {
    let stop = AtomicBool::new(false);
    let tell = |event: Event<'_>| {
        if matches!(event, Event::Step(report) if report.step == step) {
            stop.store(true, Ordering::Relaxed);
        }
    };
    trainer.run(EVERY, &stop, tell).unwrap()
}

fn losses(directory: &Path) -> Vec<(u64, u64)> {
    let log = read_log(&directory.join(LOG_FILE)).unwrap();
    log.iter().map(|report: &StepReport| (report.step, report.loss.to_bits())).collect()
}

fn steps(directory: &Path) -> Vec<u64> {
    checkpoints(directory).unwrap().into_iter().map(|(step, _)| step).collect()
}

#[test]
fn losses_fall() {
    let mut setting = Setting::new();
    setting.settings.steps = 40;
    let directory = tempfile::tempdir().unwrap();
    // One checkpoint, at the end: each waits for the disk.
    let saving = Saving { every: 100, keep: 1 };
    setting.start(directory.path()).unwrap().run(saving, &AtomicBool::new(false), |_| ()).unwrap();
    let log = read_log(&directory.path().join(LOG_FILE)).unwrap();
    let (first, last) = (log[0].loss, log[39].loss);
    assert!((5.0..6.5).contains(&first) && last < 0.6 * first, "{first} to {last}");
    assert!(log.iter().all(|report| report.model_flops_per_second.unwrap() > 0.0 && report.tokens == 192));
}

#[test]
fn a_resumed_run_is_the_unbroken_one_to_the_bit() {
    let setting = Setting::new();
    let (unbroken, broken) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut one = setting.start(unbroken.path()).unwrap();
    assert_eq!(run(&mut one), Outcome::Finished);
    assert_eq!(run_until(&mut setting.start(broken.path()).unwrap(), 3), Outcome::Stopped(3));
    assert_eq!(steps(broken.path()), [2, 3], "a stop saves a checkpoint");
    let mut two = setting.resume(broken.path()).unwrap();
    assert_eq!(two.step(), 3);
    assert_eq!(run(&mut two), Outcome::Finished);
    assert_eq!(one.weights().unwrap(), two.weights().unwrap());
    assert_eq!(losses(unbroken.path()), losses(broken.path()));
    let optimizer = |directory: &Path| {
        fs::read(checkpoints(directory).unwrap().pop().unwrap().1.join("optimizer.safetensors")).unwrap()
    };
    assert_eq!(optimizer(unbroken.path()), optimizer(broken.path()));
}

#[test]
fn recomputation_and_accumulation_change_nothing_or_little() {
    let setting = Setting::new();
    let train = |settings: TrainSettings| {
        let directory = tempfile::tempdir().unwrap();
        let setting = Setting { settings, ..Setting::new() };
        run(&mut setting.start(directory.path()).unwrap());
        losses(directory.path())
    };
    let base = train(setting.settings.clone());
    assert_eq!(train(TrainSettings { recompute: false, ..setting.settings.clone() }), base);
    let at_once = train(TrainSettings { accumulate: 1, batch_sequences: 4, ..setting.settings.clone() });
    for ((_, a), (_, b)) in at_once.iter().zip(&base) {
        let (a, b) = (f64::from_bits(*a), f64::from_bits(*b));
        assert!((a - b).abs() < 2e-3, "{a} {b}");
    }
}

#[test]
fn a_crash_leaves_the_last_checkpoint_whole() {
    let setting = Setting::new();
    let directory = tempfile::tempdir().unwrap();
    run_until(&mut setting.start(directory.path()).unwrap(), 4);
    // What a kill in the middle of a checkpoint and of a log line leaves behind.
    let partial = directory.path().join(".step-00000005");
    fs::create_dir(&partial).unwrap();
    fs::write(partial.join(SINGLE_FILE), b"half").unwrap();
    let log = directory.path().join(LOG_FILE);
    let text = fs::read_to_string(&log).unwrap();
    let later = text.lines().last().unwrap().replace("\"step\":4", "\"step\":5");
    fs::write(&log, format!("{text}{later}\n{{\"step\":6,\"lo")).unwrap();
    let mut trainer = setting.resume(directory.path()).unwrap();
    assert!(!partial.exists());
    run(&mut trainer);
    assert_eq!(
        losses(directory.path()).iter().map(|(step, _)| *step).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5, 6]
    );
    assert_eq!(steps(directory.path()), [4, 6], "two are kept");
}

#[test]
fn a_checkpoint_that_cannot_be_written_costs_nothing_else() {
    let setting = Setting::new();
    let directory = tempfile::tempdir().unwrap();
    let mut trainer = setting.start(directory.path()).unwrap();
    // A file where the checkpoint of step 4 would stand: it cannot get its name.
    fs::write(directory.path().join("step-00000004"), b"in the way").unwrap();
    let mut events = Vec::new();
    let blocked = directory.path().join("step-00000004");
    trainer
        .run(Saving { every: 2, keep: 9 }, &AtomicBool::new(false), |event| match event {
            Event::Saved(path) => events.push(path),
            Event::NotWritten(_) => events.push(PathBuf::new()),
            Event::Step(_) => (),
        })
        .unwrap();
    let names: Vec<PathBuf> = [2, 6].map(|step| directory.path().join(format!("step-{step:08}"))).into();
    assert_eq!(events, [names[0].clone(), PathBuf::new(), names[1].clone()]);
    assert!(blocked.is_file() && !directory.path().join(".step-00000004").exists());
}

#[test]
fn a_last_checkpoint_that_cannot_be_written_is_an_error_that_says_what_is_left() {
    let setting = Setting::new();
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("step-00000006"), b"in the way").unwrap();
    let error = run_to_error(&mut setting.start(directory.path()).unwrap());
    let TrainError::NotSaved { step: 6, kept, .. } = &error else { panic!("{error}") };
    assert!(kept.contains("the checkpoint of step 4 is whole"), "{kept}");
}

#[test]
fn a_damaged_checkpoint_is_refused_by_the_name_of_its_file() {
    for name in ["optimizer.safetensors", "training.json", "model.safetensors"] {
        let setting = Setting::new();
        let directory = tempfile::tempdir().unwrap();
        run_until(&mut setting.start(directory.path()).unwrap(), 2);
        let file = directory.path().join("step-00000002").join(name);
        let whole = fs::read(&file).unwrap();
        fs::write(&file, &whole[..whole.len() / 2]).unwrap();
        let error = setting.resume(directory.path()).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn more_memory_than_there_is_is_refused_before_it_is_taken() {
    let mut setting = Setting::new();
    setting.settings.batch_sequences = 1 << 40;
    let directory = tempfile::tempdir().unwrap();
    let error = setting.start(directory.path()).unwrap_err().to_string();
    assert!(error.contains("gradients and activations of a step would take"), "{error}");
}

#[test]
fn a_log_that_is_taken_up_again_keeps_its_digits() {
    let directory = tempfile::tempdir().unwrap();
    let run = RunDirectory::open(directory.path()).unwrap();
    let line = |step: u64| {
        format!(
            "{{\"step\":{step},\"loss\":3.8365139462002036,\"learning_rate\":0.001,\"gradient_norm\":1.0,\"tokens\":8,\
             \"seconds\":0.1,\"model_flops_per_second\":null}}\n"
        )
    };
    let path = directory.path().join("log.jsonl");
    fs::write(&path, line(1) + &line(2) + "{\"step\":3").unwrap();
    run.log_after(1).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), line(1));
}

#[test]
fn a_loss_that_is_not_a_number_stops_the_run() {
    let setting = Setting::new();
    let directory = tempfile::tempdir().unwrap();
    run_until(&mut setting.start(directory.path()).unwrap(), 2);
    let mut weights = Params::random(setting.model.config(), 7);
    let name = "model.layers.1.mlp.up_proj.weight";
    let entry = weights.table().entries().iter().find(|entry| entry.name == name).cloned().unwrap();
    weights.data_mut()[entry.range().start] = f32::NAN;
    let other = tempfile::tempdir().unwrap();
    let run_directory = RunDirectory::open(other.path()).unwrap();
    let mut trainer = Trainer::start(
        &setting.model,
        &setting.data,
        setting.files(),
        run_directory,
        setting.settings.clone(),
        weights,
        Placement::Cpu,
    )
    .unwrap();
    let error = run_to_error(&mut trainer);
    let TrainError::NotFinite { step, tensor, .. } = &error else { panic!("{error}") };
    assert_eq!((*step, tensor.as_str()), (1, name));
    assert!(steps(other.path()).is_empty());
}

#[test]
fn a_directory_belongs_to_one_training() {
    let setting = Setting::new();
    let directory = tempfile::tempdir().unwrap();
    let mut trainer = setting.start(directory.path()).unwrap();
    assert!(matches!(setting.resume(directory.path()), Err(TrainError::Locked { .. })));
    run_until(&mut trainer, 2);
    drop(trainer);
    assert!(matches!(setting.start(directory.path()), Err(TrainError::NotEmpty { step: 2, .. })));
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(setting.resume(empty.path()), Err(TrainError::NothingToResume { .. })));
    let mut other = Setting::new();
    other.settings.learning_rate = 0.5;
    let error = other.resume(directory.path()).unwrap_err();
    assert!(
        matches!(&error, TrainError::Changed { what, .. } if what == "`learning_rate` = 0.01, not 0.5"),
        "{error}"
    );
    let wider = Setting { pattern: "sink = 2\nwindow = 9\n", ..Setting::new() };
    let error = wider.resume(directory.path()).unwrap_err();
    assert!(matches!(&error, TrainError::Changed { what, .. } if what == "another pattern"), "{error}");
    let fewer = Dataset::from_documents([vec![1; 500]]);
    let error = Setting { data: fewer, ..Setting::new() }.resume(directory.path()).unwrap_err();
    assert!(matches!(&error, TrainError::Changed { what, .. } if what == "other data"), "{error}");
}

#[test]
fn data_of_every_form() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::create_dir(at("a")).unwrap();
    fs::write(at("a/one.txt"), "ab").unwrap();
    fs::write(at("a/.hidden"), "no").unwrap();
    fs::write(at("a/picture.png"), [0xff, 0xfe, 0x00]).unwrap();
    fs::write(at("b.jsonl"), "{\"text\": \"c\"}\n\n{\"input_ids\": [5, 6]}\n").unwrap();
    fs::write(at("c.u16"), [7, 0, 8, 0]).unwrap();
    fs::write(at("d.u32"), [9, 0, 0, 0]).unwrap();
    let data = Dataset::read(directory.path(), Some(&Tokenizer::Bytes), 257).unwrap();
    assert_eq!(data.tokens(), [256, 97, 98, 256, 99, 5, 6, 7, 8, 9]);
    assert_eq!((data.documents(), data.skipped()), (5, 1));
    let refused = |name: &str, bytes: &[u8]| {
        fs::write(at(name), bytes).unwrap();
        Dataset::read(&at(name), Some(&Tokenizer::Bytes), 257).unwrap_err().to_string()
    };
    assert!(refused("bad.jsonl", b"{\"text\": \"a\"}\n{\"txt\": 1}\n").contains("line 2: neither"));
    assert!(refused("odd.u16", &[1]).contains("in the middle of a token"));
    let large = refused("large.u32", &[1, 0, 0, 0, 0, 0, 1, 0]);
    assert!(
        large.contains("large.u32` has token 65536 at position 1, outside the vocabulary of 257"),
        "{large}"
    );
    assert!(refused("empty.txt", b"").contains("holds no text"));
    assert!(
        Dataset::read(&at("none"), Some(&Tokenizer::Bytes), 257).unwrap_err().to_string().contains("none")
    );
    fs::write(at("text.txt"), "a").unwrap();
    let error = Dataset::read(&at("text.txt"), None, 32_000).unwrap_err().to_string();
    assert!(
        error.contains("text.txt` is text, and there is no tokenizer for a vocabulary of 32000"),
        "{error}"
    );
    assert_eq!(Dataset::read(&at("c.u16"), None, 32_000).unwrap().tokens(), [7, 8]);
    let short = Dataset::from_documents([vec![1, 2, 3]]);
    let settings = TrainSettings { sequence_tokens: 4, ..TrainSettings::default() };
    assert!(matches!(short.batch(&settings, 0), Err(TrainError::TooLittleData { tokens: 3, needed: 4 })));
}
