//! The moment from which everything under way is about to be cut off.
//!
//! What waits for a worker may wait for minutes, and nothing else wakes it. So whoever waits leaves its waker here, once
//! for each task that it is polled by, and is woken when the moment comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::refusal::{Reason, Refusal};

/// Whether everything under way is about to be cut off. Clones tell of the same moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Closing(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    has_come: AtomicBool,
    listeners: Mutex<Listeners>,
}

/// One entry for each [`Bell`] that listens.
#[derive(Debug, Default)]
struct Listeners {
    next: u64,
    wakers: HashMap<u64, Waker>,
}

impl Closing {
    /// The moment has come.
    pub(crate) fn begin(&self) {
        self.0.has_come.store(true, Ordering::Release);
        let wakers = std::mem::take(&mut self.0.listeners.lock().wakers);
        wakers.into_values().for_each(Waker::wake);
    }

    pub(crate) fn has_come(&self) -> bool {
        self.0.has_come.load(Ordering::Acquire)
    }

    /// Somebody who can be woken then.
    pub(crate) fn bell(&self) -> Bell {
        Bell { closing: self.clone(), listening: None }
    }
}

/// Wakes one task at that moment.
#[derive(Debug)]
pub(crate) struct Bell {
    closing: Closing,
    /// Its number among the listeners, and whom it wakes.
    listening: Option<(u64, Waker)>,
}

impl Bell {
    /// Whether the moment has come; if not, the task of `cx` is woken when it does.
    pub(crate) fn rings(&mut self, cx: &Context<'_>) -> bool {
        if !self.listening.as_ref().is_some_and(|(_, waker)| waker.will_wake(cx.waker())) {
            let waker = cx.waker().clone();
            let mut listeners = self.closing.0.listeners.lock();
            let number = self.listening.as_ref().map_or(listeners.next, |(number, _)| *number);
            listeners.next = listeners.next.max(number + 1);
            // Dropping a waker may run code of the executor: not under the lock.
            let replaced = listeners.wakers.insert(number, waker.clone());
            drop(listeners);
            drop(replaced);
            self.listening = Some((number, waker));
        }
        // Read after the waker was left: whoever comes between the two is woken, or sees it here.
        self.closing.has_come()
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        if let Some((number, _)) = self.listening.take() {
            let waker = self.closing.0.listeners.lock().wakers.remove(&number);
            drop(waker);
        }
    }
}

/// What those are told who are cut off.
pub(crate) fn refusal() -> Refusal {
    Refusal::new(Reason::Draining, "The gateway goes down and cuts off what is still under way.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::relay::tests::Count;

    #[test]
    fn each_task_is_woken_once_and_none_is_kept_that_has_left() {
        let (closing, counts) = (Closing::default(), [Arc::<Count>::default(), Arc::default()]);
        let wakers = counts.each_ref().map(|count| Waker::from(Arc::clone(count)));
        let [one, other] = wakers.each_ref().map(Context::from_waker);
        let (mut stays, mut moves, mut leaves) = (closing.bell(), closing.bell(), closing.bell());
        assert!(!stays.rings(&one) && !stays.rings(&one));
        assert!(!moves.rings(&one) && !moves.rings(&other));
        assert!(!leaves.rings(&one));
        drop(leaves);
        assert_eq!(closing.0.listeners.lock().wakers.len(), 2);
        closing.begin();
        assert_eq!(counts.each_ref().map(|count| count.0.load(Ordering::Relaxed)), [1, 1]);
        assert!(stays.rings(&one) && closing.bell().rings(&one));
        drop((stays, moves));
        assert_eq!(closing.0.listeners.lock().wakers.len(), 0);
    }
}
