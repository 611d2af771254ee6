//! Which gateways are at work.
//!
//! Each writes `{prefix}:dam:{id}` every second, to live for three, and looks how many of those it knows of are there. That
//! write is the link's probe as well: a server that takes it can be used.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use redis::cmd;

use super::link::{Link, Loss, Probe};
use crate::metrics::RedisOp;

/// How long a gateway is taken to be at work after it was heard of: two lost beats are none.
const LIVES_MS: u64 = 3000;
/// More gateways than this are not counted one by one.
const MOST: usize = 1000;

/// This gateway among the others.
#[derive(Debug)]
pub struct Dams {
    id: String,
    /// How many were last seen; 0 before that.
    seen: AtomicU32,
    /// How many there are as far as the settings know.
    told: AtomicU32,
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
        Arc::new(Self { id: new_name(), seen: AtomicU32::new(0), told: AtomicU32::new(told.max(1)) })
    }

    /// What this gateway is called, anew with each start.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// How many are at work, this one included: as last seen, or as told before that.
    #[must_use]
    pub fn count(&self) -> u32 {
        match self.seen.load(Ordering::Relaxed) {
            0 => self.told.load(Ordering::Relaxed),
            seen => seen,
        }
    }

    /// Takes a new number from the settings.
    pub fn tell(&self, told: u32) {
        self.told.store(told.max(1), Ordering::Relaxed);
    }

    /// Says that this one is at work, and looks who else is.
    ///
    /// # Errors
    /// When Redis cannot be asked.
    pub async fn beat(&self, probe: &Probe<'_>) -> Result<(), Loss> {
        let prefix = probe.prefix();
        let (everyone, id) = (format!("{prefix}:dams"), self.id.as_str());
        let key = |id: &str| format!("{prefix}:dam:{id}");
        let own = cmd("SET").arg(key(id)).arg("1").arg("PX").arg(LIVES_MS).take();
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
        self.seen.store(seen, Ordering::Relaxed);
        Ok(())
    }

    /// Says that this one is no longer at work.
    pub async fn leave(&self, link: &Link) {
        let prefix = &link.settings().prefix;
        let key = format!("{prefix}:dam:{}", self.id);
        // The key dies by itself.
        if link.call::<i64>(RedisOp::Probe, cmd("DEL").arg(key)).await.is_err() {
            tracing::debug!("Redis was not told that this gateway goes");
        }
    }
}
