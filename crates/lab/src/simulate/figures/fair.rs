//! Fairness among callers.

use crate::evidence::fairness::{self, Demand, fair_level};

/// Tokens that one caller asked for and got; output tokens count double.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CallerShare {
    pub(super) weight: f64,
    pub(super) asked: f64,
    pub(super) got: f64,
}

impl CallerShare {
    fn level(&self, value: f64) -> f64 {
        value / self.weight
    }
}

/// Returns the max–min fair level of the served tokens per unit of weight.
fn water_level(portions: &[CallerShare]) -> f64 {
    let demands: Vec<Demand> =
        portions.iter().map(|portion| Demand { asked: portion.asked, weight: portion.weight }).collect();
    fair_level(portions.iter().map(|portion| portion.got).sum(), &demands)
}

/// Returns Jain's index over the callers that wanted more than the fair level; `None` for under 2.
pub(super) fn jain(portions: &[CallerShare]) -> Option<f64> {
    let level = water_level(portions);
    let got: Vec<f64> = portions
        .iter()
        .filter(|portion| portion.level(portion.asked) > level)
        .map(|portion| portion.level(portion.got))
        .collect();
    (got.len() > 1 && got.iter().any(|got| *got > 0.0)).then(|| fairness::jain(&got))
}

/// Returns the share of their due that all callers but the greediest got.
pub(super) fn light_share(portions: &[CallerShare]) -> Option<f64> {
    let level = water_level(portions);
    let greediest = portions.iter().map(|portion| portion.level(portion.asked)).fold(0.0, f64::max);
    let light = || portions.iter().filter(|portion| portion.level(portion.asked) < greediest);
    let owed: f64 = light().map(|portion| portion.asked.min(level * portion.weight)).sum();
    let got: f64 = light().map(|portion| portion.got).sum();
    (owed > 0.0).then(|| got / owed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn portions(asked_and_got: &[(f64, f64)]) -> Vec<CallerShare> {
        asked_and_got.iter().map(|&(asked, got)| CallerShare { weight: 1.0, asked, got }).collect()
    }

    #[test]
    fn nobody_is_owed_more_than_it_asked() {
        // 100 were served: the small one is owed its 10, the others 45 each.
        let callers = portions(&[(10.0, 10.0), (60.0, 30.0), (200.0, 60.0)]);
        assert!((water_level(&callers) - 45.0).abs() < 1e-9);
        assert!((light_share(&callers).unwrap() - 40.0 / 55.0).abs() < 1e-9);
        let jain = jain(&callers).unwrap();
        assert!((jain - 90.0 * 90.0 / (2.0 * (900.0 + 3600.0))).abs() < 1e-9);
    }

    #[test]
    fn without_a_shortage_there_is_nothing_to_divide() {
        let callers = portions(&[(10.0, 10.0), (20.0, 20.0)]);
        assert_eq!(jain(&callers), None);
    }

    #[test]
    fn weights_count() {
        let mut callers = portions(&[(100.0, 20.0), (100.0, 40.0)]);
        callers[1].weight = 2.0;
        assert!((jain(&callers).unwrap() - 1.0).abs() < 1e-9);
    }
}
