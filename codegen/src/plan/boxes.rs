//! What a box of pairs holds, for masks without a closed form: interval arithmetic, then bisection.

use crate::ir::Programs;
use crate::scalar::Interval;

/// What of a box is visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cover {
    /// No pair.
    Nothing,
    /// Some pairs.
    Part,
    /// Every pair.
    All,
}

/// What of queries `[i0, i1)` and keys `[j0, j1)` is visible under KV head `g`; exact.
///
/// Interval arithmetic decides most boxes at once; the others are cut in half along their longer side until it
/// does. A single pair is always decided, so this ends after at most as many steps as the box has pairs.
pub fn cover(programs: &Programs, g: i64, (i0, i1): (i64, i64), (j0, j1): (i64, i64)) -> Cover {
    if i0 >= i1 || j0 >= j1 {
        return Cover::Nothing;
    }
    let args = [Interval::point(g), Interval::new(i0, i1 - 1), Interval::new(j0, j1 - 1)];
    let seen = programs.visible.bounds(&args)[0];
    if seen.low == 1 {
        return Cover::All;
    }
    if seen.high == 0 {
        return Cover::Nothing;
    }
    if i1 - i0 == 1 && j1 - j0 == 1 {
        return if programs.visible(g, i0, j0) { Cover::All } else { Cover::Nothing };
    }
    let halves = if i1 - i0 >= j1 - j0 {
        let middle = i0 + (i1 - i0) / 2;
        [((i0, middle), (j0, j1)), ((middle, i1), (j0, j1))]
    } else {
        let middle = j0 + (j1 - j0) / 2;
        [((i0, i1), (j0, middle)), ((i0, i1), (middle, j1))]
    };
    let first = cover(programs, g, halves[0].0, halves[0].1);
    if first == Cover::Part {
        return Cover::Part;
    }
    let second = cover(programs, g, halves[1].0, halves[1].1);
    if first == second { first } else { Cover::Part }
}
