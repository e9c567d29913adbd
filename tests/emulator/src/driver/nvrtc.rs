//! NVRTC, except that its machine code is PTX: what asks the compiler for a cubin hands the driver a text that it can interpret.
//! The real library is the file [`REAL`] in the folder that this one was loaded from.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

/// The name of the link to the real NVRTC.
pub const REAL: &str = "nvrtc";

type Program = *mut c_void;
type Status = c_int;
/// `NVRTC_ERROR_INTERNAL_ERROR`.
const FAILED: Status = 11;

/// The functions of the real library.
struct Real {
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
    log_size: unsafe extern "C" fn(Program, *mut usize) -> Status,
    log: unsafe extern "C" fn(Program, *mut c_char) -> Status,
}

fn real() -> Option<&'static Real> {
    static REAL_LIBRARY: OnceLock<Option<Real>> = OnceLock::new();
    REAL_LIBRARY.get_or_init(|| folder().and_then(|folder| Real::open(&folder.join(REAL)))).as_ref()
}

impl Real {
    fn open(file: &Path) -> Option<Real> {
        // SAFETY: the initialisers of NVIDIA's library have no precondition on this process; it is never unloaded.
        let library =
            std::mem::ManuallyDrop::new(unsafe { Library::open(Some(file), RTLD_NOW | RTLD_GLOBAL) }.ok()?);
        macro_rules! symbol {
            ($name:literal) => {
                // SAFETY: the types in `Real` are those of nvrtc.h.
                *unsafe { library.get($name) }.ok()?
            };
        }
        Some(Real {
            version: symbol!(b"nvrtcVersion\0"),
            error_string: symbol!(b"nvrtcGetErrorString\0"),
            create: symbol!(b"nvrtcCreateProgram\0"),
            destroy: symbol!(b"nvrtcDestroyProgram\0"),
            compile: symbol!(b"nvrtcCompileProgram\0"),
            ptx_size: symbol!(b"nvrtcGetPTXSize\0"),
            ptx: symbol!(b"nvrtcGetPTX\0"),
            log_size: symbol!(b"nvrtcGetProgramLogSize\0"),
            log: symbol!(b"nvrtcGetProgramLog\0"),
        })
    }
}

/// `Dl_info` of dlfcn.h.
#[repr(C)]
struct Place {
    file: *const c_char,
    base: *mut c_void,
    symbol: *const c_char,
    address: *mut c_void,
}

unsafe extern "C" {
    fn dladdr(address: *const c_void, place: *mut Place) -> c_int;
}

/// The folder that this library was loaded from.
fn folder() -> Option<PathBuf> {
    let mut place = Place {
        file: std::ptr::null(),
        base: std::ptr::null_mut(),
        symbol: std::ptr::null(),
        address: std::ptr::null_mut(),
    };
    let here: extern "C" fn() -> usize = super::blas::cublasLtGetVersion;
    // SAFETY: the address is of this library, the place is writable.
    let found = unsafe { dladdr(here as *const c_void, &mut place) };
    if found == 0 || place.file.is_null() {
        return None;
    }
    // SAFETY: the loader's own text, which lives as long as the library.
    let file = unsafe { CStr::from_ptr(place.file) };
    Path::new(std::ffi::OsStr::from_bytes(file.to_bytes())).parent().map(Path::to_owned)
}

/// Calls a function of the real library with the caller's own arguments.
macro_rules! forward {
    ($($name:ident => $field:ident($($argument:ident: $kind:ty),*);)*) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($argument: $kind),*) -> Status {
            match real() {
                // SAFETY: the caller keeps the contract of the function that is called.
                Some(real) => unsafe { (real.$field)($($argument),*) },
                None => FAILED,
            }
        }
    )*};
}

forward! {
    nvrtcVersion => version(major: *mut c_int, minor: *mut c_int);
    nvrtcCreateProgram => create(program: *mut Program, source: *const c_char, name: *const c_char, headers: c_int,
                                 texts: *const *const c_char, names: *const *const c_char);
    nvrtcDestroyProgram => destroy(program: *mut Program);
    nvrtcCompileProgram => compile(program: Program, count: c_int, options: *const *const c_char);
    nvrtcGetPTXSize => ptx_size(program: Program, bytes: *mut usize);
    nvrtcGetPTX => ptx(program: Program, text: *mut c_char);
    // PTX ends in NUL, as the driver wants it.
    nvrtcGetCUBINSize => ptx_size(program: Program, bytes: *mut usize);
    nvrtcGetCUBIN => ptx(program: Program, text: *mut c_char);
    nvrtcGetProgramLogSize => log_size(program: Program, bytes: *mut usize);
    nvrtcGetProgramLog => log(program: Program, text: *mut c_char);
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcGetErrorString(status: Status) -> *const c_char {
    match real() {
        // SAFETY: takes any integer.
        Some(real) => unsafe { (real.error_string)(status) },
        None => c"the NVRTC beside the emulator does not load".as_ptr(),
    }
}
