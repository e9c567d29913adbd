//! From the bytes of a bundle to kernels that the runtime takes.

use std::sync::Arc;

use longgen_codegen::bundle::{Bundle, BundleError};
use longgen_runtime::gpu::KernelCache;

/// A cache for a GPU of this compute capability that compiles nothing.
pub fn cache(bytes: &[u8], capability: (u32, u32)) -> Result<KernelCache, BundleError> {
    Ok(KernelCache::from_bundle(Arc::new(Bundle::from_bytes(bytes)?), capability))
}
