//! NVRTC by its C interface: CUDA C++ text in; PTX, cubin and the compilers' log out. Needs no GPU and no driver.
//!
//! The library is opened by absolute path and its functions are resolved here, once, into a table. A binding that
//! searches by name would take another toolkit's `libnvrtc.so` ahead of the one that was chosen, and treats a missing
//! library or symbol as a panic; here both are errors.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use super::NvrtcError;
use super::log::PtxasReport;
use crate::target::Target;

type Program = *mut c_void;
type Status = c_int;

/// The functions this crate calls, resolved once. Plain function pointers: copying them is free and thread-safe.
#[derive(Clone, Copy)]
struct Api {
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> Status,
    error_string: unsafe extern "C" fn(Status) -> *const c_char,
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> Status,
    destroy: unsafe extern "C" fn(*mut Program) -> Status,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Status,
    ptx_size: unsafe extern "C" fn(Program, *mut usize) -> Status,
    ptx: unsafe extern "C" fn(Program, *mut c_char) -> Status,
    cubin_size: unsafe extern "C" fn(Program, *mut usize) -> Status,
    cubin: unsafe extern "C" fn(Program, *mut c_char) -> Status,
    log_size: unsafe extern "C" fn(Program, *mut usize) -> Status,
    log: unsafe extern "C" fn(Program, *mut c_char) -> Status,
}

/// `NVRTC_SUCCESS`.
const SUCCESS: Status = 0;
/// `NVRTC_ERROR_COMPILATION`: the source is at fault, and the log says how.
const ERROR_COMPILATION: Status = 6;

/// The first version that uses the driver's cache, and that has the option against it.
const FIRST_WITH_CACHE: (u32, u32) = (12, 9);

/// A loaded NVRTC. Cheap to clone; compiles from several threads at once.
#[derive(Clone)]
pub struct Nvrtc {
    api: Api,
    path: PathBuf,
    version: (u32, u32),
    /// Never unloaded: NVRTC keeps per-thread and at-exit state that must not outlive its code.
    _library: Arc<ManuallyDrop<Library>>,
}

impl std::fmt::Debug for Nvrtc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Nvrtc {} at {}", self.version_text(), self.path.display())
    }
}

/// How one source is compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileOptions {
    /// What to compile for. A real architecture, so that one compile gives both PTX and cubin.
    pub target: Target,
    /// Keep the map from instructions to source lines: larger cubin, same instructions.
    pub line_info: bool,
    /// Further NVRTC options, passed as they stand.
    pub extra: Vec<String>,
}

impl CompileOptions {
    /// The options of every shipped kernel, for `target`.
    pub fn new(target: Target) -> Self {
        CompileOptions { target, line_info: true, extra: Vec::new() }
    }

    /// The option strings in the order NVRTC gets them. Part of every cache key.
    pub fn arguments(&self) -> Vec<String> {
        let mut list = vec![
            format!("--gpu-architecture={}", self.target),
            "--std=c++17".to_owned(),
            // ptxas' registers and spills come back in the log; one option per flag, a comma list is refused.
            "--ptxas-options=-v".to_owned(),
            // Not every kernel reads every generated constant.
            "--diag-suppress=177".to_owned(),
        ];
        if self.line_info {
            list.push("--generate-line-info".to_owned());
        }
        list.extend(self.extra.iter().cloned());
        list
    }
}

/// What one compile gives.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// PTX text, without the trailing NUL that NVRTC writes.
    pub ptx: String,
    /// The device binary for exactly the target asked for.
    pub cubin: Vec<u8>,
    /// Everything the compilers said, also on success.
    pub log: String,
    /// Registers, spills and warnings, read from `log`.
    pub report: PtxasReport,
    /// NVRTC's version, `major.minor`.
    pub nvrtc_version: String,
}

impl Nvrtc {
    /// Opens the library at `path` (a file, or a bare name for the system loader to find). `builtins` are opened
    /// first: NVRTC finds its second library by name only, and has no search path of its own.
    ///
    /// # Errors
    /// [`NvrtcError::Load`] when a file cannot be opened or lacks a function.
    pub fn open(path: &Path, builtins: &[PathBuf]) -> Result<Self, NvrtcError> {
        let failed = |reason: String| NvrtcError::Load { path: path.to_owned(), reason };
        for file in builtins {
            // SAFETY: the initialisers of NVIDIA's builtins library only register data; running them has no
            // precondition on this process. The handle is leaked below, so nothing can be left dangling.
            let library = unsafe { Library::open(Some(file), RTLD_NOW | RTLD_GLOBAL) };
            std::mem::forget(library.map_err(|e| failed(e.to_string()))?);
        }
        // SAFETY: as above, for NVRTC itself; the handle is kept for the life of the process.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
        let library = library.map_err(|e| failed(e.to_string()))?;
        let api = Api::resolve(&library).map_err(failed)?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both pointers are to live, writable integers.
        let status = unsafe { (api.version)(&mut major, &mut minor) };
        if status != SUCCESS {
            return Err(failed(format!("nvrtcVersion answers {}", api.message(status))));
        }
        let version = (major.unsigned_abs(), minor.unsigned_abs());
        let _library = Arc::new(ManuallyDrop::new(library));
        Ok(Nvrtc { api, path: path.to_owned(), version, _library })
    }

    /// Where it was loaded from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// (major, minor).
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// The version as `major.minor`.
    pub fn version_text(&self) -> String {
        format!("{}.{}", self.version.0, self.version.1)
    }

    /// Compiles `source` under the name `name` (used in messages) to PTX and cubin.
    ///
    /// # Errors
    /// [`NvrtcError::Source`] with the log when the compiler refuses the source, [`NvrtcError::Call`] when NVRTC
    /// itself fails, [`NvrtcError::Interior`] for a NUL byte inside an argument.
    pub fn compile(
        &self,
        source: &str,
        name: &str,
        options: &CompileOptions,
    ) -> Result<Compiled, NvrtcError> {
        let program = ProgramGuard::create(self.api, source, name)?;
        let mut arguments = options.arguments();
        if self.version >= FIRST_WITH_CACHE {
            // With a driver, this NVRTC may answer from the driver's cache, and then ptxas' report is not in the log.
            arguments.push("--no-cache".to_owned());
        }
        let arguments: Vec<CString> =
            arguments.into_iter().map(c_string).collect::<Result<_, NvrtcError>>()?;
        let pointers: Vec<*const c_char> = arguments.iter().map(|a| a.as_ptr()).collect();
        let count = c_int::try_from(pointers.len()).map_err(|_| NvrtcError::Interior)?;
        // SAFETY: the program is alive; `pointers` holds `count` NUL-terminated strings that outlive the call.
        let status = unsafe { (self.api.compile)(program.raw, count, pointers.as_ptr()) };
        let log = text(program.bytes("nvrtcGetProgramLog", self.api.log_size, self.api.log)?);
        if status == ERROR_COMPILATION {
            return Err(NvrtcError::Source { name: name.to_owned(), log });
        }
        if status != SUCCESS {
            let reason = format!("{} {}", self.api.message(status), log.trim());
            return Err(NvrtcError::Call { call: "nvrtcCompileProgram", reason: reason.trim().to_owned() });
        }
        let ptx = text(program.bytes("nvrtcGetPTX", self.api.ptx_size, self.api.ptx)?);
        let cubin = program.bytes("nvrtcGetCUBIN", self.api.cubin_size, self.api.cubin)?;
        let report = PtxasReport::parse(&log);
        Ok(Compiled { ptx, cubin, log, report, nvrtc_version: self.version_text() })
    }
}

impl Api {
    fn resolve(library: &Library) -> Result<Self, String> {
        macro_rules! symbol {
            ($name:literal) => {{
                // SAFETY: the types in `Api` are those of nvrtc.h, unchanged since CUDA 11.1, where the last of
                // these functions appeared; the pointer stays valid since the library is never unloaded.
                let found = unsafe { library.get($name) };
                *found.map_err(|e| e.to_string())?
            }};
        }
        Ok(Api {
            version: symbol!(b"nvrtcVersion\0"),
            error_string: symbol!(b"nvrtcGetErrorString\0"),
            create: symbol!(b"nvrtcCreateProgram\0"),
            destroy: symbol!(b"nvrtcDestroyProgram\0"),
            compile: symbol!(b"nvrtcCompileProgram\0"),
            ptx_size: symbol!(b"nvrtcGetPTXSize\0"),
            ptx: symbol!(b"nvrtcGetPTX\0"),
            cubin_size: symbol!(b"nvrtcGetCUBINSize\0"),
            cubin: symbol!(b"nvrtcGetCUBIN\0"),
            log_size: symbol!(b"nvrtcGetProgramLogSize\0"),
            log: symbol!(b"nvrtcGetProgramLog\0"),
        })
    }

    fn message(&self, status: Status) -> String {
        // SAFETY: takes any integer; the answer is null or a static NUL-terminated string.
        let pointer = unsafe { (self.error_string)(status) };
        if pointer.is_null() {
            return format!("status {status}");
        }
        // SAFETY: not null, so a static NUL-terminated string by nvrtc.h.
        unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
    }
}

/// Destroys the program on every way out of `compile`.
struct ProgramGuard {
    api: Api,
    raw: Program,
}

impl ProgramGuard {
    fn create(api: Api, source: &str, name: &str) -> Result<Self, NvrtcError> {
        let source = c_string(source.to_owned())?;
        let name = c_string(name.to_owned())?;
        let mut raw: Program = std::ptr::null_mut();
        // SAFETY: `raw` is writable, the strings are NUL-terminated and copied by the call; zero headers, so the
        // two header arrays may be null.
        let status = unsafe {
            (api.create)(&mut raw, source.as_ptr(), name.as_ptr(), 0, std::ptr::null(), std::ptr::null())
        };
        if status != SUCCESS {
            return Err(NvrtcError::Call { call: "nvrtcCreateProgram", reason: api.message(status) });
        }
        Ok(ProgramGuard { api, raw })
    }

    /// One of the (size, content) pairs of the interface.
    fn bytes(
        &self,
        call: &'static str,
        size: unsafe extern "C" fn(Program, *mut usize) -> Status,
        content: unsafe extern "C" fn(Program, *mut c_char) -> Status,
    ) -> Result<Vec<u8>, NvrtcError> {
        let failed = |status| NvrtcError::Call { call, reason: self.api.message(status) };
        let mut length = 0usize;
        // SAFETY: the program is alive and `length` is writable.
        let status = unsafe { size(self.raw, &mut length) };
        if status != SUCCESS {
            return Err(failed(status));
        }
        let mut buffer = vec![0u8; length];
        // SAFETY: the buffer has exactly the size that the call before asked for.
        let status = unsafe { content(self.raw, buffer.as_mut_ptr().cast()) };
        if status != SUCCESS {
            return Err(failed(status));
        }
        Ok(buffer)
    }
}

impl Drop for ProgramGuard {
    fn drop(&mut self) {
        // SAFETY: created by `create`, destroyed once. A failure here leaves nothing to act upon.
        unsafe { (self.api.destroy)(&mut self.raw) };
    }
}

fn c_string(text: String) -> Result<CString, NvrtcError> {
    CString::new(text).map_err(|_| NvrtcError::Interior)
}

/// NVRTC's texts end in NUL; what calls itself text here does not.
fn text(mut bytes: Vec<u8>) -> String {
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
