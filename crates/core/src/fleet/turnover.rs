//! Which side of a queue's pool takes the work if neither the settings nor an operator say so.
//!
//! The first side with a ready worker is active, all others stand by. When its last worker has been
//! gone for a while, the newest ready side takes over: a rolling update needs no switch, and yet
//! never do two builds take the jobs of one pool. The state is pure, with the time as an argument;
//! that only one gateway acts on it is the business of the switch's epoch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Nanos;

/// Most sides that are remembered per pool.
const MOST: usize = 64;

/// One side at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideState {
    /// Its name.
    pub side: Arc<str>,
    /// Slots of its ready workers; 0 if none is ready.
    pub ready: u64,
    /// Age of the youngest heartbeat that said `ready`; `None` if no worker says so.
    pub silent_for: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct SideMemory {
    /// When it got its first ready worker, after it had none for long.
    came: Option<Nanos>,
    /// When it last had a ready worker; until then, when it was first looked at.
    ready_at: Nanos,
    ready: u64,
}

/// What is known of the sides of all pools.
#[derive(Debug, Default)]
pub struct Turnover {
    pools: BTreeMap<Arc<str>, BTreeMap<Arc<str>, SideMemory>>,
}

impl Turnover {
    /// Takes note of the sides of `pool` at `now`. `wait` is how long a side without a ready worker
    /// still counts as there.
    pub fn look(&mut self, pool: &Arc<str>, sides: &[SideState], wait: Duration, now: Nanos) {
        let known = self.pools.entry(Arc::clone(pool)).or_default();
        for memory in known.values_mut() {
            memory.ready = 0;
        }
        for state in sides {
            let memory = known.entry(Arc::clone(&state.side)).or_insert(SideMemory {
                came: None,
                ready_at: now,
                ready: 0,
            });
            memory.ready = state.ready;
            if state.ready > 0 {
                let said = now - state.silent_for.unwrap_or_default();
                memory.ready_at = memory.ready_at.max(said);
                memory.came.get_or_insert(now);
            }
        }
        for memory in known.values_mut().filter(|memory| memory.is_gone(wait, now)) {
            memory.came = None;
        }
        while known.len() > MOST {
            let oldest = known.iter().min_by_key(|(_, memory)| (memory.ready, memory.ready_at));
            let Some(oldest) = oldest.map(|(side, _)| Arc::clone(side)) else { break };
            known.remove(&oldest);
        }
    }

    /// Returns the side that should become active; `None` if nothing should change. `active` is the
    /// present one, if there is one.
    pub fn choose(
        &mut self,
        pool: &Arc<str>,
        active: Option<&Arc<str>>,
        wait: Duration,
        now: Nanos,
    ) -> Option<Arc<str>> {
        let known = self.pools.entry(Arc::clone(pool)).or_default();
        let Some(active) = active else {
            // The first one; of several that came together, the one that can do the most.
            let first = known.iter().filter(|(_, memory)| memory.ready > 0).min_by(|one, other| {
                let key = |memory: &SideMemory| (memory.came, std::cmp::Reverse(memory.ready));
                key(one.1).cmp(&key(other.1)).then_with(|| natural(one.0, other.0))
            });
            return first.map(|(side, _)| Arc::clone(side));
        };
        let present =
            *known.entry(Arc::clone(active)).or_insert(SideMemory { came: None, ready_at: now, ready: 0 });
        if !present.is_gone(wait, now) {
            return None;
        }
        let newest = known.iter().filter(|(_, memory)| memory.ready > 0);
        let newest =
            newest.max_by(|one, other| one.1.came.cmp(&other.1.came).then_with(|| natural(one.0, other.0)));
        newest.map(|(side, _)| Arc::clone(side))
    }

    /// Returns all sides of `pool` that are remembered.
    pub fn sides(&self, pool: &str) -> impl Iterator<Item = &Arc<str>> {
        self.pools.get(pool).into_iter().flatten().map(|(side, _)| side)
    }

    /// Returns the sides of `pool` other than `active` that have been without a ready worker for
    /// `wait`: nobody takes the jobs that are still there.
    #[must_use]
    pub fn deserted(&self, pool: &str, active: &str, wait: Duration, now: Nanos) -> Vec<Arc<str>> {
        let sides = self.pools.get(pool).into_iter().flatten();
        sides
            .filter(|(side, memory)| ***side != *active && memory.is_gone(wait, now))
            .map(|(side, _)| Arc::clone(side))
            .collect()
    }
}

impl SideMemory {
    fn is_gone(&self, wait: Duration, now: Nanos) -> bool {
        self.ready == 0 && now.since(self.ready_at) >= wait
    }
}

/// Compares names as people do: runs of digits by their value, so that 1.10 follows 1.9.
fn natural(one: &str, other: &str) -> std::cmp::Ordering {
    pieces(one).cmp(&pieces(other)).then_with(|| one.cmp(other))
}

fn pieces(text: &str) -> Vec<(u64, &str)> {
    let is_digit = |byte: u8| byte.is_ascii_digit();
    let cut = text.as_bytes().chunk_by(|one, other| is_digit(*one) == is_digit(*other));
    cut.map(|run| std::str::from_utf8(run).unwrap_or_default())
        .map(|run| run.parse::<u64>().map_or((0, run), |number| (number, "")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(10);

    /// A pool whose sides are looked at second by second.
    #[derive(Default)]
    struct Stage {
        turnover: Turnover,
        active: Option<Arc<str>>,
        now: u64,
    }

    impl Stage {
        /// Passes a second with these ready sides; returns the side that becomes active, if one does.
        fn second(&mut self, ready: &[&str]) -> Option<String> {
            self.now += 1;
            let (pool, now) = (Arc::from("chat"), Nanos::from_secs(self.now));
            let state =
                |side: &&str| SideState { side: (*side).into(), ready: 4, silent_for: Some(Duration::ZERO) };
            self.turnover.look(&pool, &ready.iter().map(state).collect::<Vec<_>>(), WAIT, now);
            let chosen = self.turnover.choose(&pool, self.active.as_ref(), WAIT, now);
            if chosen.is_some() {
                self.active.clone_from(&chosen);
            }
            chosen.map(|side| side.to_string())
        }
    }

    #[test]
    fn the_first_side_is_active_and_a_second_one_stands_by() {
        let mut stage = Stage::default();
        assert_eq!(stage.second(&[]), None);
        assert_eq!(stage.second(&["v-1"]).as_deref(), Some("v-1"));
        for _ in 0..60 {
            assert_eq!(stage.second(&["v-2", "v-1"]), None);
        }
    }

    #[test]
    fn the_newest_takes_over_once_the_last_worker_has_been_gone_for_long() {
        let mut stage = Stage::default();
        stage.second(&["v-1"]);
        stage.second(&["v-1", "v-3"]);
        stage.second(&["v-1", "v-3", "v-2"]);
        // It comes back in time.
        for _ in 0..9 {
            assert_eq!(stage.second(&["v-3", "v-2"]), None);
        }
        assert_eq!(stage.second(&["v-1", "v-3", "v-2"]), None);
        for _ in 0..9 {
            assert_eq!(stage.second(&["v-3", "v-2"]), None);
        }
        // Newest is the one that came last, whatever its number: it may be a rollback.
        assert_eq!(stage.second(&["v-3", "v-2"]).as_deref(), Some("v-2"));
        let pool = Nanos::from_secs(stage.now);
        let deserted = stage.turnover.deserted("chat", "v-2", WAIT, pool);
        assert_eq!(deserted.iter().map(|side| &**side).collect::<Vec<_>>(), ["v-1"]);
    }

    #[test]
    fn where_nobody_else_is_ready_everything_waits() {
        let mut stage = Stage::default();
        stage.second(&["v-1"]);
        for _ in 0..30 {
            assert_eq!(stage.second(&[]), None);
        }
        assert_eq!(stage.second(&["v-2"]).as_deref(), Some("v-2"));
        // A gateway that starts into this knows the active side only by its switch.
        let mut late = Stage { active: Some("v-2".into()), ..Stage::default() };
        for _ in 0..10 {
            assert_eq!(late.second(&["v-1.9", "v-1.10"]), None);
        }
        assert_eq!(late.second(&["v-1.9", "v-1.10"]).as_deref(), Some("v-1.10"));
    }

    #[test]
    fn silence_counts_from_the_last_heartbeat() {
        let (mut turnover, pool, active) = (Turnover::default(), Arc::from("chat"), Arc::from("v-1"));
        let side = |side: &str, ready, silent| SideState {
            side: side.into(),
            ready,
            silent_for: Some(Duration::from_secs(silent)),
        };
        let sides = |ready, silent| vec![side("v-1", ready, silent), side("v-2", 4, 0)];
        turnover.look(&pool, &sides(4, 0), WAIT, Nanos::from_secs(1));
        turnover.look(&pool, &sides(4, 2), WAIT, Nanos::from_secs(3));
        for now in 4..11 {
            turnover.look(&pool, &sides(0, now - 1), WAIT, Nanos::from_secs(now));
            assert_eq!(turnover.choose(&pool, Some(&active), WAIT, Nanos::from_secs(now)), None);
        }
        turnover.look(&pool, &sides(0, 10), WAIT, Nanos::from_secs(11));
        let chosen = turnover.choose(&pool, Some(&active), WAIT, Nanos::from_secs(11));
        assert_eq!(chosen.as_deref(), Some("v-2"));
    }

    #[test]
    fn sides_that_come_and_go_are_forgotten() {
        let mut stage = Stage::default();
        stage.second(&["v-a"]);
        for number in 0..10 * MOST {
            stage.second(&["v-a", &format!("v-{number}")]);
        }
        assert_eq!(stage.turnover.pools["chat"].len(), MOST);
        assert!(stage.turnover.pools["chat"].contains_key("v-a"));
    }
}
