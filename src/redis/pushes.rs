//! A connection that is only listened on.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, IntoConnectionInfo, ProtocolVersion, PushInfo, RedisError,
    RedisResult,
};
use tokio::sync::mpsc;

use super::settings::RedisSettings;

/// Nobody takes pushes any more.
#[derive(Debug, thiserror::Error)]
#[error("nobody listens")]
struct Gone;

/// The connection ended under who listened.
pub(super) fn gone() -> RedisError {
    (ErrorKind::Io, "the connection broke").into()
}

/// Connects, for messages to come as pushes of RESP3. `lost` is told of each that `pushes` had no room for.
pub(super) async fn connect(
    settings: &RedisSettings,
    patience: Duration,
    pushes: mpsc::Sender<PushInfo>,
    lost: impl Fn() + Send + Sync + 'static,
) -> RedisResult<MultiplexedConnection> {
    let info = settings.url().into_connection_info()?;
    let redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(patience))
        .set_response_timeout(Some(patience))
        .set_push_sender(move |push| match pushes.try_send(push) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => {
                lost();
                Ok(())
            }
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Gone),
        });
    Client::open(info.set_redis_settings(redis))?.get_multiplexed_async_connection_with_config(&config).await
}
