//! Probes of the feed's connection: reports of the applied switches, and whether Redis still has them.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, RedisResult, cmd};
use tokio::time::{MissedTickBehavior, interval};

use super::{HeartbeatFeed, PATIENCE};
use crate::clock::Silence;
use crate::redis::connect::Connection;
use crate::redis::control::Control;
use crate::redis::odd::answered;

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
    /// Number of probes.
    count: usize,
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
            count: 0,
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
        self.control.follow(&subscribers.id, &epochs).await?;
        self.keep_switch().await
    }

    /// Stores the switch of one pool again if Redis has lost it, which a new connection does not always
    /// tell: each probe looks at the next pool.
    async fn keep_switch(&mut self) -> RedisResult<()> {
        self.count = self.count.wrapping_add(1);
        let (switch, text) = {
            let switches = self.feed.subscribers.switches.lock();
            let all = switches.all().count().max(1);
            let Some(switch) = switches.all().nth(self.count % all) else { return Ok(()) };
            let text = switches.write(&switch);
            (switch, text)
        };
        match answered(self.control.epoch(&switch.pool).await)? {
            Ok(epoch) if epoch < switch.epoch => {
                self.control.publish_again(&switch.pool, switch.epoch, &text).await
            }
            // A key that cannot be read was named when the connection was made.
            Ok(_) | Err(_) => Ok(()),
        }
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
