//! Heartbeat publisher of workers.
//!
//! Each is stored and published, in one round trip except in a cluster; see `docs/fleet.md`.
//!
//! **Failure mode.** Redis is away: nothing is queued, because old heartbeats are worthless. The
//! next heartbeat reconnects, so the heartbeat interval is the only backoff.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::{ErrorKind, RedisResult, cmd};
use tokio::time::timeout;

use crate::connect::{Connection, connect};
use crate::settings::RedisSettings;
use traffic_dam_core::fleet::heartbeat::{Heartbeat, SigningKey, sign_if_keyed};

/// Returns the channel for heartbeats.
#[must_use]
pub fn health_channel(prefix: &str) -> Arc<str> {
    format!("{prefix}:health").into()
}

/// Time limit for connecting, and for each answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Heartbeat publisher over Redis.
pub struct HeartbeatPublisher {
    settings: RedisSettings,
    key: Option<SigningKey>,
    channel: Arc<str>,
    connection: Option<Connection>,
}

impl fmt::Debug for HeartbeatPublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeartbeatPublisher").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl HeartbeatPublisher {
    /// Creates a publisher that is not yet connected. With a key it signs heartbeats.
    #[must_use]
    pub fn new(settings: RedisSettings, key: Option<SigningKey>) -> Self {
        let channel = health_channel(&settings.prefix);
        Self { settings, key, channel, connection: None }
    }

    /// Publishes a heartbeat.
    ///
    /// # Errors
    /// Returns an error if Redis did not accept it in time; it is not retried.
    pub async fn publish(&mut self, beat: &Heartbeat) -> RedisResult<()> {
        let text = sign_if_keyed(self.key.as_ref(), &self.channel, beat.write());
        let prefix = &self.settings.prefix;
        let lives = u64::try_from((beat.interval * 3).as_millis()).unwrap_or(u64::MAX);
        let mut add = cmd("SADD");
        add.arg(format!("{prefix}:workers")).arg(&*beat.worker);
        let mut set = cmd("SET");
        set.arg(self.kept(&beat.worker)).arg(&text).arg("PX").arg(lives);
        let mut publish = cmd("PUBLISH");
        publish.arg(&*self.channel).arg(&text);
        let mut connection = self.connect(beat.interval).await?;
        let said = connection.tell(vec![add, set, publish]).await;
        self.keep(connection, said)
    }

    /// Deletes what is stored about a worker that leaves.
    ///
    /// # Errors
    /// Returns an error if Redis did not accept it in time.
    pub async fn leave(&mut self, worker: &str) -> RedisResult<()> {
        let mut connection = self.connect(PATIENCE).await?;
        let kept = self.kept(worker);
        let set = format!("{}:workers", self.settings.prefix);
        let left = cmd("DEL").arg(kept).query_async::<()>(&mut connection).await;
        self.keep(connection.clone(), left)?;
        let left = cmd("SREM").arg(set).arg(worker).query_async(&mut connection).await;
        self.keep(connection, left)
    }

    fn kept(&self, worker: &str) -> String {
        format!("{}:worker:{worker}", self.settings.prefix)
    }

    async fn connect(&mut self, within: Duration) -> RedisResult<Connection> {
        if let Some(open) = self.connection.take() {
            return Ok(open);
        }
        let within = within.min(PATIENCE);
        match timeout(within, connect(&self.settings, Some(within))).await {
            Ok(connection) => connection,
            Err(_) => Err((ErrorKind::Io, "no answer").into()),
        }
    }

    /// Keeps the connection for the next heartbeat, unless it failed.
    fn keep(&mut self, connection: Connection, outcome: RedisResult<()>) -> RedisResult<()> {
        if outcome.is_ok() {
            self.connection = Some(connection);
        }
        outcome
    }
}
