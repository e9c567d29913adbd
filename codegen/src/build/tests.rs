use std::sync::Arc;

use super::{Order, Outcome};
use crate::artifact::BuildError;
use crate::cuda::log::Refusal;
use crate::ir::MaskIr;
use crate::model::PassGroup;
use crate::pattern::Pattern;
use crate::spec::{Dtype, Pass, PatternCode, Shape};

fn order(head_dim: u32, target: &str, passes: &[PassGroup]) -> Order {
    let pattern: Pattern = "window=64".parse().unwrap();
    let ir = MaskIr::lower(&pattern, None).unwrap();
    let code = Arc::new(PatternCode::new(pattern.to_string(), &ir));
    Order::new(&code, &[Shape::plain(head_dim, Dtype::Bf16)], &[target.parse().unwrap()], passes)
}

/// What is left where ptxas refuses these kernels.
fn without(order: &Order, refused: &[Pass]) -> Outcome<Pass> {
    let build = |job: &super::Job| match refused.contains(&job.pass) {
        true => Err(BuildError::Refused { name: job.pass.to_string(), refusal: Refusal::NoReport }),
        false => Ok(job.pass),
    };
    order.build(build).expect("a refusal is no failure")
}

#[test]
fn a_backward_is_missing_only_where_no_way_is_whole() {
    let order = order(128, "sm_90a", &[PassGroup::Backward]);
    let whole = without(&order, &[]);
    assert_eq!((whole.kernels, whole.missing.len()), (Pass::ALL[1..7].to_vec(), 0));
    // The fused way needs neither kernel of the split one, and the other way round.
    for split in [Pass::BackwardDkv, Pass::BackwardDq] {
        let fused = without(&order, &[split]);
        let ways = [Pass::BackwardDelta, Pass::BackwardFused, Pass::BackwardOrdered, Pass::BackwardConvertDq];
        assert_eq!((fused.kernels, fused.missing.len()), (ways.to_vec(), 0));
    }
    for fused in [&[Pass::BackwardFused, Pass::BackwardOrdered][..], &[Pass::BackwardConvertDq]] {
        let split = without(&order, fused);
        assert_eq!((split.kernels, split.missing.len()), (Pass::BACKWARD_SPLIT.to_vec(), 0));
    }
    for lacking in [&[Pass::BackwardDelta][..], &[Pass::BackwardDq, Pass::BackwardConvertDq]] {
        let none = without(&order, lacking);
        assert_eq!(none.kernels, []);
        let missing = &none.missing[0];
        assert_eq!(missing.to_string(), "there is no backward for D 128, bf16 on sm_90a");
        assert!(missing.reason.to_string().contains(lacking[0].name()), "{}", missing.reason);
    }
}

#[test]
fn sums_are_converted_only_where_there_are_any() {
    let plain = order(64, "sm_80", &[PassGroup::Backward]);
    assert_eq!(without(&plain, &[]).kernels, Pass::BACKWARD_SPLIT);
    let all = without(&order(256, "sm_80", &PassGroup::ALL), &[]);
    assert_eq!((all.kernels.len(), all.missing.len()), (5, 0));
}

#[test]
fn another_error_ends_the_build() {
    let order = order(64, "sm_80", &PassGroup::ALL);
    let outcome = order.build(|job| match job.pass {
        Pass::BackwardDq => Err(BuildError::NoKernel),
        _ => Ok(()),
    });
    assert!(matches!(outcome, Err(BuildError::NoKernel)));
}
