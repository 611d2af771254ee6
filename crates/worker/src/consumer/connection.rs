//! A connection that reconnects on demand.
//!
//! **Failure mode.** Redis is away: each command fails after one attempt to connect. The caller
//! knows whether the command may be retried.

use std::time::Duration;

use redis::{Cmd, ErrorKind, FromRedisValue, RedisError, RedisResult, ScriptInvocation, ServerErrorKind};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::connect::{Connection, connect};
use crate::settings::RedisSettings;

/// Time limit of an answer that Redis does not delay itself.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// Time limit for connecting in all; sentinels are tried one after another.
const CONNECT: Duration = Duration::from_secs(3);

/// Connection shared by many tasks.
pub(super) struct ConsumerConnection {
    settings: RedisSettings,
    patience: Duration,
    /// An async lock: while one task connects, the others wait for its result.
    open: Mutex<Option<Connection>>,
}

impl ConsumerConnection {
    /// Creates an unconnected line. `held` is how long Redis may delay an answer (`BLOCK`).
    pub(super) fn new(settings: &RedisSettings, held: Duration) -> Self {
        Self { settings: settings.clone(), patience: PATIENCE + held, open: Mutex::new(None) }
    }

    pub(super) async fn call<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        let mut connection = self.connection().await?;
        self.heard(command.query_async(&mut connection).await).await
    }

    /// Runs a script, by its hash if the server knows it.
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
            Ok(Ok(made)) => made,
            // Whatever the server says, such as that it has too many clients: it is no answer to a command.
            Ok(Err(error)) => return Err((ErrorKind::Io, "cannot connect", error.to_string()).into()),
            Err(_) => return Err((ErrorKind::Io, "no answer").into()),
        };
        *open = Some(made.clone());
        Ok(made)
    }

    /// Drops the connection after a connection error; at worst another task's new one, too.
    async fn heard<T>(&self, answer: RedisResult<T>) -> RedisResult<T> {
        // A read-only server has become a replica; the master is elsewhere.
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
