//! Mistakes in `#[sparse_pattern]` are compile errors at the token they are in.
//! `TRYBUILD=overwrite cargo test --test macro_ui` rewrites the expected messages.

#[test]
fn mistakes_point_at_their_token() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/*.rs");
}
