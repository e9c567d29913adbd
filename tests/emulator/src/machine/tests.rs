//! Kernels written by hand: what works works under every seed, and each kind of mistake is found.

use super::{Launch, Memory, run};
use crate::ptx::parse;

/// Words that each thread owns in the output.
const OUTPUTS: usize = 2;
/// A value that no kernel here writes.
const UNWRITTEN: u32 = u32::MAX;

/// Runs a kernel of `threads` threads whose body finds the output's address in `%out`, its thread in `%t`, four bytes of shared
/// memory for each thread at `%mine`, those of thread `t + 32` (mod `threads`) at `%other`, and writes `[%out + 8 t]`.
fn kernel(body: &str, threads: u32, seed: u64) -> Result<Vec<u32>, String> {
    let text = format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n.extern .shared .align 16 .b8 smem[];\n\
         .visible .entry k(.param .u64 out)\n{{\n\
         .reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<20>, %t, %mine, %other; .reg .f32 %f<9>; .reg .b64 %rd<9>, %out;\n\
         ld.param.u64 %rd0, [out]; cvta.to.global.u64 %rd0, %rd0;\n\
         mov.u32 %t, %tid.x; mul.wide.u32 %rd1, %t, 8; add.s64 %out, %rd0, %rd1;\n\
         mov.u32 %mine, smem; mad.lo.u32 %mine, %t, 4, %mine;\n\
         add.u32 %r0, %t, 32; rem.u32 %r0, %r0, {threads}; mov.u32 %other, smem; mad.lo.u32 %other, %r0, 4, %other;\n\
         .loc 1 7 3\n{body}\nret;\n}}\n.file 1 \"kernel.cu\"\n"
    );
    let module = parse(&text).map_err(|error| error.to_string())?;
    let mut memory = Memory::default();
    let out = memory.allocate(threads as usize * OUTPUTS * 4);
    let launch = Launch {
        entry: &module.entries[0],
        globals: &module.globals,
        parameters: out.to_le_bytes().to_vec(),
        grid: [1; 3],
        threads,
        dynamic_smem_bytes: 4096,
        resident: 2,
        seed,
        counts: false,
    };
    run(&mut memory, &launch).map_err(|fault| fault.to_string())?;
    let bytes = memory.slice(out, threads as usize * OUTPUTS * 4).map_err(|fault| fault.to_string())?;
    let words = bytes.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
    Ok(words.step_by(OUTPUTS).collect())
}

const SEEDS: std::ops::Range<u64> = 0..40;

/// How many seeds give what the first seed of a right kernel gives.
fn right(body: &str, threads: u32, expected: &[u32]) -> usize {
    SEEDS.filter(|&seed| kernel(body, threads, seed).as_deref() == Ok(expected)).count()
}

/// The message of the fault that every seed ends in.
fn fault(body: &str, threads: u32) -> String {
    let mut messages = SEEDS.take(8).map(|seed| kernel(body, threads, seed).expect_err("a fault"));
    let first = messages.next().expect("a seed");
    assert!(messages.all(|message| message.contains("kernel k")));
    first
}

#[test]
fn words_pass_between_warps_at_a_barrier_and_not_without_one() {
    let exchange = |barrier: &str| {
        format!(
            "st.shared.u32 [%mine], %t; {barrier} ld.shared.u32 %r1, [%other]; st.global.u32 [%out], %r1;"
        )
    };
    let expected: Vec<u32> = (0..96).map(|t| (t + 32) % 96).collect();
    assert_eq!(right(&exchange("bar.sync 0;"), 96, &expected), SEEDS.count());
    assert!(right(&exchange(""), 96, &expected) < SEEDS.count() / 2);
}

#[test]
fn a_copy_is_there_after_the_wait_and_not_before() {
    // Each thread copies the word of the output that it wrote itself.
    let copy = |wait: &str| {
        format!(
            "st.global.u32 [%out], %t; cp.async.ca.shared.global [%mine], [%out], 4, 4; cp.async.commit_group; {wait} \
             ld.shared.u32 %r1, [%mine]; add.u32 %r1, %r1, 1; st.global.u32 [%out], %r1; cp.async.wait_group 0;"
        )
    };
    let expected: Vec<u32> = (1..=32).collect();
    assert_eq!(right(&copy("cp.async.wait_group 0;"), 32, &expected), SEEDS.count());
    let some = right(&copy("cp.async.wait_group 1;"), 32, &expected);
    assert!(0 < some && some < SEEDS.count(), "{some}");
}

#[test]
fn lanes_part_and_meet_again() {
    let body = "setp.lt.u32 %p1, %t, 5; @%p1 bra LOW; mov.u32 %r1, 100; bra.uni BOTH; LOW: mov.u32 %r1, 7; BOTH: bar.warp.sync -1; \
                shfl.sync.bfly.b32 %r2|%p2, %r1, 16, 31, -1; vote.sync.ballot.b32 %r3, %p1, -1; and.b32 %r3, %r3, 255; \
                add.u32 %r2, %r2, %r3; st.global.u32 [%out], %r2;";
    let expected: Vec<u32> = (0..32).map(|t| if (t ^ 16) < 5 { 38 } else { 131 }).collect();
    assert_eq!(right(body, 32, &expected), SEEDS.count());
}

#[test]
fn lanes_that_wait_for_each_other_apart_are_found() {
    let body = "setp.lt.u32 %p1, %t, 5; @%p1 bra LOW; bar.warp.sync -1; bra.uni BOTH; LOW: bar.warp.sync -1; BOTH: ret;";
    let message = fault(body, 32);
    assert!(message.contains("wait for each other") && message.contains("kernel.cu:7"), "{message}");
}

#[test]
fn a_barrier_that_not_all_reach_is_found() {
    let message = fault("setp.lt.u32 %p1, %t, 32; @%p1 bra END; bar.sync 3, 64; END: ret;", 64);
    assert!(message.contains("barrier 3 has 32 of 64 threads"), "{message}");
    let message = fault(
        "setp.eq.u32 %p1, %t, 0; @%p1 mbarrier.init.shared::cta.b64 [%mine], 2; \
                         bar.sync 0; mov.u32 %r1, smem; L: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r1], 0, 99; @!%p2 bra L;",
        64,
    );
    assert!(message.contains("mbarrier 0: round 0, 2 of 2 arrivals"), "{message}");
}

#[test]
fn accesses_out_of_bounds_and_not_aligned_are_found() {
    let message = fault("st.global.u32 [%out+256], %t;", 32);
    assert!(
        message.contains("byte 256 of an allocation of 256 bytes, at kernel.cu:7, warp 0 of block [0, 0, 0]"),
        "{message}"
    );
    assert!(fault("ld.shared.u32 %r1, [%mine+4096];", 32).contains("of 4096 bytes of dynamic shared memory"));
    assert!(fault("ld.global.v2.u32 {%r1, %r2}, [%out+4];", 32).contains("no multiple of 8"));
    assert!(fault("mov.u64 %rd3, 0; ld.global.u32 %r1, [%rd3];", 32).contains("nothing is allocated"));
}

#[test]
fn stores_that_the_copy_engine_may_not_see_are_found() {
    let bulk = |fence: &str| {
        format!(
            "st.shared.u32 [%mine], %t; {fence} bar.sync 0; setp.ne.u32 %p1, %t, 0; @%p1 bra END; mov.u32 %r1, smem; \
             mov.u32 %r2, 128; cp.async.bulk.global.shared::cta.bulk_group [%rd0], [%r1], %r2; cp.async.bulk.commit_group; \
             cp.async.bulk.wait_group 0; END: ret;"
        )
    };
    let written = kernel(&bulk("fence.proxy.async.shared::cta;"), 32, 1).unwrap();
    assert_eq!(written[..3], [0, 2, 4], "two words of shared memory for each thread's two of the output");
    assert_eq!(written[16], UNWRITTEN);
    assert!(fault(&bulk(""), 32).contains("did not pass fence.proxy.async"));
}

#[test]
fn a_block_may_not_end_under_the_copy_engine() {
    let body = "setp.ne.u32 %p1, %t, 0; @%p1 bra END; mov.u32 %r1, smem; mov.u32 %r2, 128; \
                cp.async.bulk.global.shared::cta.bulk_group [%rd0], [%r1], %r2; END: ret;";
    let ends = SEEDS.filter_map(|seed| kernel(body, 32, seed).err()).collect::<Vec<_>>();
    assert!(
        !ends.is_empty() && ends.iter().all(|end| end.contains("ends while the copy engine")),
        "{ends:?}"
    );
}

/// What one instruction makes of constants.
fn value(body: &str) -> u32 {
    kernel(&format!("{body} st.global.u32 [%out], %r1;"), 32, 1).expect(body)[0]
}

#[test]
fn scalars_are_computed_as_the_language_says() {
    for (body, expected) in [
        ("add.s32 %r1, 7, -9;", -2i32 as u32),
        ("shr.s32 %r1, -8, 1;", -4i32 as u32),
        ("shr.u32 %r1, -8, 33;", 0),
        ("shl.b32 %r1, 1, 32;", 0),
        ("div.s32 %r1, -7, 2;", -3i32 as u32),
        ("mul.hi.u32 %r1, -1, 3;", 2),
        ("bfi.b32 %r1, 5, -1, 4, 3;", 0xffff_ffdf),
        ("bfind.u32 %r1, 40;", 5),
        ("bfind.shiftamt.u32 %r1, 40;", 26),
        ("popc.b32 %r1, 255;", 8),
        ("prmt.b32 %r1, 0x33221100, 0x77665544, 0x7140;", 0x7711_4400),
        ("setp.lt.s32 %p1, -1, 0; selp.b32 %r1, 4, 5, %p1;", 4),
        ("setp.lt.u32 %p1, -1, 0; selp.b32 %r1, 4, 5, %p1;", 5),
        ("mov.f32 %f1, 0f7FC00000; setp.neu.f32 %p1, %f1, %f1; selp.b32 %r1, 4, 5, %p1;", 4),
        ("mov.f32 %f1, 0f7FC00000; setp.lt.f32 %p1, %f1, %f1; selp.b32 %r1, 4, 5, %p1;", 5),
        ("mov.f32 %f1, 0fBFC00000; cvt.rni.s32.f32 %r1, %f1;", -2i32 as u32),
        ("mov.f32 %f1, 0f40200000; cvt.rzi.s32.f32 %r1, %f1;", 2),
        ("mov.f32 %f1, 0f3F800000; mov.f32 %f2, 0f40000000; cvt.rn.bf16x2.f32 %r1, %f2, %f1;", 0x4000_3f80),
        ("mov.f32 %f1, 0fFF800000; ex2.approx.ftz.f32 %f2, %f1; mov.b32 %r1, %f2;", 0),
        ("mov.b64 %rd3, {1, 2}; add.s64 %rd3, %rd3, -1; mov.b64 {%r2, %r1}, %rd3;", 2),
        ("mov.u32 %r2, 0x00018002; mov.b32 {%h1, %h2}, %r2; cvt.s32.s16 %r1, %h1;", 0xffff_8002),
        ("mul.wide.s32 %rd3, -2, 3; shr.u64 %rd3, %rd3, 32; cvt.u32.u64 %r1, %rd3;", u32::MAX),
    ] {
        assert_eq!(value(body), expected, "{body}");
    }
}

#[test]
fn a_product_of_small_matrices() {
    // A is 1 in row 0 and column 0 alone, B holds 2 everywhere: row 0 of the product is 2, with C = 1 added.
    let body = "setp.eq.u32 %p1, %t, 0; selp.b32 %r1, 0x3f80, 0, %p1; mov.u32 %r2, 0; mov.u32 %r3, 0x40004000; \
                mov.f32 %f1, 0f3F800000; mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f2, %f3, %f4, %f5}, \
                {%r1, %r2, %r2, %r2}, {%r3, %r3}, {%f1, %f1, %f1, %f1}; st.global.f32 [%out], %f2;";
    let expected: Vec<u32> =
        (0..32).map(|lane| if lane < 4 { 3.0f32.to_bits() } else { 1.0f32.to_bits() }).collect();
    assert_eq!(kernel(body, 32, 3).unwrap(), expected);
}

#[test]
fn matrices_come_from_shared_memory_and_transposed() {
    // Row r of matrix 0 is at 16 r: element (r, c) is the half number 8 r + c.
    let fill = "shl.b32 %r1, %t, 1; add.u32 %r2, %r1, 1; shl.b32 %r2, %r2, 16; or.b32 %r1, %r1, %r2; st.shared.u32 [%mine], %r1; \
                bar.warp.sync -1; mov.u32 %r3, smem; and.b32 %r4, %t, 7; mad.lo.u32 %r3, %r4, 16, %r3;";
    let load = |kind: &str| {
        format!(
            "{fill} ldmatrix.sync.aligned.m8n8.x1{kind}.shared.b16 {{%r5}}, [%r3]; st.global.u32 [%out], %r5;"
        )
    };
    let straight: Vec<u32> = (0..32).map(|lane| (2 * lane) | ((2 * lane + 1) << 16)).collect();
    assert_eq!(kernel(&load(""), 32, 1).unwrap(), straight);
    let half = |row: u32, column: u32| 8 * row + column;
    let turned: Vec<u32> = (0..32)
        .map(|lane| (lane / 4, lane % 4 * 2))
        .map(|(row, column)| half(column, row) | (half(column + 1, row) << 16))
        .collect();
    assert_eq!(kernel(&load(".trans"), 32, 1).unwrap(), turned);
}
