//! A connection that is made anew after it broke.
//!
//! **Failure mode.** Redis is away: each command waits for one attempt to connect and fails. Whoever sent it knows
//! whether it may be sent again.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, RedisResult, ScriptInvocation};
use tokio::sync::Mutex;

use crate::redis::settings::RedisSettings;

/// How long making a connection may take, and how long an answer may take that Redis does not hold back itself.
const PATIENCE: Duration = Duration::from_secs(1);

/// One connection for many tasks.
pub(super) struct Line {
    client: Client,
    patience: Duration,
    /// A lock for tasks: while one of them connects, the others wait for what comes of it.
    open: Mutex<Option<MultiplexedConnection>>,
}

impl Line {
    /// A line that is not open yet. `held` is how long Redis may hold an answer back.
    pub(super) fn new(settings: &RedisSettings, held: Duration) -> RedisResult<Self> {
        let client = Client::open(settings.url())?;
        Ok(Self { client, patience: PATIENCE + held, open: Mutex::new(None) })
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

    async fn connection(&self) -> RedisResult<MultiplexedConnection> {
        let mut open = self.open.lock().await;
        if let Some(open) = &*open {
            return Ok(open.clone());
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(self.patience));
        let made = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        *open = Some(made.clone());
        Ok(made)
    }

    /// Gives the connection up when its answer was none. What another task has made meanwhile may go with it; that costs
    /// one connection more.
    async fn heard<T>(&self, answer: RedisResult<T>) -> RedisResult<T> {
        if answer.as_ref().is_err_and(|error| error.is_io_error() || error.is_unrecoverable_error()) {
            *self.open.lock().await = None;
        }
        answer
    }
}
