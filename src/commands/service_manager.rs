//! systemd and other service managers: listening sockets that they hand over (`sd_listen_fds(3)`),
//! and what they are told (`sd_notify(3)`). Without a service manager everything here does nothing.

use std::net::TcpListener;
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;

use super::CommandError;

/// Takes the listening sockets that the service manager opened before this process began. They stay
/// open from one process to the next, so a client that connects during a restart waits and is not
/// refused.
///
/// # Errors
/// If a descriptor that was handed over is no listening TCP socket.
pub(super) fn inherited_listeners() -> Result<Vec<TcpListener>, CommandError> {
    let mut handed_over = ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..handed_over.len() {
        let listener = handed_over.take_tcp_listener(index).map_err(|error| {
            CommandError::Usage(format!("socket {index} of the service manager is no TCP listener: {error}"))
        })?;
        listeners.extend(listener);
    }
    Ok(listeners)
}

/// Says that the gateway listens, so units that wait for it may start.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Says that the gateway drains.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Shows signs of life for as long as it is polled, if the service manager wants them
/// (`WatchdogSec=`). They come from the runtime that serves the requests, so they end when it hangs.
pub(super) async fn watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    // Twice as often as required, as sd_watchdog_enabled(3) recommends.
    let mut ticks = tokio::time::interval((limit / 2).max(Duration::from_millis(1)));
    loop {
        ticks.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

/// Tells the service manager. A message that does not arrive costs at most a restart, so the gateway
/// goes on.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
