//! Events that seldom come, beside work that is often polled.
//!
//! A connection's task is woken some times for each request. What else it waits for, such as the
//! shutdown, takes a lock for each of several polls, and nearly always for nothing. So that part is
//! polled with a waker of its own, and again only after that waker was called.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use pin_project_lite::pin_project;

/// Passes wakes on to a task and remembers that they came from here.
#[derive(Debug)]
struct AsideWaker {
    woken: AtomicBool,
    task: Waker,
}

impl Wake for AsideWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

pin_project! {
    /// A future that is polled only when it has been woken itself.
    pub(super) struct Aside<F> {
        #[pin]
        inner: F,
        waker: Option<(Arc<AsideWaker>, Waker)>,
    }
}

impl<F> Aside<F> {
    pub(super) const fn new(inner: F) -> Self {
        Self { inner, waker: None }
    }
}

impl<F: Future> Future for Aside<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let current = this.waker.as_ref().is_some_and(|(own, _)| own.task.will_wake(cx.waker()));
        if !current {
            let own = Arc::new(AsideWaker { woken: AtomicBool::new(true), task: cx.waker().clone() });
            *this.waker = Some((Arc::clone(&own), Waker::from(own)));
        }
        match this.waker {
            // Cleared before the poll: a wake during it must lead to another.
            Some((own, waker)) if own.woken.swap(false, Ordering::AcqRel) => {
                this.inner.poll(&mut Context::from_waker(waker))
            }
            _ => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::pin::pin;

    use tokio::sync::Notify;

    use super::*;

    #[test]
    fn it_is_polled_once_for_each_wake_of_its_own_and_by_whichever_task_polls_it() {
        let (polls, event) = (Cell::new(0), Notify::new());
        let mut wait = pin!(event.notified());
        let mut aside = pin!(Aside::new(poll_fn(|cx| {
            polls.set(polls.get() + 1);
            wait.as_mut().poll(cx)
        })));
        let task = || Arc::new(AsideWaker { woken: AtomicBool::new(false), task: Waker::noop().clone() });
        let one = Waker::from(task());
        let mut task_one = Context::from_waker(&one);
        for _ in 0..3 {
            assert!(aside.as_mut().poll(&mut task_one).is_pending());
        }
        assert_eq!(polls.get(), 1);
        // Another task gets the wakes from its first poll on.
        let woken = task();
        let other = Waker::from(Arc::clone(&woken));
        let mut task_two = Context::from_waker(&other);
        assert!(aside.as_mut().poll(&mut task_two).is_pending());
        assert_eq!(polls.get(), 2);
        event.notify_one();
        assert!(woken.woken.load(Ordering::Acquire));
        assert!(aside.as_mut().poll(&mut task_two).is_ready());
    }
}
