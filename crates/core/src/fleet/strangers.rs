//! Processes that take jobs which are not theirs.
//!
//! A stream of jobs hands them to whoever reads it. So a process that was started with a wrong
//! colour, or by hand, or that another team forgot, may answer a pool's requests with another
//! model's words, and no heartbeat tells of it. Here is what was noticed of such processes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Nanos;

/// Most strangers that are remembered.
const MOST: usize = 256;
/// A process that begins may read before its first heartbeat is known.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a stranger is shown after it was last noticed.
const SHOWN: Duration = Duration::from_secs(60);

/// What is wrong with a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strangeness {
    /// It reads the side's jobs, and no heartbeat of it is known.
    Unknown,
    /// It reads the side's jobs, and its heartbeats name another side.
    OtherSide,
    /// It answered a job of this side as a worker of another one.
    Answered,
}

impl Strangeness {
    /// Returns the sentence for people, about a process that does it on `side`.
    #[must_use]
    pub fn sentence(self, side: &str) -> String {
        match self {
            Self::Unknown => format!("takes jobs of {side} and sends no heartbeats"),
            Self::OtherSide => {
                format!("takes jobs of {side}, and its heartbeats name another colour or pool")
            }
            Self::Answered => format!("answered a job of {side} as a worker of another colour or version"),
        }
    }
}

/// A process that takes jobs which are not its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// Its name in the group, or in its answer.
    pub worker: Arc<str>,
    /// The side whose jobs it takes.
    pub side: Arc<str>,
    /// What is wrong.
    pub what: Strangeness,
    since: Nanos,
    last: Nanos,
}

/// All strangers, by pool and name.
#[derive(Debug, Default)]
pub struct Strangers(BTreeMap<(Arc<str>, Arc<str>), Stranger>);

impl Strangers {
    /// Records that `worker` did this at `now`.
    pub fn saw(&mut self, pool: &Arc<str>, worker: &str, side: &Arc<str>, what: Strangeness, now: Nanos) {
        self.0.retain(|_, stranger| now.since(stranger.last) < SHOWN);
        let key = (Arc::clone(pool), Arc::from(worker));
        if self.0.len() >= MOST && !self.0.contains_key(&key) {
            return;
        }
        let new =
            Stranger { worker: Arc::clone(&key.1), side: Arc::clone(side), what, since: now, last: now };
        let known = self.0.entry(key).or_insert(new);
        known.last = now;
        // An answer says more than a look at the stream.
        if what == Strangeness::Answered || known.what != Strangeness::Answered {
            (known.what, known.side) = (what, Arc::clone(side));
        }
    }

    /// Records that `worker` is one of the side's own: it was only faster than its heartbeat.
    pub fn knows(&mut self, pool: &Arc<str>, worker: &str) {
        let key = (Arc::clone(pool), Arc::from(worker));
        if self.0.get(&key).is_some_and(|stranger| stranger.what != Strangeness::Answered) {
            self.0.remove(&key);
        }
    }

    /// Returns the strangers of `pool` at `now`.
    #[must_use]
    pub fn of(&self, pool: &str, now: Nanos) -> Vec<Stranger> {
        let shown = |stranger: &&Stranger| {
            now.since(stranger.last) < SHOWN
                && (stranger.what == Strangeness::Answered || stranger.last.since(stranger.since) >= PATIENCE)
        };
        let all = self.0.iter().filter(|((of, _), _)| **of == *pool).map(|(_, stranger)| stranger);
        all.filter(shown).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_only_begins_is_no_stranger_and_who_goes_on_is() {
        let (mut strangers, pool, side) = (Strangers::default(), Arc::from("chat"), Arc::from("blue"));
        let named = |strangers: &Strangers, now| {
            strangers
                .of("chat", Nanos::from_secs(now))
                .iter()
                .map(|it| it.worker.to_string())
                .collect::<Vec<_>>()
        };
        for now in 1..4 {
            strangers.saw(&pool, "begins", &side, Strangeness::Unknown, Nanos::from_secs(now));
        }
        assert!(named(&strangers, 4).is_empty());
        strangers.knows(&pool, "begins");
        for now in 1..7 {
            strangers.saw(&pool, "stays", &side, Strangeness::Unknown, Nanos::from_secs(now));
        }
        strangers.saw(&pool, "wrong", &side, Strangeness::Answered, Nanos::from_secs(7));
        assert_eq!(named(&strangers, 7), ["stays", "wrong"]);
        assert!(strangers.of("other", Nanos::from_secs(7)).is_empty());
        // An answer is not undone by a heartbeat.
        strangers.knows(&pool, "wrong");
        strangers.knows(&pool, "stays");
        assert_eq!(named(&strangers, 8), ["wrong"]);
        assert!(named(&strangers, 70).is_empty());
    }

    #[test]
    fn there_are_only_so_many() {
        let (mut strangers, pool, side) = (Strangers::default(), Arc::from("chat"), Arc::from("blue"));
        for number in 0..2 * MOST {
            let name = format!("s{number}");
            strangers.saw(&pool, &name, &side, Strangeness::Answered, Nanos::from_secs(1));
        }
        assert_eq!(strangers.of("chat", Nanos::from_secs(1)).len(), MOST);
        strangers.saw(&pool, "late", &side, Strangeness::Answered, Nanos::from_secs(62));
        assert_eq!(strangers.of("chat", Nanos::from_secs(62)).len(), 1);
    }
}
