//! An answer, piece by piece and in order.
//!
//! Pieces come into the reader's box as they are made. One that is not the next in order, a box that ran over, a second of
//! silence, or a subscription that was renewed mean that some may be missing: then they are read from the stream.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use redis::cmd;
use tokio::time::{Instant, Sleep};

use super::desk::{Found, Inbox};
use super::entry::{Entry, Place};
use super::keys::Job;
use super::{Jobs, PATIENCE, sealed};
use crate::metrics::RedisOp;
use crate::redis::link::Loss;

/// How long nothing may come until the stream is looked at.
const SILENCE: Duration = Duration::from_secs(1);
/// Pieces that are read from the stream at once: they are held in memory.
const PAGE: usize = 64;

/// Some pieces, and whether there may be more.
type Page = (VecDeque<Entry>, bool);
type Filling = Pin<Box<dyn Future<Output = Result<Page, Loss>> + Send>>;

/// Reads one answer. Dropping it stops nothing.
pub struct Reader {
    jobs: Jobs,
    job: Job,
    inbox: Arc<Inbox>,
    /// The last piece that was handed on.
    at: Place,
    /// What was read from the stream and not handed on yet.
    known: VecDeque<Entry>,
    /// The stream has more than was read of it.
    more: bool,
    filling: Option<Filling>,
    silence: Pin<Box<Sleep>>,
    /// When something came, or was looked for.
    heard: Instant,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("job", &self.job).field("at", &self.at).finish_non_exhaustive()
    }
}

impl Jobs {
    /// Reads the answer of `job` from what comes after `at`. What is published from now on is heard.
    #[must_use]
    pub fn read(&self, job: Job, at: Place) -> Reader {
        Reader {
            inbox: self.0.desk.open(job),
            jobs: self.clone(),
            job,
            at,
            known: VecDeque::new(),
            more: false,
            filling: None,
            silence: Box::pin(tokio::time::sleep(SILENCE)),
            heard: Instant::now(),
        }
    }

    /// Some pieces after `at`, as the stream has them.
    async fn kept(&self, job: Job, at: Place) -> Result<Page, Loss> {
        let from = if at == Place::default() { "-".to_owned() } else { format!("({at}") };
        let mut range = cmd("XRANGE");
        range.arg(self.0.keys.reply(job)).arg(from).arg("+").arg("COUNT").arg(PAGE);
        let kept: Vec<(String, Vec<Vec<u8>>)> =
            self.0.link.call_within(RedisOp::Jobs, PATIENCE, &range).await?;
        let more = kept.len() >= PAGE;
        let read = |(id, fields): (String, Vec<Vec<u8>>)| {
            sealed::open(&self.0.sealing, self.prefix(), job, Entry::kept(&id, fields)?)
        };
        let read: VecDeque<_> = kept.into_iter().filter_map(read).collect();
        // Where nothing of a page is believed there is no place to go on from: the stream is read again in its own time.
        let more = more && !read.is_empty();
        Ok((read, more))
    }
}

impl Reader {
    /// The job whose answer this is.
    #[must_use]
    pub const fn job(&self) -> Job {
        self.job
    }

    /// Has the stream read first: the answer may be there already.
    #[must_use]
    pub fn from_stream(mut self) -> Self {
        self.fill();
        self
    }

    fn fill(&mut self) {
        let (jobs, job, at) = (self.jobs.clone(), self.job, self.at);
        self.filling = Some(Box::pin(async move { jobs.kept(job, at).await }));
        self.heard = Instant::now();
    }

    /// The next piece.
    pub fn poll_entry(&mut self, cx: &mut Context<'_>) -> Poll<Entry> {
        loop {
            if let Some(entry) = self.known.pop_front() {
                if entry.place > self.at {
                    return Poll::Ready(self.hand_on(entry));
                }
                continue;
            }
            if let Some(filling) = &mut self.filling {
                let kept = ready!(filling.as_mut().poll(cx));
                self.filling = None;
                // Without an answer it is asked again after a silence: Redis is away, and may come back.
                (self.known, self.more) = kept.unwrap_or_default();
                continue;
            }
            if std::mem::take(&mut self.more) {
                self.fill();
                continue;
            }
            match self.inbox.take(cx.waker()) {
                Found::Entry(entry) if entry.place.follows(self.at) => {
                    return Poll::Ready(self.hand_on(entry));
                }
                // It was read from the stream before.
                Found::Entry(entry) if entry.place <= self.at => {}
                Found::Entry(_) | Found::Behind => self.fill(),
                Found::Nothing => {
                    // The timer is left where it is while pieces come, and asked only when it rings.
                    ready!(self.silence.as_mut().poll(cx));
                    if self.heard.elapsed() >= SILENCE {
                        self.fill();
                    }
                    let next = self.heard + SILENCE;
                    self.silence.as_mut().reset(next);
                }
            }
        }
    }

    fn hand_on(&mut self, entry: Entry) -> Entry {
        self.at = entry.place;
        self.heard = Instant::now();
        entry
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.jobs.0.desk.close(self.job, &self.inbox);
    }
}
