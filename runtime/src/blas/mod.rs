//! Dense products on the GPU by cuBLASLt, which is found at run time like NVRTC ([`BlasSearch`]) and called through the
//! few functions of `api.rs`. Plans (layouts and the algorithm of the library's heuristic) are made once per shape.
//!
//! Matrices are row-major here; cuBLASLt's are column-major, so a (rows, columns) matrix is handed over as its transpose.

#[allow(unsafe_code)] // The C interface of cuBLASLt.
mod api;
mod locate;
mod product;

pub use api::CublasLt;
pub use locate::BlasSearch;
pub use product::{Blas, Product, Values};

use std::path::PathBuf;

use crate::driver::GpuError;

/// Why a dense product was not computed.
#[derive(Debug, thiserror::Error)]
pub enum BlasError {
    /// No cuBLASLt anywhere.
    #[error(
        "cuBLASLt, NVIDIA's library of dense products, was not found; it comes with the CUDA toolkit, with PyTorch and \
         with the Python package nvidia-cublas. Tried:\n  {list}",
        list = tried.join("\n  ")
    )]
    NotFound {
        /// Each place, and why it did not serve.
        tried: Vec<String>,
    },
    /// A file is no usable cuBLASLt.
    #[error("cannot load cuBLASLt from `{path}`: {reason}")]
    Load {
        /// The file or folder.
        path: PathBuf,
        /// What the loader said.
        reason: String,
    },
    /// A call of cuBLASLt failed.
    #[error("{call}: {reason}")]
    Call {
        /// The function.
        call: &'static str,
        /// The library's name of the error.
        reason: String,
    },
    /// The library has no algorithm for a product.
    #[error("cuBLASLt has no algorithm for a product of {rows} x {inner} and {inner} x {columns}")]
    NoAlgorithm {
        /// Rows of the result.
        rows: usize,
        /// Terms of each sum.
        inner: usize,
        /// Columns of the result.
        columns: usize,
    },
    /// The driver.
    #[error(transparent)]
    Gpu(#[from] GpuError),
}
