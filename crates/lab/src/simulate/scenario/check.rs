//! Validates a scenario.

use std::time::Duration;

use super::expect::FIGURES;
use super::{RequestShape, Scenario};

/// Longest simulation in seconds: an hour takes some minutes to compute.
const LONGEST: u64 = 3600;
/// Maximum callers, and workers.
const MOST: u32 = 10_000;
/// Maximum sequences in one batch.
const MOST_SLOTS: u32 = 16_384;
/// A shorter step would make a second of simulated time take minutes.
const SHORTEST_STEP: Duration = Duration::from_micros(100);
/// Maximum answers to one request.
const MOST_ANSWERS: u32 = 128;

impl Scenario {
    /// Returns all errors, each with the field, its value and the valid range.
    pub(super) fn check(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut must = |right: bool, fault: String| {
            if !right {
                faults.push(fault);
            }
        };
        let seconds = self.duration.0.as_secs();
        must((1..=LONGEST).contains(&seconds), format!("duration is {seconds} s: must be 1s to 60m"));
        must(self.warm_up < self.duration, "warm_up must be shorter than duration".to_owned());
        must(!self.promise.ttft_slo.0.is_zero(), "promise.ttft_slo must be above 0s".to_owned());
        must(!self.promise.itl_slo.0.is_zero(), "promise.itl_slo must be above 0s".to_owned());
        must(
            (1..=MOST as usize).contains(&self.worker_count()),
            format!("workers: {} in all: must be 1 to {MOST}", self.worker_count()),
        );
        for (place, group) in self.workers.iter().enumerate() {
            let at = format!("workers[{place}]");
            must(
                (1..=MOST_SLOTS).contains(&group.slots),
                format!("{at}.slots is {}: must be 1 to {MOST_SLOTS}", group.slots),
            );
            must(group.kv_tokens > 1, format!("{at}.kv_tokens is {}: must be at least 2", group.kv_tokens));
            must(group.prefill_rate > 0, format!("{at}.prefill_rate is 0: must be at least 1"));
            must(
                group.token_time.0.saturating_add(group.token_time_per_seq.0) >= SHORTEST_STEP,
                format!("{at}.token_time: a step must take at least 100us"),
            );
            let first = group.first_token;
            for (key, share) in [("spike_share", first.spike_share), ("cached_share", first.cached_share)] {
                must(
                    (0.0..=1.0).contains(&share),
                    format!("{at}.first_token.{key} is {share}: must be 0 to 1"),
                );
            }
            must(
                (0.0..=4.0).contains(&first.sigma),
                format!("{at}.first_token.sigma is {}: must be 0 to 4", first.sigma),
            );
            must(
                (0.0..=1000.0).contains(&first.spike_factor),
                format!("{at}.first_token.spike_factor is {}: must be 0 to 1000", first.spike_factor),
            );
        }
        must((1..=64).contains(&self.dam.count), format!("dam.count is {}: must be 1 to 64", self.dam.count));
        let factor = self.dam.fleet_factor;
        must(
            factor > 0.0 && factor <= 1.0,
            format!("dam.fleet_factor is {factor}: must be above 0, up to 1"),
        );
        for (key, share) in [
            ("dam.reserve_critical", self.dam.reserve_critical),
            ("dam.reserve_interactive", self.dam.reserve_interactive),
            ("load.retry_share", self.load.retry_share),
            ("load.honour", self.load.honour),
        ] {
            must((0.0..=1.0).contains(&share), format!("{key} is {share}: must be 0 to 1"));
        }
        must(
            self.load.times.is_none() || self.load.rate.is_none(),
            "load: give `times` or `rate`, not both".to_owned(),
        );
        must(
            (1..=100).contains(&self.load.attempts),
            format!("load.attempts is {}: must be 1 to 100", self.load.attempts),
        );
        let positive = |value: Option<f64>| value.is_none_or(|value| (0.0..=1e6).contains(&value));
        must(positive(self.load.times), "load.times must be 0 to 1000000".to_owned());
        must(positive(self.load.rate), "load.rate must be 0 to 1000000".to_owned());
        self.check_requests("requests", &self.requests, &mut must);
        let mut shares = 0.0;
        for (place, callers) in self.callers.iter().enumerate() {
            let at = format!("callers[{place}]");
            must(
                (1..=MOST).contains(&callers.count),
                format!("{at}.count is {}: must be 1 to {MOST}", callers.count),
            );
            must(callers.weight > 0, format!("{at}.weight is 0: must be at least 1"));
            if let Some(share) = callers.share {
                must((0.0..=1.0).contains(&share), format!("{at}.share is {share}: must be 0 to 1"));
                shares += share;
            }
            if let Some(requests) = &callers.requests {
                self.check_requests(&format!("{at}.requests"), requests, &mut must);
            }
        }
        must(!self.callers.is_empty(), "callers: must be at least one".to_owned());
        must(shares <= 1.0 + 1e-9, format!("callers: the shares add up to {shares}: must be at most 1"));
        must(
            shares > 1.0 - 1e-9 || self.callers.iter().any(|callers| callers.share.is_none()),
            format!("callers: the shares add up to {shares}: must be 1, or one group must leave out `share`"),
        );
        for (place, event) in self.events.iter().enumerate() {
            let at = format!("events[{place}]");
            must(event.at < self.duration, format!("{at}.at must be less than duration"));
            must(positive(event.times), format!("{at}.times must be 0 to 1000000"));
            must(positive(event.rate), format!("{at}.rate must be 0 to 1000000"));
            must(
                event.output.is_none_or(|factor| factor > 0.0 && factor <= 1000.0),
                format!("{at}.output must be above 0, up to 1000"),
            );
            for (name, share) in &event.shares {
                must(
                    self.callers.iter().any(|callers| callers.name == *name),
                    format!("{at}.shares.{name}: no group of callers has that name"),
                );
                must((0.0..=1.0).contains(share), format!("{at}.shares.{name} is {share}: must be 0 to 1"));
            }
            must(
                event.kv.is_none_or(|share| share > 0.0 && share <= 1.0),
                format!("{at}.kv must be above 0, up to 1"),
            );
            must(
                event.slots.is_none_or(|share| share > 0.0 && share <= 1.0),
                format!("{at}.slots must be above 0, up to 1"),
            );
            if let Some(stall) = &event.stall {
                let known = ["workers", "dams", "clock"].contains(&stall.of.as_str());
                must(
                    known || self.worker_place(&stall.of).is_some(),
                    format!(
                        "{at}.stall.of is `{}`: must be `workers`, `dams`, `clock` or a worker",
                        stall.of
                    ),
                );
                must(
                    stall.every.is_none_or(|every| every > stall.length),
                    format!("{at}.stall.every must be longer than {at}.stall.length"),
                );
            }
            for (key, worker) in [("kill", &event.kill), ("zombie", &event.zombie), ("revive", &event.revive)]
            {
                if let Some(name) = worker {
                    let last = self.worker_count();
                    must(
                        self.worker_place(name).is_some(),
                        format!("{at}.{key} is `{name}`: must be one of w1 to w{last}"),
                    );
                }
            }
        }
        for (table, expected) in [("expect", &self.expect), ("expect_mean", &self.expect_mean)] {
            for name in expected.keys() {
                let known = FIGURES.join(", ");
                must(
                    FIGURES.contains(&name.as_str()),
                    format!("{table}.{name} is not a figure: must be one of {known}"),
                );
            }
        }
        faults
    }

    fn check_requests(&self, at: &str, requests: &RequestShape, must: &mut impl FnMut(bool, String)) {
        let share = |value: f64| (0.0..=1.0).contains(&value);
        must(share(requests.streamed), format!("{at}.streamed is {}: must be 0 to 1", requests.streamed));
        must(share(requests.n_share), format!("{at}.n_share is {}: must be 0 to 1", requests.n_share));
        must(
            (1..=MOST_ANSWERS).contains(&requests.n),
            format!("{at}.n is {}: must be 1 to {MOST_ANSWERS}", requests.n),
        );
        if let Some(session) = &requests.session {
            let turns = session.turns;
            must(
                (1.0..=1000.0).contains(&turns),
                format!("{at}.session.turns is {turns}: must be 1 to 1000"),
            );
            let common = session.system_share;
            must(share(common), format!("{at}.session.system_share is {common}: must be 0 to 1"));
            must(requests.n_share <= 0.0, format!("{at}.n_share must be 0 with {at}.session"));
        }
        must(requests.max_tokens != Some(0), format!("{at}.max_tokens is 0: must be at least 1"));
    }
}
