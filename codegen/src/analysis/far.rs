//! Far pieces: the pieces of keys that a query at any distance still sees, as sinks and strides leave them among pieces that
//! only near queries see. The fused backward of Hopper pairs them and cuts their walks (`tile/sm90_key_unit.cuh`).

use super::periodic::{Periodicity, sum};
use crate::ir::{MaskIr, Programs};

/// A query further from every key than any key is from another.
const FAR_QUERY: i64 = 1 << 30;

/// How many of the pieces of `piece` keys among the first `keys` keys are far under KV head `g`; none when all keys are, as one
/// run of the closed form, or when the mask has none. `programs` are those of `ir`. Looks at one period of the mask, whatever the length.
pub fn far_pieces(ir: &MaskIr, programs: &Programs, g: u32, keys: u32, piece: u32) -> u32 {
    let Some(closed) = &programs.closed else { return 0 };
    let far_keys = |from: i64| closed.next_keys(g.into(), FAR_QUERY, FAR_QUERY + 1, from);
    let (all, end) = (far_keys(0), i64::from(keys));
    if all.begin >= end || (all.begin == 0 && all.end >= end) {
        return 0;
    }
    let is_far = |index: u64| {
        let begin = index as i64 * i64::from(piece);
        u64::from(far_keys(begin).begin < end.min(begin + i64::from(piece)))
    };
    // The last piece may be cut, and does not repeat.
    let (whole, cut) = (u64::from(keys / piece), !keys.is_multiple_of(piece));
    let repeats = Periodicity::of(ir).in_blocks(piece.into());
    sum(whole, repeats, is_far) as u32 + if cut { is_far(whole) as u32 } else { 0 }
}
