//! Registry of live gateways.
//!
//! Each gateway sets `{prefix}:dam:{id}` every second, with a lifetime of 3 s, and counts the
//! gateways with such a key. The write is also the link's probe: a server that accepts it is
//! usable. Their ids are kept for what gateways tell each other (`exchange`).
//! The value says whether the gateway drains, which then leaves its part of the workers to the others,
//! and where it listens, so that one that starts again and again is recognized (`restarts`).
//!
//! **Failure mode.** A name or a key that is not one of a gateway counts for nothing, and is removed
//! from the set. If the set itself cannot be read, the gateways that were known are looked up.

mod count;
mod restarts;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use redis::{Cmd, FromRedisValue, RedisError, cmd};

use self::count::GatewayCount;
use self::restarts::{FoundGateway, Restarts};
use super::link::{Probe, ProbeWrite, RedisLink, RedisLoss};
use super::odd::Members;
use crate::clock::Nanos;
use crate::metrics::RedisOp;
use crate::redis::millis;

/// Lifetime of a heartbeat: two lost ones do not matter.
const LIVES: Duration = Duration::from_secs(3);
/// Gateways that are counted at most.
const MOST: usize = 1000;
/// First word of a heartbeat. The second is where the gateway listens, if that is known.
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
    /// Host and address at which this gateway listens.
    place: OnceLock<String>,
    restarts: Mutex<Restarts>,
    /// `true` once the log says that something in the registry is not as it should be.
    odd_logged: AtomicBool,
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
        let count = || Mutex::new(GatewayCount::new(configured));
        Arc::new(Self {
            id: new_name(),
            count: count(),
            known: AtomicU32::new(configured),
            serving: count(),
            known_serving: AtomicU32::new(configured),
            others: Mutex::default(),
            draining: Mutex::default(),
            drains: AtomicBool::new(false),
            place: OnceLock::new(),
            restarts: Mutex::default(),
            odd_logged: AtomicBool::new(false),
        })
    }

    /// Says from now on that this gateway listens at `addr`.
    pub(crate) fn listens_at(&self, addr: SocketAddr) {
        if let Some(host) = restarts::host() {
            self.place.get_or_init(|| format!("{host}/{addr}"));
        }
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
        let state = if self.drains.load(Ordering::Relaxed) { DRAINS } else { SERVES };
        let text = match self.place.get() {
            Some(place) => format!("{state} {place}"),
            None => state.to_owned(),
        };
        cmd("SET").arg(alive_key(prefix, &self.id)).arg(text).arg("PX").arg(millis(LIVES)).take()
    }

    /// Returns the ids of the other live gateways, as last seen.
    #[must_use]
    pub(crate) fn others(&self) -> Vec<Arc<str>> {
        self.others.lock().clone()
    }

    /// Updates the configured number, which counts until gateways are seen.
    pub(crate) fn configure(&self, configured: u32) {
        for (count, known) in [(&self.count, &self.known), (&self.serving, &self.known_serving)] {
            known.store(count.lock().configure(configured.max(1)), Ordering::Relaxed);
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
        let everyone = format!("{prefix}:dams");
        probe.call::<()>(RedisOp::Probe, &self.heartbeat(prefix)).await?;
        // The server is usable, whatever it says of the keys of others.
        self.ask::<i64>(probe, &everyone, cmd("SADD").arg(&everyone).arg(&self.id)).await?;
        let (known, mut gone) = match self.ask(probe, &everyone, cmd("SMEMBERS").arg(&everyone)).await? {
            Some(Members { names, odd }) => (names, odd),
            // Before the first look, the configured number is the best guess.
            None if !self.count.lock().has_counted() => return Ok(()),
            None => (self.others().iter().map(ToString::to_string).collect(), Vec::new()),
        };
        let mut found = Vec::new();
        for other in known.into_iter().filter(|other| *other != self.id).take(MOST) {
            let key = alive_key(prefix, &other);
            match self.ask::<Option<Vec<u8>>>(probe, &key, cmd("GET").arg(&key)).await?.flatten() {
                Some(said) => found.push(read(other.into(), &said)),
                // If it was only late, its next heartbeat adds it again.
                None => gone.push(other.into_bytes()),
            }
        }
        if !gone.is_empty() {
            self.ask::<i64>(probe, &everyone, cmd("SREM").arg(&everyone).arg(&gone)).await?;
        }
        self.find(found, probe.now());
        Ok(())
    }
}

/// Reads the heartbeat of another gateway. A text of an unknown form says that it serves.
fn read(id: Arc<str>, said: &[u8]) -> FoundGateway {
    let mut words = said.splitn(2, |byte| *byte == b' ');
    let drains = words.next() == Some(DRAINS.as_bytes());
    FoundGateway { id, drains, place: words.next().map(Into::into) }
}

impl Gateways {
    /// Sends a command about a key that others write too; `None` if it was refused, which is logged
    /// once.
    async fn ask<T: FromRedisValue>(
        &self,
        probe: &Probe<'_>,
        key: &str,
        cmd: &Cmd,
    ) -> Result<Option<T>, RedisLoss> {
        let answer: Result<T, RedisError> = probe.call_answered(RedisOp::Probe, cmd).await?;
        if let Err(error) = &answer
            && !self.odd_logged.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(key, %error, "the list of gateways in Redis is not as it should be");
        }
        Ok(answer.ok())
    }

    /// Records the heartbeats found in Redis.
    fn find(&self, found: Vec<FoundGateway>, now: Nanos) {
        let live = self.restarts.lock().live(found, self.place.get().map(String::as_bytes), now);
        let draining = live.iter().filter(|other| other.drains).map(|other| Arc::clone(&other.id)).collect();
        self.see(live.into_iter().map(|other| other.id).collect(), draining, now);
    }

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

    #[test]
    fn a_gateway_that_starts_again_and_again_is_one() {
        let gateways = Gateways::new(1);
        let start = |id: u32| read(format!("{id}").into(), b"1 host/0.0.0.0:8080");
        for (second, starts) in [(1, 1..=1), (2, 1..=3), (3, 2..=4), (4, 3..=5), (5, 3..=6)] {
            gateways.find(starts.map(start).collect(), Nanos::from_secs(second));
            assert_eq!(gateways.count(), 2, "after {second} s");
        }
        let elsewhere = [(7, "1"), (8, "1 other/0.0.0.0:8080"), (9, "drains host/0.0.0.0:8081")];
        let others = elsewhere.map(|(id, said): (u32, _)| read(format!("{id}").into(), said.as_bytes()));
        gateways.find(others.into_iter().chain([start(6)]).collect(), Nanos::from_secs(6));
        assert_eq!((gateways.count(), gateways.serving()), (5, 4));
    }
}
