//! Connections for subscriptions.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ErrorKind, ProtocolVersion, PushInfo, RedisError, RedisResult, cmd};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::connect::listen;
use crate::settings::RedisSettings;
use traffic_dam_core::clock::{Clock, Silence};

/// Error of the push callback: the receiver was dropped.
#[derive(Debug, thiserror::Error)]
#[error("push receiver dropped")]
struct SubscriberGone;

/// Returns the error for a subscription whose connection broke.
pub fn gone() -> RedisError {
    (ErrorKind::Io, "the connection broke").into()
}

/// Interval of `PING`s.
const ASK: Duration = Duration::from_secs(1);
/// Longest time without an answer that the lateness of this process excuses: an interval, and twice
/// the timeout of an answer.
const SILENT: Duration = Duration::from_secs(3);

/// Sends `PING`s, and completes with the error of the first that fails. A timeout while the process
/// itself was late, by `clock`, does not count until the server has been silent for 3 s.
pub async fn until_silent(mut connection: MultiplexedConnection, clock: &Clock) -> RedisError {
    let mut silence = Silence::new(clock.now(), SILENT);
    let mut ticks = interval(ASK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let asked = clock.now();
        match cmd("PING").query_async::<String>(&mut connection).await {
            Ok(_) => silence.answered(clock.now()),
            Err(error) if error.is_timeout() && silence.is_excused(asked, clock.now(), clock.lag()) => {}
            Err(error) => return error,
        }
    }
}

/// Connects with RESP3, for messages as pushes. Calls `lost` for each one without room.
///
/// # Errors
/// Returns an error if no server can be reached in three times `patience`.
pub async fn connect(
    settings: &RedisSettings,
    patience: Duration,
    pushes: mpsc::Sender<PushInfo>,
    lost: impl Fn() + Send + Sync + 'static,
) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(patience))
        .set_response_timeout(Some(patience))
        .set_push_sender(move |push| match pushes.try_send(push) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => {
                lost();
                Ok(())
            }
            Err(mpsc::error::TrySendError::Closed(_)) => Err(SubscriberGone),
        });
    // Sentinels are tried one after another.
    match timeout(patience * 3, listen(settings, config, ProtocolVersion::RESP3)).await {
        Ok(made) => made,
        Err(_) => Err((ErrorKind::Io, "no answer").into()),
    }
}
