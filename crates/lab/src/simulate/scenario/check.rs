//! Checks the values of a scenario against each other.

use std::time::Duration;

use super::expect::FIGURES;
use super::{Scenario, ScenarioError};

/// Longest simulation: an hour takes some minutes to compute.
const LONGEST: Duration = Duration::from_secs(3600);
/// Maximum workers.
const MOST: usize = 10_000;
/// A shorter step would make a second of simulated time take minutes.
const SHORTEST_STEP: Duration = Duration::from_micros(100);

impl Scenario {
    /// Returns all errors, each with its field.
    pub(super) fn check(&self) -> Vec<ScenarioError> {
        let mut faults = Vec::new();
        let mut must = |right: bool, field: &str, fault: &str| {
            if !right {
                faults.push((field.to_owned(), fault.to_owned()));
            }
        };
        let length = self.duration.0;
        must((Duration::from_secs(1)..=LONGEST).contains(&length), "duration", "must be 1s to 60m");
        must(self.warm_up < self.duration, "warm_up", "must be shorter than `duration`");
        must(!self.promise.ttft_slo.0.is_zero(), "promise.ttft_slo", "must be above 0s");
        must(!self.promise.itl_slo.0.is_zero(), "promise.itl_slo", "must be above 0s");
        let workers = self.worker_count();
        must((1..=MOST).contains(&workers), "workers", &format!("must be 1 to {MOST} in all, not {workers}"));
        for (place, group) in self.workers.iter().enumerate() {
            let step = group.token_time.0.saturating_add(group.token_time_per_seq.0);
            let at = format!("workers[{place}].token_time");
            must(step >= SHORTEST_STEP, &at, "is too short: a step must take at least 100us");
        }
        let both = self.load.times.is_some() && self.load.rate.is_some();
        must(!both, "load.rate", "cannot be combined with `times`");
        let shares: f64 = self.callers.iter().filter_map(|callers| callers.share).sum();
        let whole = shares > 1.0 - 1e-9 || self.callers.iter().any(|callers| callers.share.is_none());
        must(shares <= 1.0 + 1e-9, "callers", &format!("have shares of {shares} in all: must be at most 1"));
        must(
            whole,
            "callers",
            &format!("have shares of {shares} in all: must be 1, or one group must leave out `share`"),
        );
        for (place, callers) in self.callers.iter().enumerate() {
            let known = callers.gateway.is_none_or(|number| number <= self.dam.count);
            must(known, &format!("callers[{place}].gateway"), "must be at most `dam.count`");
        }
        let own = self.callers.iter().enumerate().filter_map(|(place, callers)| {
            Some((format!("callers[{place}].requests"), callers.requests.as_ref()?))
        });
        for (at, requests) in std::iter::once(("requests".to_owned(), &self.requests)).chain(own) {
            let alone = requests.session.is_none() || requests.n_share <= 0.0;
            must(alone, &format!("{at}.n_share"), "must be 0 with `session`");
        }
        for (place, event) in self.events.iter().enumerate() {
            let at = format!("events[{place}]");
            must(event.at < self.duration, &format!("{at}.at"), "must be less than `duration`");
            for (name, share) in &event.shares {
                let at = format!("{at}.shares.{name}");
                let known = self.callers.iter().any(|callers| callers.name == *name);
                must(known, &at, "is no group of callers");
                must((0.0..=1.0).contains(share), &at, &format!("must be 0 to 1, not {share}"));
            }
            if let Some(stall) = &event.stall {
                let known = ["workers", "dams", "clock"].contains(&stall.of.as_str());
                must(
                    known || self.worker_place(&stall.of).is_some(),
                    &format!("{at}.stall.of"),
                    "must be `workers`, `dams`, `clock` or a worker",
                );
                let pauses = stall.every.is_none_or(|every| every > stall.length);
                must(pauses, &format!("{at}.stall.every"), "must be longer than `length`");
            }
            for (key, worker) in [("kill", &event.kill), ("zombie", &event.zombie), ("revive", &event.revive)]
            {
                let known = worker.as_ref().is_none_or(|name| self.worker_place(name).is_some());
                must(known, &format!("{at}.{key}"), &format!("must be one of w1 to w{workers}"));
            }
        }
        for (table, expected) in [("expect", &self.expect), ("expect_mean", &self.expect_mean)] {
            for name in expected.keys() {
                let problem = format!("is not a figure: must be one of {}", FIGURES.join(", "));
                must(FIGURES.contains(&name.as_str()), &format!("{table}.{name}"), &problem);
            }
        }
        faults
    }
}
