// Synchronisation on Hopper: mbarriers (arrival counts and bytes in flight), named barriers (a subset of the warps), rings
// of stages, and the register hand-over between warpgroups. Owns no data layout.
#pragma once
#include "prelude.cuh"

namespace lg {

constexpr int kWarpgroup = 128;

// ---- mbarrier: 8 bytes of shared memory, named by its 32-bit shared address -------------------------------------------

LG_DEVICE void barrier_init(u32 barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Makes the initialised barriers visible to the copy engine. A block barrier must follow for the other threads.
LG_DEVICE void barrier_init_done() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

// One arrival. Releases the arriving thread's earlier writes to whoever waits.
LG_DEVICE void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// One arrival that also announces `bytes` still to come from the copy engine.
LG_DEVICE void barrier_arrive_expecting(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// Sleeps until the phase is completed or a long time has passed. Without the time the thread would wake up and ask again
// all the while, at the cost of issue slots and power.
LG_DEVICE bool barrier_test(u32 barrier, u32 phase) {
    constexpr u32 kSleepNanoseconds = 10000000;
    u32 done;
    asm volatile(
        "{\n .reg .pred done;\n"
        " mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2, %3;\n"
        " selp.b32 %0, 1, 0, done;\n}"
        : "=r"(done)
        : "r"(barrier), "r"(phase), "r"(kSleepNanoseconds)
        : "memory");
    return done != 0;
}

// Returns once the barrier has completed the phase of parity `phase`. On a fresh barrier parity 1 counts as completed.
LG_DEVICE void barrier_wait(u32 barrier, u32 phase) {
    while (!barrier_test(barrier, phase)) {
    }
}

// A position in a ring of kDepth stages: which stage, and the parity of the current lap. One register.
template <int kDepth>
struct Ring {
    static_assert((kDepth & (kDepth - 1)) == 0, "stage and lap are bits of one counter");
    u32 count = 0;
    LG_DEVICE int stage() const { return count % kDepth; }
    LG_DEVICE u32 phase() const { return count / kDepth % 2; }
    LG_DEVICE void advance() { ++count; }
    LG_DEVICE Ring next() const { return Ring{count + 1}; }
    LG_DEVICE Ring previous() const { return Ring{count - 1}; }
};

// The mbarriers of a ring: kDepth `full` ones, then kDepth `empty` ones.
template <int kDepth>
struct RingBarriers {
    static constexpr int kBytes = 2 * kDepth * 8;
    u32 base;
    LG_DEVICE u32 full(int stage) const { return base + stage * 8; }
    LG_DEVICE u32 empty(int stage) const { return base + (kDepth + stage) * 8; }
    LG_DEVICE void init(u32 full_arrivals, u32 empty_arrivals) const {
        for (int stage = 0; stage < kDepth; ++stage) {
            barrier_init(full(stage), full_arrivals);
            barrier_init(empty(stage), empty_arrivals);
        }
    }
    LG_DEVICE void wait_full(const Ring<kDepth>& at) const { barrier_wait(full(at.stage()), at.phase()); }
    LG_DEVICE void wait_empty(const Ring<kDepth>& at) const { barrier_wait(empty(at.stage()), at.phase() ^ 1); }
    // A whole warp is done with the stage: one arrival for the warp, after all its lanes' reads.
    LG_DEVICE void release(const Ring<kDepth>& at) const {
        __syncwarp();
        if (threadIdx.x % kWarpSize == 0) barrier_arrive(empty(at.stage()));
    }
};

// ---- proxies and registers ----------------------------------------------------------------------------------------------

// Orders this thread's ordinary shared-memory accesses before later ones of the tensor cores and the copy engine.
LG_DEVICE void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// All warps of a warpgroup: give registers back to the block, or take them from it.
template <int kCount>
LG_DEVICE void registers_release() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
LG_DEVICE void registers_claim() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}

// What one producer warpgroup keeps, and what each of `kConsumers` consumer warpgroups gets, out of 64 Ki registers.
constexpr int kProducerRegisters = kConsumers == 3 ? 32 : 40;
constexpr int kConsumerRegisters = kConsumers == 3 ? 160 : 232;

}  // namespace lg
