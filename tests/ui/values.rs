use longgen::sparse_pattern;

#[sparse_pattern(sink = 4, stride = 0)]
struct StrideZero;

#[sparse_pattern(window = 0)]
struct WindowZero;

#[sparse_pattern(window = 18446744073709551615)]
struct WindowHuge;

#[sparse_pattern(window = 18446744073709551616)]
struct WindowBeyond;

#[sparse_pattern(window = -1)]
struct WindowNegative;

#[sparse_pattern(window = "4096")]
struct WindowText;

#[sparse_pattern(stride = 8, block = 48)]
struct BlockNoPower;

#[sparse_pattern(window_blocks = 1000000, block = 4096)]
struct TooManyTokens;

#[sparse_pattern(group = 7)]
struct OddGroup;

#[sparse_pattern(window = 4096u32)]
struct Suffix;

fn main() {}
