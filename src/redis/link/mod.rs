//! The one connection that commands take.
//!
//! A [`Link`] is made without a server being there; [`Link::keep`] connects, probes each second, and connects again.
//! [`Link::call`] answers within the timeout or says that it did not: before the first connection, while the breaker is
//! open, when the server is too slow.
//!
//! **Failure mode.** A command that timed out was sent and may still run: [`Loss::Unknown`]. Whoever sent it must be able
//! to take it back or must not mind.
//!
//! **Trade-off.** One connection for all: Redis is one thread, and more connections bring it no more commands.

mod answer;
mod breaker;
mod drift;
mod keep;
mod start;

pub use keep::Probe;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redis::{Cmd, ErrorKind, FromRedisValue, RedisError, ScriptInvocation, ServerErrorKind};
use tokio::sync::Notify;

use self::answer::{Silence, within};
use self::breaker::Breaker;
use self::start::Start;
use super::connect::Connection;
use super::settings::RedisSettings;
use crate::clock::{Clock, Nanos};
use crate::metrics::{Metrics, Redis, RedisOp};

/// How long making a connection may take in all; a sentinel is asked first, a cluster has many nodes.
const CONNECT: Duration = Duration::from_secs(3);
/// An answer that is no older says that the server is there.
const MOMENT: Duration = Duration::from_millis(100);

/// How soon Redis that does not answer may be back, at the earliest: it is probed once a second.
pub(crate) const BACK: Duration = Duration::from_secs(1);

/// Why a command brought no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// It was not sent.
    #[error("Redis cannot be asked")]
    NotSent,
    /// It was sent, and nobody knows whether it ran.
    #[error("Redis did not answer in time")]
    Unknown,
    /// The server refused it.
    #[error("Redis refused the command")]
    Refused,
}

/// The connection to Redis. Clones are handles of the same one.
#[derive(Clone)]
pub struct Link(Arc<Inner>);

struct Inner {
    settings: RedisSettings,
    clock: Clock,
    metrics: Arc<Metrics>,
    connection: ArcSwapOption<Connection>,
    breaker: Breaker,
    start: Start,
    /// Tells the keeper that the connection is gone.
    gone: Notify,
    /// Tells the keeper to make another connection.
    renew: Notify,
    /// Told when the clock of Redis has left this gateway's behind.
    overtaken: Notify,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("up", &self.is_up()).finish_non_exhaustive()
    }
}

/// What a failed command means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The connection is gone, or leads to a server that takes no writes.
    Gone,
    /// The server answers, but does not serve.
    Unwell,
    /// This command is at fault, or the key that it met; others may fare better.
    Refused,
}

fn fault(error: &RedisError) -> Fault {
    match (error.kind(), error.code()) {
        // A failover made a replica of it.
        (ErrorKind::Server(ServerErrorKind::ReadOnly), _) => Fault::Gone,
        (ErrorKind::Server(ServerErrorKind::ResponseError), _) | (_, Some("WRONGTYPE")) => Fault::Refused,
        (ErrorKind::Server(_) | ErrorKind::Extension, _) => Fault::Unwell,
        (ErrorKind::UnexpectedReturnType | ErrorKind::Parse, _) => Fault::Refused,
        _ if error.is_timeout() => Fault::Unwell,
        _ if error.is_io_error() || error.is_unrecoverable_error() => Fault::Gone,
        _ => Fault::Unwell,
    }
}

impl Link {
    /// A link that is down until [`Link::keep`] runs.
    #[must_use]
    pub fn new(settings: RedisSettings, clock: Clock, metrics: Arc<Metrics>) -> Self {
        let start = Start::new(clock.now());
        Self(Arc::new(Inner {
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

    /// The settings that it follows.
    #[must_use]
    pub fn settings(&self) -> &RedisSettings {
        &self.0.settings
    }

    /// The clock that it goes by.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Its series.
    #[must_use]
    pub fn metrics(&self) -> &Redis {
        self.0.metrics.redis()
    }

    /// Whether commands are sent at all.
    #[must_use]
    pub fn is_up(&self) -> bool {
        !self.0.breaker.is_open()
    }

    /// Whether Redis answered somebody a moment ago. A command that it has not answered by then is late, not lost.
    #[must_use]
    pub fn is_answering(&self) -> bool {
        self.is_up() && self.heard_since(self.0.clock.now() - MOMENT)
    }

    /// Makes another connection: this gateway was paused for long, and the one that it has may be dead.
    pub fn renew(&self) {
        self.0.renew.notify_one();
    }

    /// Whether Redis answered after `time`, up to some milliseconds early.
    #[must_use]
    pub fn heard_since(&self, time: Nanos) -> bool {
        self.is_up() && self.0.breaker.heard_since(time)
    }

    /// Completes when the clock of Redis went on while this gateway's stood still: the gateway was paused, and no clock of
    /// its own shows it.
    pub async fn overtaken(&self) {
        self.0.overtaken.notified().await;
    }

    /// When this gateway started, if Redis was away then.
    #[must_use]
    pub fn began_alone(&self) -> Option<Nanos> {
        self.0.start.alone()
    }

    /// Sends a command, and waits for its answer no longer than the timeout; once more, where the gateway itself was late.
    ///
    /// # Errors
    /// When there is no answer, or when it is an error or something else than a `T`.
    pub async fn call<T: FromRedisValue>(&self, op: RedisOp, cmd: &Cmd) -> Result<T, Loss> {
        self.call_within(op, self.0.settings.timeout, cmd).await
    }

    /// The same within `patience`.
    ///
    /// # Errors
    /// As [`Link::call`].
    pub async fn call_within<T: FromRedisValue>(
        &self,
        op: RedisOp,
        patience: Duration,
        cmd: &Cmd,
    ) -> Result<T, Loss> {
        if !self.is_up() {
            return Err(Loss::NotSent);
        }
        self.ask(op, patience, async |mut connection| cmd.query_async(&mut connection).await).await
    }

    /// Runs a script, by its hash as long as the server knows it, within `patience`.
    ///
    /// # Errors
    /// As [`Link::call`].
    pub async fn run<T: FromRedisValue>(
        &self,
        op: RedisOp,
        patience: Duration,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, Loss> {
        if !self.is_up() {
            return Err(Loss::NotSent);
        }
        self.ask(op, patience, async |mut connection| script.invoke_async(&mut connection).await).await
    }

    /// Sends whatever the breaker says.
    async fn ask<T>(
        &self,
        op: RedisOp,
        patience: Duration,
        send: impl AsyncFnOnce(Connection) -> Result<T, RedisError>,
    ) -> Result<T, Loss> {
        let inner = &*self.0;
        let Some(connection) = inner.connection.load_full() else { return Err(Loss::NotSent) };
        let sent = inner.clock.now();
        let answer = within(&inner.clock, patience, send(Connection::clone(&connection))).await;
        let now = inner.clock.now();
        self.metrics().command(op, now.since(sent));
        let (fault, loss) = match answer {
            Ok(Ok(answer)) => {
                inner.breaker.succeeded(now);
                return Ok(answer);
            }
            Err(Silence::Gateway) if inner.breaker.excuses(now) => return Err(Loss::Unknown),
            Ok(Err(error)) => {
                tracing::debug!(%error, op = op.as_str(), "a command to Redis failed");
                match fault(&error) {
                    // It may have run before the connection broke.
                    Fault::Gone => (Fault::Gone, Loss::Unknown),
                    fault => (fault, Loss::Refused),
                }
            }
            Err(_) => (Fault::Unwell, Loss::Unknown),
        };
        let opened = match fault {
            Fault::Refused => {
                inner.breaker.succeeded(now);
                false
            }
            Fault::Unwell => inner.breaker.failed(sent, now),
            Fault::Gone => {
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

fn went_down(why: Loss) {
    tracing::warn!(%why, "Redis is not used until it answers a probe");
}
