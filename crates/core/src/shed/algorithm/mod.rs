//! Limit algorithms: how many sequences a worker may have at once.
//!
//! An algorithm gets every event that could change its limit. [`Fixed`] ignores them: it uses the
//! configured limit. [`StreamLimit`] is the algorithm of this gateway. The others are well-known, have
//! their published constants and serve for comparison: they judge a worker by the duration of whole
//! answers, which for LLMs follows the length of the answers instead of the load.

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
pub use self::stream::StreamLimit;
pub use self::vegas::Vegas;

use super::settings::{GateSettings, LimitAlgorithmKind, LimitSource};
use crate::clock::Nanos;

/// An event at one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerSample {
    /// A request was sent.
    Dispatch {
        /// Sequences in flight at this worker, this request's included.
        in_flight: u32,
    },
    /// The first content of a stream arrived.
    FirstToken {
        /// When the request was sent to the worker.
        dispatched: Nanos,
        /// Time since then, without the gateway's own queueing.
        ttft: Duration,
        /// E: the time that an idle worker would have needed.
        expected: Duration,
        /// TTFT SLO of this request.
        slo: Duration,
        /// Maximum of sequences that recently flowed at once.
        flowing: u32,
    },
    /// A non-streamed answer arrived.
    Whole {
        /// When the request was sent to the worker.
        dispatched: Nanos,
        /// Time since then.
        elapsed: Duration,
        /// Tokens per sequence.
        tokens: u64,
        /// E of its prompt; zero if unknown.
        expected: Duration,
        /// TTFT SLO of this request.
        slo: Duration,
    },
    /// More tokens of one stream arrived.
    Tokens {
        /// Number of tokens.
        count: u64,
        /// The time they took; the inter-token latency is `span / count`.
        span: Duration,
    },
    /// A first token is later than prefill explains: the worker must have a queue of its own.
    Overdue {
        /// When that request was sent to the worker.
        dispatched: Nanos,
        /// Sequences whose tokens still arrive.
        flowing: u32,
    },
    /// A stall of the worker, or of the gateway itself. Requests sent before its end do not count.
    Stalled {
        /// Start.
        from: Nanos,
        /// End.
        to: Nanos,
    },
    /// The worker reported a queue of its own.
    Report {
        /// Requests waiting in that queue.
        waiting: u32,
    },
    /// The answer was delivered completely.
    End {
        /// Time since the dispatch.
        elapsed: Duration,
        /// Sequences in flight at the dispatch, its own included.
        in_flight: u32,
    },
    /// The client left before the end.
    ClientGone,
    /// The worker failed the request.
    WorkerFailed {
        /// Sequences in flight at the dispatch, its own included.
        in_flight: u32,
    },
}

/// Configured or reported properties of a worker, which an algorithm must respect.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WorkerHints {
    /// This gateway's share of the requests that it decodes at once; `None` if unknown.
    pub slots: Option<u32>,
    /// Number of gateways that share the worker.
    pub gateways: u32,
    /// ITL SLO: the time from one token to the next.
    pub itl_slo: Duration,
}

impl WorkerHints {
    fn new(settings: &GateSettings, slots: Option<u32>) -> Self {
        let gateways = settings.gateways.max(1);
        Self { slots: slots.map(|slots| (slots / gateways).max(1)), gateways, itl_slo: settings.itl_slo }
    }
}

/// A limit algorithm for one worker.
pub trait LimitAlgorithm: fmt::Debug + Send {
    /// Returns the number of sequences that may be in flight now; at least 1.
    fn limit(&self) -> u32;

    /// Processes an event at `now`.
    fn observe(&mut self, sample: WorkerSample, now: Nanos);

    /// Applies new properties of the worker; keeps what was learned.
    fn reconfigure(&mut self, hints: &WorkerHints);
}

/// Returns the limit algorithm of `settings` for a worker with `slots`.
pub(super) fn create(settings: &GateSettings, slots: Option<u32>) -> Box<dyn LimitAlgorithm> {
    let hints = WorkerHints::new(settings, slots);
    match (settings.limit, settings.law) {
        (LimitSource::Slots | LimitSource::Fixed(_), _) => Box::new(Fixed::new(settings, slots)),
        (LimitSource::Adaptive, LimitAlgorithmKind::Stream) => Box::new(StreamLimit::new(&hints)),
        (LimitSource::Adaptive, LimitAlgorithmKind::Aimd) => Box::new(Aimd::default()),
        (LimitSource::Adaptive, LimitAlgorithmKind::Gradient2) => Box::new(Gradient2::default()),
        (LimitSource::Adaptive, LimitAlgorithmKind::Vegas) => Box::new(Vegas::default()),
    }
}

/// Adapts `law`, made for `before`, to `settings`; replaces one of another kind.
pub(super) fn reconfigure(
    law: &mut Box<dyn LimitAlgorithm>,
    before: &GateSettings,
    settings: &GateSettings,
    slots: Option<u32>,
) {
    let stays = settings.limit == LimitSource::Adaptive
        && (before.limit, before.law) == (settings.limit, settings.law);
    if stays {
        law.reconfigure(&WorkerHints::new(settings, slots));
    } else {
        *law = create(settings, slots);
    }
}
