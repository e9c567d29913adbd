use longgen::sparse_pattern;

#[sparse_pattern(sink = 4, windw = 4096, strides = 8)]
struct Typos;

#[sparse_pattern(sink = 4, sink = 8)]
struct Twice;

#[sparse_pattern(window = 64, step = 2)]
struct OptionWithoutClause;

#[sparse_pattern()]
struct Empty;

#[sparse_pattern(sink = 4 window = 8)]
struct NoComma;

fn main() {}
