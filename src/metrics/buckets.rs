//! Histogram buckets, in seconds except [`RATIO`]: dense where SLOs lie.

/// Time to first token: SLOs are 0.1 s to a few seconds; a wait over a minute is a timeout.
pub(super) const TTFT: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0,
    5.0, 10.0, 20.0, 30.0, 60.0,
];
/// Time between tokens: a reader notices more than 0.1 s.
pub(super) const ITL: &[f64] = &[
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0,
    2.0,
];
/// Queue wait: budgets are some hundred milliseconds, longer only while workers start.
pub(super) const WAIT: &[f64] =
    &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 2.0, 5.0, 30.0];
/// Whole answers.
pub(super) const DURATION: &[f64] = &[
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0,
    600.0,
];
/// Time spent in the gateway: usually a fraction of a millisecond, at most five.
pub(super) const OWN: &[f64] = &[
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_2, 0.000_3, 0.000_5, 0.000_75, 0.001, 0.001_5, 0.002,
    0.003, 0.004, 0.005, 0.01, 0.025, 0.1, 0.5,
];
/// Scheduling delay of the gateway: timers are up to 1 ms late; from 50 ms it counts as a pause.
pub(super) const LAG: &[f64] =
    &[0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0];
/// Estimated over actual tokens.
pub(super) const RATIO: &[f64] =
    &[0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 4.0, 10.0];
