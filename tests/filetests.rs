//! File tests: a pattern in, one stage's text out. Each file below `tests/filetests` is a trial of its own:
//!
//! ```text
//! # what the file shows
//! stage = "ir"                    pattern | toml | ir | cuda | error
//! text = "sink=4, window=8"       or toml = '''...'''
//! ---
//! the expected output
//! ```
//! For `cuda`, `kernel` is `pass target head-dim type`; the output is the generated part, then the spliced templates' names.
//!
//! `LGC_BLESS=1 cargo test --test filetests` writes what comes out as what is expected.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};
use longgen::pattern::{Pattern, PatternError};
use longgen_codegen::cuda::source::CudaSource;
use longgen_codegen::ir::MaskIr;
use longgen_codegen::spec::{KernelSpec, Pass, PatternCode, Shape};

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/filetests");
    let mut paths = Vec::new();
    collect(&root, &mut paths);
    paths.sort();
    let trials = paths.into_iter().map(|path| {
        let name = path.strip_prefix(&root).unwrap_or(&path).with_extension("");
        Trial::test(name.display().to_string(), move || run(&path))
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder of the project").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "test") {
            paths.push(path);
        }
    }
}

fn run(path: &Path) -> Result<(), Failed> {
    let file = std::fs::read_to_string(path)?;
    let (head, expected) = file.split_once("---\n").ok_or("no line `---` between input and output")?;
    let found = output(&head.parse()?)?;
    if found == expected {
        return Ok(());
    }
    if std::env::var_os("LGC_BLESS").is_some() {
        return Ok(std::fs::write(path, format!("{head}---\n{found}"))?);
    }
    Err(format!("expected:\n{expected}\nfound:\n{found}\nLGC_BLESS=1 accepts this").into())
}

fn output(head: &toml::Table) -> Result<String, Failed> {
    let field = |key: &str| head.get(key).and_then(toml::Value::as_str);
    let pattern: Result<Pattern, PatternError> = match (field("text"), field("toml")) {
        (Some(text), None) => text.parse(),
        (None, Some(toml)) => Pattern::from_toml_str("pattern.toml", toml),
        _ => return Err("the input is either `text` or `toml`".into()),
    };
    let text = match (field("stage"), pattern) {
        (Some("error"), Err(error)) => error.to_string(),
        (Some("error"), Ok(pattern)) => return Err(format!("no error: {pattern}").into()),
        (_, Err(error)) => return Err(error.to_string().into()),
        (Some("pattern"), Ok(pattern)) => pattern.to_string(),
        (Some("toml"), Ok(pattern)) => pattern.to_toml(),
        (Some("ir"), Ok(pattern)) => {
            let layer = head.get("layer").and_then(toml::Value::as_integer);
            let layer = layer.map(u32::try_from).transpose()?;
            MaskIr::lower(&pattern, layer)?.to_string()
        }
        (Some("cuda"), Ok(pattern)) => cuda(&pattern, field("kernel").ok_or("no `kernel`")?)?,
        (stage, _) => return Err(format!("no stage {stage:?}").into()),
    };
    Ok(text.trim_end().to_string() + "\n")
}

/// The generated part of a kernel's source, and which templates follow it, in the order of their first lines.
fn cuda(pattern: &Pattern, kernel: &str) -> Result<String, Failed> {
    let [pass, target, head_dim, dtype] = kernel.split_whitespace().collect::<Vec<_>>()[..] else {
        return Err("`kernel` is `pass target head-dim type`".into());
    };
    let pass = Pass::ALL.into_iter().find(|p| p.name() == pass).ok_or("no such pass")?;
    let softmax = pattern.softmax();
    let shape = Shape {
        head_dim: head_dim.parse()?,
        dtype: dtype.parse()?,
        softcap: softmax.softcap.is_some(),
        sink_logit: softmax.sink_logit,
    };
    let code = PatternCode::new(pattern.to_string(), &MaskIr::lower(pattern, None)?);
    let spec = KernelSpec::new(pass, target.parse()?, shape, Arc::new(code));
    let text = CudaSource::generate(&spec)?.text;
    let (generated, spliced) = text.split_once("#line").ok_or("no seam")?;
    let seams = spliced.lines().filter_map(|line| line.strip_prefix("#line 1 ").or(line.strip_prefix(" 1 ")));
    Ok(format!("{generated}{}", seams.map(|name| format!("// then {name}\n")).collect::<String>()))
}
