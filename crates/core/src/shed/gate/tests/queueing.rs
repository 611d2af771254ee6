//! Which requests wait, which are refused, and what the refusals say.

use super::*;

#[test]
fn a_full_pool_lets_wait_and_serves_in_order() {
    let mut gate = gate(settings(), &[member("w1", 1)]);
    let first = granted(&mut gate, &ask("a"), at(0));
    let [b, c] = ["b", "c"].map(|caller| waiting(&mut gate, &ask(caller), at(10)));
    gate.release(first.permit, Ending::Complete, 50, at(100));
    let settled: Vec<_> = gate.take_outcomes().collect();
    assert_eq!(settled.len(), 1);
    let (id, outcome) = &settled[0];
    let grant = outcome.as_ref().unwrap();
    assert_eq!((*id, grant.waited), (b, Duration::from_millis(90)));
    gate.release(grant.permit, Ending::Complete, 50, at(200));
    assert_eq!(outcomes(&mut gate), [(c, None)]);
}

#[test]
fn a_request_that_only_one_worker_can_serve_waits_for_it() {
    let mut gate = gate(settings(), &[member("w1", 1), member("w2", 1)]);
    let only = PermitRequest { worker: Some("w2".into()), repeatable: true, ..ask("a") };
    let first = granted(&mut gate, &only, at(0));
    assert_eq!(&*first.worker, "w2");
    let second = waiting(&mut gate, &only, at(1));
    assert_eq!(gate.reassign(first.permit, at(2)), None, "the other one does not know it");
    gate.release(first.permit, Ending::Complete, 50, at(100));
    let settled: Vec<_> = gate.take_outcomes().collect();
    let [(id, Ok(grant))] = &settled[..] else { panic!("{settled:?}") };
    assert_eq!((*id, &*grant.worker), (second, "w2"));
    assert_eq!(&*granted(&mut gate, &ask("b"), at(100)).worker, "w1");
    let gone = PermitRequest { worker: Some("w3".into()), ..ask("a") };
    waiting(&mut gate, &gone, at(101));
}

#[test]
fn nobody_is_served_late() {
    let mut gate = gate(settings(), &[member("w1", 1)]);
    let first = granted(&mut gate, &ask("a"), at(0));
    let b = waiting(&mut gate, &ask("b"), at(0));
    gate.release(first.permit, Ending::Complete, 50, at(250));
    assert_eq!(outcomes(&mut gate), [(b, Some(Reason::QueueTimeout))]);
    assert_eq!(gate.snapshot(at(250)).in_flight(), 0);
}

#[test]
fn a_deadline_shortens_the_wait_and_is_served_first_within_its_caller() {
    let mut gate = gate(settings(), &[member("w1", 1)]);
    let first = granted(&mut gate, &ask("a"), at(0));
    let relaxed = waiting(&mut gate, &ask("b"), at(0));
    let urgent = waiting(&mut gate, &PermitRequest { deadline: Some(at(100)), ..ask("b") }, at(1));
    let hopeless = waiting(&mut gate, &PermitRequest { deadline: Some(at(20)), ..ask("b") }, at(2));
    gate.process_timeouts(at(20));
    assert_eq!(outcomes(&mut gate), [(hopeless, Some(Reason::QueueTimeout))]);
    gate.release(first.permit, Ending::Complete, 50, at(50));
    assert_eq!(outcomes(&mut gate), [(urgent, None)]);
    gate.process_timeouts(at(250));
    assert_eq!(outcomes(&mut gate), [(relaxed, Some(Reason::QueueTimeout))]);
}

#[test]
fn a_queue_of_no_length_or_no_time_refuses_at_once() {
    for settings in [
        GateSettings { queue_length: 0, ..settings() },
        GateSettings { queue_wait: Duration::ZERO, ..settings() },
    ] {
        let mut gate = gate(settings, &[member("w1", 1)]);
        granted(&mut gate, &ask("a"), at(0));
        let refusal = refused(&mut gate, &ask("b"), at(0));
        assert_eq!(refusal.reason, Reason::Overloaded);
        assert!(
            refusal.message.starts_with("The only slot of pool `default` is taken and the request cannot be")
        );
        let retry = refusal.retry_after.unwrap();
        assert!((Duration::from_secs(1)..=Duration::from_millis(1500)).contains(&retry), "{retry:?}");
    }
}

#[test]
fn a_hopeless_wait_is_refused_on_arrival_with_the_reason() {
    let mut gate = gate(settings(), &[member("w1", 1)]);
    serve_one(&mut gate, &ask("a"), at(0), at(2000));
    granted(&mut gate, &ask("a"), at(2000));
    // Nothing is ahead of the first; two seconds of work are ahead of the second.
    waiting(&mut gate, &ask("b"), at(2000));
    let refusal = refused(&mut gate, &ask("b"), at(2000));
    assert_eq!(refusal.reason, Reason::Overloaded);
    let retry = refusal.retry_after.unwrap();
    assert!((Duration::from_secs(4)..=Duration::from_secs(6)).contains(&retry), "{retry:?}");
    assert!(
        refusal.message.starts_with(
            "The only slot of pool `default` is taken and the predicted wait of 2 s exceeds the budget of \
             250 ms; retry in "
        ),
        "{}",
        refusal.message
    );
    // Another caller has had less and does not wait for that work.
    waiting(&mut gate, &ask("c"), at(2000));
}

#[test]
fn without_measurements_the_first_waiters_are_not_refused() {
    let mut gate = gate(settings(), &[member("w1", 1)]);
    granted(&mut gate, &ask("a"), at(0));
    for _ in 0..16 {
        waiting(&mut gate, &ask("b"), at(100));
    }
    assert_eq!(refused(&mut gate, &ask("b"), at(100)).reason, Reason::Overloaded);
}

#[test]
fn a_long_pause_is_not_taken_for_a_slow_pool() {
    let mut gate = gate(settings(), &[member("w1", 1)]);
    serve_one(&mut gate, &ask("a"), at(0), at(100));
    let hour = 3_600_000;
    granted(&mut gate, &ask("a"), at(hour));
    waiting(&mut gate, &ask("b"), at(hour));
    waiting(&mut gate, &ask("b"), at(hour));
}

#[test]
fn a_stalled_pool_is_noticed() {
    let mut gate = gate(settings(), &[member("w1", 1)]);
    serve_one(&mut gate, &ask("a"), at(0), at(10));
    granted(&mut gate, &ask("a"), at(10));
    waiting(&mut gate, &ask("b"), at(5000));
    // By the measured 10 ms this would be next but one; but nothing was released for 5 s.
    let refusal = refused(&mut gate, &ask("b"), at(5000));
    assert!(refusal.retry_after.unwrap() > Duration::from_secs(3), "{refusal:?}");
}

#[test]
fn a_flood_makes_room_for_a_caller_that_has_less() {
    let mut gate = gate(GateSettings { queue_length: 3, ..settings() }, &[member("w1", 1)]);
    let first = granted(&mut gate, &ask("flood"), at(0)).permit;
    let flood: Vec<_> = (1..=3).map(|i| waiting(&mut gate, &ask("flood"), at(i))).collect();
    assert_eq!(refused(&mut gate, &ask("flood"), at(4)).reason, Reason::Overloaded);
    let light = waiting(&mut gate, &ask("light"), at(5));
    assert_eq!(outcomes(&mut gate), [(flood[2], Some(Reason::Overloaded))]);
    // What the flood took alone does not count, so they are served in turn.
    let order = [flood[0], light, flood[1]];
    let mut permit = first;
    for id in order {
        gate.dispatched(permit, at(6));
        gate.release(permit, Ending::Complete, 50, at(6));
        let (served, grant) = gate.take_outcomes().next().unwrap();
        assert_eq!(served, id);
        permit = grant.unwrap().permit;
    }
}

#[test]
fn bytes_are_bounded_and_room_is_made_for_them_too() {
    let mut gate = gate(GateSettings { queue_bytes: 3000, ..settings() }, &[member("w1", 1)]);
    granted(&mut gate, &ask("flood"), at(0));
    let flood: Vec<_> = (1..=3).map(|i| waiting(&mut gate, &ask("flood"), at(i))).collect();
    let heavy = PermitRequest { body_bytes: 1500, ..ask("light") };
    waiting(&mut gate, &heavy, at(4));
    let displaced = Some(Reason::Overloaded);
    assert_eq!(outcomes(&mut gate), [(flood[2], displaced), (flood[1], displaced)]);
    assert_eq!(gate.snapshot(at(4)).queue_bytes, 2500);
    // A request that can never fit displaces nobody.
    assert_eq!(
        refused(&mut gate, &PermitRequest { body_bytes: 3001, ..ask("x") }, at(5)).reason,
        Reason::Overloaded
    );
    assert_eq!(outcomes(&mut gate), []);
}

#[test]
fn classes_are_strict_and_displace_only_downwards() {
    let mut gate = gate(GateSettings { queue_length: 2, ..settings() }, &[member("w1", 1)]);
    let permit = granted(&mut gate, &ask("a"), at(0)).permit;
    let of = |class| PermitRequest { class, ..ask("b") };
    let batch = waiting(&mut gate, &of(Class::Batch), at(0));
    let interactive = waiting(&mut gate, &of(Class::Interactive), at(1));
    let critical = waiting(&mut gate, &of(Class::Critical), at(2));
    assert_eq!(outcomes(&mut gate), [(batch, Some(Reason::Overloaded))]);
    assert_eq!(refused(&mut gate, &of(Class::Batch), at(3)).reason, Reason::Overloaded);
    gate.release(permit, Ending::Complete, 50, at(4));
    assert_eq!(outcomes(&mut gate), [(critical, None)]);
    gate.process_timeouts(at(251));
    assert_eq!(outcomes(&mut gate), [(interactive, Some(Reason::QueueTimeout))]);
}

#[test]
fn a_reserve_keeps_its_share_for_the_class_and_those_above() {
    let settings = GateSettings { reserve: [0.0, 0.25, 0.25], queue_length: 0, ..settings() };
    let mut gate = gate(settings, &[member("w1", 4), member("w2", 4)]);
    let mut count =
        |class| (0..8).take_while(|_| gate.ask(&PermitRequest { class, ..ask("a") }, at(0)).is_ok()).count();
    // Of eight: batch fills four, interactive two more, and two are left for critical.
    assert_eq!([count(Class::Batch), count(Class::Interactive), count(Class::Critical)], [4, 2, 2]);
}

#[test]
fn what_higher_classes_occupy_does_not_count_against_lower_ones() {
    let settings = GateSettings { reserve: [0.0, 0.0, 0.25], queue_length: 0, ..settings() };
    let mut gate = gate(settings, &[member("w1", 4)]);
    granted(&mut gate, &PermitRequest { class: Class::Critical, ..ask("a") }, at(0));
    for _ in 0..3 {
        granted(&mut gate, &ask("a"), at(0));
    }
}

#[test]
fn no_worker_is_said_or_waited_for() {
    let mut none = gate(settings(), &[PoolMember { eligible: false, ..member("w1", 4) }]);
    assert_eq!(refused(&mut none, &ask("a"), at(0)).reason, Reason::NoWorker);

    let patient = GateSettings { wait_no_worker: Duration::from_secs(30), ..settings() };
    let mut gate = gate(patient.clone(), &[]);
    let [first, second] = [0, 1].map(|i| waiting(&mut gate, &ask("a"), at(i)));
    gate.process_timeouts(at(30_000));
    assert_eq!(outcomes(&mut gate), [(first, Some(Reason::NoWorker))]);
    gate.rebuild(patient, vec![member("w1", 4)], at(30_000));
    assert_eq!(outcomes(&mut gate), [(second, None)]);
}

#[test]
fn a_reload_shows_new_room_at_once_and_shortens_the_queue_from_its_end() {
    let mut gate = gate(settings(), &[member("w1", 1)]);
    granted(&mut gate, &ask("a"), at(0));
    let ids: Vec<_> = (0..4).map(|_| waiting(&mut gate, &ask("b"), at(0))).collect();
    let shorter = GateSettings { queue_length: 2, ..settings() };
    gate.rebuild(shorter, vec![member("w1", 1), member("w2", 1)], at(1));
    let displaced = Some(Reason::Overloaded);
    assert_eq!(outcomes(&mut gate), [(ids[3], displaced), (ids[2], displaced), (ids[0], None)]);
}

#[test]
fn advice_never_exceeds_a_minute() {
    let mut gate = gate(GateSettings { queue_length: 0, ..settings() }, &[member("w1", 1)]);
    serve_one(&mut gate, &ask("a"), at(0), at(3_600_000));
    granted(&mut gate, &ask("a"), at(3_600_000));
    let refusal = refused(&mut gate, &ask("b"), at(3_600_000));
    assert_eq!(refusal.retry_after, Some(Duration::from_secs(60)));
}

#[test]
fn while_no_worker_is_there_a_crowd_is_told_two_to_five_seconds_however_large_it_is() {
    let settings = GateSettings { queue_length: 0, ..settings() };
    let mut gate = gate(settings.clone(), &[member("w1", 4)]);
    serve_one(&mut gate, &ask("a"), at(0), at(1000));
    gate.rebuild(settings, vec![PoolMember { eligible: false, ..member("w1", 4) }], at(1000));
    let told: Vec<_> = (0..2000)
        .map(|i| {
            let refusal = refused(&mut gate, &ask("a"), at(1000 + i));
            assert_eq!(refusal.reason, Reason::NoWorker);
            refusal.retry_after.unwrap()
        })
        .collect();
    let (shortest, longest) = (Duration::from_secs(2), Duration::from_secs(5));
    assert!(told.iter().all(|told| (shortest..=longest).contains(told)));
    // The same number in each second.
    for second in 2..5 {
        let here = told.iter().filter(|told| told.as_secs() == second).count();
        assert!((500..=850).contains(&here), "{here} of 2000 in second {second}");
    }
}

#[test]
fn those_who_were_told_while_no_worker_was_there_do_not_push_the_times_of_others_away() {
    let settings = GateSettings { queue_length: 0, ..settings() };
    let mut gate = gate(settings.clone(), &[member("w1", 1)]);
    serve_one(&mut gate, &ask("a"), at(0), at(1000));
    gate.rebuild(settings.clone(), vec![PoolMember { eligible: false, ..member("w1", 1) }], at(1000));
    (0..2000).for_each(|i| _ = refused(&mut gate, &ask("a"), at(1000 + i)));
    gate.rebuild(settings, vec![member("w1", 1)], at(3000));
    granted(&mut gate, &ask("a"), at(3000));
    let retry = refused(&mut gate, &ask("a"), at(3000)).retry_after.unwrap();
    assert!((Duration::from_secs(1)..=Duration::from_millis(1500)).contains(&retry), "{retry:?}");
}

#[test]
fn callers_are_forgotten() {
    let mut gate = gate(settings(), &[member("w1", 1)]);
    for i in 0..100_000_u32 {
        let caller = PermitRequest { expected_output: u64::from(i % 50), ..ask(&format!("ip:{i}")) };
        serve_one(&mut gate, &caller, at(0), at(1));
    }
    assert!(gate.queue.remembered() <= 65_536 + 1024, "{}", gate.queue.remembered());
}
