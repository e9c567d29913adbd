//! Tensor maps: what the bulk copy engine of Hopper needs to know of a tensor.

use cudarc::driver::sys::{self, CUtensorMap, CUtensorMapDataType_enum as DataType};

use super::{Buffer, GpuError, failed};

/// An encoded map of a [token, head, D] tensor of 16-bit elements. Holds an address: the buffer must outlive its use.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct TensorMap(CUtensorMap);

/// The geometry of a map. Zeros are read out of bounds; rows are swizzled over 128 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorMapShape {
    /// bf16, else fp16. Only matters to reductions; copies move bits.
    pub bf16: bool,
    /// D.
    pub head_dim: u32,
    /// H or G.
    pub heads: u32,
    /// Tokens of all sequences.
    pub tokens: u32,
    /// Elements from a token to the next.
    pub token_stride: u64,
    /// Elements from a head to the next.
    pub head_stride: u64,
    /// Extent of a box along (D, head, token).
    pub box_extent: [u32; 3],
}

impl TensorMap {
    /// Encodes a map over `buffer` from its byte `offset` on.
    ///
    /// # Errors
    /// [`GpuError::Call`] when the driver refuses the geometry, [`GpuError::TooSmall`] when the tensor reaches past
    /// the buffer.
    pub fn encode(buffer: &Buffer, offset: usize, shape: &TensorMapShape) -> Result<Self, GpuError> {
        let needed = offset + shape.bytes();
        if needed > buffer.bytes() {
            return Err(GpuError::TooSmall { name: "tensor", found: buffer.bytes(), needed });
        }
        // An empty tensor has no box to load, but the driver wants an extent of at least one everywhere.
        let extents = [shape.head_dim, shape.heads.max(1), shape.tokens.max(1)].map(u64::from);
        let strides = [shape.head_stride * 2, shape.token_stride * 2];
        let steps = [1u32; 3];
        let kind = if shape.bf16 {
            DataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
        } else {
            DataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16
        };
        let mut map = CUtensorMap { opaque: [0; 16] };
        // SAFETY: a device of the driver exists, since `buffer` does, and every driver that `Device` admits has this
        // function. The arrays hold the 3 extents, 2 strides and 3 steps that rank 3 asks for; the map is writable and
        // aligned by its type. The address is only stored.
        let status = unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map,
                kind,
                3,
                (buffer.address() + offset as u64) as *mut std::ffi::c_void,
                extents.as_ptr(),
                strides.as_ptr(),
                shape.box_extent.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave_enum::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle_enum::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion_enum::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill_enum::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        status.result().map_err(failed("encoding a tensor map"))?;
        Ok(TensorMap(map))
    }
}

impl TensorMapShape {
    /// Bytes from the first element to past the last.
    fn bytes(&self) -> usize {
        if self.tokens == 0 || self.heads == 0 {
            return 0;
        }
        let last =
            u64::from(self.tokens - 1) * self.token_stride + u64::from(self.heads - 1) * self.head_stride;
        usize::try_from((last + u64::from(self.head_dim)) * 2).unwrap_or(usize::MAX / 2)
    }
}
