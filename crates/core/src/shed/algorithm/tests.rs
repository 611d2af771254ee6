//! Tests of the other limit algorithms, and of what a reload does.

use super::*;

fn at(millis: u64) -> Nanos {
    Nanos::from_millis(millis)
}

#[test]
fn what_was_learned_survives_a_reload_within_what_is_told() {
    let mut law: Box<dyn LimitAlgorithm> =
        Box::new(StreamLimit::new(&WorkerHints::new(&GateSettings::default(), None)));
    law.observe(WorkerSample::Overdue { dispatched: at(1), flowing: 30 }, at(2));
    let before = GateSettings::default();
    reconfigure(
        &mut law,
        &before,
        &GateSettings { ttft_slo: Duration::from_secs(2), ..before.clone() },
        Some(40),
    );
    assert_eq!(law.limit(), 30);
    reconfigure(&mut law, &before, &before, Some(20));
    assert_eq!(law.limit(), 20);
    reconfigure(
        &mut law,
        &before,
        &GateSettings { limit: LimitSource::Fixed(7), ..before.clone() },
        Some(20),
    );
    assert_eq!(law.limit(), 7);
}

#[test]
fn the_classical_laws_move_as_published() {
    let end = |seconds| WorkerSample::End { elapsed: Duration::from_secs(seconds), in_flight: 100 };
    let mut aimd = Aimd::default();
    (0..5).for_each(|i| aimd.observe(end(1), at(i)));
    assert_eq!(aimd.limit(), 25);
    aimd.observe(end(6), at(9));
    assert_eq!(aimd.limit(), 22);

    let mut vegas = Vegas::default();
    vegas.observe(end(1), at(0));
    vegas.observe(end(1), at(1));
    assert_eq!(vegas.limit(), 26, "no queue: six steps more");
    vegas.observe(end(4), at(2));
    assert_eq!(vegas.limit(), 25, "a long one: a step less");

    let mut gradient = Gradient2::default();
    for i in 0..200 {
        gradient.observe(end(1), at(i * 100));
    }
    let grown = gradient.limit();
    assert!(grown > 20, "{grown}");
    for i in 0..200 {
        gradient.observe(end(8), at(20_000 + i * 100));
    }
    assert!(gradient.limit() < grown, "{}", gradient.limit());
}
