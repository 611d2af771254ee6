//! Asynchronous jobs: kept until there is room for them, then given to the workers by whichever gateway has it.

use std::sync::Arc;
use std::time::Duration;

use redis::cmd;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::entry::Place;
use super::keys::{Job, Side, nameless};
use super::request::Request;
use super::submit::{Awaited, Fate, Refused};
use super::{Jobs, PATIENCE};
use crate::clock::unix_millis;
use crate::metrics::{JobEnd, RedisOp};
use crate::redis::link::Loss;
use crate::request::{Caller, Class, Demand, Kind};

/// Jobs that wait in one pool. All gateways read them once a second.
const MOST: usize = 4096;
/// Jobs of one caller among them: a sixteenth.
const MOST_OF_ONE: usize = 256;
/// Bytes of bodies that wait in one pool: they stand in Redis' memory.
const MOST_BYTES: u64 = 256 * 1024 * 1024;
/// Bytes of one caller among them: an eighth. A caller of whom nothing waits may have one job of any size.
const MOST_BYTES_OF_ONE: u64 = MOST_BYTES / 8;
/// Jobs that are ended at once when their time is over: the rest is for the next reading.
const LAPSING: usize = 64;
/// How long an asynchronous job has, from when it was accepted to its last piece.
pub const LIVES: Duration = Duration::from_secs(3600);

/// What a gateway needs to know of a job to give it to the workers when its turn has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Who asks, as the gate knows callers.
    caller: Arc<str>,
    class: String,
    weight: u32,
    model: Option<Arc<str>>,
    prompt: u64,
    max: Option<u64>,
    output: u64,
    sequences: u32,
    stream: bool,
    path: String,
    /// When it came, in milliseconds since 1970: the order among jobs of one caller.
    pub at_ms: u64,
    /// For whom it is counted where jobs wait, which is not always whose job it is: for scripts.
    #[serde(default)]
    counted: String,
    /// Bytes of its body: for scripts.
    #[serde(default)]
    bytes: u64,
}

impl Pending {
    /// A call of `path` that came at `at_ms`.
    #[must_use]
    pub fn new(caller: &Caller, demand: &Demand, path: &str, at_ms: u64) -> Self {
        Self {
            caller: Arc::clone(&caller.id),
            class: caller.class.as_str().to_owned(),
            weight: caller.weight,
            model: demand.model.clone(),
            prompt: demand.prompt_tokens,
            max: demand.max_tokens,
            output: demand.expected_output,
            sequences: demand.sequences,
            stream: demand.stream,
            path: path.to_owned(),
            at_ms,
            counted: nameless(&caller.id),
            bytes: demand.body_bytes,
        }
    }

    /// Who asks.
    #[must_use]
    pub fn caller(&self) -> Caller {
        Caller {
            class: Class::parse(&self.class).unwrap_or_default(),
            weight: self.weight,
            ..Caller::new(Arc::clone(&self.caller))
        }
    }

    /// What it will cost.
    #[must_use]
    pub fn demand(&self) -> Demand {
        Demand {
            // Every kind that can be a job is read in the same way.
            kind: Kind::Chat,
            model: self.model.clone(),
            prompt_tokens: self.prompt,
            max_tokens: self.max,
            expected_output: self.output,
            sequences: self.sequences,
            stream: self.stream,
            // Once workers have it, it is theirs: its seat cannot be given to another.
            retryable: false,
            ..Demand::path()
        }
    }

    /// What was asked.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl Jobs {
    /// Writes a job down, and keeps it until there is room.
    ///
    /// # Errors
    /// [`Refused::Full`], [`Refused::Many`] or [`Refused::Heavy`] when too much waits already, or that Redis does not do it. Then it will not run.
    pub async fn accept(
        &self,
        job: Job,
        pool: &Arc<str>,
        request: &Request,
        pending: &Pending,
    ) -> Result<(), Refused> {
        let side = Side { pool: Arc::clone(pool), colour: "".into() };
        self.write_down(job, &side, request, true).await?;
        let kept = async {
            self.settle(request).await?;
            self.keep(pool, job, pending).await
        };
        kept.await.inspect(|()| request.succeed()).inspect_err(|_| self.withdraw(job))
    }

    /// Keeps a job that is written down.
    pub(super) async fn keep(&self, pool: &str, job: Job, pending: &Pending) -> Result<(), Refused> {
        let [waiting, callers] = self.0.keys.pending(pool);
        // Texts and numbers can always be written.
        let text = serde_json::to_string(pending).unwrap_or_default();
        let mut call = self.0.scripts.pend.key(waiting);
        call.key(callers).arg(job).arg(&pending.counted).arg(MOST).arg(MOST_OF_ONE).arg(text);
        call.arg(MOST_BYTES).arg(MOST_BYTES_OF_ONE);
        let kept: String = self.0.link.run(RedisOp::Enqueue, PATIENCE, &call).await?;
        match &kept[..] {
            "OK" => Ok(()),
            "MANY" => Err(Refused::Many(MOST_OF_ONE)),
            "HEAVY" => Err(Refused::Heavy(MOST_BYTES_OF_ONE)),
            _ => Err(Refused::Full),
        }
    }

    /// Whether a job waits in `pool`.
    pub(super) async fn waits(&self, pool: &str, job: Job) -> Result<bool, Loss> {
        let [waiting, _] = self.0.keys.pending(pool);
        self.0.link.call_within(RedisOp::Jobs, PATIENCE, cmd("HEXISTS").arg(waiting).arg(job)).await
    }

    /// The jobs that wait in `pool`. Those whose time is over are taken out, and end.
    ///
    /// # Errors
    /// When Redis does not say.
    pub async fn pending(&self, pool: &str) -> Result<Vec<(Job, Pending)>, Loss> {
        let [waiting, _] = self.0.keys.pending(pool);
        let count: usize =
            self.0.link.call_within(RedisOp::Jobs, PATIENCE, cmd("HLEN").arg(&waiting)).await?;
        if count == 0 {
            return Ok(Vec::new());
        }
        let all: Vec<(String, String)> =
            self.0.link.call_within(RedisOp::Jobs, PATIENCE, cmd("HGETALL").arg(&waiting)).await?;
        let read =
            |(job, text): (String, String)| Some((Job::parse(&job)?, serde_json::from_str(&text).ok()?));
        let oldest = unix_millis().saturating_sub(u64::try_from(LIVES.as_millis()).unwrap_or(u64::MAX));
        let (mut waiting, late): (Vec<_>, Vec<_>) = all
            .into_iter()
            .filter_map(read)
            .partition(|(_, pending): &(Job, Pending)| pending.at_ms > oldest);
        for (job, pending) in late.into_iter().take(LAPSING) {
            match self.give_up(pool, job, &pending).await {
                Ok(true) => {}
                Ok(false) => waiting.push((job, pending)),
                Err(loss) => {
                    tracing::debug!(%loss, "jobs whose time is over go on waiting");
                    break;
                }
            }
        }
        Ok(waiting)
    }

    /// Ends a job that waits and has no time left, by Redis' clock. Says whether it does not wait any more.
    async fn give_up(&self, pool: &str, job: Job, pending: &Pending) -> Result<bool, Loss> {
        let was = self.lapse(job).await?;
        if was == "EARLY" {
            return Ok(false);
        }
        self.drop_pending(pool, job, pending).await?;
        // Of several gateways that saw it, one ended it.
        if was != "GONE" && was != "ENDED" {
            self.0.link.metrics().job(pool, JobEnd::Expired);
        }
        Ok(true)
    }

    /// Lets the workers of `side` have a job that waits, as [`Jobs::submit`] does with a new one; from then on it may take no
    /// longer than `within`. It goes on when what is returned is dropped.
    ///
    /// # Errors
    /// [`Refused::Gone`] when it does not wait any more, or why it goes on waiting.
    pub async fn promote(
        &self,
        job: Job,
        caller: &str,
        side: &Side,
        ceiling: u32,
        (until, within): (Instant, Duration),
    ) -> Result<Awaited, Refused> {
        let reader = self.read(job, Place::default());
        // The record says where it was put only once it was: other gateways may try the same, for another colour. But
        // from here on nobody may requeue it.
        if self.mark(job, "", &[("requeued_ms", "")]).await?.as_deref() != Some("queued") {
            self.take_out(&side.pool, job, caller).await?;
            return Err(Refused::Gone);
        }
        let [waiting, callers] = self.0.keys.pending(&side.pool);
        let mut call = self.0.scripts.promote.key(waiting);
        call.key(callers).key(self.0.keys.stream(side)).arg(job).arg(caller).arg(ceiling);
        let mut pause = super::submit::PAUSE;
        loop {
            let done: String = self.0.link.run(RedisOp::Enqueue, PATIENCE, &call).await?;
            match &done[..] {
                "GONE" => return Err(Refused::Gone),
                "FULL" if Instant::now() + pause >= until => return Err(Refused::Full),
                "FULL" => sleep(pause).await,
                entry => {
                    let within = u64::try_from(within.as_millis()).unwrap_or(u64::MAX).to_string();
                    let put = [("colour", &*side.colour), ("entry", entry)];
                    // For whoever cancels it before a worker has it. Without it, the worker that takes it sees that.
                    if let Err(loss) = self.mark(job, &within, &put).await {
                        tracing::debug!(%loss, %job, "where a job was put is not in its record");
                    }
                    return Ok(Awaited::new(self, side, reader, Some(entry.into()), Fate::Remains));
                }
            }
            pause *= 2;
        }
    }

    /// Has this gateway told of the answer. Says how the job stands, if there is one.
    ///
    /// # Errors
    /// When Redis does not do it.
    pub async fn attach(&self, job: Job) -> Result<Option<String>, Loss> {
        self.mark(job, "", &[]).await
    }

    async fn mark(&self, job: Job, within: &str, fields: &[(&str, &str)]) -> Result<Option<String>, Loss> {
        let inner = &*self.0;
        let mut call = inner.scripts.attach.key(inner.keys.job(job));
        call.key(inner.keys.reply(job)).arg(&inner.keys.replies).arg(job).arg(inner.dams.id()).arg(within);
        for (field, value) in fields {
            call.arg(*field).arg(*value);
        }
        inner.link.run(RedisOp::Jobs, PATIENCE, &call).await
    }

    pub(super) async fn drop_pending(&self, pool: &str, job: Job, pending: &Pending) -> Result<(), Loss> {
        self.take_out(pool, job, &nameless(&pending.caller)).await
    }

    /// Takes a job out of those that wait.
    pub(super) async fn take_out(&self, pool: &str, job: Job, caller: &str) -> Result<(), Loss> {
        let [waiting, callers] = self.0.keys.pending(pool);
        let mut call = self.0.scripts.promote.key(waiting);
        call.key(callers).arg(job).arg(caller);
        self.0.link.run::<String>(RedisOp::Jobs, PATIENCE, &call).await.map(drop)
    }
}
