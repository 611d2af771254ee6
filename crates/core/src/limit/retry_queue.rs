//! A retry queue per key: staggers the retry times of refused requests.
//!
//! A quota knows when it has room for one more request. If all refused requests get that time, they
//! retry together, and all but one are refused again. So a refusal counts the earlier ones that are
//! not yet due: the n-th gets the time at which the n-th unit is free.
//!
//! Clients may ignore the time. One that retries without waiting must not push the others' times
//! away for ever, so a retry queue is at most `MAX_EXTRA_DELAY` long; later times are random within it.
//!
//! **Failure mode.** If the table is full, requests of a new key get the quota's own time.

use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::clock::Nanos;

/// Longest delay beyond the quota's own time; if the queue is longer, times are random. OpenAI's
/// clients wait up to one minute by themselves; the rest is for the margins.
const MAX_EXTRA_DELAY: Duration = Duration::from_secs(65);
/// Extra time between two retries, beyond the time to refill their units: at most `MARGIN`, and at
/// most 1/16 of the refill time. Clients retry some milliseconds late and take their unit later
/// than it was free; without a margin, a punctual client behind a late one would be refused again.
const MARGIN: Duration = Duration::from_millis(20);
const MARGIN_PART: u32 = 16;
const SHARDS: usize = 64;
/// Retry queues per shard: 16 384 in all, about 50 bytes each.
const PER_SHARD: usize = 256;

/// Key of a retry queue: the id of a rule's counts, and the hash of the rule's key.
pub(crate) type RetryQueueKey = (u32, u64);

/// A retry queue: requests that were given a retry time and are not yet due.
#[derive(Clone, Copy, Debug, Default)]
struct RetryQueue {
    turns: u64,
    units: u64,
    /// Retry times of the first and the last request; the others are spaced evenly between.
    first: Nanos,
    last: Nanos,
}

impl RetryQueue {
    /// Removes the requests that are due at `now`.
    fn advance(&mut self, now: Nanos) {
        if now >= self.last {
            *self = Self::default();
        }
        if self.turns <= 1 || now < self.first {
            return;
        }
        // The first is due and the last is not, so there are at least two, at different times.
        let step = (self.last.since(self.first).as_nanos() / u128::from(self.turns - 1)).max(1);
        let due = now.since(self.first).as_nanos() / step + 1;
        let due = u64::try_from(due).unwrap_or(u64::MAX).min(self.turns - 1);
        let units = u128::from(self.units) * u128::from(due) / u128::from(self.turns);
        self.units -= u64::try_from(units).unwrap_or(self.units);
        self.turns -= due;
        let passed = u64::try_from(step.saturating_mul(due.into())).unwrap_or(u64::MAX);
        self.first = (self.first + Duration::from_nanos(passed)).min(self.last);
    }

    fn add(&mut self, amount: u64, due: Nanos) {
        self.first = if self.turns == 0 { due } else { self.first.min(due) };
        self.last = self.last.max(due);
        self.turns += 1;
        self.units = self.units.saturating_add(amount);
    }
}

/// A refused request that joins a retry queue.
#[derive(Clone, Copy, Debug)]
pub struct RetryTurn {
    /// The units that it asks for.
    pub amount: u64,
    /// Time until the quota has room for it, without regard to the retry queue.
    pub own: Duration,
    /// Most units that the quota admits at once.
    pub capacity: u64,
    /// Time to refill `capacity` units.
    pub refill: Duration,
    /// Number of gateways that give retry times for this quota, each with its own queue.
    pub gateways: u32,
}

/// Retry queues by key. Keys are hashes that outsiders cannot compute.
#[derive(Debug)]
pub struct RetryQueues([Mutex<HashMap<RetryQueueKey, RetryQueue>>; SHARDS]);

impl Default for RetryQueues {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl RetryQueues {
    /// Appends a refused request to the queue of `key`; returns its retry time. `wait` returns the
    /// time until so many units (at most the capacity) are free together; `random` is from 0 to 1.
    pub fn join(
        &self,
        key: RetryQueueKey,
        turn: RetryTurn,
        random: f64,
        now: Nanos,
        wait: impl FnOnce(u64) -> Duration,
    ) -> Duration {
        let mut lines = self.0[key.1 as usize % SHARDS].lock();
        if lines.len() >= PER_SHARD && !lines.contains_key(&key) {
            lines.retain(|_, line| line.last > now);
            if lines.len() >= PER_SHARD {
                return turn.own;
            }
        }
        let line = lines.entry(key).or_default();
        line.advance(now);
        if line.units > 0 && turn.fits_before(line.first.since(now)) {
            return turn.own;
        }
        let retry_after = turn.retry_after(line.units, wait);
        let later = retry_after.saturating_sub(turn.own);
        if later > MAX_EXTRA_DELAY {
            let part = Duration::try_from_secs_f64(later.as_secs_f64() * random).unwrap_or(later);
            return turn.own.saturating_add(part);
        }
        line.add(turn.amount, now + retry_after);
        retry_after
    }
}

impl RetryTurn {
    /// Returns the time until `ahead` units and then its own are free.
    fn retry_after(&self, ahead: u64, wait: impl FnOnce(u64) -> Duration) -> Duration {
        if ahead == 0 {
            return self.own;
        }
        let capacity = self.capacity.max(1);
        let ahead = ahead.saturating_mul(self.gateways.max(1).into());
        let sum = ahead.saturating_add(self.amount).max(1);
        // Each full capacity that the requests ahead use must be refilled first.
        let rounds = (sum - 1) / capacity;
        let again = self.refill.saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX));
        let free = wait(sum - rounds * capacity).saturating_add(again).max(self.own);
        let margin = MARGIN.min(self.refill_time() / MARGIN_PART);
        let turns = u32::try_from(ahead / self.amount.max(1)).unwrap_or(u32::MAX);
        free.saturating_add(margin.saturating_mul(turns))
    }

    fn refill_time(&self) -> Duration {
        let part = self.amount as f64 / self.capacity.max(1) as f64;
        Duration::try_from_secs_f64(self.refill.as_secs_f64() * part).unwrap_or(Duration::MAX)
    }

    /// Returns `true` if its units, and 7/8 as many again, are free before the first request ahead
    /// is due: they were reserved for a client that did not come, or for this one, a little early.
    fn fits_before(&self, first: Duration) -> bool {
        self.own.saturating_add(self.refill_time() / 8 * 7) <= first
    }

    /// Estimates the time until `units` are free together in a quota that is kept elsewhere: they
    /// refill evenly between the request's own wait and the time at which the quota is `whole`.
    pub fn estimate_wait(&self, units: u64, whole: Duration) -> Duration {
        let rest = self.capacity.saturating_sub(self.amount);
        let pace = match rest {
            0 => self.refill.as_secs_f64() / self.capacity.max(1) as f64,
            rest => whole.saturating_sub(self.own).as_secs_f64() / rest as f64,
        };
        let seconds = self.own.as_secs_f64() + pace * (units as f64 - self.amount as f64);
        Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(self.own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::meter::{Meter, Shortage};
    use crate::limit::rule::Quota;
    use crate::limit::sliding_log::SlidingLog;
    use crate::limit::token_bucket::TokenBucket;

    const NOW: Nanos = Nanos::from_secs(1000);

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn wait<M: Meter>(meter: &M, cell: &M::Cell, units: u64, now: Nanos) -> Duration {
        match meter.shortage(cell, units, now) {
            Some(Shortage::Wait(wait)) => wait,
            _ => Duration::ZERO,
        }
    }

    /// Makes `count` calls, `apart` from each other; each refused one is admitted on its retry.
    fn all_are_admitted<M: Meter>(
        meter: &M,
        (capacity, refill): (u64, Duration),
        count: u64,
        apart: Duration,
    ) {
        let (lines, mut cell, mut told) = (RetryQueues::default(), M::Cell::default(), Vec::new());
        for call in 0..count {
            let now = NOW + apart.saturating_mul(call as u32);
            let Err(Shortage::Wait(own)) = meter.charge(&mut cell, 1, now) else { continue };
            let turn = RetryTurn { amount: 1, own, capacity, refill, gateways: 1 };
            told.push(now + lines.join((1, 1), turn, 0.5, now, |units| wait(meter, &cell, units, now)));
        }
        assert!(!told.is_empty(), "nobody is refused");
        assert!(told.is_sorted());
        for (place, due) in told.into_iter().enumerate() {
            assert!(meter.charge(&mut cell, 1, due).is_ok(), "the one at place {place} is refused again");
        }
    }

    #[test]
    fn all_who_were_told_are_admitted_when_they_come_back() {
        let quota = |limit, period, burst| Quota { limit, period, burst };
        for (limit, burst, count) in [(1, 2, 8), (1, 2, 40), (10, 1, 100), (3, 50, 150)] {
            let refill = ms(1000 * burst / limit);
            let bucket = TokenBucket::new(quota(limit, ms(1000), burst));
            for apart in [Duration::ZERO, ms(1)] {
                all_are_admitted(&bucket, (burst, refill), count, apart);
            }
        }
        for (limit, period, count) in [(5, 3000, 60), (2, 700, 40), (40, 30_000, 100)] {
            let log = SlidingLog::new(quota(limit, ms(period), limit));
            all_are_admitted(&log, (limit, ms(period)), count, ms(1));
        }
    }

    #[test]
    fn who_comes_when_the_others_are_due_is_told_the_quotas_own_time() {
        let lines = RetryQueues::default();
        let turn = RetryTurn { amount: 1, own: ms(1000), capacity: 2, refill: ms(2000), gateways: 1 };
        let told = |now| lines.join((1, 1), turn, 0.5, now, |units| ms(1000 * units));
        assert_eq!([told(NOW), told(NOW), told(NOW)], [ms(1000), ms(2020), ms(3040)]);
        assert_eq!(told(NOW + ms(1000)), ms(3040), "one has come back");
        assert_eq!(told(NOW + ms(5000)), ms(1000), "all have");
    }

    #[test]
    fn who_comes_back_a_little_too_early_keeps_its_place() {
        let lines = RetryQueues::default();
        let turn = |own| RetryTurn { amount: 1, own, capacity: 1, refill: ms(1000), gateways: 1 };
        let told = |own, now| lines.join((1, 1), turn(own), 0.5, now, |units| own + ms(1000 * (units - 1)));
        for place in 0..5 {
            assert_eq!(told(ms(1000), NOW), ms(1000 + 1020 * place));
        }
        // The first took its unit 30 ms late, so the second comes 10 ms too early.
        assert_eq!(told(ms(10), NOW + ms(2020)), ms(10));
        assert_eq!(told(ms(1000), NOW + ms(2020)), ms(4060), "and who is new goes to the end");
    }

    #[test]
    fn clients_that_come_back_late_by_chance_are_admitted_with_one_wait() {
        let (lines, mut random) = (RetryQueues::default(), fastrand::Rng::with_seed(1));
        let bucket = TokenBucket::new(Quota { limit: 2, period: ms(1000), burst: 1 });
        let (mut tat, mut told) = (0, Vec::new());
        for _ in 0..50 {
            let Err(Shortage::Wait(own)) = bucket.charge(&mut tat, 1, NOW) else { continue };
            let turn = RetryTurn { amount: 1, own, capacity: 1, refill: ms(500), gateways: 1 };
            let late = ms(random.u64(0..=20));
            told.push(
                NOW + lines.join((1, 1), turn, 0.5, NOW, |units| wait(&bucket, &tat, units, NOW)) + late,
            );
        }
        assert_eq!(told.len(), 49);
        assert!(told.into_iter().all(|at| bucket.charge(&mut tat, 1, at).is_ok()));
    }

    #[test]
    fn with_several_gateways_each_leaves_room_for_those_that_others_told() {
        let lines = RetryQueues::default();
        let turn = RetryTurn { amount: 1, own: ms(1000), capacity: 2, refill: ms(2000), gateways: 3 };
        let told = || lines.join((1, 1), turn, 0.5, NOW, |units| turn.estimate_wait(units, ms(2000)));
        assert_eq!([told(), told(), told()], [ms(1000), ms(4060), ms(7120)]);
    }

    #[test]
    fn who_asks_on_and_on_pushes_times_away_no_further_than_a_minute() {
        let lines = RetryQueues::default();
        let turn = RetryTurn { amount: 1, own: ms(1000), capacity: 1, refill: ms(1000), gateways: 1 };
        let told =
            |millis: u64, random: f64| lines.join((1, 1), turn, random, NOW + ms(millis), |_| ms(1000));
        let last = (0..10_000).map(|millis| told(millis, 1.0)).max().unwrap();
        assert!((ms(60_000)..=ms(68_000)).contains(&last), "{last:?}");
        assert_eq!(told(10_000, 0.0), turn.own, "at random, from the quota's own time on");
        assert_eq!(told(80_000, 1.0), turn.own, "the line is over");
    }

    #[test]
    fn a_full_table_tells_the_quotas_own_time_and_makes_room_of_what_is_over() {
        let lines = RetryQueues::default();
        let turn = RetryTurn { amount: 1, own: ms(1000), capacity: 1, refill: ms(1000), gateways: 1 };
        let told = |key: usize, now| lines.join((1, (key * SHARDS) as u64), turn, 0.5, now, |_| ms(1000));
        (0..PER_SHARD).for_each(|key| _ = told(key, NOW));
        assert_eq!([told(PER_SHARD, NOW), told(PER_SHARD, NOW)], [ms(1000); 2]);
        let later = NOW + ms(1000);
        assert_eq!([told(PER_SHARD, later), told(PER_SHARD, later)], [ms(1000), ms(2020)]);
    }

    #[test]
    fn between_its_own_time_and_the_whole_a_quota_elsewhere_fills_evenly() {
        let turn = RetryTurn { amount: 2, own: ms(100), capacity: 6, refill: ms(600), gateways: 1 };
        for (units, free) in [(1, 0), (2, 100), (3, 200), (6, 500)] {
            assert_eq!(turn.estimate_wait(units, ms(500)), ms(free), "{units} units");
        }
        let all = RetryTurn { amount: 6, own: ms(600), ..turn };
        assert_eq!([all.estimate_wait(6, ms(600)), all.estimate_wait(3, ms(600))], [ms(600), ms(300)]);
    }
}
