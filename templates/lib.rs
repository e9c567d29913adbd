//! The CUDA templates, as text: names and contents, no logic.
//!
//! A name is the path below `templates/cuda`, with forward slashes, as a quoted `#include` in a template spells it from
//! that folder. See `README.md` beside this file for the rules that kernel authors follow.
#![forbid(unsafe_code)]

macro_rules! table {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("cuda/", $name)))),*]
    };
}

/// Every template: name and text, sorted by name.
pub const FILES: &[(&str, &str)] = table![
    "decode.cu",
    "engine/cache.cu",
    "engine/cross_entropy.cu",
    "engine/embedding.cu",
    "engine/matvec.cu",
    "engine/optimizer.cu",
    "engine/random.cu",
    "engine/rmsnorm.cu",
    "engine/rope.cu",
    "engine/rows.cuh",
    "engine/swiglu.cu",
    "params.cuh",
    "prelude.cuh",
    "sample_config.cuh",
    "sm80/backward.cu",
    "sm80/backward_convert_dq.cu",
    "sm80/backward_delta.cu",
    "sm80/backward_dkv.cu",
    "sm80/backward_dq.cu",
    "sm80/forward.cu",
    "sm90/backward.cu",
    "sm90/backward_feed.cuh",
    "sm90/forward.cu",
    "sm90/forward_producer.cuh",
    "sm90/forward_shared.cuh",
    "tile/copy.cuh",
    "tile/dq_sums.cuh",
    "tile/gradient.cuh",
    "tile/headed_walk.cuh",
    "tile/layout.cuh",
    "tile/merge.cuh",
    "tile/mma.cuh",
    "tile/sm90_barrier.cuh",
    "tile/sm90_key_unit.cuh",
    "tile/sm90_scores.cuh",
    "tile/sm90_tile.cuh",
    "tile/sm90_wgmma.cuh",
    "tile/softmax.cuh",
    "tile/stream.cuh",
    "walk.cuh",
];

/// The C header that reads kernel bundles and fills in launches: `templates/c/longgen.h`.
pub const C_HEADER: &str = include_str!("c/longgen.h");

/// The text of the template `name`, or `None` if there is no such file.
pub fn text(name: &str) -> Option<&'static str> {
    FILES.iter().find(|(file, _)| *file == name).map(|(_, text)| *text)
}

#[cfg(test)]
mod tests {
    use super::{FILES, text};

    #[test]
    fn names_are_sorted_and_unique() {
        assert!(FILES.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn quoted_includes_resolve() {
        for (name, body) in FILES {
            for line in body.lines() {
                let Some(rest) = line.strip_prefix("#include \"") else { continue };
                let target = rest.split('"').next().unwrap_or_default();
                assert!(text(target).is_some(), "`{name}` includes `{target}`, which is not in the table");
            }
        }
    }
}
