//! Shutdown signal: everything under way is about to be cut off.
//!
//! A request may wait for a worker for minutes without being woken. So each waiting request
//! registers a waker here, one per task that polls it, and is woken at shutdown.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::refusal::{Reason, Refusal};

/// Shutdown signal; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct CutOff(Arc<CutOffState>);

#[derive(Debug, Default)]
struct CutOffState {
    has_begun: AtomicBool,
    listeners: Mutex<CutOffListeners>,
}

/// One entry per listening [`CutOffListener`].
#[derive(Debug, Default)]
struct CutOffListeners {
    next: u64,
    wakers: HashMap<u64, Waker>,
}

impl CutOff {
    /// Signals the shutdown.
    pub(crate) fn begin(&self) {
        self.0.has_begun.store(true, Ordering::Release);
        let wakers = std::mem::take(&mut self.0.listeners.lock().wakers);
        wakers.into_values().for_each(Waker::wake);
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.0.has_begun.load(Ordering::Acquire)
    }

    /// Returns a listener.
    pub(crate) fn listener(&self) -> CutOffListener {
        CutOffListener { closing: self.clone(), listening: None }
    }
}

/// Listener that wakes one task.
#[derive(Debug)]
pub(crate) struct CutOffListener {
    closing: CutOff,
    /// Its number among the listeners, and the waker registered.
    listening: Option<(u64, Waker)>,
}

impl CutOffListener {
    /// Returns `true` if the shutdown has begun; otherwise registers the task of `cx` to be woken.
    pub(crate) fn has_begun(&mut self, cx: &Context<'_>) -> bool {
        if !self.listening.as_ref().is_some_and(|(_, waker)| waker.will_wake(cx.waker())) {
            let waker = cx.waker().clone();
            let mut listeners = self.closing.0.listeners.lock();
            let number = self.listening.as_ref().map_or(listeners.next, |(number, _)| *number);
            listeners.next = listeners.next.max(number + 1);
            // Dropping a waker may run code of the executor, so not under the lock.
            let replaced = listeners.wakers.insert(number, waker.clone());
            drop(listeners);
            drop(replaced);
            self.listening = Some((number, waker));
        }
        // Read after the waker is registered: a `begin` in between wakes it or is seen here.
        self.closing.has_begun()
    }
}

impl Drop for CutOffListener {
    fn drop(&mut self) {
        if let Some((number, _)) = self.listening.take() {
            let waker = self.closing.0.listeners.lock().wakers.remove(&number);
            drop(waker);
        }
    }
}

/// Returns the error for requests that are cut off.
pub(crate) fn refusal() -> Refusal {
    Refusal::new(Reason::Draining, "The gateway is shutting down and ends all running requests.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    /// Counts how often it is woken.
    #[derive(Default)]
    struct WakeCount(AtomicUsize);

    impl Wake for WakeCount {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn each_task_is_woken_once_and_none_is_kept_that_has_left() {
        let (closing, counts) = (CutOff::default(), [Arc::<WakeCount>::default(), Arc::default()]);
        let wakers = counts.each_ref().map(|count| Waker::from(Arc::clone(count)));
        let [one, other] = wakers.each_ref().map(Context::from_waker);
        let (mut stays, mut moves, mut leaves) = (closing.listener(), closing.listener(), closing.listener());
        assert!(!stays.has_begun(&one) && !stays.has_begun(&one));
        assert!(!moves.has_begun(&one) && !moves.has_begun(&other));
        assert!(!leaves.has_begun(&one));
        drop(leaves);
        assert_eq!(closing.0.listeners.lock().wakers.len(), 2);
        closing.begin();
        assert_eq!(counts.each_ref().map(|count| count.0.load(Ordering::Relaxed)), [1, 1]);
        assert!(stays.has_begun(&one) && closing.listener().has_begun(&one));
        drop((stays, moves));
        assert_eq!(closing.0.listeners.lock().wakers.len(), 0);
    }
}
