//! Passes token counts of a request's sequences from the driver to the response.
//!
//! A count per sequence instead of a queue of tokens: a slow client costs no memory, and its next
//! read gets all new tokens in one piece.

use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use smallvec::SmallVec;

/// Tokens yielded so far, per sequence.
pub(super) type SequenceCounts = SmallVec<[u32; 2]>;

#[derive(Debug)]
pub(super) struct TokenCounts(Mutex<MailboxInner>);

#[derive(Debug)]
struct MailboxInner {
    counts: SequenceCounts,
    unfinished: usize,
    news: bool,
    /// Cached tokens of the prompt, if the worker has a prefix cache.
    cached: Option<u64>,
    waker: Option<Waker>,
}

impl TokenCounts {
    pub(super) fn new(sequences: usize) -> Self {
        Self(Mutex::new(MailboxInner {
            counts: smallvec::smallvec![0; sequences],
            unfinished: sequences,
            news: false,
            cached: None,
            waker: None,
        }))
    }

    /// Records that `tokens` tokens of the prompt were cached; the first sequence counts.
    pub(super) fn set_cached(&self, tokens: u64) {
        self.0.lock().cached.get_or_insert(tokens);
    }

    pub(super) fn cached(&self) -> Option<u64> {
        self.0.lock().cached
    }

    /// Counts one more token. Returns the waker to wake when the caller holds no lock.
    pub(super) fn token(&self, sequence: usize) -> Option<Waker> {
        let mut inside = self.0.lock();
        if let Some(count) = inside.counts.get_mut(sequence) {
            *count += 1;
        }
        inside.news = true;
        inside.waker.take()
    }

    /// Counts a complete sequence. Returns the waker to wake when the caller holds no lock.
    pub(super) fn finish(&self) -> Option<Waker> {
        let mut inside = self.0.lock();
        inside.unfinished = inside.unfinished.saturating_sub(1);
        inside.news = true;
        inside.waker.take()
    }

    /// Waits for a change and copies the counts. Returns `true` if every sequence is complete.
    pub(super) fn poll_news(&self, cx: &Context<'_>, counts: &mut SequenceCounts) -> Poll<bool> {
        let mut inside = self.0.lock();
        if std::mem::take(&mut inside.news) {
            counts.clone_from(&inside.counts);
            return Poll::Ready(inside.unfinished == 0);
        }
        match &mut inside.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}
