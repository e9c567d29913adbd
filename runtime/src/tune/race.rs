//! Successive halving with interleaved repeats, as a state machine that measures nothing itself.
//!
//! In a round every candidate still in the race is timed the same number of times, one after the other, so that clock drift and
//! noise meet all of them alike; then the slower half leaves, unless it is within reach of the best. Each round takes twice the
//! repeats of the one before. What to time next follows from the measurements alone: a race that is given those of an
//! interrupted one goes on where that one stood.

/// How the times of one candidate become one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistic {
    /// The least: noise only ever adds, as on a CPU that others use too.
    Least,
    /// The median: clocks move both ways, as on a GPU at its power limit.
    Median,
}

impl Statistic {
    fn of(self, seconds: &[f64]) -> Option<f64> {
        let mut sorted = seconds.to_vec();
        sorted.sort_by(f64::total_cmp);
        match self {
            Statistic::Least => sorted.first().copied(),
            Statistic::Median => sorted.get(sorted.len().saturating_sub(1) / 2).copied(),
        }
    }
}

/// How long a race goes on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RaceRules {
    /// How times are summed up.
    pub statistic: Statistic,
    /// Repeats of the first round; each later round doubles them.
    pub first_repeats: u32,
    /// No candidate is timed more often.
    pub most_repeats: u32,
    /// A candidate within this factor of the best is never dropped before the last round.
    pub tie: f64,
}

impl RaceRules {
    /// Rules for a noisy machine: the least of up to 12.
    pub const CPU: RaceRules =
        RaceRules { statistic: Statistic::Least, first_repeats: 2, most_repeats: 24, tie: 1.03 };
    /// Rules for a device of its own.
    pub const GPU: RaceRules =
        RaceRules { statistic: Statistic::Median, first_repeats: 3, most_repeats: 24, tie: 1.02 };
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Time this candidate once.
    Time(usize),
    /// Nothing that is ready is wanted; something that is wanted is not ready.
    Wait,
    /// The race is over.
    Done,
}

/// The state of a race.
#[derive(Clone, Debug)]
pub struct Race {
    rules: RaceRules,
    lanes: Vec<Lane>,
    /// Measurements that each candidate of this round needs.
    wanted: u32,
    done: bool,
}

#[derive(Clone, Debug, Default)]
struct Lane {
    seconds: Vec<f64>,
    refused: bool,
    dropped: bool,
}

impl Race {
    /// A race among `candidates` candidates; the first is the first guess.
    pub fn new(candidates: usize, rules: RaceRules) -> Race {
        Race {
            rules,
            lanes: vec![Lane::default(); candidates],
            wanted: rules.first_repeats.max(1),
            done: false,
        }
    }

    /// Notes a measurement.
    pub fn record(&mut self, candidate: usize, seconds: f64) {
        if let Some(lane) = self.lanes.get_mut(candidate) {
            lane.seconds.push(seconds);
        }
    }

    /// Takes a candidate out for good.
    pub fn refuse(&mut self, candidate: usize) {
        if let Some(lane) = self.lanes.get_mut(candidate) {
            lane.refused = true;
        }
    }

    /// What to time next, among candidates that are `ready`.
    pub fn next(&mut self, mut ready: impl FnMut(usize) -> bool) -> Step {
        while !self.done {
            let running = self.running();
            let repeats = |n: usize| self.lanes[n].seconds.len();
            let wanting: Vec<usize> =
                running.iter().copied().filter(|&n| repeats(n) < self.wanted as usize).collect();
            if wanting.is_empty() {
                self.end_round(&running);
                continue;
            }
            let ready: Vec<usize> = wanting.into_iter().filter(|&n| ready(n)).collect();
            // The one with the fewest first, so that repeats interleave; forth and back, so that drift favours none.
            let Some(fewest) = ready.iter().map(|&n| repeats(n)).min() else { return Step::Wait };
            let mut turn = ready.into_iter().filter(|&n| repeats(n) == fewest);
            let next = if fewest % 2 == 1 { turn.next_back() } else { turn.next() };
            return next.map_or(Step::Wait, Step::Time);
        }
        Step::Done
    }

    /// Drops the slower half, or ends the race.
    fn end_round(&mut self, running: &[usize]) {
        let mut order = running.to_vec();
        order.sort_by(|&a, &b| self.in_round(a).total_cmp(&self.in_round(b)));
        if order.len() <= 1 || self.wanted >= self.rules.most_repeats {
            self.done = true;
            return;
        }
        let best = order.first().map_or(f64::INFINITY, |&n| self.in_round(n));
        let reach = best * self.rules.tie.max(1.0 + self.noise(&order));
        for &n in &order[order.len().div_ceil(2)..] {
            self.lanes[n].dropped = self.in_round(n) > reach;
        }
        self.wanted = (self.wanted * 2).min(self.rules.most_repeats);
    }

    /// The time of a candidate by the measurements of this round and those before. Later ones do not count, so that a resumed
    /// race decides as the interrupted one did.
    fn in_round(&self, candidate: usize) -> f64 {
        let seconds = &self.lanes[candidate].seconds;
        self.rules.statistic.of(&seconds[..seconds.len().min(self.wanted as usize)]).unwrap_or(f64::INFINITY)
    }

    /// By how much the time of a candidate may be off: the median distance between its two least, over the least, twice.
    fn noise(&self, running: &[usize]) -> f64 {
        let gap = |&n: &usize| {
            let seconds = &self.lanes[n].seconds;
            let mut sorted = seconds[..seconds.len().min(self.wanted as usize)].to_vec();
            sorted.sort_by(f64::total_cmp);
            Some(2.0 * (sorted.get(1)? / sorted.first()? - 1.0))
        };
        let mut gaps: Vec<f64> = running.iter().filter_map(gap).collect();
        gaps.sort_by(f64::total_cmp);
        gaps.get(gaps.len() / 2).copied().unwrap_or(0.0)
    }

    /// Candidates still in the race.
    pub fn running(&self) -> Vec<usize> {
        (0..self.lanes.len()).filter(|&n| !self.lanes[n].refused && !self.lanes[n].dropped).collect()
    }

    fn seconds(&self, candidate: usize) -> f64 {
        self.time(candidate).unwrap_or(f64::INFINITY)
    }

    /// The time of a candidate as it stands; `None` before its first measurement.
    pub fn time(&self, candidate: usize) -> Option<f64> {
        self.rules.statistic.of(&self.lanes[candidate].seconds)
    }

    /// How often a candidate was timed.
    pub fn repeats(&self, candidate: usize) -> usize {
        self.lanes[candidate].seconds.len()
    }

    /// Spread of a candidate's times: half the distance between its quartiles, over its time.
    pub fn spread(&self, candidate: usize) -> f64 {
        let mut sorted = self.lanes[candidate].seconds.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |share: usize| sorted.get(sorted.len() * share / 4).copied().unwrap_or(0.0);
        self.time(candidate).map_or(0.0, |time| (at(3) - at(1)) / 2.0 / time)
    }

    /// The best candidate so far: of those that were timed most often, the quickest.
    pub fn winner(&self) -> Option<usize> {
        let running = self.running();
        let most = running.iter().map(|&n| self.repeats(n)).max().filter(|&most| most > 0)?;
        // Cut short in the middle of a round: one repeat less still counts.
        let compared = running.into_iter().filter(|&n| self.repeats(n) + 1 >= most && self.repeats(n) > 0);
        compared.min_by(|&a, &b| self.seconds(a).total_cmp(&self.seconds(b)))
    }

    /// Whether it ran to its end.
    pub fn is_done(&self) -> bool {
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use proptest::prelude::*;

    const DRIFT: f64 = 0.1;

    /// Times with noise that only adds, and a drift that all meet alike.
    fn measure(truth: &[f64], n: usize, rng: &mut Random, noise: f64, clock: &mut f64) -> f64 {
        *clock += 1.0;
        let drift = 1.0 + DRIFT * (*clock / 40.0).sin().abs();
        truth[n] * drift * (1.0 + noise * rng.uniform().powi(2))
    }

    fn run(race: &mut Race, truth: &[f64], seed: u64, noise: f64, most: usize) -> Vec<(usize, f64)> {
        let (mut rng, mut clock, mut log) = (Random::new(seed), 0.0, Vec::new());
        while log.len() < most {
            match race.next(|_| true) {
                Step::Time(n) => {
                    let seconds = measure(truth, n, &mut rng, noise, &mut clock);
                    race.record(n, seconds);
                    log.push((n, seconds));
                }
                Step::Wait => unreachable!("everything is ready"),
                Step::Done => break,
            }
        }
        log
    }

    fn truth() -> impl Strategy<Value = Vec<f64>> {
        prop::collection::vec(1.0f64..3.0, 1..24)
    }

    /// How much slower the pick of a whole race is than the best.
    fn loss(truth: &[f64], seed: u64) -> f64 {
        let mut race = Race::new(truth.len(), RaceRules::CPU);
        run(&mut race, truth, seed, NOISE, usize::MAX);
        assert!(race.is_done());
        let best = truth.iter().copied().fold(f64::INFINITY, f64::min);
        truth[race.winner().unwrap()] / best
    }

    const NOISE: f64 = 0.15;

    /// Noise can meet one candidate every time, but seldom does: what holds of most races is counted over many, the same in every run.
    #[test]
    fn the_pick_is_near_the_best() {
        let mut rng = Random::new(1);
        let races = 2000;
        let near = (0..races).filter(|&seed| {
            let candidates = 1 + (rng.uniform() * 23.0) as usize;
            let truth: Vec<f64> = (0..candidates).map(|_| 1.0 + 2.0 * rng.uniform()).collect();
            loss(&truth, seed) <= 1.03
        });
        let near = near.count();
        assert!(near * 100 >= 99 * races as usize, "{near} of {races} within 3 %");
    }

    proptest! {
        /// A time is at most noise and drift above the truth, and never below it.
        #[test]
        fn the_pick_is_within_the_noise_of_the_best(truth in truth(), seed in any::<u64>()) {
            prop_assert!(loss(&truth, seed) <= (1.0 + NOISE) * (1.0 + DRIFT));
        }

        #[test]
        fn an_interrupted_race_goes_on_where_it_stood(truth in truth(), seed in any::<u64>(), cut in 0usize..200) {
            let mut whole = Race::new(truth.len(), RaceRules::GPU);
            let log = run(&mut whole, &truth, seed, 0.3, usize::MAX);
            let cut = cut.min(log.len());
            let mut resumed = Race::new(truth.len(), RaceRules::GPU);
            log[..cut].iter().for_each(|&(n, seconds)| resumed.record(n, seconds));
            for &(n, seconds) in &log[cut..] {
                prop_assert_eq!(resumed.next(|_| true), Step::Time(n));
                resumed.record(n, seconds);
            }
            prop_assert_eq!(resumed.next(|_| true), Step::Done);
            prop_assert_eq!(resumed.winner(), whole.winner());
        }

        #[test]
        fn a_race_cut_short_still_names_a_winner(truth in truth(), seed in any::<u64>(), most in 1usize..60) {
            let mut race = Race::new(truth.len(), RaceRules::CPU);
            let log = run(&mut race, &truth, seed, 0.0, most);
            let winner = race.winner().unwrap();
            prop_assert!(log.iter().any(|&(n, _)| n == winner));
        }

        #[test]
        fn what_is_not_ready_is_waited_for_and_what_is_refused_is_not(truth in truth(), absent in 0usize..24) {
            let absent = absent % truth.len();
            let mut race = Race::new(truth.len(), RaceRules::GPU);
            while let Step::Time(n) = race.next(|n| n != absent) {
                prop_assert!(n != absent);
                race.record(n, truth[n]);
            }
            prop_assert_eq!(race.next(|n| n != absent), Step::Wait);
            race.refuse(absent);
            run(&mut race, &truth, 1, 0.0, usize::MAX);
            prop_assert!(race.is_done() && race.winner() != Some(absent));
        }
    }

    #[test]
    fn repeats_interleave() {
        let mut race = Race::new(3, RaceRules { first_repeats: 2, ..RaceRules::GPU });
        let log = run(&mut race, &[1.0, 1.0, 1.0], 1, 0.0, 6);
        let order: Vec<usize> = log.iter().map(|&(n, _)| n).collect();
        assert_eq!(order, [0, 1, 2, 2, 1, 0]);
    }
}
