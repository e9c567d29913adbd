use super::*;
use crate::spec::Dtype;

#[test]
fn text_round_trips() {
    let schedule = Schedule { tile_m: 128, tile_n: 64, stages: 2, threads: 256, consumers: 0 };
    assert_eq!(schedule.to_string().parse(), Ok(schedule));
}

#[test]
fn mistakes_are_named() {
    let message = |text: &str| text.parse::<Schedule>().expect_err("wrong").to_string();
    assert!(message("tile_m 128").contains("`tile_m` is not of the form key=value"));
    assert!(message("tile_q=1").contains("unknown key `tile_q`"));
    assert!(message("tile_m=x").contains("`tile_m` is `x`"));
    assert!(message("tile_m=16 tile_m=16").contains("stands twice"));
    assert!(message("tile_m=16").contains("`tile_n` is missing"));
}

#[test]
fn every_choice_is_legal() {
    for target in Target::all() {
        for head_dim in [64, 96, 128, 192, 256] {
            for pass in Pass::ALL {
                let shape = Shape::plain(head_dim, Dtype::Bf16);
                for family in [Family::Sm80, target.family()] {
                    if !pass.exists(family, &shape) {
                        continue;
                    }
                    for schedule in candidates(pass, family, &shape, *target) {
                        let checked = schedule.check(pass, family, &shape, *target);
                        assert_eq!(checked, Ok(()), "{pass} D={head_dim} {target}: {schedule}");
                    }
                }
            }
        }
    }
}

#[test]
fn too_much_shared_memory_is_refused() {
    let shape = Shape::plain(256, Dtype::Bf16);
    let schedule = Schedule { tile_m: 256, tile_n: 256, stages: 2, threads: 256, consumers: 0 };
    let target = Target::of_family(Family::Sm80);
    let refused = schedule.check(Pass::Forward, Family::Sm80, &shape, target);
    assert!(matches!(refused, Err(IllegalSchedule::SharedMemory { .. })), "{refused:?}");
}
