//! The one function of cuBLASLt that this project calls, the product, and those around it. The library that a process finds
//! under the name of cuBLASLt may be this one.

use std::ffi::{c_char, c_int, c_void};

use half::bf16;

use super::state::{Command, on_device};
use super::streams::stream;
use crate::machine::{Fault, Memory};

type Status = c_int;
type Raw = *mut c_void;

const SUCCESS: Status = 0;
const INVALID_VALUE: Status = 7;
const NOT_SUPPORTED: Status = 15;

/// `cudaDataType`: `CUDA_R_32F`, `CUDA_R_16BF`.
const F32: c_int = 0;
const BF16: c_int = 14;
/// `CUBLASLT_MATMUL_DESC_TRANSA`, `..._TRANSB`.
const TRANSPOSE_A: c_int = 3;
const TRANSPOSE_B: c_int = 4;

/// A matrix in column-major order.
#[derive(Clone, Copy, Debug)]
struct Layout {
    element: c_int,
    rows: usize,
    columns: usize,
    /// Elements from a column to the next.
    stride: usize,
}

/// Which operands are transposed.
#[derive(Clone, Copy, Debug, Default)]
struct Description {
    a_transposed: bool,
    b_transposed: bool,
}

/// D = op(A) op(B) + beta C.
#[derive(Clone, Debug)]
pub struct Product {
    description: Description,
    a: (u64, Layout),
    b: (u64, Layout),
    c: (u64, Layout),
    d: (u64, Layout),
    beta: f32,
}

impl Layout {
    fn size(self) -> usize {
        if self.element == BF16 { 2 } else { 4 }
    }

    fn bytes(self) -> usize {
        match (self.rows, self.columns) {
            (0, _) | (_, 0) => 0,
            (rows, columns) => ((columns - 1) * self.stride + rows) * self.size(),
        }
    }

    /// The matrix, or its transpose, row by row.
    fn read(self, memory: &mut Memory, address: u64, transposed: bool) -> Result<Vec<f32>, Fault> {
        let bytes = memory.slice(address, self.bytes())?;
        let at = |row: usize, column: usize| {
            let place = (column * self.stride + row) * self.size();
            match self.element {
                BF16 => bf16::from_le_bytes([bytes[place], bytes[place + 1]]).to_f32(),
                _ => f32::from_le_bytes([bytes[place], bytes[place + 1], bytes[place + 2], bytes[place + 3]]),
            }
        };
        let (rows, columns) = if transposed { (self.columns, self.rows) } else { (self.rows, self.columns) };
        let mut found = Vec::with_capacity(rows * columns);
        for row in 0..rows {
            found.extend(
                (0..columns).map(|column| if transposed { at(column, row) } else { at(row, column) }),
            );
        }
        Ok(found)
    }

    fn write(self, memory: &mut Memory, address: u64, values: &[f32]) -> Result<(), Fault> {
        let bytes = memory.slice(address, self.bytes())?;
        for (index, &value) in values.iter().enumerate() {
            let (row, column) = (index / self.columns, index % self.columns);
            let place = (column * self.stride + row) * self.size();
            match self.element {
                BF16 => bytes[place..place + 2].copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
                _ => bytes[place..place + 4].copy_from_slice(&value.to_le_bytes()),
            }
        }
        Ok(())
    }
}

impl Product {
    /// Computes it, with sums in f32.
    pub fn perform(&self, memory: &mut Memory) -> Result<(), Fault> {
        let (rows, columns) = (self.d.1.rows, self.d.1.columns);
        let a = self.a.1.read(memory, self.a.0, self.description.a_transposed)?;
        let b = self.b.1.read(memory, self.b.0, self.description.b_transposed)?;
        let mut sums = match self.beta {
            0.0 => vec![0.0; rows * columns],
            beta => self.c.1.read(memory, self.c.0, false)?.into_iter().map(|x| beta * x).collect(),
        };
        let depth = a.len().checked_div(rows).unwrap_or(0);
        for (row, sums) in sums.chunks_exact_mut(columns.max(1)).enumerate() {
            for (x, terms) in a[row * depth..][..depth].iter().zip(b.chunks_exact(columns.max(1))) {
                for (sum, y) in sums.iter_mut().zip(terms) {
                    *sum += x * y;
                }
            }
        }
        self.d.1.write(memory, self.d.0, &sums)
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasLtGetVersion() -> usize {
    130_000
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtGetStatusName(_status: Status) -> *const c_char {
    std::ptr::null()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtCreate(handle: *mut Raw) -> Status {
    // SAFETY: the module's contract.
    unsafe { *handle = std::ptr::dangling_mut() };
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtDestroy(_handle: Raw) -> Status {
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulDescCreate(
    description: *mut Raw,
    _compute: c_int,
    _scale: c_int,
) -> Status {
    // SAFETY: the module's contract.
    unsafe { *description = Box::into_raw(Box::<Description>::default()).cast() };
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulDescDestroy(description: Raw) -> Status {
    // SAFETY: it came from `cublasLtMatmulDescCreate`.
    drop(unsafe { Box::from_raw(description.cast::<Description>()) });
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulDescSetAttribute(
    description: Raw,
    attribute: c_int,
    value: *const c_void,
    bytes: usize,
) -> Status {
    if bytes != 4 {
        return INVALID_VALUE;
    }
    // SAFETY: it came from `cublasLtMatmulDescCreate`, and the value has 4 bytes.
    let (description, transposed) =
        unsafe { (&mut *description.cast::<Description>(), *value.cast::<c_int>() == 1) };
    match attribute {
        TRANSPOSE_A => description.a_transposed = transposed,
        TRANSPOSE_B => description.b_transposed = transposed,
        _ => return NOT_SUPPORTED,
    }
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatrixLayoutCreate(
    layout: *mut Raw,
    element: c_int,
    rows: u64,
    columns: u64,
    stride: i64,
) -> Status {
    if !matches!(element, F32 | BF16) || (stride as u64) < rows {
        return INVALID_VALUE;
    }
    let made = Layout { element, rows: rows as usize, columns: columns as usize, stride: stride as usize };
    // SAFETY: the module's contract.
    unsafe { *layout = Box::into_raw(Box::new(made)).cast() };
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatrixLayoutDestroy(layout: Raw) -> Status {
    // SAFETY: it came from `cublasLtMatrixLayoutCreate`.
    drop(unsafe { Box::from_raw(layout.cast::<Layout>()) });
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulPreferenceCreate(preference: *mut Raw) -> Status {
    // SAFETY: the module's contract.
    unsafe { *preference = std::ptr::dangling_mut() };
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulPreferenceDestroy(_preference: Raw) -> Status {
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulPreferenceSetAttribute(
    _preference: Raw,
    _attribute: c_int,
    _value: *const c_void,
    _bytes: usize,
) -> Status {
    SUCCESS
}

/// There is one algorithm. Its description is all zeros, as the caller's is before, except that it works.
#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulAlgoGetHeuristic(
    _handle: Raw,
    _description: Raw,
    _a: Raw,
    _b: Raw,
    _c: Raw,
    _d: Raw,
    _preference: Raw,
    _wanted: c_int,
    _found: *mut c_void,
    count: *mut c_int,
) -> Status {
    // SAFETY: the module's contract.
    unsafe { *count = 1 };
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmul(
    _handle: Raw,
    description: Raw,
    alpha: *const c_void,
    a: *const c_void,
    a_layout: Raw,
    b: *const c_void,
    b_layout: Raw,
    beta: *const c_void,
    c: *const c_void,
    c_layout: Raw,
    d: *mut c_void,
    d_layout: Raw,
    _algorithm: *const c_void,
    _workspace: *mut c_void,
    _workspace_bytes: usize,
    handle: Raw,
) -> Status {
    // SAFETY: the module's contract: descriptors of this library, two floats, a stream of the driver's.
    let (product, alpha, stream) = unsafe {
        let layout = |raw: Raw| *raw.cast::<Layout>();
        let product = Product {
            description: *description.cast::<Description>(),
            a: (a as u64, layout(a_layout)),
            b: (b as u64, layout(b_layout)),
            c: (c as u64, layout(c_layout)),
            d: (d as u64, layout(d_layout)),
            beta: *beta.cast::<f32>(),
        };
        (product, *alpha.cast::<f32>(), stream(handle.cast()))
    };
    if alpha != 1.0 {
        return NOT_SUPPORTED;
    }
    on_device(|state| state.submit(stream, Command::Multiply(product)));
    // A fault surfaces where the stream is waited for.
    SUCCESS
}
