//! Registry of live gateways.
//!
//! Each gateway sets `{prefix}:dam:{id}` every second, with a lifetime of 3 s, and counts the
//! gateways with such a key. The write is also the link's probe: a server that accepts it is
//! usable. Their ids are kept for what gateways tell each other (`exchange`).
//! The value says whether the gateway drains: then it leaves its part of the workers to the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use redis::{Cmd, cmd};

use super::link::{Probe, ProbeWrite, RedisLink, RedisLoss};
use crate::clock::Nanos;
use crate::metrics::RedisOp;
use crate::redis::millis;

/// Lifetime of a heartbeat: two lost ones do not matter.
const LIVES: Duration = Duration::from_secs(3);
/// Gateways that are counted at most.
const MOST: usize = 1000;
/// Value of a heartbeat.
const SERVES: &str = "1";
const DRAINS: &str = "drains";

/// This gateway, and the number of live gateways.
#[derive(Debug)]
pub struct Gateways {
    id: String,
    count: Mutex<GatewayCount>,
    /// Copy of the count, for lock-free reads.
    known: AtomicU32,
    /// The same without those that drain.
    serving: Mutex<GatewayCount>,
    known_serving: AtomicU32,
    /// Ids of the others that were live at the last look, and of those among them that drained.
    others: Mutex<Vec<Arc<str>>>,
    draining: Mutex<Vec<Arc<str>>>,
    drains: AtomicBool,
}

/// Number of gateways, filtered over time.
///
/// After Redis comes back empty, the first gateway sees only itself, and would take the whole
/// quota. So a higher count is believed at once, a lower one after all had the time to report.
#[derive(Debug, Default)]
struct GatewayCount {
    known: u32,
    /// While a lower count is observed: the highest such count, and when the first was seen.
    fewer: Option<(u32, Nanos)>,
    last: Option<Nanos>,
}

impl GatewayCount {
    /// Records that `seen` gateways were found at `now`, and that `left` others said since the last look
    /// that they should not be counted any more. Returns the filtered count.
    fn see(&mut self, seen: u32, left: u32, now: Nanos) -> u32 {
        // After such a long gap between looks no gateway can have reported.
        let before = self.last.replace(now);
        let fewer = self.fewer.take().filter(|_| before.is_some_and(|before| now.since(before) <= LIVES));
        if seen.saturating_add(left) >= self.known {
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

/// Returns the key that exists while a gateway is live.
pub(super) fn alive_key(prefix: &str, id: &str) -> String {
    format!("{prefix}:dam:{id}")
}

/// Returns a random id for a gateway.
#[must_use]
pub(crate) fn new_name() -> String {
    format!("{:016x}", fastrand::u64(..))
}

impl Gateways {
    /// Creates a registry with a new id; `told` is the configured number of gateways.
    #[must_use]
    pub fn new(configured: u32) -> Arc<Self> {
        let configured = configured.max(1);
        let count = || Mutex::new(GatewayCount { known: configured, ..GatewayCount::default() });
        Arc::new(Self {
            id: new_name(),
            count: count(),
            known: AtomicU32::new(configured),
            serving: count(),
            known_serving: AtomicU32::new(configured),
            others: Mutex::default(),
            draining: Mutex::default(),
            drains: AtomicBool::new(false),
        })
    }

    /// Returns the id of this gateway; it is new with each start.
    #[must_use]
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Returns the number of live gateways, itself included: as counted, or until then configured.
    #[must_use]
    pub(crate) fn count(&self) -> u32 {
        self.known.load(Ordering::Relaxed)
    }

    /// Returns the number of live gateways that do not drain, and this one: those that new requests come to.
    #[must_use]
    pub(crate) fn serving(&self) -> u32 {
        self.known_serving.load(Ordering::Relaxed)
    }

    /// Says from now on that this gateway drains.
    pub(crate) async fn drain(&self, link: &RedisLink) {
        self.drains.store(true, Ordering::Relaxed);
        // The others look once a second: they need not wait for the next heartbeat as well, which makes up for an error.
        let told = link.call::<()>(RedisOp::Probe, &self.heartbeat(&link.settings().prefix)).await;
        if told.is_err() {
            tracing::debug!("could not tell other gateways that this one drains");
        }
    }

    fn heartbeat(&self, prefix: &str) -> Cmd {
        let says = if self.drains.load(Ordering::Relaxed) { DRAINS } else { SERVES };
        cmd("SET").arg(alive_key(prefix, &self.id)).arg(says).arg("PX").arg(millis(LIVES)).take()
    }

    /// Returns the ids of the other live gateways, as last seen.
    #[must_use]
    pub(crate) fn others(&self) -> Vec<Arc<str>> {
        self.others.lock().clone()
    }

    /// Updates the configured number, which counts until gateways are seen.
    pub(crate) fn configure(&self, configured: u32) {
        for (count, known) in [(&self.count, &self.known), (&self.serving, &self.known_serving)] {
            let mut count = count.lock();
            if count.last.is_none() {
                count.known = configured.max(1);
                known.store(count.known, Ordering::Relaxed);
            }
        }
    }

    /// Deletes this gateway's heartbeat.
    pub(crate) async fn leave(&self, link: &RedisLink) {
        let prefix = &link.settings().prefix;
        let key = alive_key(prefix, &self.id);
        // An error is harmless: the key expires.
        if link.call::<i64>(RedisOp::Probe, cmd("DEL").arg(key)).await.is_err() {
            tracing::debug!("could not deregister this gateway");
        }
    }
}

impl ProbeWrite for Gateways {
    /// Sends a heartbeat, and counts the other gateways.
    async fn send(&self, probe: &Probe<'_>) -> Result<(), RedisLoss> {
        let prefix = probe.prefix();
        let (everyone, id) = (format!("{prefix}:dams"), self.id.as_str());
        let key = |id: &str| alive_key(prefix, id);
        probe.call::<()>(RedisOp::Probe, &self.heartbeat(prefix)).await?;
        probe.call::<i64>(RedisOp::Probe, cmd("SADD").arg(&everyone).arg(id)).await?;
        let known: Vec<String> = probe.call(RedisOp::Probe, cmd("SMEMBERS").arg(&everyone)).await?;
        let (mut others, mut draining): (Vec<Arc<str>>, Vec<Arc<str>>) = Default::default();
        for other in known.iter().filter(|other| **other != self.id).take(MOST) {
            let said: Option<String> = probe.call(RedisOp::Probe, cmd("GET").arg(key(other))).await?;
            let Some(said) = said else {
                // If it was only late, its next heartbeat adds it again.
                probe.call::<i64>(RedisOp::Probe, cmd("SREM").arg(&everyone).arg(other)).await?;
                continue;
            };
            let other: Arc<str> = other.as_str().into();
            if said == DRAINS {
                draining.push(Arc::clone(&other));
            }
            others.push(other);
        }
        self.see(others, draining, probe.now());
        Ok(())
    }
}

impl Gateways {
    /// Records which other gateways are live, and which of them drain.
    fn see(&self, others: Vec<Arc<str>>, draining: Vec<Arc<str>>, now: Nanos) {
        let number = |of: usize| u32::try_from(of).unwrap_or(u32::MAX);
        let (live, serving) = (number(others.len() + 1), number(others.len() + 1 - draining.len()));
        let before = std::mem::take(&mut *self.draining.lock());
        let left = number(draining.iter().filter(|id| !before.contains(id)).count());
        *self.draining.lock() = draining;
        *self.others.lock() = others;
        self.known.store(self.count.lock().see(live, 0, now), Ordering::Relaxed);
        self.known_serving.store(self.serving.lock().see(serving, left, now), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(told: u32) -> GatewayCount {
        GatewayCount { known: told, ..GatewayCount::default() }
    }

    #[test]
    fn more_are_believed_at_once_and_fewer_after_a_while() {
        let mut count = count(1);
        for (second, seen, known) in [
            (1, 2, 2),
            (2, 3, 3),
            // One is missing, and seen again.
            (3, 2, 3),
            (5, 2, 3),
            (6, 3, 3),
            // One leaves, then another.
            (7, 2, 3),
            (8, 1, 3),
            (10, 1, 3),
            (11, 1, 2),
            (12, 1, 2),
            (15, 1, 2),
            (16, 1, 1),
        ] {
            assert_eq!(count.see(seen, 0, Nanos::from_secs(second)), known, "after {second} s");
        }
    }

    #[test]
    fn who_comes_back_first_does_not_take_itself_for_the_only_one() {
        let mut count = count(3);
        assert_eq!(
            count.see(1, 0, Nanos::from_secs(1)),
            3,
            "at the start nobody knows better than the settings"
        );
        assert_eq!(count.see(3, 0, Nanos::from_secs(2)), 3);
        // For a minute, Redis is away again and again, and comes back empty each time.
        for second in (10..60).step_by(5) {
            assert_eq!(count.see(1, 0, Nanos::from_secs(second)), 3);
            assert_eq!(count.see(2, 0, Nanos::from_secs(second + 1)), 3);
        }
        // Redis stays.
        for (second, known) in [(60, 3), (62, 3), (63, 3), (64, 2)] {
            assert_eq!(count.see(2, 0, Nanos::from_secs(second)), known, "after {second} s");
        }
    }

    #[test]
    fn who_drains_leaves_its_part_at_once_and_is_still_there() {
        let gateways = Gateways::new(2);
        let ids = |names: &str| names.split_whitespace().map(Arc::from).collect::<Vec<Arc<str>>>();
        // One after the other is replaced, as by a Deployment; this one is the first that is new.
        for (second, others, draining, live, serving) in [
            (1, "old1 old2", "", 3, 3),
            (2, "old1 old2", "old1", 3, 2),
            (3, "old1 old2 new2", "old1", 4, 3),
            (4, "old1 old2 new2", "old1 old2", 4, 2),
            // One is gone. It counted for nothing already.
            (5, "old2 new2", "old2", 4, 2),
            (6, "new2", "", 4, 2),
            (9, "new2", "", 3, 2),
            (10, "new2", "", 3, 2),
            (12, "new2", "", 3, 2),
            (14, "new2", "", 2, 2),
            // One that went without a word is missed for a while.
            (15, "", "", 2, 2),
            (17, "", "", 2, 2),
            (19, "", "", 1, 1),
        ] {
            gateways.see(ids(others), ids(draining), Nanos::from_secs(second));
            assert_eq!((gateways.count(), gateways.serving()), (live, serving), "after {second} s");
        }
    }

    #[test]
    fn who_drains_does_not_stand_for_another_that_is_missing() {
        let gateways = Gateways::new(3);
        let ids = |names: &str| names.split_whitespace().map(Arc::from).collect::<Vec<Arc<str>>>();
        gateways.see(ids("a b"), ids("a"), Nanos::from_secs(1));
        assert_eq!(gateways.serving(), 2);
        // Redis has come back empty, and the one that drains was faster.
        gateways.see(ids("a"), ids("a"), Nanos::from_secs(2));
        assert_eq!(gateways.serving(), 2);
    }
}
