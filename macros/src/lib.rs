//! The `#[sparse_pattern]` attribute: checks spelling and spans, and emits the pattern's text together with `const`
//! assertions that call the rules where they live, in the compiler. Depends on none of the project's crates.
#![forbid(unsafe_code)]

use proc_macro::TokenStream;

mod args;
mod expand;
mod names;
mod out;
mod predicate;
mod sets;

/// Makes a pattern of a unit struct or of a function; a mistake is a compile error at the token it is in.
///
/// On a unit struct the attribute holds the text form of a pattern. The struct then implements `SparsePattern`:
///
/// ```text
/// #[sparse_pattern(sink = 4, window = 4096, stride = 8)]
/// struct Local;
///
/// #[sparse_pattern((sink = 4, window = 4096) - where(k % 2 == 1); heads 0..=3: full; softcap = 50.0)]
/// struct Odd;
///
/// let pattern = Local::pattern();
/// ```
///
/// On a function the attribute stands alone, and the body is the mask: whether query `q` sees key `k` under KV head
/// `head` (causality is added). The function stays as it is; a type of the same name implements `SparsePattern`:
///
/// ```text
/// #[sparse_pattern]
/// fn sees(q: i64, k: i64, head: i64) -> bool {
///     let distance = q - k;
///     distance < 128 || (k / 64 + head) % 8 == 0
/// }
///
/// let pattern = sees::pattern();
/// ```
#[proc_macro_attribute]
pub fn sparse_pattern(args: TokenStream, item: TokenStream) -> TokenStream {
    expand::expand(args.into(), item.into()).into()
}

#[cfg(test)]
mod tests;
