//! What generated code and the host agree on: the tile layout, the work item and the functions it may call.
//!
//! A *lane tile* is a matrix of 64 columns, row after row. In the forward and dQ kernels a lane is one query row
//! (a token of one head of the group) and the rows of the score tile are keys; in the dK/dV kernel a lane is a key
//! and the rows are queries. Lanes never mix, so a lane without a real row may hold anything.

/// Columns of every lane tile.
pub const LANES: usize = 64;
/// Most rows of a score tile; [`super::Blocking`] says how many there are.
pub const MOST_ROWS: usize = 128;
/// Lanes are computed in strips of this many.
pub const STRIP: usize = 16;

/// `C[r][l] = sum_k a[r * stride + k] * B[k][l]` for `rows` rows, `depth` steps and `strips` strips of lanes:
/// `(a, stride, b, c, rows, depth, strips, next, next_stride)`. As many rows of `next` are read soon after; they may be
/// fetched.
pub type RowsFn = unsafe extern "C" fn(*const f32, i64, *const f32, *mut f32, i64, i64, i64, *const f32, i64);
/// `C[r][l] = alpha[l] * C[r][l] + sum_k a[k * stride + r] * B[k][l]`, the sum alone where `alpha` is null:
/// `(a, stride, b, c, rows, depth, strips, alpha, soon, soon_len, first, end)`. `soon` leads to `soon_len` pointers to as many
/// rows, as long as C has rows; they may be fetched. Before line `first` B is 0 but in the first strip, from line `end` on
/// but in the last: they need not be read.
pub type ColumnsFn = unsafe extern "C" fn(
    *const f32,
    i64,
    *const f32,
    *mut f32,
    i64,
    i64,
    i64,
    *const f32,
    *const *const f32,
    i64,
    i64,
    i64,
);
/// The online softmax over a part of a score tile, from its first lane `lane` on: `(scores, rows, strips, item, lane)`.
/// Scores become probabilities relative to the running maximum of their lane; `max`, `sum` and `alpha` of the item are
/// brought up to date.
pub type SoftmaxFn = unsafe extern "C" fn(*mut f32, i64, i64, *mut Item, i64);
/// Scores and `dP` of one tile become what the backward multiplies by: `(scores, dp, rows, strips, item, lse2, delta)`.
/// With lanes of queries, `dS` replaces the scores; with lanes of keys, `P` replaces the scores and `dS` replaces `dp`.
pub type GradientFn = unsafe extern "C" fn(*mut f32, *mut f32, i64, i64, *mut Item, *const f32, *const f32);
/// Copies `count` rows of both operands from token `begin` to row `at` of the item's row buffers, widening them to
/// f32, and notes their token indices: `(item, head, begin, count, at)`.
pub type GatherFn = unsafe extern "C" fn(*mut Item, i64, i64, i64, i64);

/// The functions a generated kernel calls for everything that no pattern changes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Calls {
    /// Rows product.
    pub rows: RowsFn,
    /// Columns product.
    pub columns: ColumnsFn,
    /// Columns product in which a zero weight in B hides even an infinity or a NaN in A.
    pub columns_masked: ColumnsFn,
    /// Online softmax.
    pub softmax: SoftmaxFn,
    /// Gradient of the scores with queries in the lanes.
    pub gradient_query_lanes: GradientFn,
    /// Gradient of the scores with keys in the lanes.
    pub gradient_key_lanes: GradientFn,
    /// Row gathering.
    pub gather: GatherFn,
}

/// A run of rows that the host found, for patterns without closed forms.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedRun {
    /// First token index.
    pub begin: i64,
    /// One past the last.
    pub end: i64,
    /// 0: every pair is visible, 2: test each pair.
    pub kind: i64,
}

/// One unit of work, and the scratch memory of the thread that does it.
///
/// Rows are walked, lanes stay: with lanes of queries the rows are keys (operand `a` is K, operand `b` is V), with
/// lanes of keys they are queries (operand `a` is Q, operand `b` is dO).
#[repr(C)]
#[derive(Debug)]
pub struct Item {
    /// What the kernel may call.
    pub calls: Calls,
    /// KV head.
    pub g: i64,
    /// Token index of the first lane.
    pub lane_begin: i64,
    /// One past the token index of the last lane.
    pub lane_end: i64,
    /// First token index to walk.
    pub row_begin: i64,
    /// One past the last token index to walk.
    pub row_end: i64,
    /// Strips of lanes in use.
    pub strips: i64,
    /// Rows walked at a time.
    pub tile_rows: i64,
    /// Shorter runs of rows are gathered.
    pub gather_below: i64,
    /// Query heads that are walked, one after the other, for every tile of queries (lanes of keys only).
    pub heads: i64,
    /// Rows can be read in place: f32 with unit stride.
    pub direct: i64,
    /// Token index of the first row that the operands hold.
    pub row_base: i64,
    /// Operand `a` of that row, head 0 of the walk, when direct.
    pub a: *const f32,
    /// Operand `b`.
    pub b: *const f32,
    /// Elements between rows of `a`.
    pub a_stride: i64,
    /// Elements between rows of `b`.
    pub b_stride: i64,
    /// Elements between heads of `a`.
    pub a_head: i64,
    /// Elements between heads of `b`.
    pub b_head: i64,
    /// Gathered rows of `a`, MOST_ROWS x D.
    pub a_rows: *mut f32,
    /// Gathered rows of `b`, MOST_ROWS x D.
    pub b_rows: *mut f32,
    /// Token index of each lane.
    pub lane_index: *const i32,
    /// Token index of each row of the current tile.
    pub row_index: *mut i32,
    /// The lanes' own rows, transposed: D x LANES. Q scaled for the base-2 softmax, or K likewise.
    pub lanes_a: *const f32,
    /// The lanes' second operand, transposed: D x LANES. dO, or V.
    pub lanes_b: *const f32,
    /// Score tile, MOST_ROWS x LANES.
    pub scores: *mut f32,
    /// dP tile, MOST_ROWS x LANES.
    pub dp: *mut f32,
    /// Accumulator, D x LANES: O, dQ or dK.
    pub out_a: *mut f32,
    /// Accumulator, D x LANES: dV.
    pub out_b: *mut f32,
    /// Strips of O to which nothing was added yet, a bit each, and which may hold anything (forward only).
    pub fresh: i64,
    /// Per-lane state, LANES each: running maximum, sum and rescaling factor of the softmax.
    pub max: *mut f32,
    /// Running sum of the probabilities.
    pub sum: *mut f32,
    /// Factor that brings the accumulator to the new maximum.
    pub alpha: *mut f32,
    /// Log-sum-exp in base 2, +inf where a row is empty: per lane, or per token of `heads` rows of `stat_head`.
    pub lse2: *const f32,
    /// Row sums of dO * O less the gradient of the log-sum-exp, laid out as `lse2`.
    pub delta: *const f32,
    /// Elements between the statistics of neighbouring heads.
    pub stat_head: i64,
    /// Rows that are needed when the walk is done, to be fetched meanwhile.
    pub soon: *const *const f32,
    /// How many are left of them.
    pub soon_len: i64,
    /// Runs to walk, for listed patterns.
    pub list: *const ListedRun,
    /// Number of runs.
    pub list_len: i64,
    /// What the host needs in `gather`; generated code does not look at it.
    pub source: *const core::ffi::c_void,
    /// Softcap times log2(e), or 0 where there is none; scores arrive divided by the softcap.
    pub softcap2: f32,
}
