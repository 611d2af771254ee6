//! Embedded consumer: asynchronous jobs that gateways run themselves if workers take none.
//!
//! The jobs are pending like all asynchronous jobs. The gateway that takes one holds its entry, in
//! a stream without a colour, and renews it as a worker does. A job that is not renewed becomes
//! pending again with all its data, and any gateway may take it.

use std::time::Duration;

use super::keys::{Job, Side, caller_hash};
use super::pending::Pending;
use super::{JobQueue, JobState, PATIENCE};
use crate::metrics::{JobEnd, RedisOp};
use crate::redis::link::RedisLoss;
use crate::redis::millis;

/// Jobs requeued per call: what one gateway runs, in a few rounds.
const MOST: usize = 256;

impl JobQueue {
    /// Takes a pending job of `pool` to run it here. Returns its entry id; `None` if not pending.
    ///
    /// # Errors
    /// Returns [`RedisLoss`] if the command to Redis fails. The job may have been taken all the same; as
    /// nobody renews it, it becomes pending again.
    pub(crate) async fn take_pending(
        &self,
        pool: &str,
        job: Job,
        pending: &Pending,
    ) -> Result<Option<String>, RedisLoss> {
        let inner = &*self.0;
        let mut call = inner.scripts.own.key(&self.owned(pool));
        call.arg(job).arg(caller_hash(&pending.caller().id)).arg(self.gateway_id());
        inner.link.run(RedisOp::Enqueue, PATIENCE, &call).await
    }

    /// Makes jobs of `pool` pending again that were not renewed for `claim_after`. Returns the count.
    ///
    /// # Errors
    /// Returns [`RedisLoss`] if the command to Redis fails.
    pub(crate) async fn requeue_idle(&self, pool: &str, unheard: Duration) -> Result<usize, RedisLoss> {
        let inner = &*self.0;
        let mut call = inner.scripts.revive.key(&self.owned(pool));
        let unheard = millis(unheard);
        call.arg(self.gateway_id()).arg(unheard).arg(MOST);
        inner.link.run(RedisOp::Jobs, PATIENCE, &call).await
    }

    /// Removes consumers from the group of `colour` of `pool` that have been idle for `claim_after`:
    /// workers, or gateways if the colour is empty. Returns their number.
    ///
    /// # Errors
    /// Returns [`RedisLoss`] if the command to Redis fails.
    pub(crate) async fn forget_consumers(
        &self,
        pool: &str,
        colour: &str,
        unheard: Duration,
    ) -> Result<u64, RedisLoss> {
        let inner = &*self.0;
        let side = Side { pool: pool.into(), colour: colour.into() };
        let mut call = inner.scripts.forget.key(inner.keys.stream(&side));
        call.arg(millis(unheard));
        inner.link.run(RedisOp::Jobs, PATIENCE, &call).await
    }

    /// Counts in the metrics how a job of `pool` ended that this gateway ran, if it has ended.
    pub(crate) async fn count_end(&self, pool: &str, job: Job) {
        let Ok(Some(status)) = self.look(job).await else { return };
        let end = match status.state {
            JobState::Queued | JobState::Running => return,
            JobState::Done => JobEnd::Answered,
            JobState::Failed | JobState::Dead => JobEnd::Failed,
            JobState::Cancelled => JobEnd::Cancelled,
            JobState::Expired => JobEnd::Expired,
        };
        self.0.link.metrics().job(pool, end);
    }

    /// Returns the id of this gateway in Redis.
    #[must_use]
    pub(crate) fn gateway_id(&self) -> &str {
        self.0.gateways.id()
    }

    fn owned(&self, pool: &str) -> [String; 3] {
        let keys = &self.0.keys;
        let [waiting, callers] = keys.pending(pool);
        [waiting, callers, keys.stream(&Side { pool: pool.into(), colour: "".into() })]
    }
}
