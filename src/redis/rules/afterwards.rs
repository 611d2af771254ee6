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

use super::cell::Fields;
use super::script::{ENDED, Scripts, call};
use crate::clock::{Clock, Nanos};
use crate::metrics::RedisOp;
use crate::redis::link::{Link, Loss};

/// Queue capacity: some seconds of full load, some MB.
const WAITING: usize = 16_384;
/// Operations sent at once.
const BATCH: usize = 64;
/// Time limit of a command. No request waits, so a slow answer is better than a resend.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(50);
/// How often a shutdown checks whether the outbox is empty.
const GLANCE: Duration = Duration::from_millis(2);
/// Longest age for a resend. It is shorter than the lifetime of a record, so that an operation
/// whose answer was lost is not done twice.
const KEPT: Duration = Duration::from_secs(50);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Settle,
    Undo,
}

/// A settlement or an undo.
#[derive(Debug)]
pub(super) struct Errand {
    pub(super) verb: Verb,
    pub(super) record: String,
    pub(super) keys: Vec<Arc<str>>,
    pub(super) cells: Vec<(&'static str, Fields)>,
    pub(super) since: Nanos,
}

/// Sending half of the outbox.
#[derive(Clone, Debug)]
pub(super) struct Afterwards {
    errands: mpsc::Sender<Errand>,
    /// Unfinished operations.
    open: Arc<AtomicUsize>,
}

impl Afterwards {
    /// Creates the outbox and the task that sends it.
    pub(super) fn new(
        link: Link,
        scripts: Arc<Scripts>,
        clock: Clock,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (errands, inbox) = mpsc::channel(WAITING);
        let open = Arc::<AtomicUsize>::default();
        let work = work(link, scripts, clock, inbox, Arc::clone(&open));
        (Self { errands, open }, work)
    }

    pub(super) fn add(&self, errand: Errand) {
        self.open.fetch_add(1, Ordering::Relaxed);
        if self.errands.try_send(errand).is_err() {
            self.open.fetch_sub(1, Ordering::Relaxed);
            tracing::debug!("too much waits for Redis: a settlement is dropped");
        }
    }

    /// Waits until the outbox is empty, for at most `patience`.
    pub(super) async fn done(&self, patience: Duration) {
        let done = async {
            while self.open.load(Ordering::Relaxed) > 0 {
                sleep(GLANCE).await;
            }
        };
        if timeout(patience, done).await.is_err() {
            tracing::warn!("some settlements never reached Redis");
        }
    }
}

async fn work(
    link: Link,
    scripts: Arc<Scripts>,
    clock: Clock,
    mut inbox: mpsc::Receiver<Errand>,
    open: Arc<AtomicUsize>,
) {
    let mut again = VecDeque::new();
    loop {
        let mut batch: Vec<Errand> = again.drain(..).collect();
        if batch.is_empty() && inbox.recv_many(&mut batch, BATCH).await == 0 {
            return;
        }
        let sent = batch.into_iter().map(|errand| async {
            let heard = run(&link, &scripts, &errand).await;
            (errand, heard)
        });
        let now = clock.now();
        for (errand, heard) in join_all(sent).await {
            if matches!(heard, Err(Loss::NotSent | Loss::Unknown)) && now.since(errand.since) < KEPT {
                again.push_back(errand);
            } else {
                open.fetch_sub(1, Ordering::Relaxed);
            }
        }
        if !again.is_empty() {
            sleep(PAUSE).await;
        }
    }
}

async fn run(link: &Link, scripts: &Scripts, errand: &Errand) -> Result<(), Loss> {
    let script = match errand.verb {
        Verb::Settle => &scripts.settle,
        Verb::Undo => &scripts.undo,
    };
    let keys = errand.keys.iter().map(|key| &**key);
    let call = call(script, (&errand.record, ENDED), keys, errand.cells.iter().copied());
    link.run::<i64>(RedisOp::Settle, PATIENCE, &call).await.map(|_| ())
}
