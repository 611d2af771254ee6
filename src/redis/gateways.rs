//! Registry of live gateways.
//!
//! Each gateway sets `{prefix}:dam:{id}` every second, with a lifetime of 3 s, and counts the
//! gateways with such a key. The write is also the link's probe: a server that accepts it is
//! usable. Their ids are kept for what gateways tell each other ([`exchange`](super::exchange)).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use redis::cmd;

use super::link::{Probe, ProbeWrite, RedisLink, RedisLoss};
use crate::clock::Nanos;
use crate::metrics::RedisOp;

/// Lifetime of a heartbeat: two lost ones do not matter.
const LIVES: Duration = Duration::from_secs(3);
/// Gateways that are counted at most.
const MOST: usize = 1000;

/// This gateway, and the number of live gateways.
#[derive(Debug)]
pub struct Gateways {
    id: String,
    count: Mutex<GatewayCount>,
    /// Copy of the count, for lock-free reads.
    known: AtomicU32,
    /// Ids of the others that were live at the last look.
    others: Mutex<Vec<Arc<str>>>,
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
    /// Records that `seen` gateways were found at `now`. Returns the filtered count.
    fn see(&mut self, seen: u32, now: Nanos) -> u32 {
        // After such a long gap between looks no gateway can have reported.
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

/// Returns the key that exists while a gateway is live.
pub(super) fn alive_key(prefix: &str, id: &str) -> String {
    format!("{prefix}:dam:{id}")
}

/// Returns a random id for a gateway.
#[must_use]
pub fn new_name() -> String {
    format!("{:016x}", fastrand::u64(..))
}

impl Gateways {
    /// Creates a registry with a new id; `told` is the configured number of gateways.
    #[must_use]
    pub fn new(configured: u32) -> Arc<Self> {
        let configured = configured.max(1);
        let count = Mutex::new(GatewayCount { known: configured, ..GatewayCount::default() });
        let (known, others) = (AtomicU32::new(configured), Mutex::default());
        Arc::new(Self { id: new_name(), count, known, others })
    }

    /// Returns the id of this gateway; it is new with each start.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the number of live gateways, itself included: as counted, or until then configured.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.known.load(Ordering::Relaxed)
    }

    /// Returns the ids of the other live gateways, as last seen.
    #[must_use]
    pub fn others(&self) -> Vec<Arc<str>> {
        self.others.lock().clone()
    }

    /// Updates the configured number, which counts until gateways are seen.
    pub fn configure(&self, configured: u32) {
        let mut count = self.count.lock();
        if count.last.is_none() {
            count.known = configured.max(1);
            self.known.store(count.known, Ordering::Relaxed);
        }
    }

    /// Deletes this gateway's heartbeat.
    pub async fn leave(&self, link: &RedisLink) {
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
        let own = cmd("SET").arg(key(id)).arg("1").arg("PX").arg(LIVES.as_millis() as u64).take();
        probe.call::<()>(RedisOp::Probe, &own).await?;
        probe.call::<i64>(RedisOp::Probe, cmd("SADD").arg(&everyone).arg(id)).await?;
        let known: Vec<String> = probe.call(RedisOp::Probe, cmd("SMEMBERS").arg(&everyone)).await?;
        let mut others: Vec<Arc<str>> = Vec::new();
        for other in known.iter().filter(|other| **other != self.id).take(MOST) {
            if probe.call(RedisOp::Probe, cmd("EXISTS").arg(key(other))).await? {
                others.push(other.as_str().into());
            } else {
                // If it was only late, its next heartbeat adds it again.
                probe.call::<i64>(RedisOp::Probe, cmd("SREM").arg(&everyone).arg(other)).await?;
            }
        }
        let seen = u32::try_from(others.len()).unwrap_or(u32::MAX).saturating_add(1);
        *self.others.lock() = others;
        let known = self.count.lock().see(seen, probe.now());
        self.known.store(known, Ordering::Relaxed);
        Ok(())
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
        // For a minute, Redis is away again and again, and comes back empty each time.
        for second in (10..60).step_by(5) {
            assert_eq!(count.see(1, Nanos::from_secs(second)), 3);
            assert_eq!(count.see(2, Nanos::from_secs(second + 1)), 3);
        }
        // Redis stays.
        for (second, known) in [(60, 3), (62, 3), (63, 3), (64, 2)] {
            assert_eq!(count.see(2, Nanos::from_secs(second)), known, "after {second} s");
        }
    }
}
