//! Random values: every draw depends on the generator alone, so that a seed repeats it.

use std::f64::consts::TAU;

use fastrand::Rng;

/// Draws a number above 0 and at most 1, whose logarithm and powers are finite.
#[must_use]
pub(crate) fn above_zero(random: &mut Rng) -> f64 {
    1.0 - random.f64()
}

/// Draws the seconds until the next arrival of a Poisson process of `rate` per second, above 0.
#[must_use]
pub fn gap(rate: f64, random: &mut Rng) -> f64 {
    -(1.0 / rate) * above_zero(random).ln()
}

/// Draws a standard normal value.
#[must_use]
pub fn normal(random: &mut Rng) -> f64 {
    let above_zero = above_zero(random);
    normal_of(above_zero, random)
}

/// Draws a standard normal value by Box and Muller. `above_zero` is its first uniform draw.
#[must_use]
pub(crate) fn normal_of(above_zero: f64, random: &mut Rng) -> f64 {
    (-2.0 * above_zero.ln()).sqrt() * (TAU * random.f64()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the mean and the standard deviation of many draws.
    fn moments(draw: impl Fn(&mut Rng) -> f64) -> (f64, f64) {
        let mut random = Rng::with_seed(7);
        let drawn: Vec<f64> = (0..100_000).map(|_| draw(&mut random)).collect();
        let mean = drawn.iter().sum::<f64>() / 1e5;
        (mean, (drawn.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 1e5).sqrt())
    }

    #[test]
    fn draws_have_the_moments_of_their_distributions() {
        // In a Poisson process the standard deviation of the gaps is their mean.
        let (mean, deviation) = moments(|random| gap(20.0, random));
        assert!((mean - 0.05).abs() < 0.001 && (deviation - 0.05).abs() < 0.001, "{mean} {deviation}");
        let (mean, deviation) = moments(normal);
        assert!(mean.abs() < 0.02 && (deviation - 1.0).abs() < 0.02, "{mean} {deviation}");
    }
}
