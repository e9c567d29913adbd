//! Compiles `pattern.toml` to kernels, for the program to carry.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use longgen_codegen::bundle::Bundle;
use longgen_codegen::cuda::locate::ToolSearch;
use longgen_codegen::ir::MaskIr;
use longgen_codegen::model::PassGroup;
use longgen_codegen::pattern::Pattern;
use longgen_codegen::spec::{Dtype, PatternCode, Shape};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=pattern.toml");
    let path = |name: &str| {
        println!("cargo:rerun-if-env-changed={name}");
        std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    };
    let search = ToolSearch {
        variable: path("LONGGEN_NVRTC"),
        cuda_home: path("CUDA_HOME"),
        python: Some("python3".to_owned()),
        // Where `lgc fetch-nvrtc` puts it.
        cache: path("LONGGEN_CACHE")
            .or_else(|| path("XDG_CACHE_HOME").map(|caches| caches.join("longgen")))
            .or_else(|| path("HOME").map(|home| home.join(".cache/longgen"))),
        ..ToolSearch::default()
    };
    let out = path("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    compile(Path::new("pattern.toml"), &search, &out.join("kernels.lgk"))
}

/// Every pass of the pattern for Hopper, and for all others through machine code or PTX of sm_80.
pub fn compile(pattern: &Path, search: &ToolSearch, output: &Path) -> Result<(), Box<dyn Error>> {
    let nvrtc = search.nvrtc()?;
    let text = std::fs::read_to_string(pattern)?;
    let pattern = Pattern::from_toml_str(&pattern.display().to_string(), &text)?;
    let ir = MaskIr::lower(&pattern, None)?;
    let code = Arc::new(PatternCode::new(pattern.to_string(), &ir));
    let label = pattern.name().unwrap_or("pattern");

    let mut bundle = Bundle::new();
    bundle.add_pattern(label, &code);
    for target in ["sm_90a", "sm_80"] {
        let shape = Shape::plain(128, Dtype::Bf16);
        bundle.compile(&nvrtc, label, &code, shape, target.parse()?, &PassGroup::ALL)?;
    }
    std::fs::write(output, bundle.to_bytes()?)?;
    Ok(())
}
