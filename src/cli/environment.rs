//! The environment variables that `lgc` reads, all of them, and the places they name. Libraries read none.

use std::env;
use std::path::PathBuf;

use longgen_codegen::cuda::locate::ToolSearch;
use longgen_runtime::blas::BlasSearch;

/// Every variable and what it means, for `lgc doctor`.
pub const VARIABLES: [(&str, &str); 7] = [
    ("LONGGEN_CACHE", "folder for NVRTC and compiled kernels"),
    ("LONGGEN_NVRTC", "NVRTC to use: the library, its folder or a toolkit"),
    ("LONGGEN_CUBLASLT", "cuBLASLt to use on the GPU: the library, its folder or a toolkit"),
    ("LONGGEN_PYTHON", "Python whose packages may hold NVRTC, and which fetches it"),
    ("CUDA_HOME", "the CUDA toolkit"),
    ("XDG_CACHE_HOME", "where caches live; ~/.cache without it"),
    ("NO_COLOR", "no colours in the terminal"),
];

/// The cache folder; `None` where neither variable nor home tells where.
pub fn cache_folder() -> Option<PathBuf> {
    path("LONGGEN_CACHE")
        .or_else(|| path("XDG_CACHE_HOME").map(|caches| caches.join("longgen")))
        .or_else(|| path("HOME").map(|home| home.join(".cache/longgen")))
}

/// The Python program to ask.
pub fn python() -> String {
    env::var("LONGGEN_PYTHON").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| "python3".into())
}

/// Where to look for NVRTC; `option` comes from the command line.
pub fn tool_search(option: Option<PathBuf>) -> ToolSearch {
    ToolSearch {
        option,
        variable: path("LONGGEN_NVRTC"),
        cuda_home: path("CUDA_HOME"),
        python: Some(python()),
        cache: cache_folder(),
    }
}

/// Where to look for cuBLASLt; `option` comes from the command line.
pub fn blas_search(option: Option<PathBuf>) -> BlasSearch {
    BlasSearch { option, variable: path("LONGGEN_CUBLASLT"), tools: tool_search(None) }
}

/// Set and not empty.
fn path(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}
