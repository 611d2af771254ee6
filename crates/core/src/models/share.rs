//! Division of a model's requests among the names that it is served as.

use std::hash::Hasher;
use std::sync::Arc;

use siphasher::sip::SipHasher13;

/// A name under which workers serve a model, and its part of the requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelShare {
    /// The name.
    pub model: Arc<str>,
    /// Its part, relative to the sum of all weights; at least 1.
    pub weight: u32,
}

/// Returns the name for the session or caller `key`, among the `shares` of `entry`.
///
/// The same in every gateway, and independent between entries. If one weight grows at the cost of
/// its neighbour, only keys that have to move do.
pub(super) fn choose<'a>(shares: &'a [ModelShare], entry: &str, key: u64) -> Option<&'a Arc<str>> {
    if let [only] = shares {
        return Some(&only.model);
    }
    let total: u64 = shares.iter().map(|share| u64::from(share.weight)).sum();
    let mut hasher = SipHasher13::new();
    hasher.write(entry.as_bytes());
    hasher.write(&key.to_le_bytes());
    // The hash as a fraction of 2⁶⁴, times the total.
    let point = (u128::from(hasher.finish()) * u128::from(total)) >> 64;
    let mut end = 0;
    let chosen = shares.iter().find(|share| {
        end += u128::from(share.weight);
        point < end
    });
    chosen.map(|share| &share.model)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn shares(weights: &[u32]) -> Vec<ModelShare> {
        let share = |(index, weight): (usize, &u32)| ModelShare {
            model: format!("m{index}").into(),
            weight: *weight,
        };
        weights.iter().enumerate().map(share).collect()
    }

    #[test]
    fn keys_are_divided_by_weight() {
        for weights in [&[9, 1][..], &[1, 1], &[1, 2, 3, 4], &[999, 1], &[7]] {
            let shares = shares(weights);
            let mut count: HashMap<&str, u32> = HashMap::new();
            const KEYS: u32 = 100_000;
            for key in 0..u64::from(KEYS) {
                *count.entry(choose(&shares, "assistant", key).unwrap()).or_default() += 1;
            }
            let total: u32 = weights.iter().sum();
            for share in &shares {
                let expected = f64::from(KEYS) * f64::from(share.weight) / f64::from(total);
                let found = f64::from(count[&*share.model]);
                // Five standard deviations of a binomial distribution.
                assert!((found - expected).abs() <= 5.0 * expected.sqrt(), "{weights:?}: {count:?}");
            }
        }
    }

    #[test]
    fn entries_are_divided_independently() {
        let shares = shares(&[1, 1]);
        let same = (0..10_000).filter(|key| choose(&shares, "a", *key) == choose(&shares, "b", *key)).count();
        assert!((4_700..5_300).contains(&same), "{same}");
    }

    proptest! {
        #[test]
        fn a_growing_share_takes_keys_from_its_neighbour_and_gives_none(
            key in any::<u64>(),
            weight in 1u32..100,
            more in 0u32..100,
        ) {
            let (before, after) = (shares(&[weight, 200 - weight]), shares(&[weight + more, 200 - weight - more]));
            if **choose(&before, "a", key).unwrap() == *"m0" {
                prop_assert_eq!(&**choose(&after, "a", key).unwrap(), "m0");
            }
        }
    }
}
