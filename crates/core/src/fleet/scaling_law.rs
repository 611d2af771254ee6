//! Predicts the goodput of more workers: two models, fitted to goodput at several fleet sizes.
//!
//! The Universal Scalability Law (Gunther) is X(N) = λN / (1 + α(N−1) + βN(N−1)). α is contention,
//! β coherence between all pairs. The simple model, used for the gateway's ceiling, is X(N) =
//! base·N·factor for N > 1. Inverted, both are linear in their parameters, so least squares has a
//! closed form. Errors are relative, so that large fleets do not outweigh small ones.

use serde::Serialize;

/// A number of workers, and their goodput.
pub type FleetGoodput = (f64, f64);

/// A fitted Universal Scalability Law.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Usl {
    /// Goodput of one worker.
    pub lambda: f64,
    /// Contention: the part of the work that cannot run in parallel.
    pub alpha: f64,
    /// Coherence: the cost of agreement between all pairs of workers.
    pub beta: f64,
}

impl Usl {
    /// Fits the law to points at two or more sizes. At two sizes, or if β fits best below zero, β
    /// is 0: unlimited growth is the kinder reading, and needs fewer data.
    pub fn fit(points: &[FleetGoodput]) -> Result<Self, String> {
        let points: Vec<FleetGoodput> =
            points.iter().copied().filter(|(n, x)| *n >= 1.0 && *x > 0.0).collect();
        let mut sizes: Vec<f64> = points.iter().map(|(n, _)| *n).collect();
        sizes.sort_by(f64::total_cmp);
        sizes.dedup();
        if sizes.len() < 2 {
            return Err(format!(
                "the scalability model needs at least two numbers of workers, found {}",
                sizes.len()
            ));
        }
        // N/X = a + b(N−1) + cN(N−1), where a = 1/λ, b = α/λ, c = β/λ.
        let terms: [fn(f64) -> f64; 3] = [|_| 1.0, |n| n - 1.0, |n| n * (n - 1.0)];
        let law = |[a, b, c]: [f64; 3]| Self { lambda: 1.0 / a, alpha: b / a, beta: c / a };
        // Tries all three terms, then subsets: the first fit with sensible parameters is used.
        let choices: &[&[usize]] =
            if sizes.len() > 2 { &[&[0, 1, 2], &[0, 1], &[0, 2], &[0]] } else { &[&[0, 1], &[0]] };
        let fits = choices.iter().filter_map(|chosen| {
            let chosen_terms: Vec<_> = chosen.iter().filter_map(|index| terms.get(*index).copied()).collect();
            let found = least_squares(&points, &chosen_terms)?;
            let mut all = [0.0; 3];
            for (index, value) in chosen.iter().zip(found) {
                *all.get_mut(*index)? = value;
            }
            Some(law(all))
        });
        let mut sensible = fits.filter(|law| law.lambda > 0.0 && law.alpha >= 0.0 && law.beta >= 0.0);
        sensible.next().ok_or_else(|| "the scalability model does not fit these runs".to_owned())
    }

    /// Returns the goodput of `n` workers.
    #[must_use]
    pub fn at(&self, n: f64) -> f64 {
        self.lambda * n / (1.0 + self.alpha * (n - 1.0) + self.beta * n * (n - 1.0))
    }

    /// Returns the number of workers beyond which more workers give less; `None` if there is none.
    #[must_use]
    pub fn peak(&self) -> Option<f64> {
        (self.beta > 0.0).then(|| ((1.0 - self.alpha).max(0.0) / self.beta).sqrt().max(1.0))
    }
}

/// Minimises Σ ((Σ pᵢ·termᵢ(n) − n/x) / (n/x))² by the normal equations.
fn least_squares(points: &[FleetGoodput], terms: &[fn(f64) -> f64]) -> Option<Vec<f64>> {
    let size = terms.len();
    let mut equations = vec![vec![0.0; size + 1]; size];
    for (n, x) in points {
        let wanted = n / x;
        let row: Vec<f64> = terms.iter().map(|term| term(*n) / wanted).collect();
        for (equation, own) in equations.iter_mut().zip(&row) {
            // The last column is the right side: the wanted value divided by itself.
            for (cell, other) in equation.iter_mut().zip(row.iter().chain([&1.0])) {
                *cell += own * other;
            }
        }
    }
    solve(equations)
}

/// Solves by Gauss–Jordan elimination with pivots; `None` without a unique solution.
fn solve(mut rows: Vec<Vec<f64>>) -> Option<Vec<f64>> {
    let size = rows.len();
    for column in 0..size {
        let pivot =
            (column..size).max_by(|a, b| f64::total_cmp(&rows[*a][column].abs(), &rows[*b][column].abs()))?;
        rows.swap(column, pivot);
        let lead = rows[column][column];
        if lead.abs() < 1e-12 {
            return None;
        }
        let scaled: Vec<f64> = rows[column].iter().map(|value| value / lead).collect();
        for (index, row) in rows.iter_mut().enumerate() {
            let share = if index == column { 0.0 } else { row[column] };
            if index == column {
                row.clone_from(&scaled);
            } else {
                row.iter_mut().zip(&scaled).for_each(|(value, lead)| *value -= share * lead);
            }
        }
    }
    rows.iter().map(|row| row.last().copied()).collect()
}

/// The simple model: one worker's goodput, and the share of it that each of several gives.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LinearModel {
    /// Goodput of one worker.
    pub base: f64,
    /// Share of it that each worker gives if there are several.
    pub factor: f64,
}

impl LinearModel {
    /// Fits the model to points, which must include one worker and more than one.
    pub fn fit(points: &[FleetGoodput]) -> Result<Self, String> {
        let mean =
            |values: Vec<f64>| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
        let of_one = points.iter().filter(|(n, _)| *n == 1.0).map(|(_, x)| *x).collect();
        let base = mean(of_one).filter(|base| *base > 0.0).ok_or("there is no run with one worker")?;
        let of_more = points.iter().filter(|(n, _)| *n > 1.0).map(|(n, x)| x / (n * base)).collect();
        let factor = mean(of_more).ok_or("there is no run with more than one worker")?;
        Ok(Self { base, factor })
    }

    /// Returns the goodput of `n` workers: at least that of one, because others can stay idle.
    #[must_use]
    pub fn at(&self, n: f64) -> f64 {
        self.base * (n * self.factor).max(1.0)
    }
}

/// Returns how many workers carry `target` with one of them lost; `None` if `most` are too few.
pub fn workers_for(target: f64, most: u32, gives: impl Fn(f64) -> f64) -> Option<u32> {
    (2..=most).find(|n| gives(f64::from(n - 1)) >= target)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAW: Usl = Usl { lambda: 30.0, alpha: 0.05, beta: 0.004 };

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-6 * b.abs().max(1.0)
    }

    #[test]
    fn a_law_is_found_again_from_what_it_gives() {
        let points: Vec<FleetGoodput> = [1.0, 2.0, 3.0, 6.0].map(|n| (n, LAW.at(n))).to_vec();
        let found = Usl::fit(&points).unwrap();
        assert!(
            close(found.lambda, 30.0) && close(found.alpha, 0.05) && close(found.beta, 0.004),
            "{found:?}"
        );
        assert!(close(found.peak().unwrap(), (0.95_f64 / 0.004).sqrt()));
    }

    #[test]
    fn noise_never_makes_a_parameter_senseless() {
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..200 {
            let mut noisy = |n: f64| (n, LAW.at(n) * (0.9 + 0.2 * random.f64()));
            let found = Usl::fit(&[1.0, 2.0, 3.0].map(&mut noisy)).unwrap();
            assert!(found.lambda > 20.0 && found.alpha >= 0.0 && found.beta >= 0.0, "{found:?}");
        }
    }

    #[test]
    fn growth_without_loss_has_no_peak() {
        let linear = Usl::fit(&[(1.0, 10.0), (2.0, 20.0)]).unwrap();
        assert!(close(linear.at(7.0), 70.0) && linear.peak().is_none(), "{linear:?}");
        // A better than linear result is chance: it is read as linear.
        let lucky = Usl::fit(&[(1.0, 10.0), (2.0, 22.0), (3.0, 33.0)]).unwrap();
        assert_eq!((lucky.alpha, lucky.beta), (0.0, 0.0));
    }

    #[test]
    fn one_size_tells_nothing_of_growth() {
        assert!(Usl::fit(&[(2.0, 10.0), (2.0, 11.0)]).unwrap_err().contains("at least two numbers"));
        assert!(LinearModel::fit(&[(2.0, 10.0)]).unwrap_err().contains("one worker"));
        assert!(LinearModel::fit(&[(1.0, 10.0)]).unwrap_err().contains("more than one"));
    }

    #[test]
    fn the_simple_one_is_its_base_and_its_factor() {
        let simple = LinearModel::fit(&[(1.0, 9.0), (1.0, 11.0), (2.0, 16.0), (3.0, 27.0)]).unwrap();
        assert!(close(simple.base, 10.0) && close(simple.factor, 0.85), "{simple:?}");
        assert!(close(simple.at(1.0), 10.0) && close(simple.at(4.0), 34.0));
    }

    #[test]
    fn one_may_be_lost_and_the_load_is_still_carried() {
        let goodput_of = |n: f64| 10.0 * n;
        assert_eq!(workers_for(10.0, 99, goodput_of), Some(2));
        assert_eq!(workers_for(10.1, 99, goodput_of), Some(3));
        assert_eq!(workers_for(45.0, 99, goodput_of), Some(6));
        assert_eq!(workers_for(1e6, 99, goodput_of), None);
    }
}
