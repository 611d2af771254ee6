//! Property tests of the limits, in virtual time, against references simple enough to be trusted.

mod bucket;
mod keys;
mod rule_set;
mod rules;
mod windows;

use std::time::Duration;

use proptest::prelude::*;

use super::meter::{Meter, Shortage};
use super::rule::Quota;
use crate::clock::Nanos;

/// Quotas from one per hour to a thousand per ms, with periods that rarely divide.
fn quotas() -> impl Strategy<Value = Quota> {
    let period = prop_oneof![Just(1_000_000), Just(1_000_000_000), 1_000_000..3_600_000_000_000_u64];
    (1..1_000_u64, period, 1..100_u64).prop_map(|(limit, period, burst)| {
        let period = Duration::from_nanos(period);
        Quota { limit, period, burst }
    })
}

/// Calls as (gap to the previous call in thousandths of the quota's period, units).
fn calls(most: u64) -> impl Strategy<Value = Vec<(u64, u64)>> {
    let gap = prop_oneof![4 => Just(0), 4 => 0..30_u64, 1 => 0..2_500_u64];
    proptest::collection::vec((gap, 1..=most), 1..150)
}

/// Returns the call times: `gap` thousandths of a period apart, plus some ns (no round times).
fn time_line(quota: Quota, calls: &[(u64, u64)]) -> Vec<(Nanos, u64)> {
    let period = u64::try_from(quota.period.as_nanos()).unwrap();
    let mut now = 10 * period + 12_345;
    let mut line = Vec::new();
    for (index, (gap, amount)) in calls.iter().enumerate() {
        now += if *gap == 0 { 0 } else { gap * (period / 1_000) + index as u64 % 7 };
        line.push((Nanos(now), *amount));
    }
    line
}

/// Makes every call. Checks after each refusal that the call is admitted exactly after the reported
/// wait, not 1 ns earlier. Returns the admitted calls.
fn drive<M: Meter>(meter: &M, line: &[(Nanos, u64)]) -> Result<Vec<(Nanos, u64)>, TestCaseError>
where
    M::Cell: Clone,
{
    let mut cell = M::Cell::default();
    let mut admitted = Vec::new();
    for (now, amount) in line {
        prop_assert_eq!(
            meter.shortage(&cell, *amount, *now),
            meter.charge(&mut cell.clone(), *amount, *now).err()
        );
        match meter.charge(&mut cell, *amount, *now) {
            Ok(_) => admitted.push((*now, *amount)),
            Err(Shortage::Wait(wait)) => {
                prop_assert!(wait > Duration::ZERO);
                prop_assert_eq!(meter.shortage(&cell, *amount, *now + wait), None, "after {:?}", wait);
                let early = *now + (wait - Duration::from_nanos(1));
                prop_assert!(
                    meter.shortage(&cell, *amount, early).is_some(),
                    "{:?} is longer than needed",
                    wait
                );
            }
            Err(Shortage::Never) => {}
        }
    }
    Ok(admitted)
}

/// Returns the units admitted in the window of this length that ends at `end`, without its old end.
fn within(admitted: &[(Nanos, u64)], end: Nanos, window: Duration) -> u64 {
    let inside = admitted.iter().filter(|(time, _)| *time <= end && *time + window > end);
    inside.map(|(_, amount)| amount).sum()
}
