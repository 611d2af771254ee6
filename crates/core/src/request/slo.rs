//! Outcome of the TTFT SLO of a stream.

use std::time::Duration;

use super::{Blame, Ending, RequestRecord};
use crate::clock::Nanos;

/// Outcome of the TTFT SLO of a stream. It is counted at the end of the stream, because a stream
/// that begins in time may still break off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SloOutcome {
    /// The stream began in time and completed.
    Kept = 0,
    /// The stream began too late and completed, or its client left.
    Late = 1,
    /// The stream broke off, or the worker failed before the stream began.
    Failed = 2,
    /// The SLO passed without content, and then the client left. A hung worker looks like this if
    /// callers wait less long than the gateway.
    Abandoned = 3,
    /// The client left with the SLO met or open: it changed its mind, or had read enough.
    Left = 4,
}

impl SloOutcome {
    /// All outcomes; `promise as usize` is the index.
    pub const ALL: [Self; 5] = [Self::Kept, Self::Late, Self::Failed, Self::Abandoned, Self::Left];

    /// Returns the value of the metric label `promise`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Late => "late",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
            Self::Left => "left",
        }
    }

    /// Returns the outcome of a request that ends `now` with an answer of this status. `slo` is the
    /// longest allowed TTFT. The outcome is `None` if the SLO does not apply: to answers that are
    /// no stream, to requests refused before a dispatch, and to streams without content.
    #[must_use]
    pub fn of(record: &RequestRecord, status: u16, slo: Duration, now: Nanos) -> Option<Self> {
        let asked = record.asked().is_some_and(|asked| asked.stream);
        if !(asked || record.is_streamed()) {
            return None;
        }
        let ttft = record.ttft().filter(|_| record.is_streamed());
        let late = ttft.is_some_and(|ttft| ttft > slo);
        let waited = now.since(record.received());
        Some(match record.ending() {
            Ending::WorkerFailed | Ending::TimedOut => Self::Failed,
            // A stream that had begun was cut off.
            Ending::Refused if ttft.is_some() => Self::Failed,
            Ending::Refused => return None,
            // A server error instead of a stream is a failure; a client error is not.
            Ending::Complete if !record.is_streamed() && status >= 500 => Self::Failed,
            Ending::Complete if record.error() == Some(Blame::Worker) => Self::Failed,
            Ending::Complete if ttft.is_none() || record.error().is_some() => return None,
            Ending::Complete | Ending::ClientGone if late => Self::Late,
            Ending::Complete => Self::Kept,
            Ending::ClientGone if ttft.is_none() && record.dispatched().is_some() && waited > slo => {
                Self::Abandoned
            }
            Ending::ClientGone => Self::Left,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::Reason;
    use crate::request::RequestCost;

    const SLO: Duration = Duration::from_secs(1);

    /// A request for a stream that arrived at 0 and was dispatched at 1 ms.
    fn stream() -> RequestRecord {
        let record = RequestRecord::new("r1", Nanos::ZERO);
        record.set_asked(&RequestCost { stream: true, ..RequestCost::path() });
        record.set_dispatched(Nanos::from_millis(1));
        record
    }

    fn begun(first_ms: u64, ending: Ending) -> RequestRecord {
        let record = stream();
        record.set_streamed();
        record.set_first_token(Nanos::from_millis(first_ms));
        record.set_ending(ending);
        record
    }

    fn of(record: &RequestRecord, status: u16, now_ms: u64) -> Option<SloOutcome> {
        SloOutcome::of(record, status, SLO, Nanos::from_millis(now_ms))
    }

    #[test]
    fn a_stream_that_began_is_judged_by_its_beginning_and_its_end() {
        for (first_ms, ending, became) in [
            (1000, Ending::Complete, SloOutcome::Kept),
            (1001, Ending::Complete, SloOutcome::Late),
            (1000, Ending::ClientGone, SloOutcome::Left),
            (1001, Ending::ClientGone, SloOutcome::Late),
            (1000, Ending::WorkerFailed, SloOutcome::Failed),
            (1001, Ending::TimedOut, SloOutcome::Failed),
        ] {
            assert_eq!(of(&begun(first_ms, ending), 200, 9000), Some(became), "{first_ms} {ending:?}");
        }
    }

    #[test]
    fn a_client_that_left_before_the_first_content_had_waited_long_enough_or_not() {
        assert_eq!(of(&stream(), 0, 1000), Some(SloOutcome::Left));
        assert_eq!(of(&stream(), 0, 1001), Some(SloOutcome::Abandoned));
        // Never dispatched: the client left the queue, which is no worker's failure.
        let queued = RequestRecord::new("r1", Nanos::ZERO);
        queued.set_asked(&RequestCost { stream: true, ..RequestCost::path() });
        assert_eq!(of(&queued, 0, 5000), Some(SloOutcome::Left));
    }

    #[test]
    fn a_refusal_counts_when_a_worker_caused_it() {
        for reason in Reason::ALL {
            let record = stream();
            record.set_reason(reason);
            record.set_ending(reason.into());
            let became = reason.as_str().starts_with("upstream_").then_some(SloOutcome::Failed);
            assert_eq!(of(&record, 503, 10), became, "{reason}");
        }
    }

    #[test]
    fn an_error_of_the_worker_is_no_stream_but_a_failure() {
        let record = stream();
        record.set_ending(Ending::Complete);
        assert_eq!(of(&record, 500, 10), Some(SloOutcome::Failed));
        assert_eq!(of(&record, 400, 10), None);
        // The same for an error within the stream, with or without content before it.
        for first_ms in [None, Some(5)] {
            for (blame, became) in [(Blame::Worker, Some(SloOutcome::Failed)), (Blame::Client, None)] {
                let record = first_ms.map_or_else(stream, |first_ms| begun(first_ms, Ending::Complete));
                record.set_ending(Ending::Complete);
                record.set_error(blame);
                assert_eq!(of(&record, 200, 10), became, "{first_ms:?} {blame:?}");
            }
        }
        // The SLO does not apply if no stream was requested.
        let whole = RequestRecord::new("r1", Nanos::ZERO);
        whole.set_asked(&RequestCost::path());
        whole.set_ending(Ending::WorkerFailed);
        assert_eq!(of(&whole, 502, 10), None);
    }
}
