use longgen::sparse_pattern;

#[sparse_pattern(window = 8)]
struct Fields {
    window: u32,
}

#[sparse_pattern(window = 8)]
struct Generic<T>;

#[sparse_pattern(window = 8)]
enum NoStruct {}

#[sparse_pattern(window = 8)]
fn arguments(q: i64, k: i64, head: i64) -> bool {
    q - k < 8 + head
}

#[sparse_pattern]
fn two(q: i64, k: i64) -> bool {
    q == k
}

#[sparse_pattern]
fn types(q: u32, k: i64, head: i64) -> i64 {
    k + head
}

#[sparse_pattern]
fn nothing() {}

fn main() {}
