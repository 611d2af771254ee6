//! Putting a job where workers find it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::afterwards::{Errand, Why};
use super::entry::{Entry, Place};
use super::keys::{Job, Side};
use super::reader::Reader;
use super::{Jobs, PATIENCE};
use crate::fleet::heartbeat::Key;
use crate::metrics::RedisOp;
use crate::redis::link::Loss;

/// How often a job is begun before it is a dead letter: once for bad luck, once more for worse.
const ATTEMPTS: u32 = 3;
/// The first pause before a stream that was full is tried again: a worker takes an ended job out about so long after its
/// last piece. It doubles with each try.
const PAUSE: Duration = Duration::from_millis(1);

/// What workers need to know of a request.
#[derive(Clone, Debug)]
pub struct Request {
    /// What was asked.
    pub path: String,
    /// Headers for the worker: a JSON object.
    pub headers: String,
    /// The body.
    pub body: Vec<u8>,
    /// Who asks; nobody's name.
    pub caller: String,
    /// With which priority.
    pub class: &'static str,
    /// How long it may take, from now on.
    pub within: Duration,
    /// What it is signed with, if jobs are signed.
    pub key: Option<Key>,
}

impl Request {
    fn signature(&self, prefix: &str, job: Job, side: &Side) -> String {
        let Some(key) = &self.key else { return String::new() };
        let mut text = format!("{job}\n{}\n{}\n{}\n", side.pool, self.path, self.headers).into_bytes();
        text.extend_from_slice(&self.body);
        key.sign(&format!("{prefix}:job"), &text)
    }
}

/// Why a job was not put there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The workers have all they can start.
    #[error("its workers have all that they can start")]
    Full,
    /// Redis does not do it.
    #[error(transparent)]
    Lost(#[from] Loss),
    /// There is no randomness for a name.
    #[error("the system gives no random numbers")]
    NoName,
}

/// A job whose answer this gateway waits for. Dropping it before the answer is complete cancels the job.
pub struct Awaited {
    jobs: Jobs,
    job: Job,
    side: Side,
    entry: Option<Arc<str>>,
    reader: Reader,
    why: Why,
    over: bool,
}

impl fmt::Debug for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Awaited").field("reader", &self.reader).finish_non_exhaustive()
    }
}

impl Jobs {
    /// Writes a job down and lets the workers of `side` have it, as soon as they have fewer than `ceiling`, which is
    /// waited for until `until`.
    ///
    /// # Errors
    /// Why it was not. Then no worker runs it, or none for long.
    pub async fn submit(
        &self,
        side: &Side,
        ceiling: u32,
        until: Instant,
        request: &Request,
    ) -> Result<Awaited, Refused> {
        let job = Job::random().ok_or(Refused::NoName)?;
        let mut awaited = Awaited {
            jobs: self.clone(),
            job,
            side: side.clone(),
            entry: None,
            reader: self.read(job, Place::default()),
            why: Why::Cancelled,
            over: false,
        };
        self.write_down(job, side, request).await?;
        let mut pause = PAUSE;
        loop {
            if let Some(entry) = self.enqueue(job, side, ceiling).await? {
                awaited.entry = Some(entry.into());
                return Ok(awaited);
            }
            if Instant::now() + pause >= until {
                awaited.over = true;
                self.0.afterwards.add(Errand::Withdraw { job });
                return Err(Refused::Full);
            }
            sleep(pause).await;
            pause *= 2;
        }
    }

    async fn write_down(&self, job: Job, side: &Side, request: &Request) -> Result<(), Loss> {
        let inner = &*self.0;
        let Request { path, headers, body, caller, class, within, .. } = request;
        let signature = request.signature(self.prefix(), job, side);
        let mut call = inner.scripts.create.key(inner.keys.job(job));
        call.key(inner.keys.reply(job)).arg(&inner.keys.replies).arg(job);
        call.arg(u64::try_from(within.as_millis()).unwrap_or(u64::MAX));
        for (field, value) in [
            ("pool", &*side.pool),
            ("colour", &*side.colour),
            ("path", path),
            ("headers", headers),
            ("caller", caller),
            ("class", class),
            ("signature", &signature),
            ("dam", inner.dams.id()),
            ("async", "0"),
        ] {
            call.arg(field).arg(value);
        }
        call.arg("max_attempts").arg(ATTEMPTS).arg("body").arg(body.as_slice());
        inner.link.run::<i64>(RedisOp::Enqueue, PATIENCE, &call).await.map(drop)
    }

    async fn enqueue(&self, job: Job, side: &Side, ceiling: u32) -> Result<Option<String>, Loss> {
        let inner = &*self.0;
        let mut call = inner.scripts.enqueue.key(inner.keys.stream(side));
        call.arg(ceiling).arg(job);
        inner.link.run(RedisOp::Enqueue, PATIENCE, &call).await
    }
}

impl Awaited {
    /// The next piece of the answer. Nothing may be asked for after the last.
    pub fn poll_entry(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Entry> {
        self.reader.poll_entry(cx).map(|entry| {
            self.over |= entry.kind.is_last();
            entry
        })
    }

    /// Its time is over: dropping it says so.
    pub fn expire(&mut self) {
        self.why = Why::Expired;
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        let (job, side) = (self.job, self.side.clone());
        let errand = if self.over {
            Errand::Forget { job }
        } else {
            Errand::Cancel { job, side, entry: self.entry.take(), why: self.why }
        };
        self.jobs.0.afterwards.add(errand);
    }
}
