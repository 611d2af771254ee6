//! Work for Redis that no request waits for: a bounded queue, and how much of it is unfinished.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// Most tasks that wait, some MB: what all clients of a full gateway cause by leaving at once, or
/// some seconds of full load.
const WAITING: usize = 16_384;
/// How often a shutdown checks whether all tasks are done.
const FLUSH_POLL: Duration = Duration::from_millis(2);

/// Sending half of the queue. Clones share it.
#[derive(Debug)]
pub(super) struct Outbox<T> {
    tasks: mpsc::Sender<OpenTask<T>>,
    open: Arc<AtomicUsize>,
}

/// A task that counts as unfinished until this is dropped.
#[derive(Debug)]
pub(super) struct OpenTask<T> {
    pub(super) task: T,
    _count: OpenCount,
}

#[derive(Debug)]
struct OpenCount(Arc<AtomicUsize>);

impl<T> Clone for Outbox<T> {
    fn clone(&self) -> Self {
        Self { tasks: self.tasks.clone(), open: Arc::clone(&self.open) }
    }
}

impl<T> Outbox<T> {
    /// Returns both halves. The receiving one ends when no clone of this is left.
    pub(super) fn new() -> (Self, mpsc::Receiver<OpenTask<T>>) {
        let (tasks, inbox) = mpsc::channel(WAITING);
        (Self { tasks, open: Arc::default() }, inbox)
    }

    /// Queues a task. Returns `false` if the queue is full; then the task is dropped.
    #[must_use]
    pub(super) fn add(&self, task: T) -> bool {
        self.open.fetch_add(1, Ordering::Relaxed);
        let task = OpenTask { task, _count: OpenCount(Arc::clone(&self.open)) };
        self.tasks.try_send(task).is_ok()
    }

    /// Waits until every task is done or dropped, for at most `patience`. Returns `false` if some
    /// are not.
    pub(super) async fn flush(&self, patience: Duration) -> bool {
        let done = async {
            while self.open.load(Ordering::Relaxed) > 0 {
                sleep(FLUSH_POLL).await;
            }
        };
        timeout(patience, done).await.is_ok()
    }
}

impl Drop for OpenCount {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_is_open_until_it_is_dropped_and_a_full_queue_takes_none() {
        let (outbox, mut inbox) = Outbox::new();
        let patience = Duration::from_secs(1);
        assert!(outbox.flush(patience).await);
        for number in 0..WAITING {
            assert!(outbox.add(number));
        }
        assert!(!outbox.add(WAITING));
        let first = inbox.recv().await.unwrap();
        assert_eq!(first.task, 0);
        drop(inbox);
        assert!(!outbox.flush(patience).await, "the first one is not done");
        drop(first);
        assert!(outbox.flush(patience).await);
        assert!(!outbox.add(0), "nobody takes it");
        assert!(outbox.flush(patience).await);
    }
}
