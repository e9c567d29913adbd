//! Every rule of the pattern language, once. The builder, the text form, TOML and (through `const` assertions) the
//! attribute all come here, so that no way in accepts what another refuses.
//!
//! Values arrive as `u64` so that a value too large for its field is refused by the rule and not by a conversion.
//! Each function returns what is allowed when the value is not.

use super::{MAX_TOKENS, PRESETS};

/// `Err` says what is allowed.
pub type Checked = Result<(), &'static str>;

/// Largest `stride`, `step` and `offset`, in blocks.
pub const MAX_STRIDE: u32 = 1 << 20;
/// Largest `block`, in tokens.
pub const MAX_BLOCK: u32 = 4096;
/// Most KV heads a pattern can tell apart.
pub const MAX_HEADS: u32 = 1024;
/// Most layers a pattern can tell apart.
pub const MAX_LAYERS: u32 = 1024;
/// Most clauses in one mask.
pub const MAX_CLAUSES: usize = 256;
/// Deepest nesting of unions, intersections and differences in one mask.
pub const MAX_DEPTH: usize = 16;
/// Most rules for heads and layers.
pub const MAX_RULES: usize = 4096;
/// Longest name, in characters.
pub const MAX_NAME: usize = 64;

const fn within(value: u64, low: u64, high: u64, allowed: &'static str) -> Checked {
    if low <= value && value <= high { Ok(()) } else { Err(allowed) }
}

/// Keys that are always seen from the start, in tokens.
pub const fn sink(tokens: u64) -> Checked {
    within(tokens, 1, MAX_TOKENS as u64, "must be 1 to 1073741824 tokens")
}

/// Recent keys, in tokens.
pub const fn window(tokens: u64) -> Checked {
    within(tokens, 1, MAX_TOKENS as u64, "must be 1 to 1073741824 tokens (the token itself counts)")
}

/// Blocks at the start.
pub const fn sink_blocks(blocks: u64) -> Checked {
    within(blocks, 1, MAX_TOKENS as u64, "must be 1 or more blocks, and at most 1073741824 tokens in all")
}

/// Recent blocks.
pub const fn window_blocks(blocks: u64) -> Checked {
    within(blocks, 1, MAX_TOKENS as u64, "must be 1 or more blocks, and at most 1073741824 tokens in all")
}

/// Distance between strided blocks.
pub const fn stride(every: u64) -> Checked {
    within(every, 1, MAX_STRIDE as u64, "must be 1 to 1048576 blocks")
}

/// Tokens in a block.
pub const fn block(tokens: u64) -> Checked {
    if tokens.is_power_of_two() && tokens <= MAX_BLOCK as u64 {
        Ok(())
    } else {
        Err("must be a power of two from 1 to 4096 tokens")
    }
}

/// Blocks by which the stride shifts from one KV head to the next.
pub const fn step(blocks: u64) -> Checked {
    within(blocks, 0, MAX_STRIDE as u64, "must be 0 to 1048576 blocks")
}

/// Blocks by which the stride is shifted for all heads.
pub const fn offset(blocks: u64) -> Checked {
    within(blocks, 0, MAX_STRIDE as u64, "must be 0 to 1048576 blocks")
}

/// Tokens in a group.
pub const fn group(tokens: u64) -> Checked {
    if tokens.is_multiple_of(2) {
        within(tokens, 2, MAX_TOKENS as u64, "must be an even number of tokens from 2 to 1073741824")
    } else {
        Err("must be an even number of tokens from 2 to 1073741824")
    }
}

/// `blocks * block` of `sink_blocks`, `window_blocks` and `stride`: the tokens they span.
pub const fn span(blocks: u64, block: u64) -> Checked {
    match blocks.checked_mul(block) {
        Some(tokens) if tokens <= MAX_TOKENS as u64 => Ok(()),
        _ => Err("spans more than 1073741824 tokens: blocks times `block` must stay within that"),
    }
}

/// The number of layers.
pub const fn layer_count(count: u64) -> Checked {
    within(count, 1, MAX_LAYERS as u64, "must be 1 to 1024 layers")
}

/// A KV head's index.
pub const fn head(index: u64) -> Checked {
    within(index, 0, MAX_HEADS as u64 - 1, "KV heads count from 0 to 1023")
}

/// A layer's index, where the number of layers is not known.
pub const fn layer(index: u64) -> Checked {
    within(index, 0, MAX_LAYERS as u64 - 1, "layers count from 0 to 1023")
}

/// A number in a set of KV heads or of layers, as far as both keep the same rule.
pub const fn index(index: u64) -> Checked {
    within(index, 0, MAX_LAYERS as u64 - 1, "KV heads and layers count from 0 to 1023")
}

/// A layer's index in a plan of `count` layers.
pub const fn layer_in_plan(index: u64, count: u64) -> Checked {
    if index < count { Ok(()) } else { Err("lies past the last layer of the plan: layers count from 0") }
}

/// Ends of a range of indices.
pub const fn range(first: u64, last: u64) -> Checked {
    if first <= last { Ok(()) } else { Err("runs backwards: write the smaller end first") }
}

/// Distance between the members of `every n from m`.
pub const fn every(every: u64) -> Checked {
    within(every, 1, MAX_LAYERS as u64, "`every` must be 1 to 1024")
}

/// The cap of the scores.
pub const fn softcap(cap: f32) -> Checked {
    // Written so that NaN fails.
    if cap >= 0.001 && cap <= 1e6 { Ok(()) } else { Err("must be a number from 0.001 to 1000000") }
}

/// A pattern's name.
pub const fn name(name: &str) -> Checked {
    const ALLOWED: &str = "must be 1 to 64 letters, digits, spaces, `-`, `_` or `.` of ASCII";
    let bytes = name.as_bytes();
    let mut n = 0;
    while n < bytes.len() {
        if !(bytes[n].is_ascii_alphanumeric() || matches!(bytes[n], b' ' | b'-' | b'_' | b'.')) {
            return Err(ALLOWED);
        }
        n += 1;
    }
    if bytes.is_empty() || bytes.len() > MAX_NAME { Err(ALLOWED) } else { Ok(()) }
}

/// Clauses in one mask.
pub const fn clauses(count: u64) -> Checked {
    within(count, 1, MAX_CLAUSES as u64, "must be 1 to 256 clauses")
}

/// Levels of unions, intersections, differences and parentheses in one mask.
pub const fn depth(levels: u64) -> Checked {
    within(levels, 1, MAX_DEPTH as u64, "a mask nests at most 16 levels deep")
}

/// Rules for heads and layers.
pub const fn rules(count: u64) -> Checked {
    within(count, 0, MAX_RULES as u64, "must be at most 4096 rules for heads")
}

/// A preset's name.
pub const fn preset(name: &str) -> Checked {
    let mut n = 0;
    while n < PRESETS.len() {
        if same(name.as_bytes(), PRESETS[n].as_bytes()) {
            return Ok(());
        }
        n += 1;
    }
    Err(
        "unknown preset; there are: longgen-sink, longgen-stride, phi3-small, streaming-llm, mistral, gemma3, gpt-oss, \
         duo, longlora",
    )
}

/// `==` of strings, which `const` functions do not have.
const fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut n = 0;
    while n < a.len() {
        if a[n] != b[n] {
            return false;
        }
        n += 1;
    }
    true
}

/// Turns a broken rule into a compile error; the attribute calls it in `const` context.
#[doc(hidden)]
#[track_caller]
pub const fn enforce(checked: Checked) {
    if let Err(allowed) = checked {
        panic!("{}", allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_inclusive() {
        assert!(
            window(0).is_err()
                && window(1).is_ok()
                && window(1 << 30).is_ok()
                && window((1 << 30) + 1).is_err()
        );
        assert!(stride(0).is_err() && stride(1 << 20).is_ok() && stride(u64::MAX).is_err());
        assert!(block(0).is_err() && block(48).is_err() && block(4096).is_ok() && block(8192).is_err());
        assert!(group(0).is_err() && group(3).is_err() && group(2).is_ok() && group(1 << 30).is_ok());
        assert!(span(1 << 20, 1024).is_ok() && span(1 << 20, 2048).is_err() && span(u64::MAX, 2).is_err());
        assert!(
            softcap(f32::NAN).is_err()
                && softcap(0.0).is_err()
                && softcap(-1.0).is_err()
                && softcap(50.0).is_ok()
        );
        assert!(name("").is_err() && name("a b-c_d.9").is_ok() && name("\n").is_err() && name("ü").is_err());
    }

    #[test]
    fn the_message_lists_every_preset() {
        let Err(message) = preset("no such preset") else { panic!("accepted") };
        for name in PRESETS {
            assert!(preset(name).is_ok() && message.contains(name));
        }
    }
}
