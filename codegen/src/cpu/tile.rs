//! What happens to one tile: products, mask, softmax or its gradient, products again.

use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, Type, types};

use super::abi::Item;
use super::emit::{Declared, Unit, callee, item_field};

/// Kinds of tiles, from no mask to the whole element test; the larger covers the smaller.
pub(super) const FULL: i64 = 0;
/// Only `j <= i`.
pub(super) const EDGE: i64 = 1;
/// Every pair is tested.
pub(super) const PAIRS: i64 = 2;

/// What a tile does with its products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    Forward,
    DQuery,
    DKeyValue,
}

/// `(item, a, a_stride, b, b_stride, rows, kind, stats)`: one tile of rows against the lanes; `stats` is the offset in
/// elements of the rows' statistics, where rows are queries.
pub(super) fn define_tile(
    unit: &mut Unit,
    pass: Pass,
    head_dim: usize,
    mask_edge: &Declared,
    mask_pairs: &Declared,
) -> Declared {
    let params: [Type; 8] = [types::I64; 8];
    unit.define("tile", &params, &[], |e, args| {
        let &[item, a, a_stride, b, b_stride, rows, kind, stats] = args else {
            unreachable!("a tile has eight parameters")
        };
        let depth = e.int(head_dim as i64);
        let strips = item_field!(e, item, strips);
        let scores = item_field!(e, item, scores);
        let none = e.int(0);
        let lanes_a = item_field!(e, item, lanes_a);
        let rows_product = callee!(e, item, rows);
        e.call_pointer(rows_product, &[a, a_stride, lanes_a, scores, rows, depth, strips, none]);
        let is_edge = e.b.ins().icmp_imm_s(IntCC::Equal, kind, EDGE);
        let is_full = e.b.ins().icmp_imm_s(IntCC::Equal, kind, FULL);
        e.if_else(
            is_edge,
            |e| {
                e.call(mask_edge, &[item, rows]);
            },
            |e| {
                e.if_else(
                    is_full,
                    |_| {},
                    |e| {
                        e.call(mask_pairs, &[item, rows]);
                    },
                );
            },
        );
        let whole = callee!(e, item, columns);
        let masked = callee!(e, item, columns_masked);
        let columns = e.b.ins().select(is_full, whole, masked);
        let alpha = item_field!(e, item, alpha);
        let out_a = item_field!(e, item, out_a);
        if pass == Pass::Forward {
            let softmax = callee!(e, item, softmax);
            e.call_pointer(softmax, &[scores, rows, strips, item]);
            e.call_pointer(columns, &[b, b_stride, scores, out_a, depth, rows, strips, alpha]);
            e.b.ins().return_(&[]);
            return;
        }
        let dp = item_field!(e, item, dp);
        let lanes_b = item_field!(e, item, lanes_b);
        e.call_pointer(rows_product, &[b, b_stride, lanes_b, dp, rows, depth, strips, none]);
        let lse2 = item_field!(e, item, lse2);
        let lse2 = e.element(lse2, stats, 4);
        let delta = item_field!(e, item, delta);
        let delta = e.element(delta, stats, 4);
        let gradient = if pass == Pass::DQuery {
            callee!(e, item, gradient_query_lanes)
        } else {
            callee!(e, item, gradient_key_lanes)
        };
        e.call_pointer(gradient, &[scores, dp, rows, strips, item, lse2, delta]);
        if pass == Pass::DQuery {
            e.call_pointer(columns, &[a, a_stride, scores, out_a, depth, rows, strips, alpha]);
        } else {
            let out_b = item_field!(e, item, out_b);
            e.call_pointer(columns, &[b, b_stride, scores, out_b, depth, rows, strips, alpha]);
            e.call_pointer(columns, &[a, a_stride, dp, out_a, depth, rows, strips, alpha]);
        }
        e.b.ins().return_(&[]);
    })
}
