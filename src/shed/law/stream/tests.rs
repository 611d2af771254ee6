//! The law, fed by hand.

use super::*;

const SLO: Duration = Duration::from_secs(1);

fn told(slots: Option<u32>) -> Told {
    Told { slots, dams: 1, itl_slo: Duration::from_millis(100) }
}

fn at(millis: u64) -> Nanos {
    Nanos::from_millis(millis)
}

/// A second in which the limit is used and `count` first tokens come after `ttft`; an idle worker needs 100 ms.
fn second(law: &mut Stream, start: u64, count: u64, ttft: u64) {
    for i in 0..count {
        let sent = start + i * 1000 / count;
        let in_flight = law.limit();
        law.observe(Sample::Dispatch { in_flight }, at(sent));
        let first = Sample::FirstToken {
            dispatched: at(sent),
            ttft: Duration::from_millis(ttft),
            expected: Duration::from_millis(100),
            slo: SLO,
        };
        law.observe(first, at(sent + ttft));
    }
}

/// A law past its slow start, with this limit and a window that begins at 3 s.
fn steady(slots: Option<u32>, limit: u32) -> Stream {
    let mut law = Stream::new(&told(slots));
    law.phase = Phase::Steady;
    (law.limit, law.knee) = (f64::from(limit), Some(f64::from(limit)));
    law.window.start = at(3000);
    law
}

#[test]
fn a_limit_starts_at_its_slots_or_at_32_and_is_shared_among_gateways() {
    for (slots, dams, expected) in
        [(None, 1, 32), (Some(8), 1, 8), (Some(256), 1, 32), (Some(2), 1, 2), (None, 4, 8)]
    {
        let law = Stream::new(&Told { dams, ..told(slots) });
        assert_eq!(law.limit(), expected, "{slots:?} slots, {dams} gateways");
    }
}

#[test]
fn before_the_first_cut_each_first_token_in_time_makes_room_for_another() {
    let mut law = Stream::new(&told(Some(256)));
    second(&mut law, 0, 100, 150);
    assert_eq!(law.limit(), 132);
    second(&mut law, 2000, 200, 150);
    assert_eq!(law.limit(), 256);
}

#[test]
fn late_first_tokens_cut_by_how_late_they_are_and_the_next_window_settles() {
    // 0.25 s is the reference: 5 % late cuts to 0.94 of 100, four times late by the most.
    for (ttft, least, most) in [(264, 90, 94), (1000, 70, 70)] {
        let mut law = steady(None, 100);
        second(&mut law, 3000, 20, ttft);
        assert!((least..=most).contains(&law.limit()), "{}", law.limit());
        let cut = law.limit();
        second(&mut law, 6000, 20, 150);
        assert_eq!(law.limit(), cut);
    }
}

#[test]
fn requests_sent_before_a_cut_do_not_cut_again() {
    let mut law = steady(None, 30);
    second(&mut law, 3000, 20, 1000);
    let (cut, cut_at) = (law.limit(), law.cut_at);
    for i in 0..100 {
        let first = Sample::FirstToken {
            dispatched: at(3500),
            ttft: Duration::from_secs(2 + i / 20),
            expected: Duration::from_millis(100),
            slo: SLO,
        };
        law.observe(first, at(5500 + i * 50));
    }
    assert_eq!((law.limit(), law.cut_at), (cut, cut_at));
}

#[test]
fn a_limit_grows_only_when_it_is_used_and_by_one_above_the_knee() {
    let mut law = steady(None, 16);
    second(&mut law, 3000, 20, 150);
    assert_eq!(law.limit(), 17);
    law.knee = Some(100.0);
    second(&mut law, 5000, 20, 150);
    assert_eq!(law.limit(), 21, "by its square root below the knee");
    let idle = law.limit();
    for i in 0..40 {
        law.observe(Sample::Dispatch { in_flight: 10 }, at(7000 + i * 50));
        let first = Sample::FirstToken {
            dispatched: at(7000 + i * 50),
            ttft: Duration::from_millis(100),
            expected: Duration::from_millis(100),
            slo: SLO,
        };
        law.observe(first, at(7100 + i * 50));
    }
    assert!(law.limit() <= idle + 4, "{} after {idle}", law.limit());
    // The told size bounds it.
    let mut law = steady(Some(16), 16 - 1);
    for start in 0..5 {
        second(&mut law, 3000 + start * 1500, 20, 150);
    }
    assert_eq!(law.limit(), 16);
}

#[test]
fn slow_tokens_cut_too() {
    let mut law = steady(None, 30);
    for i in 0..200 {
        let span = Duration::from_millis(120);
        law.observe(Sample::Tokens { count: 1, span }, at(3000 + i * 5));
    }
    second(&mut law, 3000, 20, 150);
    // 120 ms are 1.5 of the 80 ms allowed.
    assert!((24..=26).contains(&law.limit()), "{}", law.limit());
}

#[test]
fn an_overdue_first_token_shows_the_knee_at_once() {
    let mut law = Stream::new(&told(None));
    law.observe(Sample::Overdue { dispatched: at(0), flowing: 8 }, at(400));
    assert_eq!(law.limit(), 8);
    // What was sent before says nothing new, what flows not at all nothing either, and the floor holds.
    law.observe(Sample::Overdue { dispatched: at(399), flowing: 5 }, at(500));
    assert_eq!(law.limit(), 8);
    law.observe(Sample::Overdue { dispatched: at(600), flowing: 0 }, at(900));
    assert_eq!(law.limit(), 8);
    law.observe(Sample::Overdue { dispatched: at(600), flowing: 1 }, at(900));
    assert_eq!(law.limit(), 4);
}

#[test]
fn without_samples_nothing_changes() {
    let mut law = Stream::new(&told(None));
    for i in 0..1000 {
        law.observe(Sample::Dispatch { in_flight: 32 }, at(i * 100));
        law.observe(Sample::End { elapsed: Duration::from_secs(9), in_flight: 32 }, at(i * 100));
        law.observe(Sample::ClientGone, at(i * 100));
    }
    assert_eq!(law.limit(), 32);
}
