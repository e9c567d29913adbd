use longgen::sparse_pattern;

const BLOCK: i64 = 64;

#[sparse_pattern]
fn unknown_call(q: i64, k: i64, head: i64) -> bool {
    q.pow(2) < k && (q as f64).sqrt() > 3.0 && head.rem_euclid(2) == 0
}

#[sparse_pattern]
fn unknown_name(q: i64, k: i64, head: i64) -> bool {
    q / BLOCK == k / BLOCK || head == 0
}

#[sparse_pattern]
fn divisors(q: i64, k: i64, head: i64) -> bool {
    let zero = 8 - 8;
    q % head == 0 || k / zero == 1 || k % -3 == 0
}

#[sparse_pattern]
fn statements(q: i64, k: i64, head: i64) -> bool {
    let mut near = q - k < 8;
    near = near || head == 0;
    if near {
        return true;
    }
    for _ in 0..3 {}
    match k {
        0 => true,
        _ => false,
    }
}

#[sparse_pattern]
fn operators(q: i64, k: i64, head: i64) -> bool {
    (q ^ k) & head == 0 && q << 1 > k
}

#[sparse_pattern]
fn no_value(q: i64, k: i64, head: i64) -> bool {
    let _same = q == k && head == 0;
    (if q < k { true } else { false }) as bool
}

fn main() {}
