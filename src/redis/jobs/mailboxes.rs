//! Mailboxes: pass published reply entries to the readers in this gateway.
//!
//! Each reader has a bounded mailbox. An entry that does not fit is dropped, and the mailbox is
//! marked as behind: the reader fetches the entry from the reply stream once it has made room. So a
//! slow client costs this gateway one mailbox and slows no other client.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::keys::Job;
use super::piece::AnswerPiece;

/// Bytes per mailbox: some seconds' worth of tokens, and little next to the cost of a connection.
const MOST_BYTES: usize = 32 * 1024;
/// Entries per mailbox; each has a bookkeeping cost.
const MOST: usize = 128;

#[derive(Debug, Default)]
pub(super) struct Mailbox(Mutex<MailboxState>);

#[derive(Debug, Default)]
struct MailboxState {
    entries: VecDeque<AnswerPiece>,
    bytes: usize,
    /// `true` if an entry after these was dropped.
    behind: bool,
    waker: Option<Waker>,
}

#[derive(Debug)]
pub(super) enum MailboxContent {
    Entry(AnswerPiece),
    /// The next entries are only in the stream.
    Lagging,
    /// Empty; the waker is registered.
    Nothing,
}

impl Mailbox {
    fn put(&self, entry: AnswerPiece) {
        let mut waiting = self.0.lock();
        // Entries after a dropped one are useless until the dropped one was read from the stream.
        if waiting.behind || waiting.entries.len() >= MOST || waiting.bytes + entry.data.len() > MOST_BYTES {
            waiting.behind = true;
        } else {
            waiting.bytes += entry.data.len();
            waiting.entries.push_back(entry);
        }
        let waker = waiting.waker.take();
        drop(waiting);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn fall_behind(&self) {
        let mut waiting = self.0.lock();
        waiting.behind = true;
        if let Some(waker) = waiting.waker.take() {
            waker.wake();
        }
    }

    pub(super) fn take(&self, waker: &Waker) -> MailboxContent {
        let mut waiting = self.0.lock();
        if let Some(entry) = waiting.entries.pop_front() {
            waiting.bytes -= entry.data.len();
            return MailboxContent::Entry(entry);
        }
        if std::mem::take(&mut waiting.behind) {
            return MailboxContent::Lagging;
        }
        if !waiting.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            waiting.waker = Some(waker.clone());
        }
        MailboxContent::Nothing
    }
}

#[derive(Debug, Default)]
pub(super) struct Mailboxes(Mutex<HashMap<Job, SmallVec<[Arc<Mailbox>; 1]>>>);

impl Mailboxes {
    /// Opens a mailbox for the entries of `job` that are published from now on.
    pub(super) fn open(&self, job: Job) -> Arc<Mailbox> {
        let inbox = Arc::new(Mailbox::default());
        self.0.lock().entry(job).or_default().push(Arc::clone(&inbox));
        inbox
    }

    pub(super) fn close(&self, job: Job, inbox: &Arc<Mailbox>) {
        let mut boxes = self.0.lock();
        if let Some(readers) = boxes.get_mut(&job) {
            readers.retain(|reader| !Arc::ptr_eq(reader, inbox));
            if readers.is_empty() {
                boxes.remove(&job);
            }
        }
    }

    pub(super) fn put(&self, job: Job, entry: AnswerPiece) {
        let readers = self.0.lock().get(&job).cloned();
        for inbox in readers.unwrap_or_default() {
            inbox.put(entry.clone());
        }
    }

    /// Marks all mailboxes as behind after a possible loss, so that readers use their streams.
    pub(super) fn fall_behind(&self) {
        let readers: Vec<_> = self.0.lock().values().flatten().cloned().collect();
        for inbox in readers {
            inbox.fall_behind();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::jobs::{PieceKind, PiecePlace};

    fn entry(n: u64, length: usize) -> AnswerPiece {
        AnswerPiece { place: PiecePlace { epoch: 1, n }, kind: PieceKind::Data, data: vec![0; length].into() }
    }

    fn drained(inbox: &Mailbox) -> (usize, bool) {
        let mut count = 0;
        loop {
            match inbox.take(Waker::noop()) {
                MailboxContent::Entry(_) => count += 1,
                MailboxContent::Lagging => return (count, true),
                MailboxContent::Nothing => return (count, false),
            }
        }
    }

    #[test]
    fn a_box_is_bounded_in_pieces_and_bytes_and_tells_what_it_left_out() {
        for length in [0, 100, MOST_BYTES / 3, MOST_BYTES] {
            let mailboxes = Mailboxes::default();
            let job = Job::random().unwrap();
            let inbox = mailboxes.open(job);
            for n in 1..=1000 {
                mailboxes.put(job, entry(n, length));
            }
            let fits = MOST_BYTES.checked_div(length).unwrap_or(MOST).min(MOST);
            assert_eq!(drained(&inbox), (fits, true), "of {length} bytes");
            assert_eq!(drained(&inbox), (0, false), "it is told once");
            mailboxes.put(job, entry(1001, length));
            assert_eq!(drained(&inbox), (1, false), "and then it is a box like any other");
        }
    }

    #[test]
    fn every_reader_has_a_box_and_takes_only_that_along() {
        let (mailboxes, job) = (Mailboxes::default(), Job::random().unwrap());
        let (one, other) = (mailboxes.open(job), mailboxes.open(job));
        mailboxes.put(job, entry(1, 1));
        mailboxes.put(Job::random().unwrap(), entry(1, 1));
        mailboxes.close(job, &one);
        mailboxes.put(job, entry(2, 1));
        assert_eq!((drained(&one), drained(&other)), ((1, false), (2, false)));
        mailboxes.fall_behind();
        assert_eq!(drained(&other), (0, true));
        mailboxes.close(job, &other);
        assert!(mailboxes.0.lock().is_empty());
    }
}
