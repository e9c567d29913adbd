//! Kernels with a mistake in them: the emulated GPU must tell each from the kernel as it is. They are mistakes of the kind that a
//! GPU mostly forgives: a wait, a barrier or a fence that is missing.

use std::sync::Arc;

use libtest_mimic::Failed;
use longgen_codegen::cuda::source::CudaSource;
use longgen_codegen::spec::{Dtype, KernelSpec, Pass, Shape};
use longgen_runtime::gpu::{GpuAttention, GpuOptions, KernelCache};
use longgen_runtime::problem::Sequences;

use crate::{Machine, cuda, problem};

/// A line of a kernel's source, in place of which another is compiled.
pub struct Mistake {
    /// For the title.
    pub name: &'static str,
    target: &'static str,
    pass: Pass,
    line: &'static str,
    instead: &'static str,
}

const fn left_out(name: &'static str, target: &'static str, pass: Pass, line: &'static str) -> Mistake {
    Mistake { name, target, pass, line, instead: "" }
}

/// All of them.
pub const ALL: [Mistake; 12] = [
    Mistake {
        name: "copies-one-step-late",
        target: "sm_90",
        pass: Pass::Forward,
        line: "        wait_copies<kStages - 2>();\n        __syncthreads();\n        const ScoreMap score(p);",
        instead: "        wait_copies<kStages - 1>();\n        __syncthreads();\n        const ScoreMap score(p);",
    },
    Mistake {
        name: "step-without-barrier",
        target: "sm_90",
        pass: Pass::Forward,
        line: "        wait_copies<kStages - 2>();\n        __syncthreads();\n        const ScoreMap score(p);",
        instead: "        wait_copies<kStages - 2>();\n        const ScoreMap score(p);",
    },
    Mistake {
        name: "steps-do-not-meet",
        target: "sm_90",
        pass: Pass::BackwardFused,
        line: "    wait_copies<kStages - 2>();\n    named_barrier_sync(kBlockBarrier, kThreads);\n}",
        instead: "    wait_copies<kStages - 2>();\n}",
    },
    left_out(
        "weights-not-awaited",
        "sm_90",
        Pass::BackwardFused,
        "        named_barrier_sync(barrier, 2 * kWarpSize);",
    ),
    left_out("values-not-awaited", "sm_90a", Pass::Forward, "        shared.v.wait_full(v_at);"),
    Mistake {
        name: "queries-released-early",
        target: "sm_90a",
        pass: Pass::BackwardFused,
        line: "            last = step(dk, dv);\n            shared.q.release(at);",
        instead: "            shared.q.release(at);\n            last = step(dk, dv);",
    },
    left_out("keys-never-released", "sm_90a", Pass::Forward, "        shared.k.release(at);"),
    Mistake {
        name: "values-released-early",
        target: "sm_90a",
        pass: Pass::Forward,
        line: "            issue_output(o, weights);\n            pass_turn();",
        instead: "            issue_output(o, weights);\n            shared.v.release(at.previous());\n            pass_turn();",
    },
    Mistake {
        name: "consumers-do-not-meet",
        target: "sm_90a",
        pass: Pass::BackwardFused,
        line: "        fence_async_proxy();\n        meet_consumers();",
        instead: "        fence_async_proxy();",
    },
    Mistake {
        name: "scores-gradients-not-fenced",
        target: "sm_90a",
        pass: Pass::BackwardFused,
        line: "        fence_async_proxy();\n        meet_consumers();",
        instead: "        meet_consumers();",
    },
    left_out(
        "staging-not-read",
        "sm_90a",
        Pass::BackwardFused,
        "            if (lane == 0) bulk_wait_read<kConsumers>();",
    ),
    left_out(
        "turn-never-given",
        "sm_90a",
        Pass::BackwardFused,
        "            store_release(turn, kOrdered ? unit.tile + 1 : kStored);",
    ),
];

/// Compiles the kernel with the mistake, and wants it to be found on one of a few problems.
pub fn is_found(machine: &Machine, mistake: &Mistake) -> Result<(), Failed> {
    let case = &cuda::small_patterns()[0];
    let shape = Shape { head_dim: 128, dtype: Dtype::Bf16, softcap: false, sink_logit: false };
    let (target, ir) = (mistake.target.parse()?, case.ir());
    let specs = KernelSpec::candidates(mistake.pass, target, shape, &Arc::new(case.code()));
    let spec = specs.first().ok_or("no such kernel")?;
    let mut source = CudaSource::generate(spec)?;
    if source.text.matches(mistake.line).count() == 0 {
        return Err(format!("{} no longer says `{}`", source.name, mistake.line).into());
    }
    source.text = source.text.replace(mistake.line, mistake.instead);
    let cache = KernelCache::in_memory(machine.gpu.search.clone()).replacing(spec.fingerprint(), source);
    let backward = mistake.pass != Pass::Forward;
    let options = GpuOptions { target: Some(target), backward, decode: false, ..GpuOptions::default() };
    let attention = GpuAttention::new(&machine.device, &cache, &ir.to_string(), &ir, shape, options)?;
    for seed in 1..=4 {
        let problem = problem(shape, (4, 2), Sequences::packed(vec![0, 140, 530])?)?;
        let found = match attention.check(&problem, seed) {
            Ok(report) if report.holds() => continue,
            Ok(report) => report.to_string(),
            Err(fault) => fault.to_string(),
        };
        eprintln!("{found}");
        return Ok(());
    }
    Err("the mistake was not found".into())
}
