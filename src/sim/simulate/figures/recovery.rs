//! How long it took until all was well again.

use super::Second;

/// As good as it can be.
const WELL: f64 = 0.95;
/// Seconds over which that is judged.
const HOLDS: usize = 4;
/// Seconds before a disturbance that show what is usual.
const USUAL: usize = 5;
/// Less is not usual but wrong, and no state to recover to.
const LEAST: f64 = 0.85;

/// Seconds from `since` until the work done stayed at 95 % of `usual`, a share of the most there can be, or 95 % of
/// what was offered stayed good. Infinite when that never came. The first seconds may be well and still not be the end
/// of it: what was admitted before the disturbance is still being served.
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

/// What is usual, as a share of the most there can be, in the five seconds before `since`, after the second `from`; 1 when there are no such.
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
