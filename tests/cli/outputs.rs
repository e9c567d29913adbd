//! What commands write when all goes well.

use serde_json::Value;

use super::{fails, names_in, path, succeeds};

#[test]
fn pictures() {
    let folder = tempfile::tempdir().unwrap();
    let (png, svg) = (folder.path().join("mask.png"), folder.path().join("mask.svg"));
    for (file, heads) in [(&png, "0,1,2"), (&svg, "5")] {
        succeeds(&["show", "phi3-small", "--length", "8k", "--head", heads, "-o", path(file)]);
    }
    assert!(std::fs::read(&png).unwrap().starts_with(b"\x89PNG"));
    let svg = std::fs::read_to_string(&svg).unwrap();
    for part in ["<svg", "KV head 5", "key (token)", "query (token)", "partial tile", "</svg>"] {
        assert!(svg.contains(part), "no {part} in the picture");
    }
}

#[test]
fn stages_parse_back() {
    let text = succeeds(&["emit", "phi3-small", "--stage", "pattern"]);
    assert_eq!(text, succeeds(&["emit", text.trim(), "--stage", "pattern"]));
    let folder = tempfile::tempdir().unwrap();
    let toml = folder.path().join("pattern.toml");
    std::fs::write(&toml, succeeds(&["emit", "phi3-small", "--stage", "toml"])).unwrap();
    assert_eq!(text, succeeds(&["emit", path(&toml), "--stage", "pattern"]));
    let ir = succeeds(&["emit", "phi3-small", "--stage", "ir"]);
    assert_eq!(ir.parse::<longgen_codegen::ir::MaskIr>().unwrap().to_string(), ir);
    let schedule = succeeds(&["emit", "phi3-small", "--stage", "schedule", "--pass", "forward"]);
    assert!(schedule.trim().parse::<longgen_codegen::schedule::Schedule>().is_ok(), "{schedule}");
}

#[test]
fn sources_without_nvrtc() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let arguments =
        ["compile", "duo", "--emit", "cu,clif,json", "--head-dim", "64", "-o", path(&output), "--json"];
    let printed = succeeds(&arguments);
    let manifest: Value =
        serde_json::from_str(&std::fs::read_to_string(output.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest, serde_json::from_str::<Value>(&printed).unwrap());
    assert_eq!(manifest["head_dim"], 64);
    assert_eq!(manifest["missing"], serde_json::json!([]));
    assert!(manifest["cpu"]["worst_error"].as_f64().unwrap() < 1e-5);
    let names = names_in(&output);
    for kernel in manifest["cuda"].as_array().unwrap() {
        let file = kernel["files"]["cu"].as_str().unwrap().to_string();
        assert!(names.contains(&file), "{file} is missing in {names:?}");
    }
    assert!(names.contains(&"attention_cpu.clif".to_string()));
    assert!(names.iter().all(|name| !name.ends_with(".part")), "{names:?}");
}

/// A backward of this head dimension spills in every schedule; the rest is there.
#[test]
fn a_pass_that_does_not_fit_is_named() {
    let doctor: Value = serde_json::from_str(&succeeds(&["doctor", "--json"])).unwrap();
    if doctor["nvrtc"]["found"] != true {
        eprintln!("skipped: no NVRTC");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    // An architecture that stands twice is built once.
    let size = ["--head-dim", "224", "--arch", "sm_80,sm_80"];
    let text =
        succeeds(&[&["compile", "mistral", "--emit", "cubin,json", "-o", path(&output)], &size[..]].concat());
    assert!(text.contains("none: `attention_backward_") && text.contains("spills registers"), "{text}");
    let manifest: Value =
        serde_json::from_str(&std::fs::read_to_string(output.join("manifest.json")).unwrap()).unwrap();
    let passes: Vec<&str> =
        manifest["cuda"].as_array().unwrap().iter().map(|kernel| kernel["pass"].as_str().unwrap()).collect();
    assert_eq!(passes, ["forward", "decode"]);
    let missing = manifest["missing"].as_array().unwrap();
    assert_eq!((&missing[0]["pass"], &missing[0]["target"]), (&"backward".into(), &"sm_80".into()));
    assert!(missing[0]["reason"].as_str().unwrap().contains("spills registers"), "{missing:?}");
    assert_eq!(missing.len(), 1);
    let file = folder.path().join("kernels.lgk");
    for (passes, size, advice) in [
        ("backward", "224", "nothing else was asked for"),
        ("forward,backward", "224", "leave it out, by `--pass forward`"),
        // Heads of 64 have one.
        ("forward,backward,decode", "64,224", "--arch sm_80 --pass forward,decode`"),
    ] {
        let bundle = ["bundle", "mistral", "--arch", "sm_80", "-o", path(&file), "--head-dim", size];
        let words = ["no backward of `mistral`", "for D 224, bf16 on sm_80", "spills registers", advice];
        fails(&[&bundle[..], &["--pass", passes]].concat(), 1, &words);
    }
}

#[test]
fn check_of_every_preset() {
    for preset in ["duo", "gpt-oss", "window=40; softcap=5.0", "where(q - k < 20 || k % 7 == head)"] {
        let json = succeeds(&["check", preset, "--head-dim", "32", "--dtype", "f32,bf16", "--json"]);
        let table: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(table["holds"], true);
        let outputs = table["problems"][0]["outputs"].as_array().unwrap();
        assert!(outputs.iter().all(|output| output["error"].as_f64() <= output["limit"].as_f64()));
    }
}

#[test]
fn doctor_finds_a_processor() {
    let findings: Value = serde_json::from_str(&succeeds(&["doctor", "--json"])).unwrap();
    assert_eq!(findings["cpu"]["found"], true);
    let missing = ["nvrtc", "driver", "nvdisasm"].into_iter().filter(|tool| findings[tool]["found"] == false);
    for tool in missing {
        assert!(findings[tool]["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()));
    }
}
