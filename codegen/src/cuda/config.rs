//! The generated constants of a kernel: what `sample_config.cuh` shows by example.

use std::fmt::Write;

use crate::schedule::smem_bytes;
use crate::spec::{Dtype, KernelSpec, Pass};
use crate::target::Family;

/// The constants block: C++, in namespace `lg`, one line per constant, in one order.
pub fn constants(spec: &KernelSpec) -> String {
    let schedule = spec.schedule;
    let integers = [
        ("kHeadDim", spec.shape.head_dim, "D"),
        ("kTileM", schedule.tile_m, "query rows of a tile"),
        ("kTileN", schedule.tile_n, "keys of a tile"),
        ("kStages", schedule.stages, "tiles in flight"),
        ("kThreads", schedule.threads, "threads of a block"),
        ("kConsumers", schedule.consumers, "sm_90a: consumer warpgroups"),
        (
            "kDynamicSmemBytes",
            smem_bytes(spec.pass, spec.family, &spec.shape, &schedule),
            "what the host passes at launch",
        ),
    ];
    let flags = [
        ("kBf16", spec.shape.dtype == Dtype::Bf16, "else fp16"),
        ("kSoftcap", spec.shape.softcap, "scores pass through cap * tanh(s / cap)"),
        ("kSinkLogit", spec.shape.sink_logit, "one learned logit per query head in the denominator"),
        ("kListed", spec.pattern.listed, "tiles come from a list, not in closed form"),
    ];
    let mut text = String::new();
    for (name, value, meaning) in integers {
        line(&mut text, &format!("constexpr int {name} = {value};"), meaning);
    }
    for (name, value, meaning) in flags {
        line(&mut text, &format!("constexpr bool {name} = {value};"), meaning);
    }
    if spec.pass.is_fused() && spec.family == Family::Sm90 {
        let ordered = spec.pass == Pass::BackwardOrdered;
        line(&mut text, &format!("constexpr bool kOrdered = {ordered};"), "dQ is summed in one order");
    }
    text
}

fn line(text: &mut String, code: &str, meaning: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{code:<44}// {meaning}");
}
