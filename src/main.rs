//! `lgc`.
fn main() {}
