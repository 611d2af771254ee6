//! Switches of a pool's active colour, shared through Redis.
//!
//! | key | what |
//! | --- | --- |
//! | `{prefix}:pool:{pool}:active` | hash: the `epoch` of the latest switch, and its `text` |
//! | `{prefix}:switched` | the set of pools that have such a key |
//! | `{prefix}:follows:{id}` | the epochs that a gateway has applied, as JSON by pool; lives 3 s |
//! | `{prefix}:followers` | the set of gateways that have such a key |
//!
//! One script stores a switch under its key and publishes it on the channel `{prefix}:control`,
//! unless a later switch is stored: switches of two concurrent operators are serialized.
//!
//! **Failure mode.** Redis loses a switch, with a restart or without: gateways that know it store it
//! again. A gateway without Redis keeps its state and counts as gone after 3 s; on return it first
//! reads what it missed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use redis::{ErrorKind, RedisError, RedisResult, Script, cmd};
use tokio::time::timeout;

use super::connect::{Connection, connect};
use super::odd::{Members, answered, or_warn};
use super::settings::RedisSettings;

/// Lifetime of a gateway's `follows` key, in ms.
const LIVES_MS: u64 = 3000;
/// Most pools and gateways that are read.
const MOST: usize = 1024;
/// Time limit for connecting, and for each answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Stores and publishes a switch, unless one of the same or a later epoch is stored.
const KEEP: &str = r"
if tonumber(ARGV[1]) <= tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0') then return 0 end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'text', ARGV[2])
redis.call('PUBLISH', ARGV[3], ARGV[2])
return 1
";

/// Returns the channel for switches.
#[must_use]
pub(crate) fn control_channel(prefix: &str) -> Arc<str> {
    format!("{prefix}:control").into()
}

/// Returns the error of a switch that others have overtaken too often.
#[must_use]
pub(crate) fn overtaken() -> RedisError {
    (ErrorKind::Client, "too many concurrent switches of this pool").into()
}

/// Connection for operator commands.
pub(crate) struct Control {
    connection: Connection,
    prefix: Arc<str>,
    /// `true` once the log says that the set of followers refuses this gateway.
    refusal_logged: bool,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Control {
    /// Connects to Redis, within 1 s.
    ///
    /// # Errors
    /// Returns an error if Redis cannot be reached in time.
    pub(crate) async fn open(settings: &RedisSettings) -> RedisResult<Self> {
        match timeout(PATIENCE, connect(settings, Some(PATIENCE))).await {
            Ok(connection) => Ok(Self::on(connection?, Arc::clone(&settings.prefix))),
            Err(_) => Err((ErrorKind::Io, "no answer").into()),
        }
    }

    pub(super) const fn on(connection: Connection, prefix: Arc<str>) -> Self {
        Self { connection, prefix, refusal_logged: false }
    }

    /// Returns the epoch of the latest switch of `pool`; 0 if there is none.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer.
    pub(crate) async fn epoch(&mut self, pool: &str) -> RedisResult<u64> {
        let key = self.active(pool);
        let epoch: Option<u64> = cmd("HGET").arg(key).arg("epoch").query_async(&mut self.connection).await?;
        Ok(epoch.unwrap_or(0))
    }

    /// Stores and publishes a switch. Returns `false` if one of this or a later epoch is stored.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer; the switch may have been published.
    pub(crate) async fn publish(&mut self, pool: &str, epoch: u64, text: &str) -> RedisResult<bool> {
        let switched = format!("{}:switched", self.prefix);
        cmd("SADD").arg(switched).arg(pool).query_async::<()>(&mut self.connection).await?;
        let script = Script::new(KEEP);
        let mut keep = script.key(self.active(pool));
        let channel = control_channel(&self.prefix);
        keep.arg(epoch).arg(text).arg(&*channel).invoke_async(&mut self.connection).await
    }

    /// Stores and publishes a switch again, which Redis may have lost.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer.
    pub(super) async fn publish_again(&mut self, pool: &str, epoch: u64, text: &str) -> RedisResult<()> {
        let published = self.publish(pool, epoch, text).await;
        or_warn(&self.active(pool), published).map(|_| ())
    }

    /// Returns the stored switches.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer.
    pub(super) async fn stored(&mut self) -> RedisResult<Vec<Vec<u8>>> {
        let set = format!("{}:switched", self.prefix);
        let answer = cmd("SMEMBERS").arg(&set).query_async::<Members>(&mut self.connection).await;
        let pools = or_warn(&set, answer)?.names_of(&set);
        let mut texts = Vec::new();
        for pool in pools.iter().take(MOST) {
            let key = self.active(pool);
            let answer =
                cmd("HGET").arg(&key).arg("text").query_async::<Option<Vec<u8>>>(&mut self.connection).await;
            texts.extend(or_warn(&key, answer)?);
        }
        Ok(texts)
    }

    /// Reports the epochs that the gateway `id` has applied.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer. A set of followers that cannot be written is none:
    /// it only hides this gateway from operators.
    pub(super) async fn follow(&mut self, id: &str, epochs: &str) -> RedisResult<()> {
        let followers = format!("{}:followers", self.prefix);
        let add = cmd("SADD").arg(&followers).arg(id).take();
        let set = cmd("SET").arg(self.follows(id)).arg(epochs).arg("PX").arg(LIVES_MS).take();
        // Two clones, so that the second command does not wait for the first answer.
        let (mut first, mut second) = (self.connection.clone(), self.connection.clone());
        let (added, stored) =
            tokio::join!(add.query_async::<()>(&mut first), set.query_async::<()>(&mut second));
        stored?;
        if let Err(error) = answered(added)?
            && !std::mem::replace(&mut self.refusal_logged, true)
        {
            tracing::warn!(set = followers, %error, "cannot add this gateway to the set of followers");
        }
        Ok(())
    }

    /// Counts live gateways without `epoch` in `pool`, and removes dead ones from the set.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer.
    pub(crate) async fn count_lagging(&mut self, pool: &str, epoch: u64) -> RedisResult<usize> {
        let set = format!("{}:followers", self.prefix);
        let followers: Members = cmd("SMEMBERS").arg(&set).query_async(&mut self.connection).await?;
        let (mut lagging, mut gone) = (0, followers.odd);
        for id in followers.names.into_iter().take(MOST) {
            let key = self.follows(&id);
            let answer = cmd("GET").arg(&key).query_async::<Option<Vec<u8>>>(&mut self.connection).await;
            let Some(said) = or_warn(&key, answer)? else {
                // A gateway that was only slow adds itself again.
                gone.push(id.into_bytes());
                continue;
            };
            let epochs: BTreeMap<String, u64> = serde_json::from_slice(&said).unwrap_or_default();
            lagging += usize::from(epochs.get(pool).is_none_or(|followed| *followed < epoch));
        }
        if !gone.is_empty() {
            cmd("SREM").arg(&set).arg(&gone).query_async::<()>(&mut self.connection).await?;
        }
        Ok(lagging)
    }

    fn active(&self, pool: &str) -> String {
        format!("{}:pool:{pool}:active", self.prefix)
    }

    fn follows(&self, id: &str) -> String {
        format!("{}:follows:{id}", self.prefix)
    }
}
