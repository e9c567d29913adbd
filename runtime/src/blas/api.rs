//! cuBLASLt by its C interface: the functions one product needs, resolved once, and owners that free what they create.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use super::BlasError;

type Status = c_int;
type Raw = *mut c_void;

/// Element types, by their numbers in `cudaDataType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub(super) enum Element {
    F32 = 0,
    Bf16 = 14,
}

/// `CUBLAS_COMPUTE_32F`.
const COMPUTE_32F: c_int = 68;
/// `CUBLASLT_MATMUL_DESC_TRANSA`, `..._TRANSB`.
const TRANSPOSE_A: c_int = 3;
const TRANSPOSE_B: c_int = 4;
/// `CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES`.
const MAX_WORKSPACE_BYTES: c_int = 1;
/// `CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES` to `..._D_BYTES`.
const MIN_ALIGNMENT_BYTES: [c_int; 4] = [5, 6, 7, 8];
/// What every operand here is aligned to: widths are multiples of 8 numbers of 2 bytes.
const ALIGNMENT_BYTES: u32 = 16;

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Heuristic {
    algorithm: [u64; 8],
    workspace_bytes: usize,
    state: Status,
    waves: f32,
    reserved: [c_int; 4],
}

/// Plain function pointers: copying them is free.
#[derive(Clone, Copy)]
struct Api {
    version: unsafe extern "C" fn() -> usize,
    status_name: unsafe extern "C" fn(Status) -> *const c_char,
    create: unsafe extern "C" fn(*mut Raw) -> Status,
    destroy: unsafe extern "C" fn(Raw) -> Status,
    desc_create: unsafe extern "C" fn(*mut Raw, c_int, c_int) -> Status,
    desc_destroy: unsafe extern "C" fn(Raw) -> Status,
    desc_set: unsafe extern "C" fn(Raw, c_int, *const c_void, usize) -> Status,
    layout_create: unsafe extern "C" fn(*mut Raw, c_int, u64, u64, i64) -> Status,
    layout_destroy: unsafe extern "C" fn(Raw) -> Status,
    preference_create: unsafe extern "C" fn(*mut Raw) -> Status,
    preference_destroy: unsafe extern "C" fn(Raw) -> Status,
    preference_set: unsafe extern "C" fn(Raw, c_int, *const c_void, usize) -> Status,
    #[allow(clippy::type_complexity)] // The header's signature.
    heuristic:
        unsafe extern "C" fn(Raw, Raw, Raw, Raw, Raw, Raw, Raw, c_int, *mut Heuristic, *mut c_int) -> Status,
    #[allow(clippy::type_complexity)] // The header's signature.
    matmul: unsafe extern "C" fn(
        Raw,
        Raw,
        *const c_void,
        *const c_void,
        Raw,
        *const c_void,
        Raw,
        *const c_void,
        *const c_void,
        Raw,
        *mut c_void,
        Raw,
        *const Heuristic,
        *mut c_void,
        usize,
        Raw,
    ) -> Status,
}

/// A loaded cuBLASLt. Cheap to clone.
#[derive(Clone)]
pub struct CublasLt {
    api: Api,
    path: PathBuf,
    /// Never unloaded: the library keeps per-process state that must not outlive its code.
    _library: Arc<ManuallyDrop<Library>>,
}

impl std::fmt::Debug for CublasLt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cuBLASLt {} at {}", self.version(), self.path.display())
    }
}

impl CublasLt {
    /// Opens the library at `path` (a file, or a bare name for the system loader to find).
    ///
    /// # Errors
    /// [`BlasError::Load`] when it cannot be opened or lacks a function.
    pub fn open(path: &Path) -> Result<CublasLt, BlasError> {
        let failed = |reason: String| BlasError::Load { path: path.to_owned(), reason };
        // SAFETY: the initialisers of NVIDIA's library have no precondition on this process; the handle is kept for the
        // life of the process, so nothing can be left dangling.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
        let library = library.map_err(|error| failed(error.to_string()))?;
        let api = Api::resolve(&library).map_err(failed)?;
        Ok(CublasLt { api, path: path.to_owned(), _library: Arc::new(ManuallyDrop::new(library)) })
    }

    /// Where it was loaded from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// As the library counts: 10000 * major + 100 * minor + patch.
    pub fn version(&self) -> usize {
        // SAFETY: takes nothing and returns a constant of the library.
        unsafe { (self.api.version)() }
    }

    /// A handle on the GPU whose context is current on this thread.
    pub(super) fn handle(&self) -> Result<Handle, BlasError> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: `raw` is writable.
        let status = unsafe { (self.api.create)(&mut raw) };
        self.check("cublasLtCreate", status)?;
        Ok(Handle { library: self.clone(), raw })
    }

    fn check(&self, call: &'static str, status: Status) -> Result<(), BlasError> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: takes any integer; the answer is null or a static NUL-terminated string.
        let name = unsafe { (self.api.status_name)(status) };
        let reason = if name.is_null() {
            format!("status {status}")
        } else {
            // SAFETY: not null, so a static NUL-terminated string.
            unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
        };
        Err(BlasError::Call { call, reason })
    }
}

impl Api {
    fn resolve(library: &Library) -> Result<Self, String> {
        macro_rules! symbol {
            ($name:literal) => {{
                // SAFETY: the types in `Api` are those of cublasLt.h, the same in versions 12 and 13; the pointer stays
                // valid since the library is never unloaded.
                let found = unsafe { library.get($name) };
                *found.map_err(|error| error.to_string())?
            }};
        }
        Ok(Api {
            version: symbol!(b"cublasLtGetVersion\0"),
            status_name: symbol!(b"cublasLtGetStatusName\0"),
            create: symbol!(b"cublasLtCreate\0"),
            destroy: symbol!(b"cublasLtDestroy\0"),
            desc_create: symbol!(b"cublasLtMatmulDescCreate\0"),
            desc_destroy: symbol!(b"cublasLtMatmulDescDestroy\0"),
            desc_set: symbol!(b"cublasLtMatmulDescSetAttribute\0"),
            layout_create: symbol!(b"cublasLtMatrixLayoutCreate\0"),
            layout_destroy: symbol!(b"cublasLtMatrixLayoutDestroy\0"),
            preference_create: symbol!(b"cublasLtMatmulPreferenceCreate\0"),
            preference_destroy: symbol!(b"cublasLtMatmulPreferenceDestroy\0"),
            preference_set: symbol!(b"cublasLtMatmulPreferenceSetAttribute\0"),
            heuristic: symbol!(b"cublasLtMatmulAlgoGetHeuristic\0"),
            matmul: symbol!(b"cublasLtMatmul\0"),
        })
    }
}

/// A handle of the library, destroyed when dropped.
pub(super) struct Handle {
    library: CublasLt,
    raw: Raw,
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: created by `handle`, destroyed once; plans hold no handle.
        unsafe { (self.library.api.destroy)(self.raw) };
    }
}

/// One of the library's descriptors with the function that frees it.
struct Owned {
    raw: Raw,
    destroy: unsafe extern "C" fn(Raw) -> Status,
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: created by the matching function, destroyed once.
        unsafe { (self.destroy)(self.raw) };
    }
}

/// The column-major product D (m, n) = A (m, k) B (k, n) + beta C, with the types and orientations of its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PlanKey {
    pub m: u64,
    pub n: u64,
    pub k: u64,
    /// Whether A is stored as (k, m).
    pub a_transposed: bool,
    /// Whether B is stored as (n, k).
    pub b_transposed: bool,
    pub output: Element,
    /// Whether C is added; it has the type of D.
    pub adds: bool,
}

/// A product ready to run.
pub(super) struct Plan {
    description: Owned,
    a: Owned,
    b: Owned,
    c: Owned,
    heuristic: Heuristic,
}

impl Handle {
    /// The library's own choice for a product; `None` if it knows no algorithm.
    pub(super) fn plan(&self, key: &PlanKey, workspace_bytes: usize) -> Result<Option<Plan>, BlasError> {
        let (api, library) = (&self.library.api, &self.library);
        let mut raw = std::ptr::null_mut();
        // SAFETY: `raw` is writable; the numbers are of the enumerations of cublasLt.h.
        let status = unsafe { (api.desc_create)(&mut raw, COMPUTE_32F, Element::F32 as c_int) };
        library.check("cublasLtMatmulDescCreate", status)?;
        let description = Owned { raw, destroy: api.desc_destroy };
        for (attribute, transposed) in [(TRANSPOSE_A, key.a_transposed), (TRANSPOSE_B, key.b_transposed)] {
            let value = c_int::from(transposed);
            // SAFETY: the descriptor is alive; the attribute is a 32-bit enumeration (0 as it is, 1 transposed).
            let status = unsafe { (api.desc_set)(description.raw, attribute, (&raw const value).cast(), 4) };
            library.check("cublasLtMatmulDescSetAttribute", status)?;
        }
        let layout = |element: Element, rows: u64, columns: u64| {
            let mut raw = std::ptr::null_mut();
            // SAFETY: `raw` is writable.
            let status =
                unsafe { (api.layout_create)(&mut raw, element as c_int, rows, columns, rows as i64) };
            library.check("cublasLtMatrixLayoutCreate", status)?;
            Ok::<_, BlasError>(Owned { raw, destroy: api.layout_destroy })
        };
        let stored = |rows, columns, transposed| if transposed { (columns, rows) } else { (rows, columns) };
        let (a_rows, a_columns) = stored(key.m, key.k, key.a_transposed);
        let (b_rows, b_columns) = stored(key.k, key.n, key.b_transposed);
        let a = layout(Element::Bf16, a_rows, a_columns)?;
        let b = layout(Element::Bf16, b_rows, b_columns)?;
        let c = layout(key.output, key.m, key.n)?;
        let heuristic = self.choose([&description, &a, &b, &c], workspace_bytes)?;
        Ok(heuristic.map(|heuristic| Plan { description, a, b, c, heuristic }))
    }

    fn choose(
        &self,
        [description, a, b, c]: [&Owned; 4],
        workspace_bytes: usize,
    ) -> Result<Option<Heuristic>, BlasError> {
        let (api, library) = (&self.library.api, &self.library);
        let mut raw = std::ptr::null_mut();
        // SAFETY: `raw` is writable.
        library.check("cublasLtMatmulPreferenceCreate", unsafe { (api.preference_create)(&mut raw) })?;
        let preference = Owned { raw, destroy: api.preference_destroy };
        let limit = workspace_bytes as u64;
        // SAFETY: the preference is alive; the attribute is a 64-bit number.
        let status = unsafe {
            (api.preference_set)(preference.raw, MAX_WORKSPACE_BYTES, (&raw const limit).cast(), 8)
        };
        library.check("cublasLtMatmulPreferenceSetAttribute", status)?;
        let alignment = ALIGNMENT_BYTES;
        for attribute in MIN_ALIGNMENT_BYTES {
            // SAFETY: the preference is alive; the attribute is a 32-bit number.
            let status =
                unsafe { (api.preference_set)(preference.raw, attribute, (&raw const alignment).cast(), 4) };
            library.check("cublasLtMatmulPreferenceSetAttribute", status)?;
        }
        let mut best =
            Heuristic { algorithm: [0; 8], workspace_bytes: 0, state: 0, waves: 0.0, reserved: [0; 4] };
        let mut found = 0;
        // SAFETY: all descriptors are alive; there is room for the one result asked for.
        let status = unsafe {
            (api.heuristic)(
                self.raw,
                description.raw,
                a.raw,
                b.raw,
                c.raw,
                c.raw,
                preference.raw,
                1,
                &mut best,
                &mut found,
            )
        };
        /// `CUBLAS_STATUS_NOT_SUPPORTED`: no algorithm, which the caller says better.
        const NOT_SUPPORTED: Status = 15;
        if status != NOT_SUPPORTED {
            library.check("cublasLtMatmulAlgoGetHeuristic", status)?;
        }
        Ok((found > 0 && best.state == 0).then_some(best))
    }

    /// Submits a planned product.
    ///
    /// # Safety
    /// The addresses are of device memory that holds the operands of the plan (`c` equal to `d` or apart from it), and
    /// of a workspace as large as the plan was made with; `stream` is a stream of the handle's device.
    pub(super) unsafe fn run(
        &self,
        plan: &Plan,
        [a, b, c, d]: [u64; 4],
        beta: f32,
        (workspace, workspace_bytes): (u64, usize),
        stream: *mut c_void,
    ) -> Result<(), BlasError> {
        let alpha = 1.0f32;
        let pointer = |address: u64| address as *mut c_void;
        // SAFETY: descriptors and handle are alive, alpha and beta are live floats as the descriptor says, and the rest is
        // the caller's promise.
        let status = unsafe {
            (self.library.api.matmul)(
                self.raw,
                plan.description.raw,
                (&raw const alpha).cast(),
                pointer(a),
                plan.a.raw,
                pointer(b),
                plan.b.raw,
                (&raw const beta).cast(),
                pointer(c),
                plan.c.raw,
                pointer(d),
                plan.c.raw,
                &plan.heuristic,
                pointer(workspace),
                workspace_bytes,
                stream,
            )
        };
        self.library.check("cublasLtMatmul", status)
    }
}
