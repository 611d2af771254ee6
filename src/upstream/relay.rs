//! A waker that keeps a task from waking itself.
//!
//! hyper's connection and body are made for two tasks: taking a frame out of the body wakes the
//! connection, as there is room. Here one task polls both, so that wake would only run the same
//! task again, for every frame of every stream. The connection gets a waker that is muted while the
//! task polls the body, and otherwise wakes the task.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use futures_util::task::AtomicWaker;

/// Passes wakes on, except those that the woken task causes itself.
#[derive(Debug, Default)]
struct WakeRelay {
    outer: AtomicWaker,
    quiet: AtomicBool,
    missed: AtomicBool,
}

impl Wake for WakeRelay {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.quiet.load(Ordering::SeqCst) {
            self.missed.store(true, Ordering::SeqCst);
            // The muted phase may have ended in between, and nobody reads `missed` any more.
            if self.quiet.load(Ordering::SeqCst) {
                return;
            }
        }
        self.outer.wake();
    }
}

/// A waker for one connection that can be muted.
#[derive(Debug)]
pub(crate) struct QuietWaker {
    relay: Arc<WakeRelay>,
    waker: Waker,
}

impl QuietWaker {
    pub(crate) fn new() -> Self {
        let relay = Arc::new(WakeRelay::default());
        Self { waker: Waker::from(Arc::clone(&relay)), relay }
    }

    /// Returns the waker to poll the connection with, on behalf of `outer`.
    pub(crate) fn on_behalf_of(&self, outer: &Waker) -> &Waker {
        self.relay.outer.register(outer);
        &self.waker
    }

    /// Runs `act` without being woken by it; `true` if a wake came, maybe from elsewhere.
    pub(crate) fn run_muted<R>(&self, act: impl FnOnce() -> R) -> (R, bool) {
        self.relay.missed.store(false, Ordering::SeqCst);
        self.relay.quiet.store(true, Ordering::SeqCst);
        let result = act();
        self.relay.quiet.store(false, Ordering::SeqCst);
        (result, self.relay.missed.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    /// Counts how often it is woken.
    #[derive(Default)]
    pub(crate) struct WakeCount(pub(crate) AtomicUsize);

    impl Wake for WakeCount {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn wakes_pass_except_in_quiet_times_which_tell_of_them() {
        let (quiet, count) = (QuietWaker::new(), Arc::new(WakeCount::default()));
        let waker = quiet.on_behalf_of(&Waker::from(Arc::clone(&count))).clone();
        assert!(!quiet.run_muted(|| ()).1);
        assert!(quiet.run_muted(|| waker.wake_by_ref()).1);
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
        waker.wake_by_ref();
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert!(!quiet.run_muted(|| ()).1, "what was missed before is not told again");
    }

    #[test]
    fn no_wake_from_another_thread_is_lost() {
        let (quiet, count) = (QuietWaker::new(), Arc::new(WakeCount::default()));
        for _ in 0..2000 {
            let waker = quiet.on_behalf_of(&Waker::from(Arc::clone(&count))).clone();
            let other = std::thread::spawn(move || waker.wake());
            let (_, missed) = quiet.run_muted(std::thread::yield_now);
            other.join().unwrap();
            let woken = count.0.swap(0, Ordering::SeqCst) > 0;
            assert!(missed || woken);
        }
    }
}
