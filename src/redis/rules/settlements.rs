//! Settlements, refunds and undos, sent to Redis after the request has moved on.
//!
//! No request waits for it. A record makes each operation idempotent: it is resent until answered.
//!
//! **Failure mode.** The queue is bounded in number and age. In a long outage, quotas in Redis stay
//! charged with estimates. This errs towards refusing, except for replies longer than reserved.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::cell::CellArguments;
use super::script::{ENDED, RuleScripts, call};
use crate::clock::{Clock, Nanos};
use crate::metrics::RedisOp;
use crate::redis::link::{RedisLink, RedisLoss};
use crate::redis::outbox::OpenTask;

/// Operations sent at once.
const BATCH: usize = 64;
/// Time limit of a command. No request waits, so a slow answer is better than a resend.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(50);
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

/// Sends what comes in, until no sender is left.
pub(super) async fn send(
    link: RedisLink,
    scripts: Arc<RuleScripts>,
    clock: Clock,
    mut inbox: mpsc::Receiver<OpenTask<Settlement>>,
) {
    let mut again = Vec::new();
    loop {
        let mut batch = std::mem::take(&mut again);
        if batch.is_empty() && inbox.recv_many(&mut batch, BATCH).await == 0 {
            return;
        }
        let sent = batch.into_iter().map(|open| async {
            let heard = run(&link, &scripts, &open.task).await;
            (open, heard)
        });
        let now = clock.now();
        for (open, heard) in join_all(sent).await {
            if matches!(heard, Err(RedisLoss::NotSent | RedisLoss::Unknown))
                && now.since(open.task.since) < MAX_AGE
            {
                again.push(open);
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
