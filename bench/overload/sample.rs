//! What became of a request, as its client saw it.

use std::time::Duration;

use crate::arrivals::Arrival;
use crate::plan::{ITL_SLO, TTFT_SLO};

/// How a request ended. All times run from when it was due, so that whatever held it up counts, the generator
/// included.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// Answered to the end.
    Served {
        /// To the first content of a stream.
        first: Option<Duration>,
        /// To the end.
        took: Duration,
        /// Tokens of the answer.
        tokens: u32,
    },
    /// Begun, but the end never came.
    Cut {
        /// To the first content, where there was any.
        first: Option<Duration>,
    },
    /// Told to come back: 429 or 503.
    Refused {
        /// To the end of the refusal.
        took: Duration,
        /// The gateway's reason, where it names one.
        reason: String,
        /// Whether it carries `Retry-After` in whole seconds.
        retry_after: bool,
        /// The wait it asks for, as exactly as it says.
        wait: Option<Duration>,
    },
    /// The client hung up: nothing had come within its patience.
    GaveUp,
    /// Another status, or no connection.
    Failed(String),
}

/// A request and what became of it.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) arrival: Arrival,
    /// How much later than due it left.
    pub(crate) late: Duration,
    pub(crate) outcome: Outcome,
    /// The second try of a client that was refused and came back when told.
    pub(crate) again: bool,
}

impl Sample {
    /// Whether it counts as goodput: complete, with its first token within the promise; an answer in one piece must
    /// come within the time that the two promises give a stream of its length.
    pub(crate) fn is_good(&self) -> bool {
        match &self.outcome {
            Outcome::Served { first, .. } if self.arrival.streamed => {
                first.is_some_and(|first| first <= TTFT_SLO)
            }
            Outcome::Served { took, tokens, .. } => *took <= TTFT_SLO + ITL_SLO * *tokens,
            _ => false,
        }
    }

    /// To the first content, for those that had any.
    pub(crate) const fn first(&self) -> Option<Duration> {
        match self.outcome {
            Outcome::Served { first, .. } | Outcome::Cut { first } => first,
            _ => None,
        }
    }

    /// When its answer began, as far as can be seen: with its first token, or, in one piece, when it was asked for.
    pub(crate) fn begun(&self) -> Duration {
        self.arrival.due + self.first().unwrap_or_default()
    }

    /// Tokens of an answer that came to its end.
    pub(crate) const fn tokens(&self) -> u32 {
        match self.outcome {
            Outcome::Served { tokens, .. } => tokens,
            _ => 0,
        }
    }

    /// Tokens of an answer that counts as goodput.
    pub(crate) fn good_tokens(&self) -> u32 {
        if self.is_good() { self.tokens() } else { 0 }
    }

    pub(crate) const fn is_refused(&self) -> bool {
        matches!(self.outcome, Outcome::Refused { .. })
    }

    /// Neither served nor refused: what no client should see.
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
        // A stream whose first token nobody saw keeps no promise.
        assert!(!sample(true, whole(100)).is_good());
    }
}
