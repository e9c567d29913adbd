//! Damaged and mismatched models, one by one: each is refused with the file or the tensor in the message.

use std::fs;
use std::path::Path;

use longgen_runtime::model::{
    LlamaConfig, ModelError, Params, SHARD_BYTES, SINGLE_FILE, Tokenizer, load_weights, save_model,
};
use longgen_runtime::problem::DType;
use tempfile::TempDir;

const CONFIG: &str = r#"{"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2,
    "vocab_size": 24, "model_type": "llama", "architectures": ["LlamaForCausalLM"]}"#;

fn config() -> LlamaConfig {
    LlamaConfig::parse(CONFIG).unwrap()
}

fn saved(dtype: DType) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    save_model(folder.path(), &config(), &Params::random(&config(), 1), dtype, SHARD_BYTES).unwrap();
    folder
}

fn load(folder: &Path, config: &LlamaConfig) -> Result<Params, ModelError> {
    load_weights(folder, config, &mut |_, _| ())
}

fn fixture(name: &str) -> TempDir {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/engine_fixtures").join(name);
    let folder = tempfile::tempdir().unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    folder
}

#[test]
fn every_type_of_file_loads_and_progress_ends_at_all() {
    let exact = Params::random(&config(), 1);
    for (dtype, unit) in [(DType::F32, 0.0), (DType::Bf16, 1.0 / 256.0), (DType::F16, 1.0 / 2048.0)] {
        let folder = saved(dtype);
        let mut last = (0, 1);
        let loaded = load_weights(folder.path(), &config(), &mut |done, all| last = (done, all)).unwrap();
        assert_eq!(last.0, last.1);
        assert!(loaded.data().iter().zip(exact.data()).all(|(l, e)| (l - e).abs() <= unit * e.abs() + 1e-7));
    }
}

#[test]
fn a_model_saved_in_shards_is_the_same_model() {
    let weights = Params::random(&config(), 1);
    let largest = weights.table().entries().iter().map(|entry| 4 * entry.range().len()).max().unwrap();
    for limit in [1, largest, 2 * largest] {
        let folder = tempfile::tempdir().unwrap();
        save_model(folder.path(), &config(), &weights, DType::F32, limit).unwrap();
        assert!(!folder.path().join(SINGLE_FILE).exists());
        let mut files: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap()).collect();
        files.retain(|file| file.path().extension().is_some_and(|extension| extension == "safetensors"));
        assert!(files.len() > 1);
        // A header lists names and shapes: far below 64 KiB here.
        assert!(
            files
                .iter()
                .all(|file| file.metadata().unwrap().len() <= (limit.max(largest) + (64 << 10)) as u64)
        );
        assert_eq!(load(folder.path(), &config()).unwrap(), weights);
    }
}

#[test]
fn a_missing_file_and_a_missing_shard() {
    let folder = saved(DType::F32);
    fs::remove_file(folder.path().join(SINGLE_FILE)).unwrap();
    assert!(matches!(load(folder.path(), &config()), Err(ModelError::NoWeights { .. })));
    let sharded = fixture("documents");
    let config = LlamaConfig::read(&sharded.path().join("config.json")).unwrap();
    fs::remove_file(sharded.path().join("model-00002-of-00002.safetensors")).unwrap();
    let error = load(sharded.path(), &config).unwrap_err();
    assert!(matches!(&error, ModelError::MissingShard { .. }), "{error}");
    assert!(error.to_string().contains("model-00002-of-00002.safetensors"), "{error}");
}

#[test]
fn every_truncation_is_noticed() {
    let folder = saved(DType::F32);
    let path = folder.path().join(SINGLE_FILE);
    let whole = fs::read(&path).unwrap();
    for keep in [0, 1, 7, 8, 9, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..keep]).unwrap();
        let error = load(folder.path(), &config()).unwrap_err();
        assert!(
            matches!(error, ModelError::Safetensors { .. } | ModelError::Io { .. }),
            "{keep} bytes: {error}"
        );
    }
}

#[test]
fn a_header_that_lies() {
    let folder = saved(DType::F32);
    let path = folder.path().join(SINGLE_FILE);
    let whole = fs::read(&path).unwrap();
    let header_end = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8(whole[8..header_end].to_vec()).unwrap();
    let with_header = |header: &str, claimed: u64| {
        let bytes = [&claimed.to_le_bytes()[..], header.as_bytes(), &whole[header_end..]].concat();
        fs::write(&path, bytes).unwrap();
        let error = load(folder.path(), &config()).unwrap_err();
        assert!(matches!(error, ModelError::Safetensors { .. }), "{error}");
    };
    let length = header.len() as u64;
    with_header(&header, u64::MAX);
    with_header(&header, length - 1);
    with_header(&header.replace("[24,16]", "[24,99]"), length);
    with_header(&header.replacen("\"data_offsets\":[0,", "\"data_offsets\":[4,", 1), length);
}

#[test]
fn tensors_that_do_not_belong() {
    let folder = saved(DType::F32);
    let wider = LlamaConfig::parse(&CONFIG.replace("\"vocab_size\": 24", "\"vocab_size\": 32")).unwrap();
    let error = load(folder.path(), &wider).unwrap_err();
    let expected = "model.safetensors`: tensor `lm_head.weight` has shape [24, 16], but the configuration implies [32, 16]";
    assert!(error.to_string().ends_with(expected), "{error}");
    let deeper = CONFIG.replace("\"num_hidden_layers\": 1", "\"num_hidden_layers\": 2");
    let error = load(folder.path(), &LlamaConfig::parse(&deeper).unwrap()).unwrap_err();
    assert!(matches!(&error, ModelError::MissingTensor { name, .. } if name.contains("layers.1")), "{error}");
    let path = folder.path().join(SINGLE_FILE);
    let whole = fs::read(&path).unwrap();
    let renamed = |from: &str, to: &str| {
        let at = whole.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        let mut bytes = whole.clone();
        bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
        fs::write(&path, bytes).unwrap();
        load(folder.path(), &config()).unwrap_err()
    };
    let error = renamed("self_attn.q_proj.weight", "self_attn.q_proj.bias  ");
    assert!(matches!(error, ModelError::UnexpectedTensor { .. }), "{error}");
    assert!(error.to_string().contains("model.safetensors`: tensor `model.layers.0"), "{error}");
    let error = renamed("\"F32\"", "\"I32\"");
    assert!(matches!(error, ModelError::TensorType { .. }), "{error}");
}

#[test]
fn configurations_that_are_no_llama() {
    let refused = |from: &str, to: &str| {
        assert!(CONFIG.contains(from));
        LlamaConfig::parse(&CONFIG.replace(from, to)).unwrap_err()
    };
    assert_eq!(refused("\"hidden_size\": 16, ", ""), "`hidden_size` is missing");
    assert!(refused("16", "0").contains("`hidden_size` must be a whole number from 1"));
    assert!(refused("16", "99999999999999").contains("`hidden_size`"));
    let layers = CONFIG
        .replace("20", "16000000")
        .replace("\"num_hidden_layers\": 1", "\"num_hidden_layers\": 16000000");
    assert!(LlamaConfig::parse(&layers).unwrap_err().contains("weights, more than"));
    assert!(refused("\"llama\"", "\"gpt2\"").contains("`llama` and `mistral`"));
    assert!(refused("\"vocab_size\": 24", "\"vocab_size\": 24, \"attention_bias\": true").contains("biases"));
    assert!(
        refused("\"vocab_size\": 24", "\"vocab_size\": 24, \"num_key_value_heads\": 3").contains("shared")
    );
    let rope = |scaling: &str| {
        refused("\"vocab_size\": 24", &format!("\"vocab_size\": 24, \"rope_scaling\": {scaling}"))
    };
    assert!(rope(r#"{"rope_type": "longrope"}"#).contains("`longrope` is not supported"));
    let yarn = r#"{"rope_type": "yarn", "factor": 4, "rope_theta": 1}"#;
    assert!(rope(yarn).contains("not finite"));
    assert!(rope(r#"{"rope_type": "linear"}"#).contains("lacks `factor`"));
    assert!(rope(r#"{"rope_type": "linear", "factor": 0}"#).contains("above 0"));
    assert!(refused("\"vocab_size\": 24,", "\"vocab_size\": ,").contains("line 2"));
}

#[test]
fn a_missing_or_foreign_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    let error = Tokenizer::load(folder.path(), 32_000).unwrap_err();
    assert!(matches!(error, ModelError::NoTokenizer { vocabulary: 32_000, .. }), "{error}");
    assert!(matches!(Tokenizer::load(folder.path(), 257), Ok(Tokenizer::Bytes)));
    let file = folder.path().join("tokenizer.json");
    fs::write(&file, "{").unwrap();
    assert!(matches!(Tokenizer::load(folder.path(), 257), Err(ModelError::Tokenizer { .. })));
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/engine_fixtures/tokenizer.json"), &file)
        .unwrap();
    let error = Tokenizer::load(folder.path(), 5).unwrap_err();
    assert!(matches!(error, ModelError::Vocabulary { model: 5, .. }), "{error}");
    let tokenizer = Tokenizer::load(folder.path(), 96).unwrap();
    let tokens = tokenizer.encode("the window, the sink").unwrap();
    assert_eq!(tokens[0], 0, "the tokenizer's own first token");
    assert_eq!(tokenizer.decode(&tokens).unwrap(), "the window, the sink");
}
