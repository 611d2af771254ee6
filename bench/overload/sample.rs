//! The outcome of a request, as its client saw it.

use std::time::Duration;

use crate::arrivals::Arrival;
use crate::plan::{ITL_SLO, TTFT_SLO};

/// How a request ended. All times run from when it was due, so that every delay counts, also of the
/// generator.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// Complete answer.
    Served {
        /// Time to the first content of a stream.
        first: Option<Duration>,
        /// Time to the end.
        took: Duration,
        /// Tokens of the answer.
        tokens: u32,
    },
    /// Answer that began but did not end.
    Cut {
        /// Time to the first content, if there was any.
        first: Option<Duration>,
    },
    /// Refused with 429 or 503.
    Refused {
        /// Time to the end of the refusal.
        took: Duration,
        /// The gateway's reason, if it gives one.
        reason: String,
        /// `true` if it carries `Retry-After` in whole seconds.
        retry_after: bool,
        /// The wait it asks for, as exact as it is given.
        wait: Option<Duration>,
    },
    /// The client hung up, because no content came within its patience.
    GaveUp,
    /// Another status, or no connection.
    Failed(String),
}

/// A request and its outcome.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) arrival: Arrival,
    /// Delay between the due time and sending.
    pub(crate) late: Duration,
    pub(crate) outcome: Outcome,
    /// `true` for the second try of a client that was refused and returned at the announced time.
    pub(crate) again: bool,
}

impl Sample {
    /// `true` if it counts as goodput: complete, and the first token within the TTFT SLO. A
    /// non-streamed answer must come within the time that both SLOs allow a stream of its length.
    pub(crate) fn is_good(&self) -> bool {
        match &self.outcome {
            Outcome::Served { first, .. } if self.arrival.streamed => {
                first.is_some_and(|first| first <= TTFT_SLO)
            }
            Outcome::Served { took, tokens, .. } => *took <= TTFT_SLO + ITL_SLO * *tokens,
            _ => false,
        }
    }

    /// Returns the time to the first content, if there was any.
    pub(crate) const fn first(&self) -> Option<Duration> {
        match self.outcome {
            Outcome::Served { first, .. } | Outcome::Cut { first } => first,
            _ => None,
        }
    }

    /// Returns when the answer began: at its first token or, if not streamed, when it was due.
    pub(crate) fn begun(&self) -> Duration {
        self.arrival.due + self.first().unwrap_or_default()
    }

    /// Returns the tokens of a complete answer.
    pub(crate) const fn tokens(&self) -> u32 {
        match self.outcome {
            Outcome::Served { tokens, .. } => tokens,
            _ => 0,
        }
    }

    /// Returns the tokens of an answer that counts as goodput.
    pub(crate) fn good_tokens(&self) -> u32 {
        if self.is_good() { self.tokens() } else { 0 }
    }

    pub(crate) const fn is_refused(&self) -> bool {
        matches!(self.outcome, Outcome::Refused { .. })
    }

    /// `true` if the request was neither served nor refused, which no client should see.
    pub(crate) const fn is_error(&self) -> bool {
        matches!(self.outcome, Outcome::Cut { .. } | Outcome::Failed(_))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::arrivals::Class;

    pub(crate) fn sample(streamed: bool, outcome: Outcome) -> Sample {
        let due = Duration::from_secs(1);
        let class = Class::Interactive;
        let arrival = Arrival { due, caller: 0, class, streamed, prompt_tokens: 100, max_tokens: None };
        Sample { arrival, late: Duration::ZERO, outcome, again: false }
    }

    pub(crate) fn served(first_ms: u64) -> Outcome {
        let first = Duration::from_millis(first_ms);
        Outcome::Served { first: Some(first), took: first * 2, tokens: 10 }
    }

    #[test]
    fn goodput_is_what_kept_the_promise_to_its_end() {
        assert!(sample(true, served(1000)).is_good());
        assert!(!sample(true, served(1001)).is_good());
        let first = Some(Duration::from_millis(10));
        assert!(!sample(true, Outcome::Cut { first }).is_good());
        assert!(!sample(true, Outcome::GaveUp).is_good());
        assert_eq!(sample(true, served(1001)).good_tokens(), 0);
    }

    #[test]
    fn an_answer_in_one_piece_has_the_time_of_a_stream_of_its_length() {
        let whole = |ms| Outcome::Served { first: None, took: Duration::from_millis(ms), tokens: 10 };
        assert!(sample(false, whole(2000)).is_good());
        assert!(!sample(false, whole(2001)).is_good());
        // A stream without a seen first token misses the SLO.
        assert!(!sample(true, whole(100)).is_good());
    }
}
