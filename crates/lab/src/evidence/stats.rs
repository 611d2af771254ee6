//! Statistics of a set of numbers.

use serde::{Deserialize, Serialize};

/// Number of bootstrap resamples: enough for the third digit of a 95 % interval.
const RESAMPLES: usize = 1000;
/// Fixed seed: the same data give the same interval.
const SEED: u64 = 0xb007;
/// Share of resamples below an interval, and share above it.
const TAIL: f64 = 0.025;

/// Returns the `q` quantile (0 to 1) of `sorted` by the nearest rank: always a measured value.
/// `None` for an empty slice.
#[must_use]
pub fn quantile<T: Copy>(sorted: &[T], q: f64) -> Option<T> {
    let rank = (q * sorted.len() as f64).ceil().max(1.0) as usize;
    sorted.get(rank - 1).copied()
}

/// Returns the values in ascending order.
#[must_use]
pub fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values
}

/// Returns the mean; `None` for an empty slice.
#[must_use]
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Returns the standard error of the mean; `None` for fewer than two values.
#[must_use]
pub(crate) fn standard_error(values: &[f64]) -> Option<f64> {
    let (mean, count) = (mean(values)?, values.len() as f64);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (count - 1.0) / count).sqrt())
}

/// A figure with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Point estimate.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Computes a percentile bootstrap over groups of `sizes` samples. It draws from each group (an arm
/// of a comparison) separately, and passes to `figure` how often each sample was drawn. A sample is
/// a block of time: adjacent requests fare alike, so drawing single requests would give too narrow
/// an interval. `None` if a group is empty or `figure` returns `None`.
pub(crate) fn bootstrap<const N: usize>(
    sizes: [usize; N],
    figure: impl Fn([&[u32]; N]) -> Option<f64>,
) -> Option<Interval> {
    if sizes.contains(&0) {
        return None;
    }
    let mut drawn = sizes.map(|size| vec![1; size]);
    let value = figure(drawn.each_ref().map(Vec::as_slice))?;
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut figures = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        for group in &mut drawn {
            group.fill(0);
            for _ in 0..group.len() {
                let place = random.usize(..group.len());
                group[place] += 1;
            }
        }
        figures.extend(figure(drawn.each_ref().map(Vec::as_slice)));
    }
    let figures = sorted(figures.into_iter());
    Some(Interval { value, low: quantile(&figures, TAIL)?, high: quantile(&figures, 1.0 - TAIL)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_a_value_that_was_measured() {
        let hundred = sorted((1..=100).rev().map(f64::from));
        assert_eq!(quantile(&hundred, 0.5), Some(50.0));
        assert_eq!(quantile(&hundred, 0.99), Some(99.0));
        assert_eq!(quantile(&hundred, 1.0), Some(100.0));
        assert_eq!(quantile(&hundred, 0.0), Some(1.0));
        // With few values the 99th percentile is the maximum, not the value before it.
        assert_eq!(quantile(&[1.0, 2.0, 3.0], 0.99), Some(3.0));
        assert_eq!(quantile::<f64>(&[], 0.5), None);
    }

    #[test]
    fn the_error_of_a_mean_is_that_of_the_books() {
        assert_eq!(standard_error(&[2.0, 4.0]), Some(1.0));
        assert_eq!(standard_error(&[2.0]), None);
        assert_eq!(mean(&[]), None);
    }

    #[test]
    fn an_interval_holds_the_truth_as_often_as_it_says() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut held = 0;
        for _ in 0..100 {
            let blocks: Vec<f64> = (0..40).map(|_| random.f64()).collect();
            let sum = |drawn: &[u32]| {
                drawn.iter().zip(&blocks).map(|(times, x)| f64::from(*times) * x).sum::<f64>()
            };
            let Interval { low, high, .. } = bootstrap([40], |[drawn]| Some(sum(drawn) / 40.0)).unwrap();
            held += i32::from(low <= 0.5 && 0.5 <= high);
        }
        assert!((88..=100).contains(&held), "{held} of 100 intervals hold the mean");
    }

    #[test]
    fn equal_blocks_leave_no_doubt_and_none_no_figure() {
        let difference =
            |[a, b]: [&[u32]; 2]| Some(f64::from(2 * a.iter().sum::<u32>() - b.iter().sum::<u32>()));
        let same = bootstrap([5, 5], difference).unwrap();
        assert_eq!((same.value, same.low, same.high), (5.0, 5.0, 5.0));
        assert_eq!(bootstrap([1, 0], difference), None);
    }
}
