//! The gateway's limit over time, read from its metrics.

use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};
use traffic_dam_lab::evidence::stats::mean;

use crate::client::Client;
use crate::scrape;
use crate::stage::Setting;

/// The gateway's metrics at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    /// Seconds since the measurement began.
    pub(crate) at: f64,
    /// Requests that may run at once, set by the limit algorithm.
    pub(crate) limit: f64,
    pub(crate) in_flight: f64,
}

/// Least, mean and largest value of a limit over a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Span {
    pub(crate) least: f64,
    pub(crate) mean: f64,
    pub(crate) most: f64,
}

impl Span {
    /// Returns the span of `points`; `None` if there are none.
    pub(crate) fn of(points: &[Point]) -> Option<Self> {
        let limits: Vec<f64> = points.iter().map(|point| point.limit).collect();
        let least = limits.iter().copied().reduce(f64::min)?;
        let most = limits.iter().copied().reduce(f64::max)?;
        Some(Self { least, mean: mean(&limits)?, most })
    }
}

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0} / {:.1} / {:.0}", self.least, self.mean, self.most)
    }
}

/// Reads the metrics from `begin` to `end`, once every `step`; none while the gateway is stopped.
pub(crate) async fn readings(setting: &Setting, begin: Instant, end: Instant, step: Duration) -> Vec<Point> {
    let mut points = Vec::new();
    let Some(admin) = setting.gateway.admin.map(Client::new) else { return points };
    let mut next = begin;
    while next < end {
        sleep_until(next).await;
        let Ok(read) = timeout_at(end, admin.get("/metrics")).await else { break };
        let at = begin.elapsed();
        if let Ok((200, text)) = read
            && let Some(limit) = scrape::sum(&text, "traffic_dam_concurrency_limit")
        {
            let in_flight = scrape::sum(&text, "traffic_dam_worker_in_flight").unwrap_or_default();
            points.push(Point { at: at.as_secs_f64(), limit, in_flight });
        }
        let steps = at.as_millis() / step.as_millis() + 1;
        next = begin + step * u32::try_from(steps).unwrap_or(u32::MAX);
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_has_a_span() {
        let points = [4.0, 8.0, 6.0].map(|limit| Point { at: 0.0, limit, in_flight: 1.0 });
        assert_eq!(Span::of(&points).unwrap().to_string(), "4 / 6.0 / 8");
        assert_eq!(Span::of(&[]), None);
    }
}
