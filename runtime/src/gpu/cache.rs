//! Compiled kernels: in this process' memory, then in the store, then from NVRTC; or all from a bundle. An entry is named by
//! what it was made of (source, options, NVRTC's version), so it never goes stale.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use longgen_codegen::artifact::{self, Artifact, BuildError, CompiledKernel};
use longgen_codegen::bundle::Bundle;
use longgen_codegen::cuda::NvrtcError;
use longgen_codegen::cuda::locate::ToolSearch;
use longgen_codegen::cuda::nvrtc::{CompileOptions, Nvrtc};
use longgen_codegen::cuda::source::{CudaSource, GENERATOR};
use longgen_codegen::spec::KernelSpec;
use longgen_codegen::target::Target;

use crate::store::{KernelKey, Operation, Store, StoreLocation};

/// Compiles each kernel once. Shared between threads.
#[derive(Debug)]
pub struct KernelCache {
    origin: Origin,
    nvrtc: OnceLock<Nvrtc>,
    /// Where NVRTC was looked for in vain: a search starts Python, so it is done once.
    tried: OnceLock<Vec<String>>,
    /// The version of NVRTC, known without loading it.
    version: OnceLock<String>,
    store: Arc<Store>,
    memory: Mutex<HashMap<String, Arc<CompiledKernel>>>,
    /// Sources that are no kernel of a specification.
    cubins: Mutex<HashMap<String, Arc<Vec<u8>>>>,
    /// By the fingerprint of the specification.
    replaced: HashMap<String, CudaSource>,
}

/// Where kernels that are not in memory come from.
#[derive(Debug)]
enum Origin {
    /// The store, and NVRTC where this search finds it.
    Compiler(ToolSearch),
    /// Made ahead of time, for a device of this compute capability.
    Bundle(Arc<Bundle>, (u32, u32)),
}

impl KernelCache {
    /// A cache that keeps kernels in `store`, and looks for NVRTC where `search` says when it first needs it.
    pub fn new(search: ToolSearch, store: Arc<Store>) -> Self {
        KernelCache::from_origin(Origin::Compiler(search), store)
    }

    fn from_origin(origin: Origin, store: Arc<Store>) -> Self {
        KernelCache {
            origin,
            nvrtc: OnceLock::new(),
            tried: OnceLock::new(),
            version: OnceLock::new(),
            store,
            memory: Mutex::new(HashMap::new()),
            cubins: Mutex::new(HashMap::new()),
            replaced: HashMap::new(),
        }
    }

    /// A cache that forgets its kernels with the process.
    pub fn in_memory(search: ToolSearch) -> Self {
        KernelCache::new(search, Arc::new(Store::open(StoreLocation::Memory)))
    }

    /// The kernels that a bundle holds for devices of one compute capability, and no others: nothing is compiled, and no NVRTC
    /// is needed.
    pub fn from_bundle(bundle: Arc<Bundle>, capability: (u32, u32)) -> Self {
        KernelCache::from_origin(
            Origin::Bundle(bundle, capability),
            Arc::new(Store::open(StoreLocation::Memory)),
        )
    }

    /// The bundle, if that is where the kernels come from.
    pub fn bundle(&self) -> Option<&Bundle> {
        match &self.origin {
            Origin::Bundle(bundle, _) => Some(bundle),
            Origin::Compiler(_) => None,
        }
    }

    /// Takes `source`, a hand-edited one, in place of the generated source of the specification with this fingerprint.
    pub fn replacing(mut self, fingerprint: String, source: CudaSource) -> Self {
        self.replaced.insert(fingerprint, source);
        self
    }

    /// Where kernels and tuning results are kept.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The kernel of a specification: from memory, from the store, or compiled.
    ///
    /// # Errors
    /// [`BuildError`] when it is in neither and cannot be compiled.
    pub fn get(&self, spec: &KernelSpec) -> Result<Arc<CompiledKernel>, BuildError> {
        match self.replaced.get(&spec.fingerprint()) {
            Some(source) => self.get_source(spec, source.clone()),
            None => self.get_source(spec, CudaSource::generate(spec)?),
        }
    }

    /// The first of these specifications that is not refused. Of a bundle, the kernel for their pass, pattern, shape and
    /// target, whose schedule was chosen when the bundle was made.
    ///
    /// # Errors
    /// As [`Artifact::build_first`]; [`BuildError::NotBundled`] for a kernel that the bundle lacks.
    pub fn get_first(&self, specs: &[KernelSpec]) -> Result<Arc<CompiledKernel>, BuildError> {
        if let (Origin::Bundle(bundle, capability), Some(spec)) = (&self.origin, specs.first()) {
            let found = bundle.find(&spec.pattern.hash(), spec.pass, &spec.shape, spec.target, *capability);
            let missing = || bundle.missing(spec.pass, &spec.shape, spec.target.name());
            return Ok(Arc::new(found.ok_or_else(missing)?.compiled.clone()));
        }
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
        let hash = KernelKey::source_hash(&source, &CompileOptions::new(spec.target));
        if let Some(found) = self.lock().get(&hash) {
            return Ok(found.clone());
        }
        let kept = self.nvrtc_version().ok().and_then(|nvrtc| self.kept(&hash, nvrtc));
        let kernel = match kept {
            Some(kernel) => kernel,
            None => match self.nvrtc() {
                Ok(nvrtc) => self.build(nvrtc, spec, source, &hash)?,
                // Without NVRTC a kernel of any version serves: it was checked when it was made.
                Err(error) => self.store.kernel_of_any_compiler(&hash).ok_or(error)?,
            },
        };
        let kernel = Arc::new(kernel);
        self.lock().insert(hash, kernel.clone());
        Ok(kernel)
    }

    /// The binary of a source that is no attention kernel and whose launches its caller knows: from memory, from the store, or
    /// compiled.
    ///
    /// # Errors
    /// As [`KernelCache::get`]; a source that spills is refused.
    pub fn cubin(&self, source: &CudaSource, target: Target) -> Result<Arc<Vec<u8>>, BuildError> {
        let options = CompileOptions::new(target);
        let hash = KernelKey::source_hash(source, &options);
        if let Some(found) = self.cubins.lock().unwrap_or_else(PoisonError::into_inner).get(&hash) {
            return Ok(found.clone());
        }
        let key = |nvrtc| KernelKey { source: hash.clone(), nvrtc };
        let kept = self.nvrtc_version().ok().and_then(|nvrtc| self.store.operation(&key(nvrtc)));
        let cubin = match kept {
            Some(cubin) => cubin,
            None => match self.nvrtc() {
                Ok(nvrtc) => {
                    let cubin = compile_operation(nvrtc, source, &options)?;
                    let (name, target) = (source.name.clone(), target.to_string());
                    let about = Operation { name, target, generator: GENERATOR.to_owned() };
                    self.store.put_operation(&key(nvrtc.version_text()), &about, &cubin);
                    cubin
                }
                Err(error) => self.store.operation_of_any_compiler(&hash).ok_or(error)?,
            },
        };
        let cubin = Arc::new(cubin);
        self.cubins.lock().unwrap_or_else(PoisonError::into_inner).insert(hash, cubin.clone());
        Ok(cubin)
    }

    fn kept(&self, source: &str, nvrtc: String) -> Option<CompiledKernel> {
        self.store.kernel(&KernelKey { source: source.to_owned(), nvrtc })
    }

    fn build(
        &self,
        nvrtc: &Nvrtc,
        spec: &KernelSpec,
        source: CudaSource,
        hash: &str,
    ) -> Result<CompiledKernel, BuildError> {
        let Artifact { cubin, manifest, .. } = Artifact::build_source(nvrtc, spec, source)?;
        let kernel = CompiledKernel { image: cubin, manifest };
        let key = KernelKey { source: hash.to_owned(), nvrtc: nvrtc.version_text() };
        self.store.put_kernel(&key, &kernel);
        Ok(kernel)
    }

    /// The version of the NVRTC that this cache compiles with. A start that finds its kernels in the store asks the store, and
    /// neither searches for the library nor loads it.
    ///
    /// # Errors
    /// [`NvrtcError`] when there is none.
    pub fn nvrtc_version(&self) -> Result<String, NvrtcError> {
        if let Some(version) = self.version.get() {
            return Ok(version.clone());
        }
        let known = match &self.origin {
            Origin::Compiler(search) => self.store.compiler(search),
            Origin::Bundle(..) => None,
        };
        let version = match known {
            Some(version) => version,
            None => self.nvrtc()?.version_text(),
        };
        Ok(self.version.get_or_init(|| version).clone())
    }

    fn nvrtc(&self) -> Result<&Nvrtc, NvrtcError> {
        if let Some(found) = self.nvrtc.get() {
            return Ok(found);
        }
        let not_found = |tried: &Vec<String>| NvrtcError::NotFound { tried: tried.clone() };
        if let Some(tried) = self.tried.get() {
            return Err(not_found(tried));
        }
        let search = match &self.origin {
            Origin::Compiler(search) => search,
            Origin::Bundle(..) => {
                return Err(not_found(&vec!["nothing: kernels come from a bundle".to_owned()]));
            }
        };
        let found = search.nvrtc().inspect_err(|error| {
            if let NvrtcError::NotFound { tried } = error {
                // Another thread that searched at the same time found the same.
                let _ = self.tried.set(tried.clone());
            }
        })?;
        self.store.put_compiler(search, found.path(), &found.version_text());
        Ok(self.nvrtc.get_or_init(|| found))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<CompiledKernel>>> {
        // Only insertions and look-ups happen under the lock: a panic elsewhere cannot leave the map half-changed.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn compile_operation(
    nvrtc: &Nvrtc,
    source: &CudaSource,
    options: &CompileOptions,
) -> Result<Vec<u8>, BuildError> {
    let compiled = nvrtc.compile(&source.text, &source.name, options)?;
    let refused = |refusal| BuildError::Refused { name: source.name.clone(), refusal };
    compiled.report.check().map_err(refused)?;
    Ok(compiled.cubin)
}
