use longgen::sparse_pattern;

#[sparse_pattern(sink = 4, window = 8 & stride = 2)]
struct BareList;

#[sparse_pattern((sink = 4, window = 8) &)]
struct NoOperand;

#[sparse_pattern((sink = 4, widow = 8) - (window = 0 window = 2))]
struct Inside;

#[sparse_pattern(where(q - k < 5.0) | where(q))]
struct Condition;

fn main() {}
