//! Compiled kernels, in memory and on disk. An entry is named by what it was made of (source, options, NVRTC version), so
//! it never goes stale; the disk part fails softly: a cache that cannot be read or written costs a compile, no more.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use longgen_codegen::artifact::{self, Artifact, BuildError, Manifest};
use longgen_codegen::cuda::NvrtcError;
use longgen_codegen::cuda::locate::ToolSearch;
use longgen_codegen::cuda::nvrtc::{CompileOptions, Nvrtc};
use longgen_codegen::cuda::source::CudaSource;
use longgen_codegen::spec::KernelSpec;

/// A cubin and how to launch it.
#[derive(Clone, Debug)]
pub struct CompiledKernel {
    /// Device binary.
    pub cubin: Vec<u8>,
    /// Entry points, grids, arguments, resources.
    pub manifest: Manifest,
}

/// Compiles each kernel once. Shared between threads.
#[derive(Debug)]
pub struct KernelCache {
    search: ToolSearch,
    nvrtc: OnceLock<Nvrtc>,
    folder: Option<PathBuf>,
    memory: Mutex<HashMap<String, Arc<CompiledKernel>>>,
    /// By the fingerprint of the specification.
    replaced: HashMap<String, CudaSource>,
}

impl KernelCache {
    /// A cache that looks for NVRTC where `search` says, when it first needs it, and keeps kernels below `folder`.
    pub fn new(search: ToolSearch, folder: Option<PathBuf>) -> Self {
        let memory = Mutex::new(HashMap::new());
        KernelCache { search, nvrtc: OnceLock::new(), folder, memory, replaced: HashMap::new() }
    }

    /// Takes `source`, a hand-edited one, in place of the generated source of the specification with this fingerprint.
    pub fn replacing(mut self, fingerprint: String, source: CudaSource) -> Self {
        self.replaced.insert(fingerprint, source);
        self
    }

    /// The kernel of a specification: from memory, from disk, or compiled.
    ///
    /// # Errors
    /// [`BuildError`] when it is in neither and cannot be compiled.
    pub fn get(&self, spec: &KernelSpec) -> Result<Arc<CompiledKernel>, BuildError> {
        match self.replaced.get(&spec.fingerprint()) {
            Some(source) => self.get_source(spec, source.clone()),
            None => self.get_source(spec, CudaSource::generate(spec)?),
        }
    }

    /// The first of these specifications that is not refused.
    ///
    /// # Errors
    /// As [`Artifact::build_first`].
    pub fn get_first(&self, specs: &[KernelSpec]) -> Result<Arc<CompiledKernel>, BuildError> {
        // A replaced specification goes first: whoever edited it wants to see it run.
        let replaced = specs.iter().find(|spec| self.replaced.contains_key(&spec.fingerprint()));
        match replaced {
            Some(spec) => self.get(spec),
            None => artifact::first(specs, |spec| self.get(spec)),
        }
    }

    /// The same with a source of the caller's, such as a hand-edited one.
    ///
    /// # Errors
    /// As [`KernelCache::get`].
    pub fn get_source(
        &self,
        spec: &KernelSpec,
        source: CudaSource,
    ) -> Result<Arc<CompiledKernel>, BuildError> {
        let key = key(&source, &CompileOptions::new(spec.target));
        if let Some(found) = self.remembered(&key) {
            return Ok(found);
        }
        let kernel = match self.nvrtc() {
            Ok(nvrtc) => match self.read(&key, &nvrtc.version_text()) {
                Some(kernel) => kernel,
                None => self.build(nvrtc, spec, source, &key)?,
            },
            // Without NVRTC a kernel of any version serves: it was checked when it was made.
            Err(error) => self.read_any(&key).ok_or(error)?,
        };
        let kernel = Arc::new(kernel);
        self.lock().insert(key, kernel.clone());
        Ok(kernel)
    }

    fn build(
        &self,
        nvrtc: &Nvrtc,
        spec: &KernelSpec,
        source: CudaSource,
        key: &str,
    ) -> Result<CompiledKernel, BuildError> {
        let Artifact { cubin, manifest, .. } = Artifact::build_source(nvrtc, spec, source)?;
        let kernel = CompiledKernel { cubin, manifest };
        if let Some(folder) = &self.folder {
            // Soft: the kernel is here, whether or not it could be kept.
            let _ = write(folder, &file_name(key, &nvrtc.version_text()), &encode(&kernel));
        }
        Ok(kernel)
    }

    fn nvrtc(&self) -> Result<&Nvrtc, NvrtcError> {
        if let Some(found) = self.nvrtc.get() {
            return Ok(found);
        }
        let found = self.search.nvrtc()?;
        Ok(self.nvrtc.get_or_init(|| found))
    }

    fn remembered(&self, key: &str) -> Option<Arc<CompiledKernel>> {
        self.lock().get(key).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<CompiledKernel>>> {
        // Only insertions and look-ups happen under the lock: a panic elsewhere cannot leave the map half-changed.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, key: &str, version: &str) -> Option<CompiledKernel> {
        let file = self.folder.as_ref()?.join(file_name(key, version));
        decode(&std::fs::read(file).ok()?)
    }

    fn read_any(&self, key: &str) -> Option<CompiledKernel> {
        let entries = std::fs::read_dir(self.folder.as_ref()?).ok()?;
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.retain(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(key)));
        files.sort();
        files.iter().rev().find_map(|file| decode(&std::fs::read(file).ok()?))
    }
}

/// What a kernel is made of, apart from the compiler's version.
fn key(source: &CudaSource, options: &CompileOptions) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(source.text.as_bytes());
    for option in options.arguments() {
        hasher.update(b"\0");
        hasher.update(option.as_bytes());
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

fn file_name(key: &str, version: &str) -> String {
    format!("{key}-nvrtc-{version}.kernel")
}

/// One file, so that manifest and cubin cannot part: checksum of the rest (32 bytes), length of the manifest (8), manifest,
/// cubin.
fn encode(kernel: &CompiledKernel) -> Vec<u8> {
    let manifest = kernel.manifest.to_json();
    let mut body = (manifest.len() as u64).to_le_bytes().to_vec();
    body.extend_from_slice(manifest.as_bytes());
    body.extend_from_slice(&kernel.cubin);
    let mut bytes = blake3::hash(&body).as_bytes().to_vec();
    bytes.extend_from_slice(&body);
    bytes
}

/// `None` for anything that `encode` did not write, whole.
fn decode(bytes: &[u8]) -> Option<CompiledKernel> {
    let (checksum, body) = bytes.split_at_checked(32)?;
    if blake3::hash(body).as_bytes() != checksum {
        return None;
    }
    let (length, rest) = body.split_first_chunk::<8>()?;
    let (manifest, cubin) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let manifest = Manifest::from_json(std::str::from_utf8(manifest).ok()?).ok()?;
    Some(CompiledKernel { cubin: cubin.to_vec(), manifest })
}

/// Writes beside the destination and renames: a reader sees all of the file or none.
fn write(folder: &Path, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let staging = folder.join(format!(".{name}.{}-{:?}", std::process::id(), std::thread::current().id()));
    let written = std::fs::write(&staging, bytes).and_then(|()| std::fs::rename(&staging, folder.join(name)));
    if written.is_err() {
        let _ = std::fs::remove_file(&staging);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_entry_is_no_entry() {
        let body = b"anything".to_vec();
        let mut bytes = blake3::hash(&body).as_bytes().to_vec();
        bytes.extend_from_slice(&body);
        assert!(decode(&bytes).is_none(), "no manifest");
        assert!(decode(&bytes[..20]).is_none(), "cut short");
        bytes[3] ^= 1;
        assert!(decode(&bytes).is_none(), "another checksum");
    }
}
