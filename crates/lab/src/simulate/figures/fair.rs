//! Fairness among callers.

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

/// Returns the max–min fair level per unit of weight. Each caller is owed the smaller of its demand
/// and level × weight; the level is such that all served tokens are given out.
fn water_level(portions: &[CallerShare]) -> f64 {
    let mut rest: f64 = portions.iter().map(|portion| portion.got).sum();
    let mut weight: f64 = portions.iter().map(|portion| portion.weight).sum();
    let mut sorted: Vec<&CallerShare> = portions.iter().collect();
    sorted.sort_by(|a, b| a.level(a.asked).total_cmp(&b.level(b.asked)));
    for portion in sorted {
        if portion.level(portion.asked) * weight >= rest {
            return rest / weight;
        }
        rest -= portion.asked;
        weight -= portion.weight;
    }
    f64::INFINITY
}

/// Returns Jain's index over the callers that wanted more than the fair level; `None` for under 2.
pub(super) fn jain(portions: &[CallerShare]) -> Option<f64> {
    let level = water_level(portions);
    let got: Vec<f64> = portions
        .iter()
        .filter(|portion| portion.level(portion.asked) > level)
        .map(|portion| portion.level(portion.got))
        .collect();
    let sum: f64 = got.iter().sum();
    let squares: f64 = got.iter().map(|got| got * got).sum();
    (got.len() > 1 && squares > 0.0).then(|| sum * sum / (got.len() as f64 * squares))
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
