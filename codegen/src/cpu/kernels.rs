//! The three kernels of a pattern: walks over runs of rows, in closed form or over a list.

use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Value, types};
use cranelift_frontend::Variable;

use super::abi::{Item, ListedRun};
use super::emit::{Declared, Emit, Unit, callee, item_field};
use super::hull;
use super::mask;
use super::parts::Lanes;
use super::program;
use super::tile::{EDGE, FULL, MaskParts, PAIRS, Pass, define_tile};
use crate::ir::Programs;

const FLAGS: MemFlagsData = MemFlagsData::trusted();

/// The closed forms as functions; absent for listed masks.
struct Closed {
    next_keys: Declared,
    next_queries: Declared,
    all_visible: Declared,
    edge_only: Declared,
}

/// Defines every function of a mask for head dimension `head_dim`; the kernels are called `forward`, `backward_dq` and
/// `backward_dkv`, each `(item)`.
pub(super) fn define_all(unit: &mut Unit, programs: &Programs, wide: bool, head_dim: usize) {
    let closed = programs.closed.as_ref().map(|closed| Closed {
        next_keys: program::define(unit, &closed.next_keys),
        next_queries: program::define(unit, &closed.next_queries),
        all_visible: program::define(unit, &closed.all_visible),
        edge_only: program::define(unit, &closed.edge_only),
    });
    let visible = wide.then(|| program::define(unit, &programs.visible));
    for lanes in [Lanes::Queries, Lanes::Keys] {
        let edge = mask::define_edge(unit, lanes);
        let pairs = match &visible {
            Some(visible) => mask::define_wide(unit, lanes, visible),
            None => mask::define_pairs(unit, lanes, &programs.visible),
        };
        let hull = closed.as_ref().map(|closed| hull::define(unit, lanes, &closed.next_keys));
        let mask = MaskParts { edge: &edge, pairs: &pairs, hull: hull.as_ref() };
        let passes: &[Pass] =
            if lanes == Lanes::Queries { &[Pass::Forward, Pass::DQuery] } else { &[Pass::DKeyValue] };
        for &pass in passes {
            let tile = define_tile(unit, pass, head_dim, &mask);
            define_kernel(unit, pass, head_dim, closed.as_ref(), &tile);
        }
    }
}

fn define_kernel(
    unit: &mut Unit,
    pass: Pass,
    head_dim: usize,
    closed: Option<&Closed>,
    tile: &Declared,
) -> Declared {
    let name = match pass {
        Pass::Forward => "forward",
        Pass::DQuery => "backward_dq",
        Pass::DKeyValue => "backward_dkv",
    };
    unit.define(name, &[types::I64], &[], |e, args| {
        let walk = Walk { item: args[0], head_dim, closed, tile };
        if pass == Pass::DKeyValue {
            walk.queries(e);
        } else {
            walk.keys(e);
        }
        e.b.ins().return_(&[]);
    })
}

/// The body of a kernel.
struct Walk<'a> {
    item: Value,
    head_dim: usize,
    closed: Option<&'a Closed>,
    tile: &'a Declared,
}

impl Walk<'_> {
    /// Visits the keys that the lanes see: long runs in place, short ones gathered.
    fn keys(&self, e: &mut Emit<'_>) {
        let item = self.item;
        let zero = e.int(0);
        let fill = e.variable(zero);
        let fill_kind = e.variable(zero);
        let next = |closed: &Closed| closed.next_keys.clone();
        self.runs(e, next, |e, begin, end, listed| {
            let most = item_field!(e, item, tile_rows);
            let at = e.variable(begin);
            let wants_gather = self.wants_gather(e, begin, end);
            e.while_loop(
                |e| {
                    let at = e.get(at);
                    e.b.ins().icmp(IntCC::SignedLessThan, at, end)
                },
                |e| {
                    let begin = e.get(at);
                    let filled = e.get(fill);
                    let left = e.b.ins().isub(end, begin);
                    let room = e.b.ins().isub(most, filled);
                    let room = e.b.ins().select(wants_gather, room, most);
                    let count = e.smaller(left, room);
                    let stop = e.b.ins().iadd(begin, count);
                    e.set(at, stop);
                    let lane_begin = item_field!(e, item, lane_begin);
                    let lane_end = item_field!(e, item, lane_end);
                    let kind = self.kind(e, [lane_begin, lane_end, begin, stop], listed);
                    e.if_else(
                        wants_gather,
                        |e| {
                            self.gather(e, zero, begin, count, filled);
                            let so_far = e.get(fill_kind);
                            let worst = e.larger(so_far, kind);
                            let filled = e.b.ins().iadd(filled, count);
                            e.set(fill, filled);
                            e.set(fill_kind, worst);
                            let is_full = e.b.ins().icmp(IntCC::Equal, filled, most);
                            e.if_then(is_full, |e| {
                                self.gathered_tile(e, filled, worst, zero);
                                e.set(fill, zero);
                                e.set(fill_kind, zero);
                            });
                        },
                        |e| {
                            // A masked tile in place notes its rows where gathered ones are noted: those go first.
                            let masked = e.b.ins().icmp_imm_s(IntCC::NotEqual, kind, FULL);
                            e.if_then(masked, |e| self.flush(e, fill, fill_kind));
                            self.tile_in_place(e, zero, begin, count, kind, zero);
                        },
                    );
                },
            );
        });
        self.flush(e, fill, fill_kind);
    }

    /// Computes the tile of the rows gathered so far, if there are any.
    fn flush(&self, e: &mut Emit<'_>, fill: Variable, fill_kind: Variable) {
        let filled = e.get(fill);
        let some = e.b.ins().icmp_imm_s(IntCC::SignedGreaterThan, filled, 0);
        e.if_then(some, |e| {
            let zero = e.int(0);
            let kind = e.get(fill_kind);
            self.gathered_tile(e, filled, kind, zero);
            e.set(fill, zero);
            e.set(fill_kind, zero);
        });
    }

    /// Visits the queries that see the key lanes: tile by tile inside the hull, head by head.
    fn queries(&self, e: &mut Emit<'_>) {
        let item = self.item;
        let next = |closed: &Closed| closed.next_queries.clone();
        self.runs(e, next, |e, begin, end, listed| {
            let at = e.variable(begin);
            e.while_loop(
                |e| {
                    let at = e.get(at);
                    e.b.ins().icmp(IntCC::SignedLessThan, at, end)
                },
                |e| {
                    let begin = e.get(at);
                    let left = e.b.ins().isub(end, begin);
                    let most = item_field!(e, item, tile_rows);
                    let count = e.smaller(left, most);
                    let stop = e.b.ins().iadd(begin, count);
                    e.set(at, stop);
                    let lane_begin = item_field!(e, item, lane_begin);
                    let lane_end = item_field!(e, item, lane_end);
                    let used = self.any_visible(e, begin, stop, lane_begin, lane_end);
                    e.if_then(used, |e| {
                        let kind = self.kind(e, [begin, stop, lane_begin, lane_end], listed);
                        self.all_heads(e, begin, count, kind);
                    });
                },
            );
        });
    }

    /// One tile of queries, once for each query head of the group.
    fn all_heads(&self, e: &mut Emit<'_>, begin: Value, count: Value, kind: Value) {
        let item = self.item;
        let heads = item_field!(e, item, heads);
        let direct = item_field!(e, item, direct);
        let stat_head = item_field!(e, item, stat_head);
        let base = item_field!(e, item, row_base);
        let token = e.b.ins().isub(begin, base);
        e.count(heads, 1, |e, head| {
            let stats = e.b.ins().imul(head, stat_head);
            let stats = e.b.ins().iadd(stats, token);
            e.if_else(
                direct,
                |e| self.tile_in_place(e, head, begin, count, kind, stats),
                |e| {
                    let zero = e.int(0);
                    self.gather(e, head, begin, count, zero);
                    self.gathered_tile(e, count, kind, stats);
                },
            );
        });
    }

    /// Runs `body(begin, end, kind of a listed run)` for every run of rows, clipped to the item's row range.
    fn runs(
        &self,
        e: &mut Emit<'_>,
        next: impl FnOnce(&Closed) -> Declared,
        body: impl FnOnce(&mut Emit<'_>, Value, Value, Option<Value>),
    ) {
        let item = self.item;
        let row_begin = item_field!(e, item, row_begin);
        let row_end = item_field!(e, item, row_end);
        let Some(closed) = self.closed else {
            let list = item_field!(e, item, list);
            let len = item_field!(e, item, list_len);
            e.count(len, 1, |e, index| {
                let entry = e.element(list, index, size_of::<ListedRun>() as i64);
                let begin = e.field(entry, offset_of!(ListedRun, begin));
                let end = e.field(entry, offset_of!(ListedRun, end));
                let kind = e.field(entry, offset_of!(ListedRun, kind));
                body(e, begin, end, Some(kind));
            });
            return;
        };
        let next = next(closed);
        let g = item_field!(e, item, g);
        let lane_begin = item_field!(e, item, lane_begin);
        let lane_end = item_field!(e, item, lane_end);
        let first = e.call(&next, &[g, lane_begin, lane_end, row_begin]);
        let (begin, end) = (e.variable(first[0]), e.variable(first[1]));
        e.while_loop(
            |e| {
                let begin = e.get(begin);
                e.b.ins().icmp(IntCC::SignedLessThan, begin, row_end)
            },
            |e| {
                let stop = e.get(end);
                let clipped = e.smaller(stop, row_end);
                let start = e.get(begin);
                body(e, start, clipped, None);
                let run = e.call(&next, &[g, lane_begin, lane_end, clipped]);
                e.set(begin, run[0]);
                e.set(end, run[1]);
            },
        );
    }

    /// Whether a run goes through the row buffers: it cannot be read in place, or is too short for a tile of its own.
    fn wants_gather(&self, e: &mut Emit<'_>, begin: Value, end: Value) -> Value {
        let direct = item_field!(e, self.item, direct);
        let least = item_field!(e, self.item, gather_below);
        let length = e.b.ins().isub(end, begin);
        let short = e.b.ins().icmp(IntCC::SignedLessThan, length, least);
        let indirect = e.b.ins().icmp_imm_s(IntCC::Equal, direct, 0);
        e.b.ins().bor(short, indirect)
    }

    /// The kind of the box `[i0, i1) x [j0, j1)`.
    fn kind(&self, e: &mut Emit<'_>, bounds: [Value; 4], listed: Option<Value>) -> Value {
        let (Some(closed), None) = (self.closed, listed) else {
            return listed.unwrap_or_else(|| e.int(PAIRS));
        };
        let g = item_field!(e, self.item, g);
        let args = [g, bounds[0], bounds[1], bounds[2], bounds[3]];
        let pairs = e.int(PAIRS);
        let kind = e.variable(pairs);
        let all = e.call(&closed.all_visible, &args)[0];
        e.if_else(
            all,
            |e| {
                let full = e.int(FULL);
                e.set(kind, full);
            },
            |e| {
                let edge_only = e.call(&closed.edge_only, &args)[0];
                let edge = e.int(EDGE);
                let chosen = e.b.ins().select(edge_only, edge, pairs);
                e.set(kind, chosen);
            },
        );
        e.get(kind)
    }

    /// Whether some query of `[i0, i1)` sees a key of `[j0, j1)`; the runs of a list are all wanted.
    fn any_visible(&self, e: &mut Emit<'_>, i0: Value, i1: Value, j0: Value, j1: Value) -> Value {
        let Some(closed) = self.closed else {
            return e.int(1);
        };
        let g = item_field!(e, self.item, g);
        let run = e.call(&closed.next_keys, &[g, i0, i1, j0]);
        e.b.ins().icmp(IntCC::SignedLessThan, run[0], j1)
    }

    fn gather(&self, e: &mut Emit<'_>, head: Value, begin: Value, count: Value, at: Value) {
        let gather = callee!(e, self.item, gather);
        e.call_pointer(gather, &[self.item, head, begin, count, at]);
    }

    fn gathered_tile(&self, e: &mut Emit<'_>, rows: Value, kind: Value, stats: Value) {
        let a = item_field!(e, self.item, a_rows);
        let b = item_field!(e, self.item, b_rows);
        let stride = e.int(self.head_dim as i64);
        e.call(self.tile, &[self.item, a, stride, b, stride, rows, kind, stats]);
    }

    fn tile_in_place(
        &self,
        e: &mut Emit<'_>,
        head: Value,
        begin: Value,
        rows: Value,
        kind: Value,
        stats: Value,
    ) {
        let item = self.item;
        let masked = e.b.ins().icmp_imm_s(IntCC::NotEqual, kind, FULL);
        e.if_then(masked, |e| {
            let index = item_field!(e, item, row_index);
            e.count(rows, 1, |e, r| {
                let row = e.b.ins().iadd(begin, r);
                let row = e.b.ins().ireduce(types::I32, row);
                let at = e.element(index, r, 4);
                e.b.ins().store(FLAGS, row, at, 0);
            });
        });
        let base = item_field!(e, item, row_base);
        let token = e.b.ins().isub(begin, base);
        let a_stride = item_field!(e, item, a_stride);
        let b_stride = item_field!(e, item, b_stride);
        let (a_start, a_head) = (item_field!(e, item, a), item_field!(e, item, a_head));
        let (b_start, b_head) = (item_field!(e, item, b), item_field!(e, item, b_head));
        let a = address(e, a_start, [token, a_stride], [head, a_head]);
        let b = address(e, b_start, [token, b_stride], [head, b_head]);
        e.call(self.tile, &[item, a, a_stride, b, b_stride, rows, kind, stats]);
    }
}

/// `start + 4 * (row * row_stride + head * head_stride)`
fn address(e: &mut Emit<'_>, start: Value, row: [Value; 2], head: [Value; 2]) -> Value {
    let to_row = e.b.ins().imul(row[0], row[1]);
    let to_head = e.b.ins().imul(head[0], head[1]);
    let offset = e.b.ins().iadd(to_row, to_head);
    e.element(start, offset, 4)
}
