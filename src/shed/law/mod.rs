//! Where a worker's limit comes from.
//!
//! A law answers one question, how many sequences the worker may have at once, and is told everything that could
//! change its mind. [`Fixed`] does not listen: it believes the operator. [`Stream`] is the law of this gateway; the
//! others are the well-known ones with their published constants. They judge a worker by how long whole answers take,
//! and for LLMs that follows the length of the answers instead of the load; they are here to be compared with.

mod aimd;
mod fixed;
mod gradient2;
mod stream;
#[cfg(test)]
mod tests;
mod vegas;

use std::fmt;
use std::time::Duration;

pub use self::aimd::Aimd;
pub use self::fixed::Fixed;
pub use self::gradient2::Gradient2;
pub(super) use self::stream::SLACK;
pub use self::stream::Stream;
pub use self::vegas::Vegas;

use super::settings::{GateSettings, LawKind, LimitSource};
use crate::clock::Nanos;

/// What happened at one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sample {
    /// A request was sent.
    Dispatch {
        /// Sequences in flight at this worker, this request's included.
        in_flight: u32,
    },
    /// The first content of a stream arrived.
    FirstToken {
        /// When the request was sent to the worker.
        dispatched: Nanos,
        /// Since then: the gateway's own queueing is not in it.
        ttft: Duration,
        /// E: what an idle worker would have needed.
        expected: Duration,
        /// The promise for this request.
        slo: Duration,
        /// Sequences that were seen to flow at once of late.
        flowing: u32,
    },
    /// An answer that was not streamed arrived as a whole.
    Whole {
        /// When the request was sent to the worker.
        dispatched: Nanos,
        /// Since then.
        elapsed: Duration,
        /// Tokens of one of its sequences.
        tokens: u64,
        /// E of its prompt, as far as is known.
        expected: Duration,
        /// The promise for its first token.
        slo: Duration,
    },
    /// More tokens of one stream arrived.
    Tokens {
        /// How many.
        count: u64,
        /// In how much time; the inter-token latency is `span / count`.
        span: Duration,
    },
    /// A first token is missing that reading prompts cannot explain: the worker must have a queue of its own.
    Overdue {
        /// When that request was sent to the worker.
        dispatched: Nanos,
        /// Sequences whose tokens do arrive.
        flowing: u32,
    },
    /// Nothing came of the worker, or the gateway itself was late. What was sent before the end of it is no sample.
    Stalled {
        /// From then.
        from: Nanos,
        /// Until then.
        to: Nanos,
    },
    /// The worker reported a queue of its own.
    Report {
        /// Requests waiting in it.
        waiting: u32,
    },
    /// The answer was handed over completely.
    End {
        /// Since the dispatch.
        elapsed: Duration,
        /// Sequences in flight when the request was sent, its own included.
        in_flight: u32,
    },
    /// The client went away before the end.
    ClientGone,
    /// The worker failed the request.
    WorkerFailed {
        /// Sequences in flight when the request was sent, its own included.
        in_flight: u32,
    },
}

/// What a law is told about a worker and may not go beyond.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Told {
    /// Requests it decodes at once, when told; this gateway's share of them.
    pub slots: Option<u32>,
    /// How many gateways share the worker.
    pub dams: u32,
    /// The promise from one token to the next.
    pub itl_slo: Duration,
}

impl Told {
    fn new(settings: &GateSettings, slots: Option<u32>) -> Self {
        let dams = settings.dams.max(1);
        Self { slots: slots.map(|slots| (slots / dams).max(1)), dams, itl_slo: settings.itl_slo }
    }
}

/// A rule that finds the limit of one worker.
pub trait Law: fmt::Debug + Send {
    /// Sequences that may be in flight now; at least 1.
    fn limit(&self) -> u32;

    /// Takes note of what happened at `now`.
    fn observe(&mut self, sample: Sample, now: Nanos);

    /// What is told of the worker has changed. What was learned stays.
    fn retell(&mut self, told: &Told);
}

/// The law of `settings` for a worker with `slots`.
pub(super) fn of(settings: &GateSettings, slots: Option<u32>) -> Box<dyn Law> {
    let told = Told::new(settings, slots);
    match (settings.limit, settings.law) {
        (LimitSource::Slots | LimitSource::Fixed(_), _) => Box::new(Fixed::new(settings, slots)),
        (LimitSource::Adaptive, LawKind::Stream) => Box::new(Stream::new(&told)),
        (LimitSource::Adaptive, LawKind::Aimd) => Box::new(Aimd::default()),
        (LimitSource::Adaptive, LawKind::Gradient2) => Box::new(Gradient2::default()),
        (LimitSource::Adaptive, LawKind::Vegas) => Box::new(Vegas::default()),
    }
}

/// Brings `law`, which came from `before`, in line with `settings`; one of another kind takes its place.
pub(super) fn retell(
    law: &mut Box<dyn Law>,
    before: &GateSettings,
    settings: &GateSettings,
    slots: Option<u32>,
) {
    let stays = settings.limit == LimitSource::Adaptive
        && (before.limit, before.law) == (settings.limit, settings.law);
    if stays {
        law.retell(&Told::new(settings, slots));
    } else {
        *law = of(settings, slots);
    }
}
