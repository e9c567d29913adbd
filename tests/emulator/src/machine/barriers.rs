//! Barriers of a block: the sixteen of the hardware, and those that lie in shared memory.

use std::collections::HashMap;

use super::Fault;

/// One of the hardware's barriers.
#[derive(Clone, Debug, Default)]
struct Named {
    /// Threads that complete it, by those that have come.
    threads: Option<u32>,
    arrived: u32,
    /// How many times it was completed.
    round: u64,
    /// Of the predicates so far, and of the last round: whether one held, and whether one did not.
    any: bool,
    any_not: bool,
    result: (bool, bool),
}

/// A barrier in shared memory.
#[derive(Clone, Debug)]
struct InMemory {
    arrivals: u32,
    missing: u32,
    /// Bytes announced less bytes that came.
    bytes: i64,
    round: u64,
}

/// All barriers of a block.
#[derive(Debug, Default)]
pub struct Barriers {
    named: [Named; 16],
    in_memory: HashMap<u64, InMemory>,
}

/// A round of a named barrier that a warp waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub id: usize,
    round: u64,
}

impl Barriers {
    /// `count` threads of a warp come to barrier `id`, which `threads` threads complete. The predicates of theirs are for a
    /// barrier that reduces.
    pub fn arrive(
        &mut self,
        id: u32,
        count: u32,
        threads: u32,
        any: bool,
        any_not: bool,
    ) -> Result<Ticket, Fault> {
        let Some(barrier) = self.named.get_mut(id as usize) else {
            return Err(Fault::new(format!("barrier {id} of 16")));
        };
        if let Some(others) = barrier.threads.filter(|&others| others != threads) {
            return Err(Fault::new(format!(
                "barrier {id} for {threads} threads, and for {others} by those before"
            )));
        }
        let ticket = Ticket { id: id as usize, round: barrier.round };
        barrier.threads = Some(threads);
        barrier.arrived += count;
        barrier.any |= any;
        barrier.any_not |= any_not;
        if barrier.arrived > threads {
            return Err(Fault::new(format!(
                "barrier {id} for {threads} threads, of whom {} came",
                barrier.arrived
            )));
        }
        if barrier.arrived == threads {
            let result = (barrier.any, barrier.any_not);
            *barrier = Named { round: barrier.round + 1, result, ..Named::default() };
        }
        Ok(ticket)
    }

    /// Whether the round is complete; then, of its predicates, whether one held and whether one did not.
    pub fn completed(&self, ticket: Ticket) -> Option<(bool, bool)> {
        let barrier = &self.named[ticket.id];
        (barrier.round > ticket.round).then_some(barrier.result)
    }

    /// The named barriers that somebody has come to and not all, for messages.
    pub fn describe(&self) -> String {
        let waiting = self.named.iter().enumerate().filter(|(_, barrier)| barrier.arrived > 0);
        let named = waiting.map(|(id, barrier)| {
            format!("barrier {id} has {} of {} threads", barrier.arrived, barrier.threads.unwrap_or(0))
        });
        let mut places: Vec<_> = self.in_memory.iter().collect();
        places.sort_by_key(|(address, _)| **address);
        let in_memory = places.into_iter().map(|(address, barrier)| {
            let InMemory { arrivals, missing, bytes, round } = barrier;
            format!("mbarrier {address}: round {round}, {missing} of {arrivals} arrivals and {bytes} bytes missing")
        });
        named.chain(in_memory).collect::<Vec<_>>().join("; ")
    }

    /// Makes the words at `address` a barrier that `arrivals` arrivals complete.
    pub fn init(&mut self, address: u64, arrivals: u32) -> Result<(), Fault> {
        if arrivals == 0 || !address.is_multiple_of(8) {
            return Err(Fault::new(format!("a barrier for {arrivals} arrivals at {address}")));
        }
        self.in_memory.insert(address, InMemory { arrivals, missing: arrivals, bytes: 0, round: 0 });
        Ok(())
    }

    fn at(&mut self, address: u64) -> Result<&mut InMemory, Fault> {
        let found = self.in_memory.get_mut(&address);
        found.ok_or_else(|| Fault::new(format!("there is no barrier at {address} of shared memory")))
    }

    /// `arrivals` arrivals, which announce `bytes` bytes.
    pub fn arrive_in_memory(&mut self, address: u64, arrivals: u32, bytes: u32) -> Result<(), Fault> {
        let barrier = self.at(address)?;
        barrier.bytes += i64::from(bytes);
        let Some(missing) = barrier.missing.checked_sub(arrivals) else {
            return Err(Fault::new(format!(
                "the barrier at {address} gets more than {} arrivals",
                barrier.arrivals
            )));
        };
        barrier.missing = missing;
        barrier.complete();
        Ok(())
    }

    /// `bytes` bytes came.
    pub fn deliver(&mut self, address: u64, bytes: usize) -> Result<(), Fault> {
        let barrier = self.at(address)?;
        barrier.bytes -= bytes as i64;
        barrier.complete();
        Ok(())
    }

    /// Whether the last round of this parity is complete. A fresh barrier has completed one of parity 1.
    pub fn test(&mut self, address: u64, parity: u32) -> Result<bool, Fault> {
        Ok(self.at(address)?.round % 2 != u64::from(parity & 1))
    }
}

impl InMemory {
    fn complete(&mut self) {
        if self.missing == 0 && self.bytes == 0 {
            self.missing = self.arrivals;
            self.round += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Barriers;

    #[test]
    fn a_named_barrier_completes_and_reduces() {
        let mut barriers = Barriers::default();
        let first = barriers.arrive(3, 32, 64, false, true).unwrap();
        assert_eq!(barriers.completed(first), None);
        assert!(barriers.clone_for_test(3, 96).is_err(), "another count");
        let second = barriers.arrive(3, 32, 64, true, true).unwrap();
        assert_eq!(barriers.completed(first), Some((true, true)));
        assert_eq!(barriers.completed(second), Some((true, true)));
        assert!(barriers.arrive(16, 32, 32, false, false).is_err());
    }

    impl Barriers {
        fn clone_for_test(&mut self, id: u32, threads: u32) -> Result<(), super::Fault> {
            self.arrive(id, 32, threads, false, false).map(|_| ())
        }
    }

    #[test]
    fn a_barrier_in_memory_waits_for_arrivals_and_bytes() {
        let mut barriers = Barriers::default();
        assert!(barriers.test(8, 0).is_err());
        barriers.init(8, 2).unwrap();
        assert_eq!((barriers.test(8, 1).unwrap(), barriers.test(8, 0).unwrap()), (true, false));
        barriers.arrive_in_memory(8, 2, 64).unwrap();
        assert!(!barriers.test(8, 0).unwrap());
        barriers.deliver(8, 64).unwrap();
        assert!(barriers.test(8, 0).unwrap() && !barriers.test(8, 1).unwrap());
        assert!(barriers.arrive_in_memory(8, 3, 0).is_err());
    }
}
