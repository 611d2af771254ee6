//! Keeping the connection: making it, probing it, giving it up.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, FromRedisValue, cmd};
use tokio::time::{sleep, timeout};

use super::drift::Drift;
use super::{CONNECT, Link, Loss, went_down};
use crate::clock::Nanos;
use crate::metrics::RedisOp;
use crate::redis::connect::connect;
use crate::redis::dams::Dams;
use crate::redis::settings::Topology;

/// How often the server is probed, and how soon a connection is tried again.
const PROBE: Duration = Duration::from_secs(1);
/// Between the loss of a connection and the next try: what closes each connection at once must not spin.
const BREATH: Duration = Duration::from_millis(50);
/// Probes in a row without an answer after which the connection is given up: a peer that vanished says nothing.
const SILENCES: u32 = 3;

impl Link {
    /// Connects and keeps connected until it is dropped. Each second the server is probed by what `dams` write there.
    pub async fn keep(self, dams: Arc<Dams>) {
        let inner = &*self.0;
        let mut told = false;
        loop {
            match timeout(CONNECT, connect(&inner.settings, None))
                .await
                .map_err(|_| None)
                .and_then(|made| made.map_err(Some))
            {
                Ok(connection) => {
                    inner.connection.store(Some(Arc::new(connection)));
                    self.look_at_memory().await;
                    told = false;
                    let ended = self.watch(&dams).await;
                    inner.connection.store(None);
                    let opened = inner.breaker.open();
                    if let Ended::Lost = ended {
                        if opened {
                            went_down(Loss::NotSent);
                        }
                        sleep(BREATH).await;
                    }
                }
                Err(error) => {
                    // Once for each outage: it is tried every second.
                    if !told {
                        let error = error.map_or_else(|| "no answer".to_owned(), |error| error.to_string());
                        tracing::warn!(error, "no connection to Redis");
                        told = true;
                    }
                    sleep(spread(PROBE)).await;
                }
            }
        }
    }

    /// Warns of a server that throws keys away when its memory is full: each is somebody's debt.
    async fn look_at_memory(&self) {
        let patience = self.0.settings.timeout;
        let info =
            async |mut connection| cmd("INFO").arg("memory").query_async::<String>(&mut connection).await;
        let Ok(info) = self.ask(RedisOp::Probe, patience, info).await else { return };
        let policy = info.lines().find_map(|line| line.strip_prefix("maxmemory_policy:"));
        if let Some(policy) = policy.map(str::trim).filter(|policy| *policy != "noeviction") {
            tracing::warn!(policy, "Redis may throw quotas away: set its `maxmemory-policy` to `noeviction`");
        }
    }

    /// Probes until the connection is of no use any more.
    async fn watch(&self, dams: &Dams) -> Ended {
        let inner = &*self.0;
        let mut silences = 0;
        let mut drift = Drift::default();
        loop {
            let asked = inner.clock.now();
            match dams.beat(&Probe(self)).await {
                Ok(()) => {
                    silences = 0;
                    let now = inner.clock.now();
                    inner.start.answered(now);
                    if inner.breaker.close(now) {
                        tracing::info!("Redis is used");
                    }
                }
                // Another command was answered: the connection is there, and the probe was late.
                Err(_) if inner.breaker.heard_since(asked) => silences = 0,
                Err(Loss::Unknown | Loss::NotSent) if silences + 1 >= SILENCES => return Ended::Lost,
                Err(_) => silences += 1,
            }
            if self.is_overtaken(&mut drift).await {
                inner.overtaken.notify_one();
            }
            tokio::select! {
                () = inner.gone.notified() => return Ended::Lost,
                () = inner.renew.notified() => return Ended::Renewed,
                () = sleep(spread(PROBE)) => {}
            }
        }
    }

    /// Whether the clock of Redis has left this gateway's behind since the last look. Servers of a cluster have a clock each.
    async fn is_overtaken(&self, drift: &mut Drift) -> bool {
        let inner = &*self.0;
        if !self.is_up() || inner.settings.topology == Topology::Cluster {
            return false;
        }
        let time: Result<(u64, u64), _> = Probe(self).call(RedisOp::Probe, &cmd("TIME")).await;
        time.is_ok_and(|(seconds, micros)| {
            let theirs = Duration::from_secs(seconds) + Duration::from_micros(micros);
            drift.leaves_behind(theirs, inner.clock.now())
        })
    }
}

/// Why a connection is not probed any more.
enum Ended {
    Lost,
    /// Another one is to take its place.
    Renewed,
}

/// About that long: gateways that lost the same server must not come back to it all at once.
fn spread(length: Duration) -> Duration {
    length.mul_f64(0.8 + 0.4 * fastrand::f64())
}

/// What a probe may send: it alone passes an open breaker.
#[derive(Debug)]
pub struct Probe<'a>(&'a Link);

impl Probe<'_> {
    /// The time.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.0.0.clock.now()
    }

    /// What every key begins with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.0.0.settings.prefix
    }

    /// Sends a command.
    ///
    /// # Errors
    /// As [`Link::call`].
    pub async fn call<T: FromRedisValue>(&self, op: RedisOp, cmd: &Cmd) -> Result<T, Loss> {
        let patience = self.0.0.settings.timeout;
        self.0.ask(op, patience, async |mut connection| cmd.query_async(&mut connection).await).await
    }
}
