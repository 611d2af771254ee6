//! Switches of colours, over Redis.
//!
//! | key | what |
//! | --- | --- |
//! | `{prefix}:pool:{pool}:active` | hash: the `epoch` of the latest switch, and its `text` |
//! | `{prefix}:switched` | the set of pools that have such a key |
//! | `{prefix}:follows:{id}` | the epochs that one gateway follows, as JSON by pool; lives 3 s |
//! | `{prefix}:followers` | the set of gateways that have such a key |
//!
//! A switch is told on the channel `{prefix}:control` and kept under its key by one script, which takes it only if no
//! later one is there: two operators at once switch one after the other.
//!
//! **Failure mode.** Redis comes back empty: gateways put what they follow back. A gateway that cannot reach Redis goes
//! on as it was and counts as gone after 3 s; when it is back it reads what it missed before anything else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use redis::{ErrorKind, RedisResult, Script, cmd};
use tokio::time::timeout;

use super::connect::{Connection, connect};
use super::settings::RedisSettings;

/// How long a gateway counts as following after it said so.
const LIVES_MS: u64 = 3000;
/// The most pools and gateways that are read.
const MOST: usize = 1024;
/// How long making a connection, and each answer, may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Keeps and tells a switch, unless a later one is kept.
const KEEP: &str = r"
if tonumber(ARGV[1]) <= tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0') then return 0 end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'text', ARGV[2])
redis.call('PUBLISH', ARGV[3], ARGV[2])
return 1
";

/// The channel on which switches are told.
#[must_use]
pub fn control_channel(prefix: &str) -> Arc<str> {
    format!("{prefix}:control").into()
}

/// A connection for what an operator asks.
pub struct Control {
    connection: Connection,
    prefix: Arc<str>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Control {
    /// Connects.
    ///
    /// # Errors
    /// When Redis cannot be reached in time.
    pub async fn open(settings: &RedisSettings) -> RedisResult<Self> {
        match timeout(PATIENCE, connect(settings, Some(PATIENCE))).await {
            Ok(connection) => Ok(Self::on(connection?, Arc::clone(&settings.prefix))),
            Err(_) => Err((ErrorKind::Io, "no answer").into()),
        }
    }

    /// On a connection that is there.
    pub(super) const fn on(connection: Connection, prefix: Arc<str>) -> Self {
        Self { connection, prefix }
    }

    /// The epoch of the latest switch of `pool`; 0 when there is none.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn epoch(&mut self, pool: &str) -> RedisResult<u64> {
        let key = self.active(pool);
        let epoch: Option<u64> = cmd("HGET").arg(key).arg("epoch").query_async(&mut self.connection).await?;
        Ok(epoch.unwrap_or(0))
    }

    /// Keeps and tells a switch. False when a later one, or one of the same epoch, is there already.
    ///
    /// # Errors
    /// When Redis does not answer: then nobody knows whether it was told.
    pub async fn tell(&mut self, pool: &str, epoch: u64, text: &str) -> RedisResult<bool> {
        let switched = format!("{}:switched", self.prefix);
        cmd("SADD").arg(switched).arg(pool).query_async::<()>(&mut self.connection).await?;
        let script = Script::new(KEEP);
        let mut keep = script.key(self.active(pool));
        let channel = control_channel(&self.prefix);
        keep.arg(epoch).arg(text).arg(&*channel).invoke_async(&mut self.connection).await
    }

    /// The switches that are kept, as their texts.
    pub(super) async fn kept(&mut self) -> RedisResult<Vec<Vec<u8>>> {
        let set = format!("{}:switched", self.prefix);
        let pools: Vec<String> = cmd("SMEMBERS").arg(set).query_async(&mut self.connection).await?;
        let mut texts = Vec::new();
        for pool in pools.iter().take(MOST) {
            let key = self.active(pool);
            let text: Option<Vec<u8>> =
                cmd("HGET").arg(key).arg("text").query_async(&mut self.connection).await?;
            texts.extend(text);
        }
        Ok(texts)
    }

    /// Says which epochs the gateway `id` follows.
    pub(super) async fn follow(&mut self, id: &str, epochs: &str) -> RedisResult<()> {
        let mut add = cmd("SADD");
        add.arg(format!("{}:followers", self.prefix)).arg(id);
        let mut set = cmd("SET");
        set.arg(self.follows(id)).arg(epochs).arg("PX").arg(LIVES_MS);
        self.connection.tell(vec![add, set]).await
    }

    /// How many gateways there are that do not yet follow `epoch` in `pool`. Those that are gone are taken from the set.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn lagging(&mut self, pool: &str, epoch: u64) -> RedisResult<usize> {
        let set = format!("{}:followers", self.prefix);
        let ids: Vec<String> = cmd("SMEMBERS").arg(&set).query_async(&mut self.connection).await?;
        let mut lagging = 0;
        for id in ids.iter().take(MOST) {
            let said: Option<Vec<u8>> =
                cmd("GET").arg(self.follows(id)).query_async(&mut self.connection).await?;
            let Some(said) = said else {
                // One that was only slow puts itself back.
                cmd("SREM").arg(&set).arg(id).query_async::<()>(&mut self.connection).await?;
                continue;
            };
            let epochs: BTreeMap<String, u64> = serde_json::from_slice(&said).unwrap_or_default();
            lagging += usize::from(epochs.get(pool).is_none_or(|followed| *followed < epoch));
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
