//! The final charge of a request, by its ending.

use http::StatusCode;

use crate::limit::ExpectedCost;
use crate::request::{Ending, RequestRecord};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FinalCharge {
    /// Nothing, not even the call: it was not served.
    Nothing,
    /// The call, and this many tokens.
    Tokens(u64),
    /// The reservation, because the usage is unknown.
    Reserved,
}

impl FinalCharge {
    /// Computes the charge of a request estimated at `cost`; `status` is `None` without an answer.
    pub(super) fn of(record: &RequestRecord, status: Option<StatusCode>, cost: &ExpectedCost) -> Self {
        let began = record.first_token().is_some();
        // An error in place of an answer costs what was reported, whatever its status.
        if record.error().is_some() && !began {
            return Self::Tokens(record.usage().map_or(0, |(prompt, output)| prompt.saturating_add(output)));
        }
        if let Some((prompt, output)) = record.usage() {
            let prompt = if prompt == 0 { cost.prompt_tokens } else { prompt };
            // A whole answer has at least one token: a report of 0 is charged as estimated.
            let open = output == 0 && !record.is_counted();
            return Self::Tokens(prompt.saturating_add(if open { cost.expected_output } else { output }));
        }
        let asks_for_stream = record.asked().is_some_and(|asked| asked.stream);
        match record.ending() {
            // Neither an error nor a redirect is an answer, nor is one without a body.
            _ if status.is_some_and(|status| !matches!(status.as_u16(), 200..=203 | 206..=299)) => {
                Self::Tokens(0)
            }
            // The worker failed before the first content.
            Ending::WorkerFailed | Ending::TimedOut | Ending::Refused if !began => Self::Nothing,
            // The client left before the dispatch.
            Ending::ClientGone if record.dispatched().is_none() => Self::Tokens(0),
            // A stream that ended without content or an end mark.
            Ending::Complete if record.is_counted() && !began && !record.has_end_mark() => Self::Tokens(0),
            // Tokens of a stream are counted as seen, also if the client left before it began.
            _ if record.is_counted() || (status.is_none() && asks_for_stream) => {
                Self::Tokens(cost.prompt_tokens.saturating_add(record.output_tokens()))
            }
            _ => Self::Reserved,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Nanos;
    use crate::request::{Blame, Kind, RequestCost};

    const COST: ExpectedCost =
        ExpectedCost { prompt_tokens: 100, expected_output: 256, max_output: Some(900) };

    fn sent(stream: bool) -> RequestRecord {
        let record = RequestRecord::new("r1", Nanos::ZERO);
        record.set_asked(&RequestCost { kind: Kind::Chat, stream, ..RequestCost::path() });
        record.set_dispatched(Nanos::from_millis(1));
        record
    }

    /// A request whose event stream has ended after `tokens` tokens.
    fn stream(tokens: u64, ending: Ending) -> RequestRecord {
        let record = sent(true);
        record.set_streamed();
        record.set_tokens_counted();
        record.set_output_tokens(tokens);
        if tokens > 0 {
            record.set_first_token(Nanos::from_millis(2));
        }
        record.set_ending(ending);
        record
    }

    fn whole(ending: Ending) -> RequestRecord {
        let record = sent(false);
        record.set_ending(ending);
        record
    }

    fn ok(record: &RequestRecord) -> FinalCharge {
        FinalCharge::of(record, Some(StatusCode::OK), &COST)
    }

    #[test]
    fn an_error_costs_the_call_and_no_tokens() {
        for status in [204, 205, 301, 304, 307, 400, 404, 422, 429, 500, 502, 503, 529] {
            let status = StatusCode::from_u16(status).ok();
            assert_eq!(
                FinalCharge::of(&whole(Ending::Complete), status, &COST),
                FinalCharge::Tokens(0),
                "{status:?}"
            );
        }
        for blame in [Blame::Client, Blame::Worker] {
            let ending = if blame == Blame::Worker { Ending::WorkerFailed } else { Ending::Complete };
            for record in [whole(Ending::Complete), stream(0, ending)] {
                record.set_error(blame);
                assert_eq!(ok(&record), FinalCharge::Tokens(0), "{record:?}");
                record.set_usage(7, 0);
                assert_eq!(ok(&record), FinalCharge::Tokens(7), "nothing is expected of an error");
            }
            // Tokens before the error are charged.
            let record = stream(7, ending);
            record.set_error(blame);
            assert_eq!(ok(&record), FinalCharge::Tokens(107));
        }
        assert_eq!(ok(&stream(0, Ending::Complete)), FinalCharge::Tokens(0), "an empty stream");
    }

    #[test]
    fn what_was_reserved_stays_when_nobody_can_say_what_was_written() {
        assert_eq!(FinalCharge::of(&whole(Ending::ClientGone), None, &COST), FinalCharge::Reserved);
        assert_eq!(ok(&whole(Ending::ClientGone)), FinalCharge::Reserved);
        assert_eq!(ok(&whole(Ending::Complete)), FinalCharge::Reserved);
        // A stream whose tokens are not counted.
        for ending in [Ending::ClientGone, Ending::Complete, Ending::WorkerFailed] {
            let lines = sent(true);
            lines.set_streamed();
            lines.set_first_token(Nanos::from_millis(2));
            lines.set_ending(ending);
            assert_eq!(ok(&lines), FinalCharge::Reserved, "{ending:?}");
        }
        assert_eq!(
            FinalCharge::of(&sent(true), None, &COST),
            FinalCharge::Tokens(100),
            "a stream that had not begun"
        );
        let waiting = RequestRecord::new("r1", Nanos::ZERO);
        assert_eq!(FinalCharge::of(&waiting, None, &COST), FinalCharge::Tokens(0));
    }

    #[test]
    fn a_stream_costs_what_was_seen_and_a_worker_that_fails_at_once_nothing() {
        for ending in [Ending::ClientGone, Ending::Complete, Ending::WorkerFailed, Ending::TimedOut] {
            assert_eq!(ok(&stream(7, ending)), FinalCharge::Tokens(107));
        }
        let empty = stream(0, Ending::Complete);
        empty.set_end_mark();
        assert_eq!(ok(&empty), FinalCharge::Tokens(100), "it had nothing to say");
        assert_eq!(ok(&stream(0, Ending::WorkerFailed)), FinalCharge::Nothing);
        assert_eq!(ok(&whole(Ending::TimedOut)), FinalCharge::Nothing);
    }

    #[test]
    fn a_report_goes_before_all_and_its_zeros_say_nothing() {
        for (reported, counted, tokens) in
            [((90, 40), false, 130), ((0, 40), false, 140), ((90, 0), false, 346), ((90, 0), true, 90)]
        {
            let record = if counted { stream(0, Ending::Complete) } else { whole(Ending::ClientGone) };
            record.set_usage(reported.0, reported.1);
            assert_eq!(ok(&record), FinalCharge::Tokens(tokens), "{reported:?}");
        }
    }
}
