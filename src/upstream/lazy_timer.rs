//! One timer per request, made when somebody waits, and moved lazily.
//!
//! A stream moves its idle deadline with every token. Moving a timer costs a lock in the runtime's
//! timer wheel, so the timer stays where it is. When it fires and the deadline has moved, it is set
//! again: it fires about once per idle timeout, not once per token.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use super::deadline::Deadline;
use crate::clock::{Clock, Nanos};

/// Timer for one deadline after another.
#[derive(Debug, Default)]
pub(crate) struct LazyTimer {
    /// `None` until somebody waits.
    sleep: Option<Pin<Box<Sleep>>>,
    fires_at: Nanos,
    /// Start of a wait, and the gateway's own lateness during it.
    own_lag: (Nanos, Duration),
}

impl LazyTimer {
    /// Ready when `due` is reached.
    pub(crate) fn poll_due(&mut self, due: Nanos, clock: &Clock, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut self.sleep {
                Some(sleep) if self.fires_at <= due => {
                    ready!(sleep.as_mut().poll(cx));
                    if clock.now() >= due {
                        return Poll::Ready(());
                    }
                }
                _ => {}
            }
            self.set(due, clock.now());
        }
    }

    /// Ready when `deadline` is reached, not counting time in which the gateway itself was late.
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
                Some(own) => self.own_lag = (deadline.since, own),
                None => return Poll::Ready(()),
            }
        }
    }

    /// Async form of [`LazyTimer::poll_overdue`].
    pub(crate) async fn overdue(&mut self, deadline: &Deadline, clock: &Clock) {
        poll_fn(|cx| self.poll_overdue(deadline, clock, cx)).await;
    }

    /// Returns when `deadline` is reached, as far as is known.
    pub(crate) fn due(&self, deadline: &Deadline) -> Nanos {
        deadline.due(self.own_in(deadline))
    }

    fn own_in(&self, deadline: &Deadline) -> Duration {
        if self.own_lag.0 == deadline.since { self.own_lag.1 } else { Duration::ZERO }
    }

    fn set(&mut self, due: Nanos, now: Nanos) {
        // A timer rounds up to its tick; a wait of zero would fire at once, again and again.
        let wait = due.since(now).max(Duration::from_millis(1));
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(Instant::now() + wait),
            None => self.sleep = Some(Box::pin(sleep(wait))),
        }
        self.fires_at = due;
    }
}
