//! Canaries, shared through Redis: the lease of the judge, and what each gateway has counted.
//!
//! | key | what |
//! | --- | --- |
//! | `{prefix}:pool:{pool}:canary` | the lease, written twice a second by the gateway that judges; lives 60 s |
//! | `{prefix}:pool:{pool}:canary:{id}` | the counts of a gateway, written twice a second; lives 10 s |
//!
//! The canary itself is a part of the switch that began it ([`control`](super::control)). Both texts
//! are signed, if there is a key, together with the name of their Redis key, and carry the epoch of
//! the canary: those of an earlier one, of another gateway or of another deployment count for
//! nothing. What is missing or not valid is not counted, which can only delay a promotion.

use std::sync::Arc;
use std::time::Duration;

use redis::{ErrorKind, RedisResult, cmd};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::connect::{Connection, connect};
use super::odd::{Members, or_default};
use super::settings::RedisSettings;
use crate::fleet::LeaseText;
use crate::fleet::heartbeat::{LARGEST, SigningKey, sign_if_keyed, verify_if_keyed};
use crate::shed::CanaryCounts;

/// Lifetime of a lease's key, in ms: longer than it counts, so that people can still read it.
const LEASE_LIVES_MS: u64 = 60_000;
/// Lifetime of a gateway's counts, in ms.
const COUNTS_LIVE_MS: u64 = 10_000;
/// Most gateways whose counts are read.
const MOST: usize = 1024;
/// Time limit for connecting, and for each answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// The text of a gateway's counts.
#[derive(Serialize, Deserialize)]
struct CountsText {
    v: u32,
    epoch: u64,
    counts: CanaryCounts,
}

/// Connection for canaries.
pub(crate) struct CanaryStore {
    connection: Connection,
    prefix: Arc<str>,
    key: Option<SigningKey>,
}

impl std::fmt::Debug for CanaryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CanaryStore").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl CanaryStore {
    /// Connects to Redis, within 1 s. With a key, all texts are signed.
    ///
    /// # Errors
    /// Returns an error if Redis cannot be reached in time.
    pub(crate) async fn open(settings: &RedisSettings, key: Option<SigningKey>) -> RedisResult<Self> {
        let prefix = Arc::clone(&settings.prefix);
        match timeout(PATIENCE, connect(settings, Some(PATIENCE))).await {
            Ok(connection) => Ok(Self { connection: connection?, prefix, key }),
            Err(_) => Err((ErrorKind::Io, "no answer").into()),
        }
    }

    /// Writes the lease of `pool`.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer.
    pub(crate) async fn renew(&mut self, pool: &str, lease: LeaseText) -> RedisResult<()> {
        let place = self.lease_key(pool);
        let text = lease.write(&place, self.key.as_ref());
        self.set(&place, &text, LEASE_LIVES_MS).await
    }

    /// Reads the lease of `pool`; `None` if there is no valid one.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer.
    pub(crate) async fn lease(&mut self, pool: &str) -> RedisResult<Option<LeaseText>> {
        let place = self.lease_key(pool);
        let text = self.get(&place).await?;
        Ok(text.and_then(|text| LeaseText::read(&text, &place, self.key.as_ref())))
    }

    /// Writes what the gateway `id` has counted in the canary `epoch` of `pool`.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer.
    pub(crate) async fn tell_counts(
        &mut self,
        pool: &str,
        id: &str,
        epoch: u64,
        counts: CanaryCounts,
    ) -> RedisResult<()> {
        let place = self.counts_key(pool, id);
        let Ok(text) = serde_json::to_string(&CountsText { v: 1, epoch, counts }) else { return Ok(()) };
        let text = sign_if_keyed(self.key.as_ref(), &place, text);
        self.set(&place, &text, COUNTS_LIVE_MS).await
    }

    /// Returns the sum of what the gateways other than `own` have counted in the canary `epoch`, and
    /// how many have.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer.
    pub(crate) async fn other_counts(
        &mut self,
        pool: &str,
        own: &str,
        epoch: u64,
    ) -> RedisResult<(CanaryCounts, usize)> {
        let followers = format!("{}:followers", self.prefix);
        let answer = cmd("SMEMBERS").arg(followers).query_async::<Members>(&mut self.connection).await;
        // The log is silent about odd values: this is read twice a second.
        let ids = or_default(answer)?.names;
        let (mut sum, mut gateways) = (CanaryCounts::default(), 0);
        for id in ids.iter().filter(|id| *id != own).take(MOST) {
            let place = self.counts_key(pool, id);
            let Some(text) = self.get(&place).await? else { continue };
            if let Some(counts) = self.read_counts(&text, &place, epoch) {
                sum.add(&counts);
                gateways += 1;
            }
        }
        Ok((sum, gateways))
    }

    fn read_counts(&self, text: &[u8], place: &str, epoch: u64) -> Option<CanaryCounts> {
        let text = verify_if_keyed(self.key.as_ref(), place, text).ok()?;
        let read: CountsText = serde_json::from_slice(text).ok()?;
        (read.v == 1 && read.epoch == epoch && read.counts.is_plausible()).then_some(read.counts)
    }

    async fn set(&mut self, place: &str, text: &str, lives_ms: u64) -> RedisResult<()> {
        cmd("SET").arg(place).arg(text).arg("PX").arg(lives_ms).query_async(&mut self.connection).await
    }

    async fn get(&mut self, place: &str) -> RedisResult<Option<Vec<u8>>> {
        let answer = cmd("GET").arg(place).query_async::<Option<Vec<u8>>>(&mut self.connection).await;
        Ok(or_default(answer)?.filter(|text| text.len() <= LARGEST))
    }

    fn lease_key(&self, pool: &str) -> String {
        format!("{}:pool:{pool}:canary", self.prefix)
    }

    fn counts_key(&self, pool: &str, id: &str) -> String {
        format!("{}:pool:{pool}:canary:{id}", self.prefix)
    }
}
