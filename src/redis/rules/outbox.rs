//! Outbox: settlements, refunds and undos, sent to Redis after the request has moved on.
//!
//! No request waits for it. A record makes each operation idempotent: it is resent until answered.
//!
//! **Failure mode.** The queue is bounded in number and age. In a long outage, quotas in Redis stay
//! charged with estimates. This errs towards refusing, except for replies longer than reserved.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::cell::CellArguments;
use super::script::{ENDED, RuleScripts, call};
use crate::clock::{Clock, Nanos};
use crate::metrics::RedisOp;
use crate::redis::link::{RedisLink, RedisLoss};

/// Queue capacity: some seconds of full load, some MB.
const WAITING: usize = 16_384;
/// Operations sent at once.
const BATCH: usize = 64;
/// Time limit of a command. No request waits, so a slow answer is better than a resend.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(50);
/// How often a shutdown checks whether the outbox is empty.
const FLUSH_POLL: Duration = Duration::from_millis(2);
/// Longest age for a resend. It is shorter than the lifetime of a record, so that an operation
/// whose answer was lost is not done twice.
const MAX_AGE: Duration = Duration::from_secs(50);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SettlementScript {
    Settle,
    Undo,
}

#[derive(Debug)]
pub(super) struct Settlement {
    pub(super) verb: SettlementScript,
    pub(super) record: String,
    pub(super) keys: Vec<Arc<str>>,
    pub(super) cells: Vec<(&'static str, CellArguments)>,
    pub(super) since: Nanos,
}

#[derive(Clone, Debug)]
pub(super) struct SettlementOutbox {
    tasks: mpsc::Sender<Settlement>,
    open: Arc<AtomicUsize>,
}

impl SettlementOutbox {
    pub(super) fn new(
        link: RedisLink,
        scripts: Arc<RuleScripts>,
        clock: Clock,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (tasks, inbox) = mpsc::channel(WAITING);
        let open = Arc::<AtomicUsize>::default();
        let work = work(link, scripts, clock, inbox, Arc::clone(&open));
        (Self { tasks, open }, work)
    }

    pub(super) fn add(&self, task: Settlement) {
        self.open.fetch_add(1, Ordering::Relaxed);
        if self.tasks.try_send(task).is_err() {
            self.open.fetch_sub(1, Ordering::Relaxed);
            tracing::debug!("settlement queue is full; dropped a settlement");
        }
    }

    /// Waits until the outbox is empty, for at most `patience`.
    pub(super) async fn done(&self, patience: Duration) {
        let done = async {
            while self.open.load(Ordering::Relaxed) > 0 {
                sleep(FLUSH_POLL).await;
            }
        };
        if timeout(patience, done).await.is_err() {
            tracing::warn!("shutdown: some settlements did not reach Redis");
        }
    }
}

async fn work(
    link: RedisLink,
    scripts: Arc<RuleScripts>,
    clock: Clock,
    mut inbox: mpsc::Receiver<Settlement>,
    open: Arc<AtomicUsize>,
) {
    let mut again = VecDeque::new();
    loop {
        let mut batch: Vec<Settlement> = again.drain(..).collect();
        if batch.is_empty() && inbox.recv_many(&mut batch, BATCH).await == 0 {
            return;
        }
        let sent = batch.into_iter().map(|task| async {
            let heard = run(&link, &scripts, &task).await;
            (task, heard)
        });
        let now = clock.now();
        for (task, heard) in join_all(sent).await {
            if matches!(heard, Err(RedisLoss::NotSent | RedisLoss::Unknown))
                && now.since(task.since) < MAX_AGE
            {
                again.push_back(task);
            } else {
                open.fetch_sub(1, Ordering::Relaxed);
            }
        }
        if !again.is_empty() {
            sleep(PAUSE).await;
        }
    }
}

async fn run(link: &RedisLink, scripts: &RuleScripts, task: &Settlement) -> Result<(), RedisLoss> {
    let script = match task.verb {
        SettlementScript::Settle => &scripts.settle,
        SettlementScript::Undo => &scripts.undo,
    };
    let keys = task.keys.iter().map(|key| &**key);
    let call = call(script, (&task.record, ENDED), keys, task.cells.iter().copied());
    link.run::<i64>(RedisOp::Settle, PATIENCE, &call).await.map(|_| ())
}
