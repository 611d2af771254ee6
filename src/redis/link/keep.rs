//! Connection keeper: connects, probes, and drops the connection.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, FromRedisValue, RedisError, Script, cmd};
use tokio::time::{sleep, timeout};

use super::drift::ClockDrift;
use super::{CONNECT, RedisLink, RedisLoss, went_down};
use crate::clock::Nanos;
use crate::metrics::RedisOp;
use crate::redis::connect::{Connection, connect};
use crate::redis::settings::Topology;

/// Interval of probes and of connection attempts.
const PROBE: Duration = Duration::from_secs(1);
/// Pause before a reconnect: no busy loop with a server that closes each connection at once.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);
/// Failed probes in a row after which the connection is dropped: a vanished peer sends no error.
const SILENCES: u32 = 3;

/// A write that probes a server: it shows that the server is usable.
pub trait ProbeWrite: Send + Sync {
    /// Sends the probe.
    ///
    /// # Errors
    /// As `RedisLink::call`.
    fn send(&self, probe: &Probe<'_>) -> impl Future<Output = Result<(), RedisLoss>> + Send;
}

impl RedisLink {
    /// Stays connected until dropped. Probes the server each second with `write`.
    pub async fn keep(self, write: Arc<impl ProbeWrite>) {
        let inner = &*self.0;
        let mut down_logged = false;
        let mut scripts = ScriptCheck::default();
        loop {
            match timeout(CONNECT, connect(&inner.settings, None))
                .await
                .map_err(|_| None)
                .and_then(|made| made.map_err(Some))
            {
                Ok(connection) => {
                    inner.connection.store(Some(Arc::new(connection)));
                    self.look_at_memory().await;
                    down_logged = false;
                    let ended = self.probe_loop(&*write, &mut scripts).await;
                    inner.connection.store(None);
                    let opened = inner.breaker.open();
                    if let ProbingEnded::Lost = ended {
                        if opened {
                            went_down(RedisLoss::NotSent);
                        }
                        sleep(RECONNECT_PAUSE).await;
                    }
                }
                Err(error) => {
                    // Logged once per outage: connecting is retried every second.
                    if !down_logged {
                        let error = error.map_or_else(|| "no answer".to_owned(), |error| error.to_string());
                        tracing::warn!(error, "no connection to Redis");
                        down_logged = true;
                    }
                    sleep(spread(PROBE)).await;
                }
            }
        }
    }

    /// Warns of a server that evicts keys when its memory is full: a key may hold a charged quota.
    async fn look_at_memory(&self) {
        let patience = self.0.settings.timeout;
        let info =
            async |mut connection| cmd("INFO").arg("memory").query_async::<String>(&mut connection).await;
        let Ok(info) = self.ask(RedisOp::Probe, patience, info).await else { return };
        let policy = info.lines().find_map(|line| line.strip_prefix("maxmemory_policy:"));
        if let Some(policy) = policy.map(str::trim).filter(|policy| *policy != "noeviction") {
            tracing::warn!(
                policy,
                "Redis may evict quotas and jobs: set its `maxmemory-policy` to `noeviction`"
            );
        }
    }

    /// Probes until the connection is lost or replaced.
    async fn probe_loop(&self, write: &impl ProbeWrite, scripts: &mut ScriptCheck) -> ProbingEnded {
        let inner = &*self.0;
        let mut silences = 0;
        let mut drift = ClockDrift::default();
        loop {
            let asked = inner.clock.now();
            match write.send(&Probe(self)).await {
                Ok(()) => {
                    silences = 0;
                    scripts.run(self).await;
                    let now = inner.clock.now();
                    if inner.breaker.close(now) {
                        tracing::info!("Redis is up");
                    }
                }
                // Another command was answered: the connection works, only the probe was late.
                Err(_) if inner.breaker.heard_since(asked) => silences = 0,
                Err(RedisLoss::Unknown | RedisLoss::NotSent) if silences + 1 >= SILENCES => {
                    return ProbingEnded::Lost;
                }
                Err(_) => silences += 1,
            }
            if self.is_overtaken(&mut drift).await {
                inner.overtaken.notify_one();
            }
            tokio::select! {
                () = inner.gone.notified() => return ProbingEnded::Lost,
                () = inner.renew.notified() => return ProbingEnded::Renewed,
                () = sleep(spread(PROBE)) => {}
            }
        }
    }

    /// Returns `true` if Redis' clock has left this gateway's behind since the last probe. Always
    /// `false` for a cluster, where each server has its own clock.
    async fn is_overtaken(&self, drift: &mut ClockDrift) -> bool {
        let inner = &*self.0;
        if !self.is_up() || inner.settings.topology == Topology::Cluster {
            return false;
        }
        let time = self.time(RedisOp::Probe).await;
        time.is_ok_and(|theirs| drift.detects_pause(theirs, inner.clock.now()))
    }
}

enum ProbingEnded {
    Lost,
    /// A new connection is to replace it.
    Renewed,
}

/// Checks once that the server runs scripts. One that accepts the probe may refuse them, and then no
/// rule is counted there: this gateway gives its local share, and does not know what it gave before
/// its start.
#[derive(Debug, Default)]
struct ScriptCheck {
    done: bool,
    refusal_logged: bool,
}

impl ScriptCheck {
    async fn run(&mut self, link: &RedisLink) {
        if self.done {
            return;
        }
        let inner = &*link.0;
        let script = Script::new("return 1");
        let send = async |mut connection: Connection| script.invoke_async(&mut connection).await;
        match link.ask::<i64>(RedisOp::Probe, inner.settings.timeout, send).await {
            Ok(_) => {
                inner.start.answered(inner.clock.now());
                self.done = true;
            }
            Err(RedisLoss::Refused) if !self.refusal_logged => {
                tracing::warn!("Redis refuses scripts: no rule is counted in it, and there are no jobs");
                self.refusal_logged = true;
            }
            Err(_) => {}
        }
    }
}

/// Returns `length` ± 20 %: gateways that lost one server must not return together.
fn spread(length: Duration) -> Duration {
    length.mul_f64(0.8 + 0.4 * fastrand::f64())
}

/// Access for probes, which alone pass an open breaker.
#[derive(Debug)]
pub struct Probe<'a>(&'a RedisLink);

impl Probe<'_> {
    /// Returns the time of the link's clock.
    #[must_use]
    pub(crate) fn now(&self) -> Nanos {
        self.0.0.clock.now()
    }

    /// Returns the prefix of all keys.
    #[must_use]
    pub(crate) fn prefix(&self) -> &str {
        &self.0.0.settings.prefix
    }

    /// Sends a command.
    ///
    /// # Errors
    /// As [`RedisLink::call`].
    pub(crate) async fn call<T: FromRedisValue>(&self, op: RedisOp, cmd: &Cmd) -> Result<T, RedisLoss> {
        let patience = self.0.0.settings.timeout;
        self.0.ask(op, patience, async |mut connection| cmd.query_async(&mut connection).await).await
    }

    /// Sends a command. The inner error is a refusal of this command alone: its key has another type,
    /// for example.
    ///
    /// # Errors
    /// As [`RedisLink::call`].
    pub(crate) async fn call_answered<T: FromRedisValue>(
        &self,
        op: RedisOp,
        cmd: &Cmd,
    ) -> Result<Result<T, RedisError>, RedisLoss> {
        self.0.ask_answered(op, cmd).await
    }
}
