//! The connection for commands.
//!
//! A [`RedisLink`] is created without a server. [`RedisLink::keep`] connects, probes each second, and
//! reconnects. `RedisLink::call` returns an answer within the timeout, or an error: before the first
//! connection, while the breaker is open, or if the server is too slow.
//!
//! **Failure mode.** A command that timed out was sent and may still run: [`RedisLoss::Unknown`]. Its
//! caller must be able to undo it, or tolerate it.
//!
//! **Trade-off.** One connection for all: Redis is single-threaded, more would not be faster.

mod answer;
mod breaker;
mod drift;
mod keep;
mod start;

pub use keep::{Probe, ProbeWrite};

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redis::{Cmd, ErrorKind, FromRedisValue, RedisError, ScriptInvocation, ServerErrorKind, cmd};
use tokio::sync::Notify;

use self::answer::{NoReply, within};
use self::breaker::Breaker;
use self::start::GatewayStart;
use super::connect::Connection;
use super::odd::{answered, is_refused};
use super::settings::RedisSettings;
use crate::clock::{Clock, Nanos};
use crate::metrics::{Metrics, RedisOp, RedisSeries};

/// Time limit for connecting in all; a sentinel is asked first, a cluster has many nodes.
const CONNECT: Duration = Duration::from_secs(3);
/// An answer this recent shows that the server is up.
const MOMENT: Duration = Duration::from_millis(100);

/// Earliest recovery of a Redis that does not answer: it is probed once a second.
pub(crate) const BACK: Duration = Duration::from_secs(1);

/// Why a command has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisLoss {
    /// It was not sent.
    #[error("Redis is unavailable")]
    NotSent,
    /// It was sent, and may or may not have run.
    #[error("Redis did not answer in time")]
    Unknown,
    /// The server refused it.
    #[error("Redis refused the command")]
    Refused,
}

/// Connection to Redis. Clones share it.
#[derive(Clone)]
pub struct RedisLink(Arc<LinkInner>);

struct LinkInner {
    settings: RedisSettings,
    clock: Clock,
    metrics: Arc<Metrics>,
    connection: ArcSwapOption<Connection>,
    breaker: Breaker,
    start: GatewayStart,
    /// Notifies the keeper that the connection is lost.
    gone: Notify,
    /// Notifies the keeper to make a new connection.
    renew: Notify,
    /// Notified when Redis' clock has left this gateway's behind.
    overtaken: Notify,
}

impl fmt::Debug for RedisLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLink").field("up", &self.is_up()).finish_non_exhaustive()
    }
}

/// Classification of a failed command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FailureKind {
    /// The connection is lost, or leads to a read-only server.
    Gone,
    /// The server answers, but is not usable.
    Unwell,
    /// The error concerns only this command, or its key; others may succeed.
    Refused,
}

fn failure_kind(error: &RedisError) -> FailureKind {
    match error.kind() {
        // After a failover the server is a replica.
        ErrorKind::Server(ServerErrorKind::ReadOnly) => FailureKind::Gone,
        _ if is_refused(error) => FailureKind::Refused,
        ErrorKind::Server(_) | ErrorKind::Extension => FailureKind::Unwell,
        _ if error.is_timeout() => FailureKind::Unwell,
        _ if error.is_io_error() || error.is_unrecoverable_error() => FailureKind::Gone,
        _ => FailureKind::Unwell,
    }
}

impl RedisLink {
    /// Creates a link that is down until [`RedisLink::keep`] runs.
    #[must_use]
    pub fn new(settings: RedisSettings, clock: Clock, metrics: Arc<Metrics>) -> Self {
        let start = GatewayStart::new(clock.now());
        Self(Arc::new(LinkInner {
            start,
            settings,
            clock,
            metrics,
            connection: ArcSwapOption::empty(),
            breaker: Breaker::new(),
            gone: Notify::new(),
            renew: Notify::new(),
            overtaken: Notify::new(),
        }))
    }

    /// Returns the settings.
    #[must_use]
    pub(crate) fn settings(&self) -> &RedisSettings {
        &self.0.settings
    }

    /// Returns the clock.
    #[must_use]
    pub(crate) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Returns the Redis metrics.
    #[must_use]
    pub(crate) fn metrics(&self) -> &RedisSeries {
        self.0.metrics.redis()
    }

    /// Returns `true` if the breaker is closed, so that commands are sent.
    #[must_use]
    pub fn is_up(&self) -> bool {
        !self.0.breaker.is_open()
    }

    /// Returns `true` if Redis answered within the last 100 ms: a missing answer is late, not lost.
    #[must_use]
    pub(super) fn is_answering(&self) -> bool {
        self.is_up() && self.heard_since(self.0.clock.now() - MOMENT)
    }

    /// Replaces the connection, which may be dead after a long pause of this gateway.
    pub(crate) fn renew(&self) {
        self.0.renew.notify_one();
    }

    /// Returns `true` if Redis answered after `time`; answer times are known to 20 ms.
    #[must_use]
    pub(crate) fn heard_since(&self, time: Nanos) -> bool {
        self.is_up() && self.0.breaker.heard_since(time)
    }

    /// Completes when Redis' clock advanced while this gateway's stood still: the gateway was
    /// paused in a way that none of its own clocks shows.
    pub(crate) async fn pause_detected(&self) {
        self.0.overtaken.notified().await;
    }

    /// Returns the start of this gateway if Redis was away then.
    #[must_use]
    pub(super) fn started_without_redis(&self) -> Option<Nanos> {
        self.0.start.alone()
    }

    /// Sends a command. Waits for its answer for the timeout, twice if the gateway itself was late.
    ///
    /// # Errors
    /// Returns [`RedisLoss`] if there is no answer, or it is an error or not a `T`.
    pub(crate) async fn call<T: FromRedisValue>(&self, op: RedisOp, cmd: &Cmd) -> Result<T, RedisLoss> {
        self.call_within(op, self.0.settings.timeout, cmd).await
    }

    /// Like [`RedisLink::call`], with `patience` as the timeout.
    ///
    /// # Errors
    /// As [`RedisLink::call`].
    pub(super) async fn call_within<T: FromRedisValue>(
        &self,
        op: RedisOp,
        patience: Duration,
        cmd: &Cmd,
    ) -> Result<T, RedisLoss> {
        if !self.is_up() {
            return Err(RedisLoss::NotSent);
        }
        self.ask(op, patience, async |mut connection| cmd.query_async(&mut connection).await).await
    }

    /// Like [`RedisLink::call`]. The inner error is a refusal of this command alone: its key has another
    /// type, for example.
    ///
    /// # Errors
    /// As [`RedisLink::call`].
    pub(super) async fn call_answered<T: FromRedisValue>(
        &self,
        op: RedisOp,
        cmd: &Cmd,
    ) -> Result<Result<T, RedisError>, RedisLoss> {
        if !self.is_up() {
            return Err(RedisLoss::NotSent);
        }
        self.ask_answered(op, cmd).await
    }

    /// Like [`RedisLink::call_answered`], even if the breaker is open.
    async fn ask_answered<T: FromRedisValue>(
        &self,
        op: RedisOp,
        cmd: &Cmd,
    ) -> Result<Result<T, RedisError>, RedisLoss> {
        let send = async |mut connection: Connection| answered(cmd.query_async(&mut connection).await);
        self.ask(op, self.0.settings.timeout, send).await
    }

    /// Returns the time by the clock of Redis, since 1970.
    ///
    /// # Errors
    /// As [`RedisLink::call`].
    pub(super) async fn time(&self, op: RedisOp) -> Result<Duration, RedisLoss> {
        let (seconds, micros) = self.call(op, &cmd("TIME")).await?;
        Ok(Duration::from_secs(seconds) + Duration::from_micros(micros))
    }

    /// Runs a script within `patience`, by its hash if the server knows it.
    ///
    /// # Errors
    /// As [`RedisLink::call`].
    pub(crate) async fn run<T: FromRedisValue>(
        &self,
        op: RedisOp,
        patience: Duration,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, RedisLoss> {
        if !self.is_up() {
            return Err(RedisLoss::NotSent);
        }
        self.ask(op, patience, async |mut connection| script.invoke_async(&mut connection).await).await
    }

    /// Sends a command even if the breaker is open.
    async fn ask<T>(
        &self,
        op: RedisOp,
        patience: Duration,
        send: impl AsyncFnOnce(Connection) -> Result<T, RedisError>,
    ) -> Result<T, RedisLoss> {
        let inner = &*self.0;
        let Some(connection) = inner.connection.load_full() else { return Err(RedisLoss::NotSent) };
        let sent = inner.clock.now();
        let answer = within(&inner.clock, patience, send(Connection::clone(&connection))).await;
        let now = inner.clock.now();
        self.metrics().command(op, now.since(sent));
        let (fault, loss) = match answer {
            Ok(Ok(answer)) => {
                inner.breaker.succeeded(now);
                return Ok(answer);
            }
            Err(NoReply::Gateway) if inner.breaker.excuses(now) => return Err(RedisLoss::Unknown),
            Ok(Err(error)) => {
                tracing::debug!(%error, op = op.as_str(), "a command to Redis failed");
                match failure_kind(&error) {
                    // The command may have run before the connection broke.
                    FailureKind::Gone => (FailureKind::Gone, RedisLoss::Unknown),
                    fault => (fault, RedisLoss::Refused),
                }
            }
            Err(_) => (FailureKind::Unwell, RedisLoss::Unknown),
        };
        let opened = match fault {
            FailureKind::Refused => {
                inner.breaker.succeeded(now);
                false
            }
            FailureKind::Unwell => inner.breaker.failed(sent, now),
            FailureKind::Gone => {
                inner.gone.notify_one();
                inner.breaker.open()
            }
        };
        if opened {
            went_down(loss);
        }
        Err(loss)
    }
}

fn went_down(why: RedisLoss) {
    tracing::warn!(%why, "Redis is down; not using it until a probe succeeds");
}
