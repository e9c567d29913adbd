//! Rows of a cache: KV heads one after the other, and between a compact cache and keys in order.

use half::bf16;

use super::{Ops, int, long};
use crate::driver::{Argument, GpuError, Span, Stream};
use crate::problem::HeadShape;

/// Keys and values of one layer and one sequence: for each KV head `rows` rows of D, heads `head_stride` elements apart.
#[derive(Clone, Copy, Debug)]
pub struct CacheRows<'a> {
    /// From the first row of KV head 0 on.
    pub keys: Span<'a, bf16>,
    /// The same for values.
    pub values: Span<'a, bf16>,
    /// Rows of each KV head.
    pub rows: usize,
    /// Elements from a KV head to the next.
    pub head_stride: usize,
}

/// The same where key `j` lies in row `j`.
pub type OrderedRows<'a> = CacheRows<'a>;

impl CacheRows<'_> {
    pub(super) fn addresses(
        &self,
        shape: HeadShape,
        stream: &Stream,
    ) -> Result<[Argument<'static>; 2], GpuError> {
        let needed = (shape.kv_heads() - 1) * self.head_stride + self.rows * shape.head_dim();
        let keys = self.keys.address("cached keys", needed, stream)?;
        let values = self.values.address("cached values", needed, stream)?;
        Ok([Argument::Address(keys), Argument::Address(values)])
    }
}

impl Ops {
    /// Copies every taken slot to the row of its key. `slot_key` (G, stride): the key of each slot, below the ordered rows,
    /// or -1.
    ///
    /// # Errors
    /// Spans that are too small.
    pub fn cache_unpack(
        &self,
        shape: HeadShape,
        cache: CacheRows<'_>,
        (slot_key, stride): (Span<'_, i32>, usize),
        ordered: OrderedRows<'_>,
    ) -> Result<(), GpuError> {
        let stream = &self.stream;
        let [keys, values] = cache.addresses(shape, stream)?;
        let [ordered_keys, ordered_values] = ordered.addresses(shape, stream)?;
        let needed = (shape.kv_heads() - 1) * stride + cache.rows;
        let arguments = [
            keys,
            values,
            Argument::Address(slot_key.address("slot_key", needed, stream)?),
            ordered_keys,
            ordered_values,
            int(shape.head_dim()),
            int(stride),
            long(cache.head_stride),
            long(ordered.head_stride),
        ];
        self.launch("cache_unpack", [cache.rows, shape.kv_heads(), 1], 32, &arguments)
    }

    /// Copies rows `first..first + T` to their `slots` (G, T), -1 for none. No two rows of a head go to one slot.
    ///
    /// # Errors
    /// Spans that are too small.
    pub fn cache_pack(
        &self,
        shape: HeadShape,
        (first, tokens): (usize, usize),
        ordered: OrderedRows<'_>,
        slots: Span<'_, i32>,
        cache: CacheRows<'_>,
    ) -> Result<(), GpuError> {
        let stream = &self.stream;
        let [keys, values] = cache.addresses(shape, stream)?;
        let ordered = OrderedRows { rows: first + tokens, ..ordered };
        let [ordered_keys, ordered_values] = ordered.addresses(shape, stream)?;
        let arguments = [
            ordered_keys,
            ordered_values,
            Argument::Address(slots.address("slots", shape.kv_heads() * tokens, stream)?),
            keys,
            values,
            int(shape.head_dim()),
            int(first),
            long(cache.head_stride),
            long(ordered.head_stride),
        ];
        self.launch("cache_pack", [tokens, shape.kv_heads(), 1], 32, &arguments)
    }
}
