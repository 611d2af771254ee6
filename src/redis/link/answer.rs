//! Waits for the answer to a command.
//!
//! Another task reads the socket. A gateway that is paused, or short of CPU, runs its timers late,
//! so a timeout may fire although the answer is in the socket, unread. Such a wait is extended once
//! by the same time. If it ends without an answer again, it is no evidence against Redis.
//!
//! **Trade-off.** A request waits at most twice the timeout, plus the time in which nothing ran.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures_util::poll;
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::clock::Clock;

/// Normal lateness of timers: up to 1 ms on an idle machine, a little more on a busy one.
const PUNCTUAL: Duration = Duration::from_millis(2);
/// Scheduler turns for an answer that has arrived: to poll the socket, to read, to deliver.
const TURNS: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoReply {
    Redis,
    /// The gateway was late: Redis may have answered.
    Gateway,
}

/// Waits for `answer` for `patience`, and once more if the gateway was late meanwhile.
pub(super) async fn within<T>(
    clock: &Clock,
    patience: Duration,
    answer: impl Future<Output = T>,
) -> Result<T, NoReply> {
    let mut answer = pin!(answer);
    for _ in 0..2 {
        let from = clock.now();
        if let Ok(answer) = timeout(patience, &mut answer).await {
            return Ok(answer);
        }
        let to = clock.now();
        for _ in 0..TURNS {
            yield_now().await;
            if let Poll::Ready(answer) = poll!(&mut answer) {
                return Ok(answer);
            }
        }
        if !is_late(patience, to.since(from), clock.lag().overlap(from, to)) {
            return Err(NoReply::Redis);
        }
    }
    Err(NoReply::Gateway)
}

/// Returns `true` if a wait for `patience` that took `took`, with the gateway paused for `paused`
/// of it, was cut short or ended late by a significant part (a quarter, at least 2 ms).
fn is_late(patience: Duration, took: Duration, paused: Duration) -> bool {
    took.saturating_sub(patience).max(paused) >= PUNCTUAL.max(patience / 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Nanos;
    use tokio::sync::oneshot;

    const PATIENCE: Duration = Duration::from_millis(10);

    /// Simulates a pause of the process.
    async fn hold_up(clock: &Clock, length: Duration) {
        clock.advance(length);
        tokio::time::advance(length).await;
    }

    #[test]
    fn lateness_matters_from_a_quarter_of_the_patience_on() {
        let ms = Duration::from_millis;
        for (patience, took, paused, late) in [
            (10, 11, 0, false),
            (10, 12, 0, false),
            (10, 13, 0, true),
            (10, 10, 50, true),
            (4, 5, 0, false),
            (4, 6, 0, true),
            (1000, 1050, 60, false),
            (1000, 1000, 250, true),
        ] {
            assert_eq!(
                is_late(ms(patience), ms(took), ms(paused)),
                late,
                "{took} of {patience}, {paused} paused"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_lies_there_unread_is_heard() {
        let clock = Clock::manual(Nanos::ZERO);
        let (sender, receiver) = oneshot::channel();
        let answers = async {
            hold_up(&clock, PATIENCE * 5).await;
            // More turns than an answer needs to be delivered.
            for _ in 0..20 {
                yield_now().await;
            }
            sender.send(()).unwrap();
        };
        let (heard, ()) = tokio::join!(within(&clock, PATIENCE, receiver), answers);
        assert_eq!(heard, Ok(Ok(())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_gateway_that_was_late_itself_blames_nobody_and_waits_on_once() {
        let clock = Clock::manual(Nanos::ZERO);
        let silent = std::future::pending::<()>;
        assert_eq!(within(&clock, PATIENCE, silent()).await, Err(NoReply::Redis), "it was not late");
        let held_up = async {
            for _ in 0..2 {
                hold_up(&clock, PATIENCE * 5).await;
                tokio::time::sleep(PATIENCE / 2).await;
            }
        };
        let (heard, ()) = tokio::join!(within(&clock, PATIENCE, silent()), held_up);
        assert_eq!(heard, Err(NoReply::Gateway));
    }
}
