//! The load of a worker, counted by the gateway itself.
//!
//! Workers' reports are late and may be lost; what this gateway sent and has not got back is
//! certain. Every [`Ledger::attach`] is undone by exactly one [`Ledger::detach`] of the same load,
//! so an idle ledger is zero. Arithmetic saturates, so even a bug cannot make it negative.

use super::canary_counts::LoadSide;

/// The load of one request on a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestLoad {
    /// Sequences decoded at once.
    pub sequences: u32,
    /// Prompt tokens.
    pub prompt: u64,
    /// Output tokens: the larger of expected and seen.
    pub output: u64,
    /// Prompt tokens that the worker need not read, because it has them cached. Below `prompt`.
    pub cached: u64,
    /// `true` if it may go to an external worker.
    pub external: bool,
    /// The workers that it may go to while some are on trial.
    pub side: LoadSide,
}

impl RequestLoad {
    /// Returns the tokens of KV cache that the request will hold at its end.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.prompt.saturating_add(self.output)
    }

    /// Returns the prompt tokens that the worker must read.
    #[must_use]
    pub fn unread(&self) -> u64 {
        self.prompt.saturating_sub(self.cached)
    }
}

/// The load of one worker, as three sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    /// I: sequences in flight, by class (`Class as usize`).
    by_class: [u32; 3],
    /// P: prompt tokens to be read for requests without a first token.
    prefill: u64,
    /// K: prompt and output tokens of all requests in flight.
    tokens: u64,
}

impl Ledger {
    /// Adds a request of class number `class`, whose prompt is still to be read.
    pub(crate) fn occupy(&mut self, class: usize, load: &RequestLoad) {
        if let Some(count) = self.by_class.get_mut(class) {
            *count = count.saturating_add(load.sequences);
        }
        self.prefill = self.prefill.saturating_add(load.unread());
        self.tokens = self.tokens.saturating_add(load.tokens());
    }

    /// Counts the prompt as read: the first token arrived.
    pub(crate) fn prefilled(&mut self, load: &RequestLoad) {
        self.prefill = self.prefill.saturating_sub(load.unread());
    }

    /// Adds output tokens beyond the expected ones.
    pub(crate) fn grow(&mut self, tokens: u64) {
        self.tokens = self.tokens.saturating_add(tokens);
    }

    /// Removes `sequences` of a request that have ended.
    pub(crate) fn shrink(&mut self, class: usize, sequences: u32) {
        if let Some(count) = self.by_class.get_mut(class) {
            *count = count.saturating_sub(sequences);
        }
    }

    /// Removes a request. `prefilled` is `true` if the prompt counts as read.
    pub(crate) fn vacate(&mut self, class: usize, load: &RequestLoad, prefilled: bool) {
        if let Some(count) = self.by_class.get_mut(class) {
            *count = count.saturating_sub(load.sequences);
        }
        if !prefilled {
            self.prefilled(load);
        }
        self.tokens = self.tokens.saturating_sub(load.tokens());
    }

    /// Returns I, the sequences in flight.
    #[must_use]
    pub(crate) fn in_flight(&self) -> u32 {
        self.by_class.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Returns the sequences in flight by class number.
    #[must_use]
    pub(crate) fn by_class(&self) -> [u32; 3] {
        self.by_class
    }

    /// Returns P, the prompt tokens to be read for requests without a first token.
    #[must_use]
    pub(crate) fn prefill(&self) -> u64 {
        self.prefill
    }

    /// Returns K, the prompt and output tokens of all requests in flight.
    #[must_use]
    pub(crate) fn tokens(&self) -> u64 {
        self.tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_occupied_is_vacated_to_zero_at_every_stage() {
        let load =
            RequestLoad { sequences: 2, prompt: 130, output: 20, cached: 30, ..RequestLoad::default() };
        for (prefilled, grown) in [(false, 0), (true, 0), (true, 30)] {
            let mut ledger = Ledger::default();
            ledger.occupy(1, &load);
            assert_eq!((ledger.in_flight(), ledger.prefill(), ledger.tokens()), (2, 100, 150));
            if prefilled {
                ledger.prefilled(&load);
                assert_eq!(ledger.prefill(), 0);
            }
            ledger.grow(grown);
            assert_eq!(ledger.tokens(), 150 + grown);
            ledger.vacate(1, &RequestLoad { output: 50 + grown, ..load }, prefilled);
            assert_eq!(ledger, Ledger::default());
        }
    }
}
