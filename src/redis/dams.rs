//! Which gateways are at work.
//!
//! Each writes `{prefix}:dam:{id}` every second, to live for three, and looks how many of those it knows of are there. That
//! write is the link's probe as well: a server that takes it can be used.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use redis::cmd;

use super::link::{Link, Loss, Probe};
use crate::clock::Nanos;
use crate::metrics::RedisOp;

/// How long a gateway is taken to be at work after it was heard of: two lost beats are none.
const LIVES: Duration = Duration::from_secs(3);
/// More gateways than this are not counted one by one.
const MOST: usize = 1000;

/// This gateway among the others.
#[derive(Debug)]
pub struct Dams {
    id: String,
    count: Mutex<Count>,
    /// How many there are: as far as is known.
    known: AtomicU32,
}

/// The number of gateways, from one look at Redis after another.
///
/// Where Redis comes back empty, who looks first sees itself alone, and would give a share as large as the whole. So more
/// are believed at once, and fewer when every gateway had the time to say that it is there.
#[derive(Debug, Default)]
struct Count {
    known: u32,
    /// The most that were seen in the looks that saw fewer, and when the first of these was.
    fewer: Option<(u32, Nanos)>,
    last: Option<Nanos>,
}

impl Count {
    /// Sees so many at `now`. Returns how many are taken to be there.
    fn see(&mut self, seen: u32, now: Nanos) -> u32 {
        // Between two looks that are so far apart nobody could say anything.
        let before = self.last.replace(now);
        let fewer = self.fewer.take().filter(|_| before.is_some_and(|before| now.since(before) <= LIVES));
        if seen >= self.known {
            self.known = seen;
            return seen;
        }
        let (most, since) = fewer.map_or((seen, now), |(most, since)| (most.max(seen), since));
        if now.since(since) > LIVES {
            self.known = most;
        } else {
            self.fewer = Some((most, since));
        }
        self.known
    }
}

/// The key that is there while a gateway is at work.
pub(super) fn alive_key(prefix: &str, id: &str) -> String {
    format!("{prefix}:dam:{id}")
}

/// A name for a gateway that no other has.
#[must_use]
pub fn new_name() -> String {
    format!("{:016x}", fastrand::u64(..))
}

impl Dams {
    /// A gateway with a name of its own, which knows nothing of others.
    #[must_use]
    pub fn new(told: u32) -> Arc<Self> {
        let told = told.max(1);
        let count = Mutex::new(Count { known: told, ..Count::default() });
        Arc::new(Self { id: new_name(), count, known: AtomicU32::new(told) })
    }

    /// What this gateway is called, anew with each start.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// How many are at work, this one included: as last seen, or as told before that.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.known.load(Ordering::Relaxed)
    }

    /// Takes a new number from the settings. It counts until gateways are seen.
    pub fn tell(&self, told: u32) {
        let mut count = self.count.lock();
        if count.last.is_none() {
            count.known = told.max(1);
            self.known.store(count.known, Ordering::Relaxed);
        }
    }

    /// Says that this one is at work, and looks who else is.
    ///
    /// # Errors
    /// When Redis cannot be asked.
    pub async fn beat(&self, probe: &Probe<'_>) -> Result<(), Loss> {
        let prefix = probe.prefix();
        let (everyone, id) = (format!("{prefix}:dams"), self.id.as_str());
        let key = |id: &str| alive_key(prefix, id);
        let own = cmd("SET").arg(key(id)).arg("1").arg("PX").arg(LIVES.as_millis() as u64).take();
        probe.call::<()>(RedisOp::Probe, &own).await?;
        probe.call::<i64>(RedisOp::Probe, cmd("SADD").arg(&everyone).arg(id)).await?;
        let known: Vec<String> = probe.call(RedisOp::Probe, cmd("SMEMBERS").arg(&everyone)).await?;
        let mut seen = 1_u32;
        for other in known.iter().filter(|other| **other != self.id).take(MOST) {
            if probe.call(RedisOp::Probe, cmd("EXISTS").arg(key(other))).await? {
                seen += 1;
            } else {
                // Should it only have been late, its next beat brings it back.
                probe.call::<i64>(RedisOp::Probe, cmd("SREM").arg(&everyone).arg(other)).await?;
            }
        }
        let known = self.count.lock().see(seen, probe.now());
        self.known.store(known, Ordering::Relaxed);
        Ok(())
    }

    /// Says that this one is no longer at work.
    pub async fn leave(&self, link: &Link) {
        let prefix = &link.settings().prefix;
        let key = alive_key(prefix, &self.id);
        // The key dies by itself.
        if link.call::<i64>(RedisOp::Probe, cmd("DEL").arg(key)).await.is_err() {
            tracing::debug!("Redis was not told that this gateway goes");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(told: u32) -> Count {
        Count { known: told, ..Count::default() }
    }

    #[test]
    fn more_are_believed_at_once_and_fewer_after_a_while() {
        let mut count = count(1);
        for (second, seen, known) in [
            (1, 2, 2),
            (2, 3, 3),
            // One falls silent, and is seen again.
            (3, 2, 3),
            (5, 2, 3),
            (6, 3, 3),
            // One goes, then another.
            (7, 2, 3),
            (8, 1, 3),
            (10, 1, 3),
            (11, 1, 2),
            (12, 1, 2),
            (15, 1, 2),
            (16, 1, 1),
        ] {
            assert_eq!(count.see(seen, Nanos::from_secs(second)), known, "after {second} s");
        }
    }

    #[test]
    fn who_comes_back_first_does_not_take_itself_for_the_only_one() {
        let mut count = count(3);
        assert_eq!(
            count.see(1, Nanos::from_secs(1)),
            3,
            "at the start nobody knows better than the settings"
        );
        assert_eq!(count.see(3, Nanos::from_secs(2)), 3);
        // Redis is away again and again, each time empty, for a minute.
        for second in (10..60).step_by(5) {
            assert_eq!(count.see(1, Nanos::from_secs(second)), 3);
            assert_eq!(count.see(2, Nanos::from_secs(second + 1)), 3);
        }
        // It stays.
        for (second, known) in [(60, 3), (62, 3), (63, 3), (64, 2)] {
            assert_eq!(count.see(2, Nanos::from_secs(second)), known, "after {second} s");
        }
    }
}
