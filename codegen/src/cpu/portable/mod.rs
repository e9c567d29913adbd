//! Micro-kernels as Cranelift IR: 128-bit vectors, for any machine Cranelift knows.
//!
//! They have the signatures and the meaning of the precompiled ones ([`super::abi`]), so that a work item can be given
//! either. Registers decide the block size: 4 rows of 8 lanes are 8 accumulators of the 16 vector registers.

mod lanes;
mod product;

use super::emit::Unit;

/// Defines `rows`, `columns`, `columns_masked`, `softmax`, `gradient_query_lanes`, `gradient_key_lanes` and `lane_dots`.
pub(super) fn define_all(unit: &mut Unit, has_fma: bool) {
    product::define(unit, "rows", product::Form::Rows, has_fma);
    product::define(unit, "columns", product::Form::Columns, has_fma);
    product::define(unit, "columns_masked", product::Form::ColumnsMasked, has_fma);
    lanes::define_softmax(unit, has_fma);
    lanes::define_gradient(unit, "gradient_query_lanes", false, has_fma);
    lanes::define_gradient(unit, "gradient_key_lanes", true, has_fma);
    lanes::define_dots(unit, has_fma);
}
