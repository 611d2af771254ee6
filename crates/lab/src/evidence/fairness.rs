//! Measures of fairness among callers.

/// Jain's index of fairness, (Σx)² / (n·Σx²): 1 if all shares are equal, 1/n if one has everything.
/// If all are zero it is 1.
#[must_use]
pub fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    if squares == 0.0 { 1.0 } else { sum * sum / (shares.len() as f64 * squares) }
}

/// What a caller asks for, and its weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Demand {
    /// What it asks for.
    pub asked: f64,
    /// Its share relative to others; above 0.
    pub weight: f64,
}

/// Returns the max–min fair level per unit of weight at which `total` is given out: each caller is
/// owed the smaller of its demand and level × weight. Infinite if there is enough for all.
#[must_use]
pub fn fair_level(total: f64, demands: &[Demand]) -> f64 {
    let mut rest = total;
    let mut weight: f64 = demands.iter().map(|demand| demand.weight).sum();
    let per_weight = |demand: &Demand| demand.asked / demand.weight;
    let mut sorted: Vec<&Demand> = demands.iter().collect();
    sorted.sort_by(|a, b| per_weight(a).total_cmp(&per_weight(b)));
    for demand in sorted {
        if per_weight(demand) * weight >= rest {
            return rest / weight;
        }
        rest -= demand.asked;
        weight -= demand.weight;
    }
    f64::INFINITY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jain_is_one_for_equals_and_one_nth_for_a_monopoly() {
        assert!((jain(&[3.0; 7]) - 1.0).abs() < 1e-12);
        assert!((jain(&[5.0, 0.0, 0.0, 0.0]) - 0.25).abs() < 1e-12);
        assert!((jain(&[1.0, 2.0]) - 0.9).abs() < 1e-12);
        assert!((jain(&[0.0, 0.0]) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn what_one_leaves_the_others_share() {
        for (asked, level) in [
            (&[100.0, 100.0, 100.0][..], 3.0),
            (&[100.0, 1.0, 100.0], 4.0),
            (&[3.5, 1.0, 100.0], 4.5),
            (&[1.0, 2.0], f64::INFINITY),
        ] {
            let demands: Vec<_> = asked.iter().map(|&asked| Demand { asked, weight: 1.0 }).collect();
            assert_eq!(fair_level(9.0, &demands), level, "{asked:?}");
        }
        let demands = [Demand { asked: 100.0, weight: 1.0 }, Demand { asked: 100.0, weight: 2.0 }];
        assert_eq!(fair_level(9.0, &demands), 3.0, "weights count");
    }
}
