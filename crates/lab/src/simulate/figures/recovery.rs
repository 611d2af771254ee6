//! Computes how long recovery from a disturbance takes.

use super::Second;

/// Share of the usual work, or of the offered requests, that counts as recovered.
const WELL: f64 = 0.95;
/// Window over which that is judged, in seconds.
const HOLDS: usize = 4;
/// Seconds before a disturbance that give the usual level.
const USUAL: usize = 5;
/// Minimum of the usual level: less is a bad state, not one to recover to.
const LEAST: f64 = 0.85;

/// Returns the seconds from `since` until work stays at 95 % of `usual` (a share of the maximum),
/// or 95 % of the offered requests stay good. Infinite if neither happens. Good first seconds do
/// not count if bad ones follow: requests admitted before the disturbance are still being served.
pub(super) fn recovery(seconds: &[Second], since: usize, usual: f64) -> f64 {
    let well = |window: &[Second]| {
        let offered: u64 = window.iter().map(|second| second.offered).sum();
        let good: u64 = window.iter().map(|second| second.good).sum();
        of_peak(window) >= WELL * usual || good as f64 >= WELL * offered as f64
    };
    let windows = seconds.get(since..).unwrap_or_default().windows(HOLDS);
    match windows.clone().rposition(|window| !well(window)) {
        None => 0.0,
        Some(last) if last + 1 == windows.len() => f64::INFINITY,
        Some(last) => (last + 1) as f64,
    }
}

/// Returns the usual work as a share of the maximum: the mean of the 5 s before `since`, without
/// those before `from`; 1 if none remain.
pub(super) fn usual(seconds: &[Second], from: usize, since: usize) -> f64 {
    let before = seconds.get(from.max(since.saturating_sub(USUAL))..since).unwrap_or_default();
    if before.is_empty() { 1.0 } else { of_peak(before).clamp(LEAST, 1.0) }
}

fn of_peak(window: &[Second]) -> f64 {
    window.iter().map(|second| second.of_peak).sum::<f64>() / window.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_from_the_disturbance_to_the_last_bad_stretch() {
        let seconds: Vec<Second> = [1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.9, 0.96, 0.96, 0.96, 0.96]
            .map(|of_peak| Second { of_peak, offered: 10, ..Second::default() })
            .into_iter()
            .collect();
        assert!((recovery(&seconds, 1, 1.0) - 6.0).abs() < 1e-9);
        assert!(recovery(&seconds[..9], 1, 1.0).is_infinite());
        assert!((recovery(&seconds[..5], 1, 1.0)).abs() < 1e-9);
        assert!((usual(&seconds, 0, 2) - 1.0).abs() < 1e-9);
        assert!((usual(&seconds, 5, 6) - LEAST).abs() < 1e-9);
        assert!((usual(&seconds, 6, 6) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn what_was_not_much_is_well_when_it_was_served() {
        let quiet = Second { of_peak: 0.3, offered: 10, good: 10, ..Second::default() };
        assert!(recovery(&[quiet; 6], 0, 1.0).abs() < 1e-9);
    }
}
