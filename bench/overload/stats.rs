//! Measures of fairness.

/// Jain's index of fairness, (Σx)² / (n·Σx²): 1 if all shares are equal, 1/n if one has everything.
/// If all are zero it is 1.
pub(crate) fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    if squares == 0.0 { 1.0 } else { sum * sum / (shares.len() as f64 * squares) }
}

/// Divides `total` by max–min fairness: nobody gets more than it asks for, and the others share the
/// rest equally.
pub(crate) fn max_min(total: f64, demands: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..demands.len()).collect();
    order.sort_unstable_by(|a, b| f64::total_cmp(&demands[*a], &demands[*b]));
    let mut shares = vec![0.0; demands.len()];
    let mut left = total;
    for (served, index) in order.into_iter().enumerate() {
        let equal = left / (demands.len() - served) as f64;
        shares[index] = demands[index].min(equal);
        left -= shares[index];
    }
    shares
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
        assert_eq!(max_min(9.0, &[100.0, 100.0, 100.0]), [3.0, 3.0, 3.0]);
        assert_eq!(max_min(9.0, &[100.0, 1.0, 100.0]), [4.0, 1.0, 4.0]);
        assert_eq!(max_min(9.0, &[3.5, 1.0, 100.0]), [3.5, 1.0, 4.5]);
        assert_eq!(max_min(9.0, &[1.0, 2.0]), [1.0, 2.0]);
    }
}
