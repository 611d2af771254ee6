//! Where the histograms draw their lines, in seconds except for the last: dense where the promises lie.

/// Time to first token: promises are a tenth of a second to a few; a wait beyond a minute is a timeout.
pub(super) const TTFT: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0,
    5.0, 10.0, 20.0, 30.0, 60.0,
];
/// Between tokens: a reader notices more than a tenth of a second.
pub(super) const ITL: &[f64] = &[
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0,
    2.0,
];
/// Waiting: budgets are some hundred milliseconds, and longer only while workers start.
pub(super) const WAIT: &[f64] =
    &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 2.0, 5.0, 30.0];
/// Whole answers.
pub(super) const DURATION: &[f64] = &[
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0,
    600.0,
];
/// The gateway's own time: a fraction of a millisecond as a rule, and five at most.
pub(super) const OWN: &[f64] = &[
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_2, 0.000_3, 0.000_5, 0.000_75, 0.001, 0.001_5, 0.002,
    0.003, 0.004, 0.005, 0.01, 0.025, 0.1, 0.5,
];
/// Lateness of the gateway itself: a timer is late by up to a millisecond, and from a twentieth of a second on it counts
/// as a pause.
pub(super) const LAG: &[f64] =
    &[0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0];
/// Estimate over truth.
pub(super) const RATIO: &[f64] =
    &[0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 4.0, 10.0];
