//! A connection that is made anew after it broke.
//!
//! **Failure mode.** Redis is away: each command waits for one attempt to connect and fails. Whoever sent it knows
//! whether it may be sent again.

use std::time::Duration;

use redis::{Cmd, ErrorKind, FromRedisValue, RedisError, RedisResult, ScriptInvocation, ServerErrorKind};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::redis::connect::{Connection, connect};
use crate::redis::settings::RedisSettings;

/// How long an answer may take that Redis does not hold back itself.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// How long making a connection may take in all: sentinels are asked one after another.
const CONNECT: Duration = Duration::from_secs(3);

/// One connection for many tasks.
pub(super) struct Line {
    settings: RedisSettings,
    patience: Duration,
    /// A lock for tasks: while one of them connects, the others wait for what comes of it.
    open: Mutex<Option<Connection>>,
}

impl Line {
    /// A line that is not open yet. `held` is how long Redis may hold an answer back.
    pub(super) fn new(settings: &RedisSettings, held: Duration) -> Self {
        Self { settings: settings.clone(), patience: PATIENCE + held, open: Mutex::new(None) }
    }

    pub(super) async fn call<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        let mut connection = self.connection().await?;
        self.heard(command.query_async(&mut connection).await).await
    }

    /// Runs a script, by its hash as long as the server knows it.
    pub(super) async fn run<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> RedisResult<T> {
        let mut connection = self.connection().await?;
        self.heard(script.invoke_async(&mut connection).await).await
    }

    async fn connection(&self) -> RedisResult<Connection> {
        let mut open = self.open.lock().await;
        if let Some(open) = &*open {
            return Ok(open.clone());
        }
        let made = match timeout(CONNECT, connect(&self.settings, Some(self.patience))).await {
            Ok(made) => made?,
            Err(_) => return Err((ErrorKind::Io, "no answer").into()),
        };
        *open = Some(made.clone());
        Ok(made)
    }

    /// Gives the connection up when its answer was none. What another task has made meanwhile may go with it; that costs
    /// one connection more.
    async fn heard<T>(&self, answer: RedisResult<T>) -> RedisResult<T> {
        // A server that takes no writes was made a replica: the master is elsewhere.
        let is_gone = |error: &RedisError| {
            error.is_io_error()
                || error.is_unrecoverable_error()
                || error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
        };
        if answer.as_ref().is_err_and(is_gone) {
            *self.open.lock().await = None;
        }
        answer
    }
}
