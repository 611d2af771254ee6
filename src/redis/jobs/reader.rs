//! Reads a reply entry by entry and in order.
//!
//! Published entries come into the reader's mailbox. After a gap in the numbers, a mailbox
//! overflow, a second of silence, or a new subscription, it reads the stream for missing entries.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use redis::cmd;
use tokio::time::{Instant, Sleep};

use super::keys::Job;
use super::mailboxes::{Mailbox, MailboxContent};
use super::piece::AnswerPiece;
use super::{JobQueue, PATIENCE, PiecePlace, signature};
use crate::metrics::RedisOp;
use crate::redis::link::RedisLoss;

/// Silence before the stream is read.
const SILENCE: Duration = Duration::from_secs(1);
/// Entries per read from the stream; they are held in memory.
const PAGE: usize = 64;

/// Entries from the stream, and whether there may be more.
type Page = (VecDeque<AnswerPiece>, bool);
type Filling = Pin<Box<dyn Future<Output = Result<Page, RedisLoss>> + Send>>;

/// Reader of one reply. Dropping it does not cancel the job.
pub(crate) struct Reader {
    jobs: JobQueue,
    job: Job,
    inbox: Arc<Mailbox>,
    /// Position of the last entry that was returned.
    at: PiecePlace,
    /// Entries that were read from the stream and not yet returned.
    known: VecDeque<AnswerPiece>,
    /// `true` if the stream may have more entries.
    more: bool,
    filling: Option<Filling>,
    silence: Pin<Box<Sleep>>,
    /// When the last entry came, or the stream was read.
    heard: Instant,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("job", &self.job).field("at", &self.at).finish_non_exhaustive()
    }
}

impl JobQueue {
    /// Returns a reader of the reply of `job` after `at`. It receives entries published from now
    /// on.
    #[must_use]
    pub(crate) fn read(&self, job: Job, at: PiecePlace) -> Reader {
        Reader {
            inbox: self.0.mailboxes.open(job),
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

    /// Returns a page of entries after `at` from the stream.
    async fn kept(&self, job: Job, at: PiecePlace) -> Result<Page, RedisLoss> {
        let from = if at == PiecePlace::default() { "-".to_owned() } else { format!("({at}") };
        let mut range = cmd("XRANGE");
        range.arg(self.0.keys.reply(job)).arg(from).arg("+").arg("COUNT").arg(PAGE);
        let kept: Vec<(String, Vec<Vec<u8>>)> =
            self.0.link.call_within(RedisOp::Jobs, PATIENCE, &range).await?;
        let more = kept.len() >= PAGE;
        let read = |(id, fields): (String, Vec<Vec<u8>>)| {
            signature::verify(&self.0.signing, self.prefix(), job, AnswerPiece::from_stream(&id, fields)?)
        };
        let read: VecDeque<_> = kept.into_iter().filter_map(read).collect();
        // If no entry of a page has a valid signature, there is no position to continue from: the
        // stream is read again after the usual silence.
        let more = more && !read.is_empty();
        Ok((read, more))
    }
}

impl Reader {
    /// Returns the job.
    #[must_use]
    pub(crate) const fn job(&self) -> Job {
        self.job
    }

    /// Returns the job, and the position of the last entry that was returned.
    #[must_use]
    pub(crate) const fn place(&self) -> (Job, PiecePlace) {
        (self.job, self.at)
    }

    /// Reads the stream first, because the reply may already be there.
    #[must_use]
    pub(crate) fn stream_first(mut self) -> Self {
        self.fill();
        self
    }

    fn fill(&mut self) {
        let (jobs, job, at) = (self.jobs.clone(), self.job, self.at);
        self.filling = Some(Box::pin(async move { jobs.kept(job, at).await }));
        self.heard = Instant::now();
    }

    /// Polls for the next entry.
    pub(crate) fn poll_entry(&mut self, cx: &mut Context<'_>) -> Poll<AnswerPiece> {
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
                // After an error the stream is read again after a silence: Redis may come back.
                (self.known, self.more) = kept.unwrap_or_default();
                continue;
            }
            if std::mem::take(&mut self.more) {
                self.fill();
                continue;
            }
            match self.inbox.take(cx.waker()) {
                MailboxContent::Entry(entry) if entry.place.follows(self.at) => {
                    return Poll::Ready(self.hand_on(entry));
                }
                // A duplicate of an entry from the stream.
                MailboxContent::Entry(entry) if entry.place <= self.at => {}
                MailboxContent::Entry(_) | MailboxContent::Lagging => self.fill(),
                MailboxContent::Nothing => {
                    // The timer is lazy: entries do not reset it, it is only checked when it fires.
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

    fn hand_on(&mut self, entry: AnswerPiece) -> AnswerPiece {
        self.at = entry.place;
        self.heard = Instant::now();
        entry
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.jobs.0.mailboxes.close(self.job, &self.inbox);
    }
}
