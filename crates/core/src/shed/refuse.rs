//! Messages of the gate's refusals: the reason and the retry time.

use std::time::Duration;

use crate::refusal::{Reason, Refusal};

/// Fill level of a pool, for messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fullness<'a> {
    pub(super) pool: &'a str,
    /// Sequences in flight at the workers that take work.
    pub(super) in_flight: u64,
    /// Sequences that may be in flight there.
    pub(super) limit: u64,
}

impl Fullness<'_> {
    fn sentence(&self) -> String {
        let Self { pool, in_flight, limit } = *self;
        match limit {
            1 if in_flight >= limit => format!("The only slot of pool `{pool}` is taken"),
            _ if in_flight >= limit => format!("All {limit} slots of pool `{pool}` are taken"),
            _ => {
                format!("Pool `{pool}` has no room for this request now ({in_flight} of {limit} slots taken)")
            }
        }
    }
}

pub(super) fn predicted(full: Fullness<'_>, wait: Duration, budget: Duration, retry: Duration) -> Refusal {
    let message = format!(
        "{} and the predicted wait of {} exceeds the budget of {}; retry in {}.",
        full.sentence(),
        human(wait),
        human(budget),
        human(retry)
    );
    Refusal::new(Reason::Overloaded, message).with_retry_after(retry)
}

pub(super) fn no_queue(full: Fullness<'_>, retry: Duration) -> Refusal {
    let message = format!(
        "{} and the request cannot be queued: queueing is disabled or its deadline has passed; retry in {}.",
        full.sentence(),
        human(retry)
    );
    Refusal::new(Reason::Overloaded, message).with_retry_after(retry)
}

pub(super) fn no_quota(pool: &str, retry: Duration) -> Refusal {
    let message =
        format!("The provider's limit for pool `{pool}` is used up for now; retry in {}.", human(retry));
    Refusal::new(Reason::Overloaded, message).with_exact_retry_after(retry)
}

pub(super) fn queue_full(full: Fullness<'_>, waiting: usize, bytes: u64, retry: Duration) -> Refusal {
    let message = format!(
        "{} and its queue is full ({waiting} requests, {} KiB); retry in {}.",
        full.sentence(),
        bytes.div_ceil(1024),
        human(retry)
    );
    Refusal::new(Reason::Overloaded, message).with_retry_after(retry)
}

pub(super) fn displaced(pool: &str, retry: Duration) -> Refusal {
    let message = format!(
        "The queue of pool `{pool}` is full; this request was removed for one of a higher class or from a \
         caller with less load; retry in {}.",
        human(retry)
    );
    Refusal::new(Reason::Overloaded, message).with_retry_after(retry)
}

pub(super) fn gave_way(pool: &str, retry: Duration) -> Refusal {
    let message = format!(
        "A critical request took this request's slot in pool `{pool}` before its answer began, and no other \
         slot is available; retry in {}.",
        human(retry)
    );
    Refusal::new(Reason::Overloaded, message).with_retry_after(retry)
}

pub(super) fn queue_timeout(pool: &str, waited: Duration, retry: Duration) -> Refusal {
    let message =
        format!("No slot of pool `{pool}` became free within {}; retry in {}.", human(waited), human(retry));
    Refusal::new(Reason::QueueTimeout, message).with_retry_after(retry)
}

pub(super) fn no_worker(pool: &str, retry: Duration) -> Refusal {
    let message = format!("No worker of pool `{pool}` accepts requests now; retry in {}.", human(retry));
    Refusal::new(Reason::NoWorker, message).with_retry_after(retry)
}

pub(super) fn too_large(pool: &str, prompt: u64, most: u64) -> Refusal {
    let message = format!(
        "The prompt of about {prompt} tokens exceeds the {most} tokens that a worker of pool `{pool}` can hold; \
         shorten it."
    );
    Refusal::new(Reason::RequestTooLarge, message)
}

/// Formats a duration for people: `250 ms`, `3.2 s`, `2 s`.
fn human(length: Duration) -> String {
    if length < Duration::from_secs(1) {
        return format!("{} ms", length.as_millis());
    }
    let tenths = length.as_millis().div_ceil(100);
    match tenths % 10 {
        0 => format!("{} s", tenths / 10),
        rest => format!("{}.{rest} s", tenths / 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_say_why_and_when() {
        let full = Fullness { pool: "default", in_flight: 8, limit: 8 };
        let refusal = predicted(
            full,
            Duration::from_millis(3200),
            Duration::from_millis(250),
            Duration::from_millis(2000),
        );
        assert_eq!(
            refusal.message,
            "All 8 slots of pool `default` are taken and the predicted wait of 3.2 s exceeds the budget of \
             250 ms; retry in 2 s."
        );
        assert_eq!(refusal.retry_after, Some(Duration::from_secs(2)));
    }

    #[test]
    fn durations_read_as_people_say_them() {
        for (millis, text) in [(0, "0 ms"), (999, "999 ms"), (1000, "1 s"), (1001, "1.1 s"), (61_000, "61 s")]
        {
            assert_eq!(human(Duration::from_millis(millis)), text);
        }
    }
}
