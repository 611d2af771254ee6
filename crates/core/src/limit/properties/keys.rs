//! Tests that the table of keys is bounded and never forgets debt.

use std::time::Duration;

use crate::clock::Nanos;
use crate::limit::keyed::{CellPlace, KeyedState};
use crate::limit::meter::{Level, Shortage};
use crate::limit::rule::Quota;
use crate::limit::sliding_log::SlidingLog;
use crate::limit::token_bucket::TokenBucket;

const QUOTA: Quota = Quota { limit: 10, period: Duration::from_secs(1), burst: 10 };
const NOW: Nanos = Nanos::from_secs(1_000);

/// A key as a good hash would give it.
fn key(index: u64) -> u64 {
    let mixed = index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9)
}

#[test]
fn a_flood_of_keys_is_bounded_and_frees_nobody() {
    let table = KeyedState::new(TokenBucket::new(QUOTA), 1_000);
    let victim = key(u64::MAX);
    assert!(table.charge(None, victim, 10, NOW).is_ok());
    let mut admitted = 0;
    for index in 0..100_000 {
        admitted += u64::from(table.charge(None, key(index), 1, NOW).is_ok());
        assert!(table.keys() <= 1_000);
    }
    assert_eq!(admitted, 999 + QUOTA.burst, "a cell each for the first, one cell for all others");
    assert_eq!(table.charge(None, victim, 1, NOW), Err(Shortage::Wait(Duration::from_millis(100))));
    // When the flood's quotas are full again, its keys make room; the victim's debt is still there.
    let later = NOW + Duration::from_millis(100);
    assert!(matches!(table.charge(None, key(200_000), 1, later), Ok((CellPlace::Own(_), _))));
    assert_eq!(table.level(None, CellPlace::Own(victim), later).remaining, 1);
}

#[test]
fn keys_that_pass_by_take_each_others_seats() {
    let table = KeyedState::new(TokenBucket::new(QUOTA), 1_000);
    for index in 0..100_000 {
        let now = NOW + Duration::from_millis(index);
        let (place, _) = table.charge(None, key(index), 1, now).unwrap();
        assert_eq!(
            place,
            CellPlace::Own(key(index)),
            "100 keys are live at a time, so nobody needs the overflow"
        );
    }
}

#[test]
fn sweeping_forgets_what_is_idle_and_only_that() {
    let table = KeyedState::new(SlidingLog::new(QUOTA), 100_000);
    for index in 0..50_000 {
        table.charge(None, key(index), 1, NOW).unwrap();
    }
    let later = NOW + Duration::from_millis(500);
    table.charge(None, key(7), 1, later).unwrap();
    for at in [later, NOW + QUOTA.period] {
        for _ in 0..256 {
            table.sweep(at);
        }
        assert_eq!(table.keys(), if at == later { 50_000 } else { 1 });
    }
    assert_eq!(table.level(None, CellPlace::Own(key(7)), NOW + QUOTA.period).remaining, 9);
}

#[test]
fn a_charge_outlives_its_key() {
    let table = KeyedState::new(TokenBucket::new(QUOTA), 1);
    let (place, mark) = table.charge(None, key(1), 1, NOW).unwrap();
    let later = NOW + Duration::from_secs(60);
    // Another key takes the only place once the first key is idle.
    table.charge(None, key(2), 1, later).unwrap();
    let whole = Level { remaining: 10, reset: Duration::ZERO };
    table.correct(None, (place, mark), (1, 0), later);
    assert_eq!(table.keys(), 1, "a rest is dropped with its key");
    assert_eq!(table.level(None, CellPlace::Overflow, later), whole);
    table.correct(None, (place, mark), (1, 5), later);
    assert_eq!(
        table.level(None, CellPlace::Overflow, later).remaining,
        6,
        "no cell: an excess is owed by the overflow"
    );
    let free = later + Duration::from_secs(60);
    table.correct(None, (place, mark), (1, 5), free);
    assert_eq!(
        table.level(None, CellPlace::Own(key(1)), free).remaining,
        6,
        "a cell: the key is known again, and owes"
    );
}

#[test]
fn a_lower_bound_lets_nobody_in_until_enough_are_forgotten() {
    let table = KeyedState::new(TokenBucket::new(QUOTA), 100);
    for index in 0..100 {
        table.charge(None, key(index), 10, NOW).unwrap();
    }
    table.set_max_keys(50);
    assert_eq!(table.charge(None, key(100), 1, NOW).unwrap().0, CellPlace::Overflow);
    let later = NOW + Duration::from_secs(1);
    for _ in 0..256 {
        table.sweep(later);
    }
    assert_eq!(table.charge(None, key(101), 1, later).unwrap().0, CellPlace::Own(key(101)));
}

#[test]
fn threads_that_bring_the_same_keys_make_each_once() {
    let table = KeyedState::new(TokenBucket::new(QUOTA), 10_000);
    let admitted: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    (0..20_000)
                        .map(|index| u64::from(table.charge(None, key(index % 500), 1, NOW).is_ok()))
                        .sum::<u64>()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!((admitted, table.keys()), (500 * QUOTA.burst, 500));
}
