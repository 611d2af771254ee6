//! Percentiles of a window, in constant memory.

/// End of the smallest bucket.
const LEAST: f64 = 0.05;
/// Factor between the widths of neighbouring buckets: quantiles are at most 5 % off.
const STEP: f64 = 1.05;
/// Number of buckets; the last takes everything from 24 on.
const BUCKETS: usize = 128;

/// A histogram of ratios around 1.
#[derive(Clone, Debug)]
pub(super) struct Ratios {
    counts: [u32; BUCKETS],
    total: u32,
}

impl Default for Ratios {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], total: 0 }
    }
}

impl Ratios {
    pub(super) fn add(&mut self, ratio: f64) {
        // Negative numbers and NaN become zero.
        let bucket = ((ratio / LEAST).ln() / STEP.ln()).ceil() as usize;
        if let Some(count) = self.counts.get_mut(bucket.min(BUCKETS - 1)) {
            *count = count.saturating_add(1);
            self.total = self.total.saturating_add(1);
        }
    }

    pub(super) fn len(&self) -> u32 {
        self.total
    }

    /// Returns the 90th percentile: it shows that one in ten is late; a median, that half are.
    pub(super) fn p90(&self) -> Option<f64> {
        self.quantile(0.9)
    }

    /// Returns the probability that a ratio of `other` exceeds one of these; one half if both are
    /// alike (the Mann–Whitney statistic per pair). `None` if either is empty.
    pub(super) fn exceeded_by(&self, other: &Self) -> Option<f64> {
        let mut below = 0.0;
        let mut sum = 0.0;
        for (mine, theirs) in self.counts.iter().zip(&other.counts) {
            let mine = f64::from(*mine);
            sum += f64::from(*theirs) * (below + mine / 2.0);
            below += mine;
        }
        let pairs = f64::from(self.total) * f64::from(other.total);
        (pairs > 0.0).then(|| sum / pairs)
    }

    /// Halves all counts, so that later ratios weigh more.
    pub(super) fn fade(&mut self) {
        self.counts.iter_mut().for_each(|count| *count /= 2);
        self.total = self.counts.iter().sum();
    }

    /// Returns the value that this share does not exceed, rounded up to its bucket's end.
    pub(super) fn quantile(&self, share: f64) -> Option<f64> {
        let rank = (f64::from(self.total) * share).ceil() as u32;
        let mut sum = 0_u32;
        let bucket = self.counts.iter().position(|count| {
            sum = sum.saturating_add(*count);
            sum >= rank
        })?;
        (self.total > 0).then(|| LEAST * STEP.powi(i32::try_from(bucket).unwrap_or(i32::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_percentile_is_right_within_five_percent() {
        let mut ratios = Ratios::default();
        assert_eq!(ratios.p90(), None);
        for ratio in 1..=100 {
            ratios.add(f64::from(ratio) / 50.0);
        }
        let p90 = ratios.p90().unwrap();
        assert!((1.8..=1.9).contains(&p90), "{p90}");
        assert_eq!(ratios.len(), 100);
        let p99 = ratios.quantile(0.99).unwrap();
        assert!((1.98..=2.08).contains(&p99), "{p99}");
        ratios.fade();
        ratios.fade();
        assert!(ratios.len() < 50 && ratios.p90() <= Some(2.08));
    }

    #[test]
    fn which_of_two_is_greater_is_one_half_for_equals() {
        let of = |values: &[f64]| {
            let mut ratios = Ratios::default();
            values.iter().for_each(|value| ratios.add(*value));
            ratios
        };
        let (low, high) = (of(&[0.1, 0.2, 0.3]), of(&[1.0, 2.0, 3.0, 4.0]));
        assert_eq!(low.exceeded_by(&high), Some(1.0));
        assert_eq!(high.exceeded_by(&low), Some(0.0));
        assert_eq!(high.exceeded_by(&high), Some(0.5));
        assert_eq!(of(&[1.0, 3.0]).exceeded_by(&of(&[2.0])), Some(0.5));
        assert_eq!(Ratios::default().exceeded_by(&high), None);
    }

    #[test]
    fn the_ends_are_kept() {
        for (ratio, least, most) in
            [(-1.0, 0.05, 0.05), (0.0, 0.05, 0.05), (f64::NAN, 0.05, 0.05), (1e9, 20.0, 30.0)]
        {
            let mut ratios = Ratios::default();
            ratios.add(ratio);
            let p90 = ratios.p90().unwrap();
            assert!((least..=most).contains(&p90), "{ratio}: {p90}");
        }
    }
}
