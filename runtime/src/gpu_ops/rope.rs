//! Rotary embedding of fused QKV rows: see [`crate::ops::rope`] for the meaning of positions.

use half::bf16;

use super::{CacheRows, Ops, int, long};
use crate::driver::{Argument, GpuError, Span};
use crate::problem::HeadShape;

/// Cosines and sines of the tokens of a pass, (T, D/2) each.
#[derive(Clone, Copy, Debug)]
pub struct RopeTables<'a> {
    /// (T, D/2)
    pub cosines: Span<'a, f32>,
    /// (T, D/2)
    pub sines: Span<'a, f32>,
}

/// Where the keys of new tokens go in a cache.
#[derive(Clone, Copy, Debug)]
pub struct KeySlots<'a> {
    /// The row of each KV head's part of the cache for each token, (G, T); -1 for none.
    pub slots: Span<'a, i32>,
    /// Index of each token in its sequence (T), and the table (G, stride) in which the index of the key of each row is
    /// kept.
    pub slot_key: Option<(Span<'a, i32>, Span<'a, i32>, usize)>,
}

impl Ops {
    /// Fills the tables at `positions` (T) for `frequencies` (D/2).
    ///
    /// # Errors
    /// Spans that are too small.
    pub fn rope_angles(
        &self,
        tokens: usize,
        positions: Span<'_, f32>,
        frequencies: Span<'_, f32>,
        factor: f32,
        tables: RopeTables<'_>,
    ) -> Result<(), GpuError> {
        let (half, stream) = (frequencies.len(), &self.stream);
        let arguments = [
            Argument::Address(positions.address("positions", tokens, stream)?),
            Argument::Address(frequencies.address("frequencies", half, stream)?),
            Argument::Address(tables.cosines.address("cosines", tokens * half, stream)?),
            Argument::Address(tables.sines.address("sines", tokens * half, stream)?),
            int(half),
            Argument::Float(factor),
        ];
        self.launch("rope_angles", [tokens, 1, 1], half, &arguments)
    }

    /// Turns queries and keys of qkv (T, H + 2 G, D) in place.
    ///
    /// # Errors
    /// Spans that are too small.
    pub fn rope_forward(
        &self,
        tokens: usize,
        shape: HeadShape,
        qkv: Span<'_, bf16>,
        tables: RopeTables<'_>,
    ) -> Result<(), GpuError> {
        let all = shape.heads() + 2 * shape.kv_heads();
        let [cosines, sines] = self.tables(tokens, shape, tables)?;
        let qkv = qkv.address("qkv", tokens * all * shape.head_dim(), &self.stream)?;
        let arguments = [Argument::Address(qkv), cosines, sines, int(all)];
        let turned = shape.heads() + shape.kv_heads();
        self.launch("rope_forward", [tokens, turned, 1], shape.head_dim() / 2, &arguments)
    }

    /// Turns the queries of qkv (T, H + 2 G, D) in place; keys, turned, and values go to rows of a cache.
    ///
    /// # Errors
    /// Spans that are too small. Slots are the caller's promise: below the cache's rows.
    pub fn rope_store(
        &self,
        tokens: usize,
        shape: HeadShape,
        qkv: Span<'_, bf16>,
        tables: RopeTables<'_>,
        slots: KeySlots<'_>,
        cache: CacheRows<'_>,
    ) -> Result<(), GpuError> {
        let (stream, d) = (&self.stream, shape.head_dim());
        let (heads, kv_heads) = (shape.heads(), shape.kv_heads());
        let all = heads + 2 * kv_heads;
        let [cosines, sines] = self.tables(tokens, shape, tables)?;
        let [keys, values] = cache.addresses(shape, stream)?;
        let (key_index, slot_key, stride) = match slots.slot_key {
            Some((index, table, stride)) => (
                index.address("key_index", tokens, stream)?,
                table.address("slot_key", (kv_heads - 1) * stride + cache.rows, stream)?,
                stride,
            ),
            None => (0, 0, 0),
        };
        let arguments = [
            Argument::Address(qkv.address("qkv", tokens * all * d, stream)?),
            cosines,
            sines,
            keys,
            values,
            Argument::Address(slots.slots.address("slots", kv_heads * tokens, stream)?),
            Argument::Address(key_index),
            Argument::Address(slot_key),
            int(heads),
            int(kv_heads),
            int(tokens),
            int(stride),
            long(cache.head_stride),
        ];
        self.launch_early("rope_store", [tokens, all, 1], d / 2, &arguments)
    }

    /// d_qkv (T, H + 2 G, D) from dq (T, H, D), dk and dv (T, G, D).
    ///
    /// # Errors
    /// Spans that are too small.
    pub fn rope_backward(
        &self,
        tokens: usize,
        shape: HeadShape,
        [dq, dk, dv]: [Span<'_, bf16>; 3],
        tables: RopeTables<'_>,
        d_qkv: Span<'_, bf16>,
    ) -> Result<(), GpuError> {
        let (stream, d) = (&self.stream, shape.head_dim());
        let (heads, kv_heads) = (shape.heads(), shape.kv_heads());
        let all = heads + 2 * kv_heads;
        let [cosines, sines] = self.tables(tokens, shape, tables)?;
        let arguments = [
            Argument::Address(dq.address("dq", tokens * heads * d, stream)?),
            Argument::Address(dk.address("dk", tokens * kv_heads * d, stream)?),
            Argument::Address(dv.address("dv", tokens * kv_heads * d, stream)?),
            cosines,
            sines,
            Argument::Address(d_qkv.address("d_qkv", tokens * all * d, stream)?),
            int(heads),
            int(kv_heads),
        ];
        self.launch("rope_backward", [tokens, all, 1], d / 2, &arguments)
    }

    fn tables(
        &self,
        tokens: usize,
        shape: HeadShape,
        tables: RopeTables<'_>,
    ) -> Result<[Argument<'static>; 2], GpuError> {
        let needed = tokens * shape.head_dim() / 2;
        Ok([
            Argument::Address(tables.cosines.address("cosines", needed, &self.stream)?),
            Argument::Address(tables.sines.address("sines", needed, &self.stream)?),
        ])
    }
}
