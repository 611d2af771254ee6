//! One share for a caller, however many gateways it uses.
//!
//! Each gateway is fair by itself, so a caller whose requests reach three gateways would get three
//! shares. So gateways tell each other once a second what they charged to their callers, and each
//! charges that to its own account of the same caller. The others then go first until they have had as
//! much, as after any other debt.
//!
//! * **Failure mode.** What is missing, late or told twice is not charged: then a caller has one share
//!   at each gateway, as without an exchange. A forged number can lower the share of its caller, to
//!   what a debt leaves it, and raise nobody's: there are no negative numbers.
//! * **Trade-off.** A caller pays one to two seconds after it was served elsewhere. Until then each
//!   gateway gives it a share.

use super::Gate;
use crate::clock::Nanos;
use crate::request::Class;
use crate::shed::caller_tokens::CallerTokens;
use crate::shed::fair_queue::FairQueue;

impl Gate {
    /// Returns what was charged to callers since the last call: of each class the callers with the
    /// most. Charges are kept from the first call on, until [`Gate::stop_telling`].
    pub fn tokens_to_tell(&mut self) -> Vec<CallerTokens> {
        self.queue.tokens_to_tell()
    }

    /// Forgets what was charged, and keeps no more charges to tell.
    pub fn stop_telling(&mut self) {
        for class in Class::ALL {
            self.queue.class_mut(class).stop_telling();
        }
    }

    /// Charges what another gateway told, to callers that are in a contest here.
    pub fn hear_tokens(&mut self, told: &[CallerTokens], now: Nanos) {
        self.process_timeouts(now);
        let mut charged = false;
        for tokens in told {
            charged |= self.queue.hear_tokens(tokens, now);
        }
        if charged {
            // The new head may be smaller than the one that did not fit.
            self.serve(now);
        }
    }
}

impl FairQueue {
    fn tokens_to_tell(&mut self) -> Vec<CallerTokens> {
        let mut all = Vec::new();
        for class in Class::ALL {
            let told = self.class_mut(class).tokens_to_tell();
            all.extend(told.into_iter().map(|(caller, tokens)| CallerTokens { class, caller, tokens }));
        }
        all
    }

    fn hear_tokens(&mut self, told: &CallerTokens, now: Nanos) -> bool {
        self.class_mut(told.class).charge_elsewhere(told.caller, told.bounded(), now)
    }
}
