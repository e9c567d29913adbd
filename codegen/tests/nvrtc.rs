//! NVRTC itself: both outputs, the log, and errors that name the line. Runs where NVRTC is found through the
//! `LONGGEN_NVRTC` variable, a toolkit or Python's packages; elsewhere each test says that it could not.

use longgen_codegen::cuda::NvrtcError;
use longgen_codegen::cuda::locate::ToolSearch;
use longgen_codegen::cuda::log::Refusal;
use longgen_codegen::cuda::nvrtc::{CompileOptions, Nvrtc};
use longgen_codegen::cuda::sass::disassemble;
use longgen_codegen::target::Target;

fn search() -> ToolSearch {
    let variable = std::env::var_os("LONGGEN_NVRTC").map(Into::into);
    ToolSearch { variable, python: Some("python3".to_owned()), ..Default::default() }
}

/// `None`, said aloud, where there is no NVRTC to test.
fn nvrtc() -> Option<Nvrtc> {
    match search().nvrtc() {
        Ok(found) => Some(found),
        Err(NvrtcError::NotFound { .. }) => {
            eprintln!("not tested: no NVRTC on this machine");
            None
        }
        Err(other) => panic!("{other}"),
    }
}

fn options() -> CompileOptions {
    CompileOptions::new(Target::all()[0])
}

const SCALE: &str = "extern \"C\" __global__ void scale(float* x, float a) { x[threadIdx.x] *= a; }\n";

#[test]
fn one_compile_gives_ptx_cubin_and_the_report() {
    let Some(nvrtc) = nvrtc() else { return };
    let compiled = nvrtc.compile(SCALE, "scale.cu", &options()).expect("compiles");
    assert!(compiled.ptx.contains(".entry scale") && !compiled.ptx.contains('\0'));
    assert!(compiled.cubin.starts_with(b"\x7fELF"));
    let kernel = compiled.report.kernel("scale").expect("in the log");
    assert!(kernel.registers > 0 && kernel.spill_store_bytes == 0, "{}", compiled.log);
    assert_eq!(compiled.report.check(), Ok(()));
    let again = nvrtc.compile(SCALE, "scale.cu", &options()).expect("compiles");
    assert_eq!(compiled.cubin, again.cubin, "the same source gives the same bytes");
}

#[test]
fn a_mistake_names_its_file_and_line() {
    let Some(nvrtc) = nvrtc() else { return };
    let source = "#line 41 \"tile/softmax.cuh\"\nint good;\nint bad = nothing;\n";
    let error = nvrtc.compile(source, "kernel.cu", &options()).expect_err("wrong");
    assert!(error.to_string().contains("tile/softmax.cuh(42): error"), "{error}");
}

#[test]
fn assembly_that_the_target_lacks_is_found() {
    let Some(nvrtc) = nvrtc() else { return };
    let source = "extern \"C\" __global__ void k() { asm volatile(\"wgmma.fence.sync.aligned;\"); }\n";
    assert!(nvrtc.compile(source, "k.cu", &options()).is_err(), "sm_80 has no wgmma");
    let hopper = CompileOptions::new("sm_90a".parse().expect("known"));
    nvrtc.compile(source, "k.cu", &hopper).expect("sm_90a has it");
}

#[test]
fn spills_are_refused() {
    let Some(nvrtc) = nvrtc() else { return };
    let source = "extern \"C\" __global__ void k(float* x) { float v[200];\n\
        _Pragma(\"unroll\") for (int i = 0; i < 200; ++i) v[i] = x[i * 32 + threadIdx.x];\n\
        _Pragma(\"unroll\") for (int i = 0; i < 200; ++i) x[i * 32 + threadIdx.x] = v[(i * 7 + 3) % 200] * v[199 - i];\n}\n";
    let mut options = options();
    options.extra.push("--maxrregcount=32".to_owned());
    let compiled = nvrtc.compile(source, "k.cu", &options).expect("compiles");
    assert!(matches!(compiled.report.check(), Err(Refusal::Spills { .. })), "{}", compiled.log);
}

#[test]
fn two_threads_compile_at_once() {
    let Some(nvrtc) = nvrtc() else { return };
    let compile = || nvrtc.compile(SCALE, "scale.cu", &options()).map(|compiled| compiled.cubin);
    let (one, two) = std::thread::scope(|scope| {
        let handles = (scope.spawn(compile), scope.spawn(compile));
        (handles.0.join().expect("no panic"), handles.1.join().expect("no panic"))
    });
    assert_eq!(one.expect("compiles"), two.expect("compiles"));
}

#[test]
fn sass_comes_from_nvdisasm() {
    let (Some(nvrtc), Some(program)) = (nvrtc(), search().nvdisasm()) else {
        eprintln!("not tested: no NVRTC or no nvdisasm on this machine");
        return;
    };
    let compiled = nvrtc.compile(SCALE, "scale.cu", &options()).expect("compiles");
    let sass = disassemble(&program, &compiled.cubin, &std::env::temp_dir()).expect("a cubin");
    assert!(sass.contains("FMUL"), "{sass}");
    assert!(disassemble(&program, b"no cubin", &std::env::temp_dir()).is_err());
}
