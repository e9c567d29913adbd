//! Calling generated code.

use longgen_codegen::cpu::abi::{ColumnsFn, GradientFn, Item, RowsFn, SoftmaxFn};
use longgen_codegen::cpu::{ClifSource, CpuError, JitCode};
use longgen_codegen::ir::MaskIr;

use super::table::{DotsFn, MicroKernels};

type KernelFn = unsafe extern "C" fn(*mut Item);

/// Which kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// O and the softmax state.
    Forward,
    /// dQ.
    BackwardQuery,
    /// dK and dV.
    BackwardKeyValue,
}

/// The kernels of one mask and head dimension.
#[derive(Debug)]
pub struct Kernels {
    forward: KernelFn,
    backward_dq: KernelFn,
    backward_dkv: KernelFn,
    /// Keeps the code the pointers lead to.
    _code: JitCode,
}

impl Kernels {
    /// Generates and compiles.
    ///
    /// # Errors
    /// What code generation refuses.
    pub fn new(ir: &MaskIr, head_dim: usize) -> Result<Kernels, CpuError> {
        let code = JitCode::new(ClifSource::new(ir, head_dim)?)?;
        let find = |name: &str| -> Result<KernelFn, CpuError> {
            let address = address(&code, name)?;
            // SAFETY: every kernel is generated with one pointer-sized parameter, no result and the host's C calling
            // convention, and lives as long as `code`.
            Ok(unsafe { std::mem::transmute::<*const u8, KernelFn>(address) })
        };
        Ok(Kernels {
            forward: find("forward")?,
            backward_dq: find("backward_dq")?,
            backward_dkv: find("backward_dkv")?,
            _code: code,
        })
    }

    /// Runs one item.
    ///
    /// # Safety
    /// Every pointer of the item leads to memory of the size and alignment that its field documents, of which no other
    /// thread writes any; operands hold rows for the item's whole row range.
    pub unsafe fn run(&self, kernel: Kernel, item: &mut Item) {
        let function = match kernel {
            Kernel::Forward => self.forward,
            Kernel::BackwardQuery => self.backward_dq,
            Kernel::BackwardKeyValue => self.backward_dkv,
        };
        // SAFETY: the caller vouches for the item; the function is a kernel of this item layout.
        unsafe { function(item) }
    }
}

fn address(code: &JitCode, name: &str) -> Result<*const u8, CpuError> {
    code.address(name).ok_or_else(|| CpuError::Refused {
        function: name.to_string(),
        reason: "it was not generated".to_string(),
    })
}

/// The generated micro-kernels, and the code that must outlive them.
///
/// # Errors
/// What code generation refuses.
pub fn generated_micro_kernels() -> Result<(MicroKernels, JitCode), CpuError> {
    let code = JitCode::new(ClifSource::portable()?)?;
    let find = |name: &str| address(&code, name);
    // Moving rows about takes no arithmetic: it is not generated.
    let portable = MicroKernels::portable();
    // SAFETY: `ClifSource::portable` defines each function with the parameters of the type it is given here, no result and
    // the host's C calling convention; pointers and 64-bit integers are passed alike.
    let micro = unsafe {
        MicroKernels {
            rows: std::mem::transmute::<*const u8, RowsFn>(find("rows")?),
            columns: std::mem::transmute::<*const u8, ColumnsFn>(find("columns")?),
            columns_masked: std::mem::transmute::<*const u8, ColumnsFn>(find("columns_masked")?),
            softmax: std::mem::transmute::<*const u8, SoftmaxFn>(find("softmax")?),
            gradient_query_lanes: std::mem::transmute::<*const u8, GradientFn>(find("gradient_query_lanes")?),
            gradient_key_lanes: std::mem::transmute::<*const u8, GradientFn>(find("gradient_key_lanes")?),
            lane_dots: std::mem::transmute::<*const u8, DotsFn>(find("lane_dots")?),
            ..portable
        }
    };
    Ok((micro, code))
}
