//! Jobs that gateways run themselves: asynchronous ones, where the workers take nothing from a queue.
//!
//! They wait as all asynchronous jobs do. Whoever takes one holds an entry for it, in a stream that has no colour, and
//! renews it as a worker would. What is not renewed waits again, whole: another gateway gives it its turn.

use std::time::Duration;

use super::keys::{Job, Side, nameless};
use super::pending::Pending;
use super::{Jobs, PATIENCE};
use crate::metrics::{JobEnd, RedisOp};
use crate::redis::link::Loss;

/// Jobs that are put back at once: a gateway's worth, in a few rounds.
const MOST: usize = 256;

impl Jobs {
    /// Takes a job that waits in `pool`, for this gateway to run. The id of its entry; nothing when it does not wait any more.
    ///
    /// # Errors
    /// When Redis does not say. It may have been taken all the same, and will wait again when nobody renews it.
    pub async fn own(&self, pool: &str, job: Job, pending: &Pending) -> Result<Option<String>, Loss> {
        let inner = &*self.0;
        let mut call = inner.scripts.own.key(&self.owned(pool));
        call.arg(job).arg(nameless(&pending.caller().id)).arg(self.dam());
        inner.link.run(RedisOp::Enqueue, PATIENCE, &call).await
    }

    /// Puts back what was taken in `pool` and not renewed for `unheard`. Says how many jobs that were.
    ///
    /// # Errors
    /// When Redis does not do it.
    pub async fn revive(&self, pool: &str, unheard: Duration) -> Result<usize, Loss> {
        let inner = &*self.0;
        let mut call = inner.scripts.revive.key(&self.owned(pool));
        let unheard = u64::try_from(unheard.as_millis()).unwrap_or(u64::MAX);
        call.arg(self.dam()).arg(unheard).arg(MOST);
        inner.link.run(RedisOp::Jobs, PATIENCE, &call).await
    }

    /// Forgets the names of workers that drained `colour` of `pool`, or of gateways where the colour is empty, and have not
    /// been heard of for `unheard`. Says how many.
    ///
    /// # Errors
    /// When Redis does not do it.
    pub async fn forget_consumers(&self, pool: &str, colour: &str, unheard: Duration) -> Result<u64, Loss> {
        let inner = &*self.0;
        let side = Side { pool: pool.into(), colour: colour.into() };
        let mut call = inner.scripts.forget.key(inner.keys.stream(&side));
        call.arg(u64::try_from(unheard.as_millis()).unwrap_or(u64::MAX));
        inner.link.run(RedisOp::Jobs, PATIENCE, &call).await
    }

    /// Counts how a job of `pool` ended that this gateway ran, if it did.
    pub async fn tally(&self, pool: &str, job: Job) {
        let Ok(Some(standing)) = self.look(job).await else { return };
        let end = match &standing.state[..] {
            "done" => JobEnd::Answered,
            "failed" | "dead" => JobEnd::Failed,
            "cancelled" => JobEnd::Cancelled,
            "expired" => JobEnd::Expired,
            _ => return,
        };
        self.0.link.metrics().job(pool, end);
    }

    /// What this gateway is called in Redis.
    #[must_use]
    pub fn dam(&self) -> &str {
        self.0.dams.id()
    }

    fn owned(&self, pool: &str) -> [String; 3] {
        let keys = &self.0.keys;
        let [waiting, callers] = keys.pending(pool);
        [waiting, callers, keys.stream(&Side { pool: pool.into(), colour: "".into() })]
    }
}
