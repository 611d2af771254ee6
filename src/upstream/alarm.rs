//! One timer per request, moved lazily.
//!
//! A stream moves its idle deadline with every token. Moving a timer costs a lock in the runtime's timer wheel, so
//! the timer is left where it is and asked only when it rings: if the deadline has moved on meanwhile it is set anew.
//! A timer thus rings about once per idle time, not once per token.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::deadline::Deadline;
use crate::clock::{Clock, Nanos};

/// Waits for one deadline after another.
#[derive(Debug)]
pub(crate) struct Alarm {
    sleep: Pin<Box<Sleep>>,
    rings_at: Nanos,
    /// The gateway's own lateness in the wait that began then.
    own: (Nanos, Duration),
}

impl Alarm {
    /// A timer that rings at `due` first.
    pub(crate) fn new(due: Nanos, now: Nanos) -> Self {
        Self {
            sleep: Box::pin(tokio::time::sleep(due.since(now))),
            rings_at: due,
            own: (due, Duration::ZERO),
        }
    }

    /// Ready when `due` is reached.
    pub(crate) fn poll_due(&mut self, due: Nanos, clock: &Clock, cx: &mut Context<'_>) -> Poll<()> {
        if due < self.rings_at {
            self.set(due, clock.now());
        }
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            let now = clock.now();
            if now >= due {
                return Poll::Ready(());
            }
            self.set(due, now);
        }
    }

    /// Ready when `deadline` is reached, the time not counted in which the gateway itself was late.
    pub(crate) fn poll_overdue(
        &mut self,
        deadline: &Deadline,
        clock: &Clock,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        loop {
            let own = self.own_in(deadline);
            ready!(self.poll_due(deadline.due(own), clock, cx));
            match deadline.goes_on(own, clock.now(), clock.lag()) {
                Some(own) => self.own = (deadline.since, own),
                None => return Poll::Ready(()),
            }
        }
    }

    /// Waits as [`Alarm::poll_overdue`] does.
    pub(crate) async fn overdue(&mut self, deadline: &Deadline, clock: &Clock) {
        poll_fn(|cx| self.poll_overdue(deadline, clock, cx)).await;
    }

    /// When `deadline` is reached, as far as is known.
    pub(crate) fn due(&self, deadline: &Deadline) -> Nanos {
        deadline.due(self.own_in(deadline))
    }

    fn own_in(&self, deadline: &Deadline) -> Duration {
        if self.own.0 == deadline.since { self.own.1 } else { Duration::ZERO }
    }

    fn set(&mut self, due: Nanos, now: Nanos) {
        // A timer rounds up to its tick; a time not after now would ring again at once, and again.
        let wait = due.since(now).max(Duration::from_millis(1));
        self.sleep.as_mut().reset(Instant::now() + wait);
        self.rings_at = due;
    }
}
