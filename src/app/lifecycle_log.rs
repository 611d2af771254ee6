//! Log lines at the start, with the settings in force, and at the end of a gateway.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

use super::App;
use crate::config::Settings;
use crate::config::settings::JobMode;
use crate::discovery::SourceTarget;
use crate::limit::rule::{Mode, Rule};
use crate::shed::settings::{LimitAlgorithmKind, LimitSource};

/// Maximum number of names to list; beyond it only the count is logged.
const LISTED: usize = 16;

impl App {
    /// Logs the start: version, addresses and a summary of the settings.
    pub fn log_started(&self, version: &str, config: &Path, (main, admin): (SocketAddr, SocketAddr)) {
        let settings = self.settings();
        let gate = &settings.gate;
        let scheme = |encrypted| if encrypted { "https" } else { "http" };
        tracing::info!(
            version,
            config = %config.display(),
            listen = format!("{}://{main}", scheme(settings.tls.is_some())),
            admin = format!("{}://{admin}", scheme(settings.admin.tls.is_some())),
            workers = workers(&settings),
            concurrency = concurrency(gate.limit, gate.law),
            ttft_slo_ms = u64::try_from(gate.ttft_slo.as_millis()).unwrap_or(u64::MAX),
            queue = gate.queue_length,
            queue_wait_ms = u64::try_from(gate.queue_wait.as_millis()).unwrap_or(u64::MAX),
            rules = listed(settings.rules.iter().map(rule)),
            body_bytes = settings.bounds.body,
            buffered_bytes = settings.bounds.buffered,
            connections = settings.bounds.listener.connections,
            "started"
        );
    }

    /// Logs the end: number of requests, and of connections that were cut off with requests in
    /// flight.
    pub fn log_ended(&self, cut_off: usize) {
        let sample = self.0.metrics.sample();
        tracing::info!(requests = sample.offered(), under_way = sample.in_flight, cut_off, "ended");
    }
}

/// Joins the first [`LISTED`] items and counts the rest.
fn listed(all: impl ExactSizeIterator<Item = String>) -> String {
    let count = all.len();
    let mut text = all.take(LISTED).collect::<Vec<_>>().join(", ");
    if count > LISTED {
        // Writing to a string cannot fail.
        write!(text, " and {} more", count - LISTED).unwrap_or_default();
    }
    if text.is_empty() { "none".to_owned() } else { text }
}

fn workers(settings: &Settings) -> String {
    let mut text = listed(settings.workers.iter().map(|worker| worker.id.to_string()));
    if settings.discovery.is_some() {
        text += "; more are found through Redis";
    }
    if !settings.sources.targets.is_empty() {
        let target = |target: &SourceTarget| {
            let id = &target.settings().id;
            format!("{} {}", id.source.as_str(), id.name)
        };
        text += "; more are found through ";
        text += &listed(settings.sources.targets.iter().map(target));
    }
    match settings.shared.jobs {
        JobMode::Workers => text += "; they take jobs from a queue",
        JobMode::Overflow => text += "; overflow waits in a queue",
        JobMode::Nothing => {}
    }
    text
}

fn concurrency(source: LimitSource, law: LimitAlgorithmKind) -> String {
    match source {
        LimitSource::Adaptive => {
            let name = LimitAlgorithmKind::ALL
                .into_iter()
                .find(|(_, kind)| *kind == law)
                .map_or("", |(name, _)| name);
            format!("adaptive, algorithm {name}")
        }
        LimitSource::Slots => "the slots of each worker".to_owned(),
        LimitSource::Fixed(limit) => format!("{limit} for each worker"),
    }
}

/// Formats a rule like `per-key: 600 requests in 60 s`.
fn rule(rule: &Rule) -> String {
    let observes = if rule.mode == Mode::Observe { ", observed only" } else { "" };
    let (quota, unit) = (&rule.quota, rule.unit.as_str());
    format!("{}: {} {unit} in {} s{observes}", rule.name, quota.limit, quota.period.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_is_cut_short_and_an_empty_one_says_so() {
        let names = |count: usize| (0..count).map(|index| format!("w{index}"));
        assert_eq!(listed(names(0)), "none");
        assert_eq!(listed(names(2)), "w0, w1");
        assert!(listed(names(1000)).ends_with("w15 and 984 more"));
    }
}
