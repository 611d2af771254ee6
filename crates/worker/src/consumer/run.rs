//! Runs a job: sends the engine's response to Redis part by part.
//!
//! While a part is being sent the engine continues, and its output is sent together with the next
//! part: a slow Redis makes parts larger, but costs no memory.
//!
//! **Failure mode.** Redis is away: the part is resent until Redis accepts it, the deadline passes,
//! another worker holds the job, or the worker's patience ends. Then the job is left to be claimed.

use std::collections::HashMap;
use std::fmt::Display;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use redis::{RedisError, RedisResult};
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep, timeout_at};

use super::trust::Trust;
use super::{Consumer, ConsumerIdentity, DeadEnd, EmitReply, JobRun, StreamEntry, TakenJob};
use crate::reply::PieceKind;

/// Most parts per call, for an engine that yields small parts.
const TOGETHER: usize = 64;
/// Pause before a resend.
const AGAIN: Duration = Duration::from_millis(100);

/// Executes jobs.
pub trait AnswerEngine: Sync {
    /// Body of a response, streamed as it is generated.
    type Body: Body<Data = Bytes, Error: Display + Send> + Unpin + Send;

    /// Answers the request of a job.
    ///
    /// # Errors
    /// Returns the reason why there is no response.
    fn answer(
        &self,
        head: Parts,
        body: Bytes,
    ) -> impl Future<Output = Result<Response<Self::Body>, NoAnswer>> + Send;
}

/// Why a job got no response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// Like a dead process: the run ends without a report, and the next claim starts another run.
    Silence,
    /// The run failed; another run may succeed.
    Failed(String),
}

/// Why a run must end before its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunStop {
    Cancelled(u64),
    /// Another worker holds the entry.
    Lost,
}

enum EntryVerdict {
    /// End it, because the job has ended, perhaps as a dead letter.
    End(Option<DeadEnd>),
    /// Hand it back, because another run may succeed.
    HandBack,
    /// End it and its job, because no run can ever start. The text is the reason.
    Discard(String),
    /// Leave it to be claimed.
    Leave,
}

impl EntryVerdict {
    fn discard(entry: &StreamEntry, error: &str) -> Self {
        tracing::warn!(error, job = entry.job, side = &*entry.side, "ended a job that cannot run");
        Self::Discard(format!("The job cannot run: {error}"))
    }

    fn ended() -> Self {
        Self::End(None)
    }
}

pub(super) struct RunContext<'a, E> {
    pub(super) engine: &'a E,
    pub(super) consumer: &'a Consumer,
    /// How long Redis may be away before the run is given up.
    pub(super) patience: Duration,
    pub(super) trust: &'a Trust,
}

impl<E: AnswerEngine> RunContext<'_, E> {
    /// Takes and runs a job, and then handles its entry.
    pub(super) async fn work(&self, entry: &StreamEntry, stops: &mut Receiver<RunStop>) {
        let verdict = match retry(self.patience, || self.consumer.take(entry)).await {
            Ok(TakenJob::Run(run)) => self.run(entry, run, stops).await,
            Ok(TakenJob::Gone) => EntryVerdict::ended(),
            Ok(TakenJob::Dead(dead)) => {
                tracing::warn!(job = entry.job, error = dead.error, "a job is a dead letter");
                EntryVerdict::End(Some(dead))
            }
            Ok(TakenJob::Leave) => EntryVerdict::Leave,
            Ok(TakenJob::Other(colour)) => {
                // Said once: it is claimed again until `take` ends it.
                if entry.given <= 1 {
                    tracing::warn!(
                        job = entry.job,
                        colour,
                        own = &*entry.side,
                        "refused a job of another colour; do all workers of this colour set it alike?"
                    );
                }
                EntryVerdict::HandBack
            }
            Ok(TakenJob::IllFormed(error)) => EntryVerdict::discard(entry, &error),
            Err(error) if is_ill_formed(&error) => EntryVerdict::discard(entry, &error.to_string()),
            Err(_) => EntryVerdict::Leave,
        };
        // If this fails, the entry is claimed later and its job is found to have ended.
        let ended = match verdict {
            EntryVerdict::End(dead) => retry(self.patience, || self.consumer.end(entry, dead.as_ref())).await,
            EntryVerdict::HandBack => self.consumer.hand_back(entry).await,
            EntryVerdict::Discard(why) => {
                retry(self.patience, || self.consumer.discard(entry, &why, true)).await
            }
            EntryVerdict::Leave => Ok(()),
        };
        if let Err(error) = ended {
            tracing::debug!(%error, job = entry.job, "could not end the stream entry; it will be claimed");
        }
    }

    async fn run(&self, entry: &StreamEntry, run: JobRun, stops: &mut Receiver<RunStop>) -> EntryVerdict {
        let job = &*entry.job;
        let (epoch, patience, sealed) = (run.epoch, self.patience.min(run.left), run.sealed);
        let mut emit = AnswerWriter { consumer: self.consumer, job, epoch, first: 1, patience, sealed };
        if let Some(why) = &run.refused {
            let pause = self.trust.refused(Instant::now(), self.consumer.place().interval);
            tracing::warn!(
                job,
                why,
                pause_s = pause.as_secs(),
                "handed back a job; is the key the gateways'?"
            );
            return emit.failed(&mut Vec::new(), why).await;
        }
        self.trust.accepted();
        tokio::select! {
            verdict = self.answer(run, &entry.side, &mut emit) => verdict,
            verdict = stopped(stops, epoch) => verdict,
        }
    }

    async fn answer(&self, run: JobRun, side: &str, emit: &mut AnswerWriter<'_>) -> EntryVerdict {
        let waited_ms = run.waited_ms;
        let Some(parts) = request(&run) else {
            return emit.error("upstream_broke", "The job's path or headers cannot be read.").await;
        };
        // The deadline bounds only the engine. A part that is being sent is always finished: until
        // its answer comes, the next number is unknown.
        let until = Instant::now() + run.left;
        let response = match timeout_at(until, self.engine.answer(parts, run.body)).await {
            Ok(Ok(response)) => response,
            Ok(Err(NoAnswer::Silence)) => return EntryVerdict::Leave,
            Ok(Err(NoAnswer::Failed(why))) => return emit.failed(&mut Vec::new(), &why).await,
            Err(_) => return emit.late().await,
        };
        let head = head(self.consumer.place(), side, waited_ms, &response);
        let mut body = response.into_body();
        let mut parts = vec![(PieceKind::Head, head)];
        loop {
            // Send ready parts together; never wait for more while there is one to send.
            let ready = if parts.len() < TOGETHER { body.frame().now_or_never() } else { None };
            let next = match ready {
                Some(next) => next,
                None if parts.is_empty() => match timeout_at(until, body.frame()).await {
                    Ok(next) => next,
                    Err(_) => return emit.late().await,
                },
                None => match emit.send(&mut parts).await {
                    Ok(()) => continue,
                    Err(verdict) => return verdict,
                },
            };
            match next {
                Some(Ok(frame)) => parts.extend(frame.into_data().ok().map(|data| (PieceKind::Data, data))),
                Some(Err(cut)) => return emit.failed(&mut parts, &cut.to_string()).await,
                None => {
                    // Release what the body holds, such as a worker's permit, before the last send.
                    drop(body);
                    parts.push((PieceKind::End, Bytes::new()));
                    return emit.send(&mut parts).await.err().unwrap_or_else(EntryVerdict::ended);
                }
            }
        }
    }
}

/// Sending state of a run's reply.
struct AnswerWriter<'a> {
    consumer: &'a Consumer,
    job: &'a str,
    epoch: u64,
    /// Number of the next part.
    first: u64,
    patience: Duration,
    /// `true` if parts are signed.
    sealed: bool,
}

impl AnswerWriter<'_> {
    /// Sends parts until Redis accepts them. The error says what to do otherwise.
    async fn send(&mut self, parts: &mut Vec<(PieceKind, Bytes)>) -> Result<(), EntryVerdict> {
        if parts.is_empty() {
            return Ok(());
        }
        let Self { consumer, job, epoch, first, patience, sealed } = *self;
        let given = &parts[..];
        let said = retry(patience, || consumer.emit(job, epoch, first, given, sealed)).await;
        self.first += parts.len() as u64;
        parts.clear();
        taken(said)
    }

    /// Sends the remaining parts, and reports that the run has failed.
    async fn failed(&mut self, parts: &mut Vec<(PieceKind, Bytes)>, why: &str) -> EntryVerdict {
        if let Err(verdict) = self.send(parts).await {
            return verdict;
        }
        let Self { consumer, job, epoch, first, patience, .. } = *self;
        taken(retry(patience, || consumer.fail(job, epoch, first, why)).await)
            .err()
            .unwrap_or(EntryVerdict::HandBack)
    }

    /// Ends the run at its deadline. Redis has noticed that before, and answers accordingly.
    async fn late(&mut self) -> EntryVerdict {
        self.error("upstream_timeout", "The deadline of the job has passed.").await
    }

    async fn error(&mut self, reason: &str, message: &str) -> EntryVerdict {
        let error = serde_json::json!({ "reason": reason, "message": message }).to_string();
        self.send(&mut vec![(PieceKind::Error, error.into())]).await.err().unwrap_or_else(EntryVerdict::ended)
    }
}

fn taken(said: RedisResult<EmitReply>) -> Result<(), EntryVerdict> {
    match said {
        Ok(EmitReply::Ok) => Ok(()),
        Ok(EmitReply::Cancelled) => Err(EntryVerdict::ended()),
        Ok(EmitReply::Fenced) | Err(_) => Err(EntryVerdict::Leave),
    }
}

/// Sends a command until it is answered, or finally refused, or `patience` ends.
async fn retry<T, F: Future<Output = RedisResult<T>>>(
    patience: Duration,
    send: impl Fn() -> F,
) -> RedisResult<T> {
    let since = Instant::now();
    loop {
        match send().await {
            Err(error) if !is_final(&error) && since.elapsed() < patience => sleep(AGAIN).await,
            answer => return answer,
        }
    }
}

/// Returns `true` if a retry would fail too: wrong key type, or a reply without its beginning.
fn is_final(error: &RedisError) -> bool {
    matches!(error.code(), Some("ERR" | "GAP" | "WRONGTYPE"))
}

/// Returns `true` if what a job's keys hold made its script fail, so that the job can never run. Other
/// errors say nothing about the job: those of the server itself (`OOM`, `READONLY`, `LOADING` …), and,
/// though some servers say `ERR`, missing rights and keys at other nodes of a cluster.
fn is_ill_formed(error: &RedisError) -> bool {
    let detail = error.detail().unwrap_or_default();
    let by_value = detail.contains("user_script")
        && !["can't run this command", "can't access", "ACL", "non local key"]
            .iter()
            .any(|other| detail.contains(other));
    by_value && matches!(error.code(), Some("ERR" | "WRONGTYPE"))
}

async fn stopped(stops: &mut Receiver<RunStop>, epoch: u64) -> EntryVerdict {
    loop {
        match stops.recv().await {
            Some(RunStop::Cancelled(of)) if of != epoch => {}
            Some(RunStop::Cancelled(_)) => return EntryVerdict::ended(),
            Some(RunStop::Lost) | None => return EntryVerdict::Leave,
        }
    }
}

fn request(run: &JobRun) -> Option<Parts> {
    let fields: HashMap<String, String> = serde_json::from_str(&run.headers).ok()?;
    let headers = HeaderMap::try_from(&fields).ok()?;
    let mut request = Request::builder().method(Method::POST).uri(&run.path).body(()).ok()?;
    *request.headers_mut() = headers;
    Some(request.into_parts().0)
}

/// Builds the head of an answer: who answers, for which side, and what.
fn head<B>(place: &ConsumerIdentity, side: &str, waited_ms: u64, response: &Response<B>) -> Bytes {
    let headers: serde_json::Map<_, _> = response
        .headers()
        .iter()
        .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.into())))
        .collect();
    let mut head = serde_json::json!({
        "worker": place.worker,
        "status": response.status().as_u16(),
        "headers": headers,
        "waited_ms": waited_ms,
    });
    // A gateway that runs jobs itself has no side.
    if !side.is_empty() {
        head["colour"] = side.into();
    }
    if let Some(version) = &place.version {
        head["version"] = (&**version).into();
    }
    head.to_string().into()
}

#[cfg(test)]
mod tests {
    use redis::{ErrorKind, Value, parse_redis_value};

    use super::*;

    fn said(line: &str) -> RedisError {
        match parse_redis_value(format!("-{line}\r\n").as_bytes()).and_then(Value::extract_error) {
            Err(error) => error,
            Ok(value) => panic!("{value:?} is no error"),
        }
    }

    #[test]
    fn only_what_a_job_holds_ends_it() {
        let at = "script: 99d7, on @user_script:1.";
        for ill_formed in [
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            "ERR user_script:5: attempt to perform arithmetic on a nil value",
            "ERR hash value is not an integer",
        ] {
            assert!(is_ill_formed(&said(&format!("{ill_formed} {at}"))), "{ill_formed}");
        }
        for other in [
            "OOM command not allowed when used memory > 'maxmemory'.",
            "READONLY You can't write against a read only replica.",
            "NOPERM ACL failure in script",
            "ERR The user executing the script can't run this command or subcommand",
            "ERR Script attempted to access a non local key in a cluster node",
            "MISCONF Errors writing to the AOF file",
            "CLUSTERDOWN The cluster is down",
        ] {
            assert!(!is_ill_formed(&said(&format!("{other} {at}"))), "{other}");
        }
        for elsewhere in
            ["ERR max number of clients reached", "ERR unknown command 'EVALSHA'", "NOSCRIPT No script"]
        {
            assert!(!is_ill_formed(&said(elsewhere)), "{elsewhere}");
        }
        assert!(!is_ill_formed(&(ErrorKind::Io, "no answer").into()));
    }
}
