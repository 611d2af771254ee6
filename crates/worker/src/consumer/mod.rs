//! Worker side of the queue: takes jobs from Redis, and returns replies.
//!
//! Each function of [`Consumer`] is one step of `docs/queue-protocol.md`, sent once. [`Runs`] takes
//! these steps in order around an [`AnswerEngine`], and retries where that is safe.
//!
//! **Failure mode.** Redis is away: every step fails within about 2 s. All steps may be repeated.

mod connection;
mod entries;
mod job;
mod run;
mod runs;
mod trust;

pub use job::{DeadEnd, EmitReply, JobRun, StreamEntry, TakenJob};
pub use run::{AnswerEngine, NoAnswer};
pub use runs::Runs;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redis::{FromRedisValue, PushInfo, PushKind, RedisResult, Script, Value, cmd, from_redis_value};
use tokio::sync::mpsc;
use traffic_dam_core::clock::Clock;
use traffic_dam_core::fleet::side;

use self::connection::{ConsumerConnection, PATIENCE};
use crate::reply::{self, PieceKind, PiecePlace};
use crate::settings::RedisSettings;
use crate::signing::Signing;
use crate::{pushes, scripts};

/// Queued cancels. A cancel beyond that is reported by the next `emit` of its job.
const CANCELS: usize = 1024;
const GROUP: &str = "workers";
/// How long a read blocks in Redis while there are no entries.
const BLOCK: Duration = Duration::from_millis(1000);
/// Intervals without a renewal after which a job may be claimed.
const MISSED: u32 = 3;

/// Identity of a consumer.
#[derive(Clone, Debug)]
pub struct ConsumerIdentity {
    /// The worker's name.
    pub worker: Arc<str>,
    /// The pool whose jobs it takes.
    pub pool: Arc<str>,
    /// The colour of the pool whose jobs it takes; see [`side::colour_of`] for workers without one.
    pub colour: Arc<str>,
    /// The worker's version. It also takes the jobs that only this version of its colour may take.
    pub version: Option<Arc<str>>,
    /// Interval of renewals; the same for all workers of the pool.
    pub interval: Duration,
}

/// Access of a worker to its queue.
pub struct Consumer {
    place: ConsumerIdentity,
    prefix: Arc<str>,
    /// The sides whose jobs it takes, and their streams; the narrowest first, which is the worker
    /// alone, unless it has no colour.
    streams: Vec<(Arc<str>, String)>,
    dead: String,
    signing: Signing,
    settings: RedisSettings,
    /// For blocking reads, which must not delay other commands.
    reading: ConsumerConnection,
    line: ConsumerConnection,
    take: Script,
    emit: Script,
    claim: Script,
    renew: Script,
    back: Script,
    discard: Script,
    end: Script,
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Consumer {
    /// Creates an unconnected consumer. With a key it verifies the signatures of jobs.
    #[must_use]
    pub fn new(settings: &RedisSettings, place: ConsumerIdentity, signing: impl Into<Signing>) -> Self {
        let prefix = Arc::clone(&settings.prefix);
        let with_common = |own: &str| Script::new(&[scripts::COMMON, own].concat());
        Self {
            streams: sides(&place)
                .into_iter()
                .map(|side| (Arc::clone(&side), format!("{prefix}:jobs:{{{}}}:{side}", place.pool)))
                .collect(),
            dead: format!("{prefix}:dead:{{{}}}", place.pool),
            settings: settings.clone(),
            reading: ConsumerConnection::new(settings, BLOCK),
            line: ConsumerConnection::new(settings, Duration::ZERO),
            take: with_common(scripts::TAKE),
            emit: with_common(scripts::EMIT),
            claim: Script::new(scripts::CLAIM),
            renew: Script::new(scripts::RENEW),
            back: Script::new(scripts::BACK),
            discard: with_common(scripts::DISCARD),
            end: Script::new(scripts::END),
            place,
            prefix,
            signing: signing.into(),
        }
    }

    /// Returns the identity of the consumer.
    #[must_use]
    pub const fn place(&self) -> &ConsumerIdentity {
        &self.place
    }

    /// Creates the streams and their groups, unless they exist.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer.
    pub async fn join(&self) -> RedisResult<()> {
        for (_, stream) in &self.streams {
            let mut create = cmd("XGROUP");
            create.arg("CREATE").arg(stream).arg(GROUP).arg(0).arg("MKSTREAM");
            match self.line.call::<()>(&create).await {
                Err(error) if error.code() != Some("BUSYGROUP") => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Returns the time without a renewal after which a job may be claimed.
    #[must_use]
    pub fn claim_after(&self) -> Duration {
        self.place.interval * MISSED
    }

    /// Starts a run.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer. The run may have started; a retry starts another.
    pub async fn take(&self, entry: &StreamEntry) -> RedisResult<TakenJob> {
        let job = &entry.job;
        let mut take = self.of_job(&self.take, job);
        take.arg(&*self.place.worker).arg(&*entry.side).arg(&entry.id).arg(entry.given);
        take.arg(self.stream(&entry.side));
        let answer: Vec<Value> = self.line.run(&take).await?;
        Ok(self.taken(job, answer.into_iter()).unwrap_or_else(|error| TakenJob::IllFormed(error.to_string())))
    }

    /// Reads the answer of `take`.
    fn taken(&self, job: &str, mut answer: impl Iterator<Item = Value>) -> RedisResult<TakenJob> {
        let word: String = field(&mut answer)?;
        Ok(match word.as_str() {
            "RUN" => {
                let (epoch, _attempt): (u64, u64) = (field(&mut answer)?, field(&mut answer)?);
                let left = Duration::from_millis(field(&mut answer)?);
                let (path, headers): (Vec<u8>, Vec<u8>) = (field(&mut answer)?, field(&mut answer)?);
                let body: Vec<u8> = field(&mut answer)?;
                let signature: Vec<u8> = field(&mut answer)?;
                let genuine = self.is_genuine(job, &path, &headers, &body, &signature);
                let sealed = field::<Vec<u8>>(&mut answer)? == b"1";
                let refused = self.refusal(genuine, sealed);
                let waited_ms = field(&mut answer)?;
                // An empty path or object cannot be read either, which ends the job with an error.
                let [path, headers] = [path, headers].map(|text| String::from_utf8(text).unwrap_or_default());
                let body = body.into();
                TakenJob::Run(JobRun { epoch, left, path, headers, body, refused, sealed, waited_ms })
            }
            "DEAD" => {
                let error = text(&field::<Vec<u8>>(&mut answer)?);
                TakenJob::Dead(DeadEnd { error, keep_ms: field(&mut answer)? })
            }
            "LEAVE" => TakenJob::Leave,
            "OTHER" => TakenJob::Other(text(&field::<Vec<u8>>(&mut answer)?)),
            _ => TakenJob::Gone,
        })
    }

    /// Adds `parts` to a reply; `first` is the number of the first one. Repeating a call does not
    /// add them twice. With `sealed`, parts are signed if this worker has a key.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer; with the code `GAP` if it has lost earlier parts.
    pub async fn emit(
        &self,
        job: &str,
        epoch: u64,
        first: u64,
        parts: &[(PieceKind, Bytes)],
        sealed: bool,
    ) -> RedisResult<EmitReply> {
        if !sealed {
            let parts = parts.iter().map(|(kind, data)| (kind.as_str(), &data[..]));
            return self.say(job, epoch, first, parts).await;
        }
        let numbered = (first..).zip(parts);
        let parts: Vec<_> = numbered
            .map(|(n, (kind, data))| {
                let place = PiecePlace { epoch, n };
                (kind.as_str(), reply::signed(&self.signing, &self.prefix, job, place, *kind, data))
            })
            .collect();
        self.say(job, epoch, first, parts.iter().map(|(kind, data)| (*kind, &data[..]))).await
    }

    /// Reports why a run failed that may be retried; `next` is the number of its next part.
    ///
    /// # Errors
    /// As [`Consumer::emit`].
    pub async fn fail(&self, job: &str, epoch: u64, next: u64, why: &str) -> RedisResult<EmitReply> {
        self.say(job, epoch, next, std::iter::once(("fail", why.as_bytes()))).await
    }

    async fn say<'a>(
        &self,
        job: &str,
        epoch: u64,
        first: u64,
        parts: impl Iterator<Item = (&'static str, &'a [u8])>,
    ) -> RedisResult<EmitReply> {
        let mut emit = self.of_job(&self.emit, job);
        emit.arg(epoch).arg(first);
        parts.for_each(|(kind, data)| {
            emit.arg(kind).arg(data);
        });
        let answer: String = self.line.run(&emit).await?;
        Ok(match answer.as_str() {
            "OK" => EmitReply::Ok,
            "FENCED" => EmitReply::Fenced,
            _ => EmitReply::Cancelled,
        })
    }

    /// Renews these entries of `side`. Returns those that another consumer holds.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer.
    pub async fn renew(&self, side: &str, entries: &[String]) -> RedisResult<Vec<String>> {
        let mut renew = self.renew.key(self.stream(side));
        renew.arg(&*self.place.worker).arg(entries);
        self.line.run(&renew).await
    }

    /// Ends a job that can never run as a dead letter, and then its entry. With `started`, also one that
    /// has started.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer. The entry is then claimed later.
    pub(super) async fn discard(&self, entry: &StreamEntry, error: &str, started: bool) -> RedisResult<()> {
        let mut discard = self.of_job(&self.discard, &entry.job);
        discard.arg(error).arg(u8::from(started));
        let keep_ms: Option<u64> = self.line.run(&discard).await?;
        let dead = keep_ms.is_some().then(|| DeadEnd { error: error.to_owned(), keep_ms });
        self.end(entry, dead.as_ref()).await
    }

    /// Returns `true` if the job runs at this worker, whatever became of its entry.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer.
    pub(super) async fn is_running(&self, job: &str) -> RedisResult<bool> {
        let mut look = cmd("HMGET");
        look.arg(format!("{}:job:{{{job}}}", self.prefix)).arg(&["state", "worker"]);
        let [state, worker]: [Option<Vec<u8>>; 2] = self.line.call(&look).await?;
        Ok(state.is_some_and(|state| state == b"running")
            && worker.is_some_and(|worker| worker == self.place.worker.as_bytes()))
    }

    /// Removes the entry of an ended job. With `dead` it is listed as a dead letter.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer.
    pub async fn end(&self, entry: &StreamEntry, dead: Option<&DeadEnd>) -> RedisResult<()> {
        let mut end = self.end.key(self.stream(&entry.side));
        end.key(&self.dead).arg(&entry.id).arg(&entry.job).arg(dead.map_or("", |dead| &dead.error));
        dead.and_then(|dead| dead.keep_ms).into_iter().for_each(|keep| {
            end.arg(keep);
        });
        self.line.run(&end).await
    }

    /// Hands an entry back if this worker still holds it, so that the next claim gets it.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer.
    pub async fn hand_back(&self, entry: &StreamEntry) -> RedisResult<()> {
        let mut back = self.back.key(self.stream(&entry.side));
        back.arg(&*self.place.worker).arg(&entry.id);
        self.line.run::<u64>(&back).await.map(drop)
    }

    /// Calls `hear` for each cancel, with job and epoch, until the connection breaks.
    ///
    /// # Errors
    /// Returns the error that ended the subscription.
    pub async fn hear_cancels(&self, mut hear: impl FnMut(&str, u64)) -> RedisResult<()> {
        let (sender, mut cancels) = mpsc::channel(CANCELS);
        let mut connection = pushes::connect(&self.settings, PATIENCE, sender, || ()).await?;
        // A worker does not measure how late its own process runs.
        let clock = Clock::system();
        connection.subscribe(format!("{}:cancels:{}", self.prefix, self.place.worker)).await?;
        let mut ask = std::pin::pin!(pushes::until_silent(connection, &clock));
        loop {
            let push = tokio::select! {
                biased;
                push = cancels.recv() => push,
                error = &mut ask => return Err(error),
            };
            let Some(PushInfo { kind, data }) = push else { break };
            match (kind, &data[..]) {
                (PushKind::Message, [_, Value::BulkString(text)]) => {
                    if let Some((job, epoch)) =
                        std::str::from_utf8(text).ok().and_then(|text| text.split_once(' '))
                        && let Ok(epoch) = epoch.parse()
                    {
                        hear(job, epoch);
                    }
                }
                (PushKind::Disconnection, _) => break,
                _ => {}
            }
        }
        Err(pushes::gone())
    }

    fn stream(&self, side: &str) -> String {
        format!("{}:jobs:{{{}}}:{side}", self.prefix, self.place.pool)
    }

    fn of_job<'a>(&self, script: &'a Script, job: &str) -> redis::ScriptInvocation<'a> {
        let prefix = &self.prefix;
        let mut call = script.key(format!("{prefix}:job:{{{job}}}"));
        call.key(format!("{prefix}:reply:{{{job}}}")).arg(format!("{prefix}:replies:")).arg(job);
        call
    }

    /// Returns why this worker may not run a job. Without a key it cannot sign an answer, and a gateway
    /// that has one would not read it.
    fn refusal(&self, genuine: bool, sealed: bool) -> Option<String> {
        let worker = &self.place.worker;
        if !genuine {
            return Some(format!("The job's signature is wrong, or the worker {worker} has another key."));
        }
        (sealed && self.signing.key().is_none())
            .then(|| format!("The gateway reads signed answers only, and the worker {worker} has no key."))
    }

    fn is_genuine(&self, job: &str, path: &[u8], headers: &[u8], body: &[u8], signature: &[u8]) -> bool {
        let Some(key) = self.signing.key() else { return true };
        let lines = [job.as_bytes(), self.place.pool.as_bytes(), path, headers];
        let signed = [&lines[..], &[body]].concat().join(&b'\n');
        key.verify(&format!("{}:job", self.prefix), &[signature, &signed].join(&b' ')).is_ok()
    }
}

/// Returns the sides whose jobs a worker takes, the worker alone first. A gateway, which has no
/// colour, is no worker that sessions come back to.
fn sides(place: &ConsumerIdentity) -> Vec<Arc<str>> {
    let version = place.version.as_deref();
    let own = side::of_worker(&place.colour, version, &place.worker);
    let own = (!place.colour.is_empty()).then_some(own);
    own.into_iter().chain(side::taken_by(&place.colour, version)).collect()
}

/// Reads what anybody may have written.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn field<T: FromRedisValue>(answer: &mut impl Iterator<Item = Value>) -> RedisResult<T> {
    Ok(from_redis_value(answer.next().unwrap_or(Value::Nil))?)
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}
