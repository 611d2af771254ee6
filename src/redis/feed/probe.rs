//! Probes of the feed's connection: reports of the applied switches.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, RedisResult, cmd};
use tokio::time::{MissedTickBehavior, interval};

use super::{HeartbeatFeed, PATIENCE};
use crate::clock::Silence;
use crate::redis::connect::Connection;
use crate::redis::control::Control;

/// Interval of probes.
const ASK: Duration = Duration::from_millis(250);
/// Longest time without an answer that the gateway's own lateness excuses.
const SILENT: Duration = PATIENCE.saturating_mul(2);

/// Probe of one connection.
pub(super) struct FeedProbe<'a> {
    feed: &'a HeartbeatFeed,
    /// The subscription, if the reports go over another connection.
    listening: Option<MultiplexedConnection>,
    control: Control,
    silence: Silence,
}

impl<'a> FeedProbe<'a> {
    pub(super) fn new(
        feed: &'a HeartbeatFeed,
        listening: MultiplexedConnection,
        connection: &Connection,
    ) -> Self {
        Self {
            listening: connection.is_spread().then_some(listening),
            control: Control::on(connection.clone(), Arc::clone(&feed.settings.prefix)),
            silence: Silence::new(feed.clock.now(), SILENT),
            feed,
        }
    }

    /// Sends one probe.
    pub(super) async fn ask(&mut self) -> RedisResult<()> {
        if let Some(listening) = &mut self.listening {
            cmd("PING").query_async::<()>(listening).await?;
        }
        let subscribers = &self.feed.subscribers;
        let epochs = subscribers.epochs.load_full();
        self.control.follow(&subscribers.id, &epochs).await
    }

    /// Probes again and again. Completes with the error of the first failure.
    pub(super) async fn repeat(&mut self) -> RedisError {
        let clock = &self.feed.clock;
        let mut ticks = interval(ASK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let asked = clock.now();
            match self.ask().await {
                Ok(()) => {
                    self.silence.answered(clock.now());
                    // Messages published before the probe was sent have come before its answer.
                    self.feed.subscribers.registry.lock().feed_worked(asked);
                }
                // The answer may have come while this process could not read it.
                Err(error)
                    if error.is_timeout() && self.silence.is_excused(asked, clock.now(), clock.lag()) => {}
                Err(error) => return error,
            }
        }
    }
}
