//! `lgc report --json`: keys, and numbers known from elsewhere.

use serde_json::Value;

use super::{lgc, path, succeeds};

fn report(arguments: &[&str]) -> Value {
    let all: Vec<&str> = ["report"].iter().chain(arguments).chain(&["--json"]).copied().collect();
    serde_json::from_str(&succeeds(&all)).unwrap()
}

fn near(value: &Value, expected: f64, tolerance: f64) {
    let found = value.as_f64().unwrap();
    assert!((found - expected).abs() <= tolerance, "{found}, expected {expected}");
}

#[test]
fn the_longgen_plan_of_llama_2_7b() {
    let report = report(&["longgen-sink", "--length", "131072", "--model", "llama-2-7b"]);
    near(&report["kv_bytes_dense"], 68.72e9, 0.005e9);
    near(&report["kv_bytes_kept"], 26.46e9, 0.005e9);
    near(&report["ideal_speedup"]["prefill"], 1.78, 0.005);
    near(&report["ideal_speedup"]["decode"], 2.07, 0.005);
    assert_eq!(report["monotone"], true);
    assert_eq!(report["empty_rows"], false);
    // One sink block and 32 blocks of window.
    assert_eq!(report["kept_keys"], Value::from(vec![2112; 32]));
    let by_layer = report["kv_bytes_by_layer"].as_array().unwrap();
    let full = by_layer.iter().filter(|bytes| bytes.as_u64() == Some(2 << 30)).count();
    assert_eq!((by_layer.len(), full), (32, 12));
}

#[test]
fn pairs_flops_and_bytes_add_up() {
    let report = report(&["sink=4, window=100", "--length", "1000", "--model", "llama-3-8b"]);
    // Rows 0..100 see i + 1 keys, rows 100..104 the sinks that the window has not left and no more than i + 1, ...
    let row = |i: u64| (0..=i).filter(|j| *j < 4 || i - j < 100).count() as u64;
    let pairs: u64 = (0..1000).map(row).sum::<u64>() * 32 * 32;
    assert_eq!(report["visible_pairs"], pairs);
    assert_eq!(report["dense_pairs"], 1000 * 1001 / 2 * 32 * 32);
    assert_eq!(report["flops_forward"], 4 * 128 * pairs);
    assert_eq!(report["flops_backward"], 10 * 128 * pairs);
    // The next query no longer sees key 900.
    assert_eq!(report["kept_keys"], Value::from(vec![104; 8]));
    assert_eq!(report["kv_bytes_kept"], 104 * 8 * 32 * 2 * 128 * 2);
    assert_eq!(report["kv_bytes_dense"], 1000 * 8 * 32 * 2 * 128 * 2);
}

#[test]
fn masks_that_cannot_free_slots_say_so() {
    let gaps = report(&["(window=90) - (window=30)", "--length", "4096"]);
    assert_eq!((&gaps["monotone"], &gaps["empty_rows"]), (&Value::Bool(true), &Value::Bool(true)));
    let returns = report(&["window=16 | (window=90) - (window=30)", "--length", "4096"]);
    assert_eq!((&returns["monotone"], &returns["empty_rows"]), (&Value::Bool(false), &Value::Bool(false)));
}

#[test]
fn coverage_of_the_heads() {
    let pattern = "stride=64, window=64";
    let narrow = report(&[pattern, "--length", "65536", "--model", "llama-3-8b"]);
    let coverage = &narrow["layers"][0]["coverage"][0];
    assert_eq!((&coverage["reached"], &coverage["stride"]), (&Value::from(8), &Value::from(64)));
    let text = succeeds(&["report", pattern, "--length", "65536", "--model", "llama-3-8b"]);
    assert!(text.contains("8 of 64"), "{text}");
}

#[test]
fn a_configuration_as_hugging_face_writes_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.json");
    let text = r#"{"architectures": ["LlamaForCausalLM"], "hidden_size": 2048, "intermediate_size": 8192,
        "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8, "head_dim": 64,
        "tie_word_embeddings": true, "torch_dtype": "bfloat16", "vocab_size": 128256}"#;
    std::fs::write(&config, text).unwrap();
    // What its model card says, but for the weights of the 33 norms.
    let weights = 1_235_814_400_u64 - 33 * 2048;
    // By itself, in the folder of a model, in the newest checkpoint of a training.
    let (run, newest) = (folder.path().join("run"), folder.path().join("run/step-00000002"));
    std::fs::create_dir_all(&newest).unwrap();
    std::fs::copy(&config, newest.join("config.json")).unwrap();
    for model in [path(&config), path(folder.path()), path(&run)] {
        let report = report(&["mistral", "--length", "32k", "--model", model]);
        assert_eq!(report["model"]["layers"], 16);
        assert_eq!(report["model"]["weight_bytes"], 2 * weights);
        assert_eq!(report["kv_bytes_dense"], 32768_u64 * 16 * 8 * 2 * 64 * 2);
    }
    let ran = lgc(&["report", "longgen-sink", "--length", "32k", "--model", config.to_str().unwrap()]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("32 layers") && ran.err.contains("16"), "{}", ran.err);
}

#[test]
fn numbers_past_64_bits() {
    let report = succeeds(&["report", "full", "--length", "1024M", "--json"]);
    assert!(report.contains("\"visible_pairs\": 590295810908461465600,"), "{report}");
}
