//! Turns of a session: one at a time, in order, and at the worker that had the turn before.
//!
//! A session is a hash in Redis, so that all gateways see the same turns. A turn that its gateway
//! does not renew for some seconds ends by itself: a gateway may die.
//!
//! **Trade-off.** Waiting turns ask again every 20 ms instead of being woken. Turns of one session
//! rarely overlap: a client sends the next one after it has read the answer.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::answers::TurnAnswer;
use super::keys::Job;
use super::limits::SESSION_REMEMBERED;
use super::tasks::JobTask;
use super::{JobQueue, PATIENCE};
use crate::metrics::RedisOp;
use crate::redis::link::RedisLoss;
use crate::redis::millis;

/// How long a turn, or its wait, counts without a sign of its gateway.
const LEASE: Duration = Duration::from_secs(5);
/// Interval between two renewals.
const RENEW: Duration = Duration::from_secs(1);
/// Pause before a waiting turn asks again.
const AGAIN: Duration = Duration::from_millis(20);
/// Most turns of a session that wait.
const WAITING: usize = 16;

/// Why a session gave no turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TurnRefused {
    /// The turn before has not ended in time.
    #[error("an earlier request of this session has not ended in time")]
    Late,
    /// Too many turns wait.
    #[error("{WAITING} requests of this session are already waiting")]
    Many,
    /// The command to Redis failed.
    #[error(transparent)]
    Lost(#[from] RedisLoss),
    /// The system provides no randomness for the turn's name.
    #[error("the system provides no random numbers")]
    NoName,
}

/// The turn of a request in its session. Dropping it lets the next turn begin.
pub(crate) struct SessionTurn {
    jobs: JobQueue,
    session: Arc<str>,
    turn: Job,
    /// Worker of the turn before.
    before: Option<Arc<str>>,
    worker: OnceLock<Arc<str>>,
}

impl fmt::Debug for SessionTurn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionTurn").field("session", &self.session).finish_non_exhaustive()
    }
}

impl JobQueue {
    /// Waits until it is the turn of a request in `session` of `pool`, for at most `wait`.
    ///
    /// # Errors
    /// Returns the reason why the request gets no turn.
    pub(crate) async fn turn(
        &self,
        pool: &str,
        session: u64,
        wait: Duration,
    ) -> Result<SessionTurn, TurnRefused> {
        let turn = Job::random().ok_or(TurnRefused::NoName)?;
        let session: Arc<str> = format!("{}:session:{{{pool}}}:{session:016x}", self.prefix()).into();
        let until = Instant::now() + wait;
        // Ends the wait, too, if this future is dropped.
        let mut mine =
            SessionTurn { jobs: self.clone(), session, turn, before: None, worker: OnceLock::new() };
        loop {
            match self.tell_session(&mine.session, turn, "ask", "").await? {
                TurnAnswer::Own(before) => {
                    mine.before = before.map(Arc::from);
                    self.0.turns.lock().insert(turn, Arc::clone(&mine.session));
                    return Ok(mine);
                }
                TurnAnswer::Many => return Err(TurnRefused::Many),
                TurnAnswer::Wait if Instant::now() + AGAIN >= until => return Err(TurnRefused::Late),
                TurnAnswer::Wait => sleep(AGAIN).await,
            }
        }
    }

    async fn tell_session<T: redis::FromRedisValue>(
        &self,
        session: &str,
        turn: Job,
        what: &str,
        worker: &str,
    ) -> Result<T, RedisLoss> {
        let mut call = self.0.scripts.turn.key(session);
        call.arg(what).arg(turn);
        if what == "end" {
            call.arg(worker);
        } else {
            call.arg(millis(LEASE));
        }
        call.arg(millis(SESSION_REMEMBERED)).arg(WAITING);
        self.0.link.run(RedisOp::Jobs, PATIENCE, &call).await
    }

    pub(super) async fn renew_turns(&self) {
        let mut ticks = interval(RENEW);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let turns: Vec<_> =
                self.0.turns.lock().iter().map(|(turn, at)| (*turn, Arc::clone(at))).collect();
            for (turn, session) in turns {
                // If Redis is away, no gateway begins a turn either.
                if self.tell_session::<i64>(&session, turn, "renew", "").await.is_err() {
                    break;
                }
            }
        }
    }

    pub(super) async fn end_turn(&self, session: &str, turn: Job, worker: &str) -> Result<(), RedisLoss> {
        self.tell_session::<i64>(session, turn, "end", worker).await.map(drop)
    }
}

impl SessionTurn {
    /// Returns the worker that had the turn before; `None` in a new session.
    #[must_use]
    pub(crate) const fn before(&self) -> Option<&Arc<str>> {
        self.before.as_ref()
    }

    /// Records the worker that answers, and counts whether the session has moved.
    pub(crate) fn answered_by(&self, worker: &Arc<str>) {
        self.worker.get_or_init(|| Arc::clone(worker));
        if let Some(before) = &self.before {
            self.jobs.0.link.metrics().session_turn(before != worker);
        }
    }
}

impl Drop for SessionTurn {
    fn drop(&mut self) {
        let inner = &*self.jobs.0;
        inner.turns.lock().remove(&self.turn);
        let worker = self.worker.get().or(self.before.as_ref()).cloned();
        self.jobs.add_task(JobTask::EndTurn { session: Arc::clone(&self.session), turn: self.turn, worker });
    }
}
