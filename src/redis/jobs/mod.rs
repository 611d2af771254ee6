//! Jobs: requests that workers take from Redis, and replies; see `docs/queue-protocol.md`.
//!
//! | file | what |
//! | --- | --- |
//! | `keys` `script` | job ids, key names, and the scripts in `lua/` |
//! | `request` `piece` `head` `fault` | the request; reply entries, as published and kept (pure) |
//! | `limits` | the operator's limits |
//! | `mailboxes` | bounded mailboxes, one for each reader of a reply |
//! | `signature` | signatures of reply entries (pure) |
//! | `subscription` | the subscription that fills the mailboxes |
//! | `reader` | a reply in order: from the mailbox, gaps from the stream |
//! | `submit` | enqueues jobs for workers |
//! | `pending` | asynchronous jobs, which wait for room in Redis |
//! | `embedded` | jobs that this gateway runs itself |
//! | `dead` | dead letters: jobs that used up their attempts |
//! | `sessions` | turns of a session, one after the other |
//! | `sides` | who reads the stream of a colour; moving jobs to another one |
//! | `status` `idempotency` | job status; idempotent requests |
//! | `stored` `allowance` | answers over HTTP that repeats get; how many bytes of them (pure) |
//! | `liveness` | liveness probe for jobs whose reply is silent |
//! | `cancels` | ends jobs early |
//! | `tasks` `lanes` | cancels and cleanup after a response; their order (pure) |
//! | `answers` `text` | what the scripts answer (pure); what anybody may have written |
//!
//! **Failure mode.** Redis is away: new jobs are refused at once. Replies in progress wait for
//! Redis until their deadline and lose nothing, because the stream keeps what was published
//! meanwhile. If Redis comes back without a job, its reply ends with an error within some seconds.
//!
//! **Trade-off.** Every reply entry is written to Redis, though nearly all are only read from the
//! channel. The stream serves slow clients, restarted gateways and late readers.

mod allowance;
mod answers;
mod cancels;
mod dead;
mod embedded;
mod fault;
mod head;
mod idempotency;
mod keys;
mod lanes;
mod limits;
mod liveness;
mod mailboxes;
mod pending;
mod piece;
mod reader;
mod repeatable;
mod request;
mod script;
mod sessions;
mod sides;
mod signature;
mod status;
mod stored;
mod submit;
mod subscription;
mod tasks;

pub(crate) use answers::JobState;
pub(crate) use dead::{DeadLetter, RunError};
pub(crate) use fault::JobError;
pub(crate) use head::{AnsweredBy, for_worker, read_head, write_head};
pub(crate) use idempotency::KeyClaim;
pub use keys::Job;
pub(crate) use keys::{Side, caller_hash};
pub use limits::JobLimits;
pub(crate) use liveness::LivenessProbe;
pub(crate) use pending::Pending;
pub(crate) use piece::AnswerPiece;
pub(crate) use reader::Reader;
pub(crate) use repeatable::{EarlierRequest, KnownRequest};
pub(crate) use request::{JobRequest, JobTicket};
pub(crate) use sessions::{SessionTurn, TurnRefused};
pub(crate) use sides::{OwnStream, Started};
pub(crate) use status::JobStatus;
pub(crate) use stored::{LONGEST_ANSWER, StoredAnswer};
pub(crate) use submit::{AwaitedJob, SubmitRefused};

pub(crate) use super::reply::{PieceKind, PiecePlace};

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use self::allowance::StoredBytes;
use self::keys::Keys;
use self::mailboxes::Mailboxes;
use self::script::JobScripts;
use self::tasks::TimedTask;
use super::gateways::Gateways;
use super::link::RedisLink;
use super::odd::UnreadableKeys;
use super::outbox::Outbox;
use super::signing::Signing;
use crate::fleet::strangers::Strangers;

/// Time limit of a job command. An admitted request that cannot be enqueued has no alternative, so
/// the limit suits a disk, unlike that of rules.
const PATIENCE: Duration = Duration::from_secs(1);

/// Handle to the jobs in Redis. Clones share it.
#[derive(Clone)]
pub struct JobQueue(Arc<JobsInner>);

struct JobsInner {
    link: RedisLink,
    gateways: Arc<Gateways>,
    keys: Keys,
    scripts: JobScripts,
    mailboxes: Mailboxes,
    outbox: Outbox<TimedTask>,
    /// `true` while the outbox drops tasks, so that the log says it once.
    tasks_full: AtomicBool,
    signing: Signing,
    strangers: Mutex<Strangers>,
    limits: ArcSwap<JobLimits>,
    /// Sessions whose turn this gateway has, by turn.
    turns: Mutex<HashMap<Job, Arc<str>>>,
    /// Workers that read a stream of their own, by name.
    own_streams: ArcSwap<HashMap<Arc<str>, OwnStream>>,
    /// Bytes of the answers that this gateway has stored over HTTP.
    stored: Mutex<StoredBytes>,
    unreadable: UnreadableKeys,
}

impl fmt::Debug for JobQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobQueue").field("link", &self.0.link).finish_non_exhaustive()
    }
}

impl JobQueue {
    /// Creates the handle, and the future that must run with it (cleanup, and with `follows` the
    /// subscription to the replies of jobs in progress). With a key in `signing`, only signed replies
    /// and idempotency keys are accepted.
    pub(crate) fn new(
        link: RedisLink,
        gateways: Arc<Gateways>,
        signing: Signing,
        follows: bool,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (outbox, tasks) = Outbox::new();
        let keys = Keys::new(&link.settings().prefix);
        let jobs = Self(Arc::new(JobsInner {
            link,
            gateways,
            keys,
            scripts: JobScripts::default(),
            mailboxes: Mailboxes::default(),
            outbox,
            tasks_full: AtomicBool::new(false),
            signing,
            strangers: Mutex::default(),
            limits: ArcSwap::default(),
            turns: Mutex::default(),
            own_streams: ArcSwap::default(),
            stored: Mutex::default(),
            unreadable: UnreadableKeys::default(),
        }));
        let running = jobs.clone();
        (jobs, async move {
            let subscription = async {
                if follows {
                    running.listen().await;
                }
            };
            tokio::join!(subscription, running.run_tasks(tasks), running.renew_turns());
        })
    }

    /// Sets the limits for jobs that are accepted from now on.
    pub(crate) fn configure(&self, limits: JobLimits) {
        self.0.limits.store(Arc::new(limits));
    }

    /// Returns the limits for new jobs.
    #[must_use]
    pub(crate) fn limits(&self) -> JobLimits {
        **self.0.limits.load()
    }

    /// Returns the processes that take jobs which are not theirs.
    #[must_use]
    pub(crate) fn strangers(&self) -> &Mutex<Strangers> {
        &self.0.strangers
    }

    /// Returns the prefix of all keys.
    #[must_use]
    pub(crate) fn prefix(&self) -> &str {
        &self.0.link.settings().prefix
    }
}
