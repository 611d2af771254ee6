//! Conflicts of classes: critical requests take permits of batch, and batch is not starved.

use super::*;
use crate::shed::{Displaced, WorkerFailure};

fn of(class: Class) -> PermitRequest {
    PermitRequest { class, repeatable: true, ..ask(&format!("{class:?}")) }
}

fn displaced(gate: &mut Gate) -> Vec<Displaced> {
    gate.take_displaced().collect()
}

#[test]
fn a_critical_request_takes_the_seat_of_the_youngest_batch_request_without_a_token() {
    let mut gate = gate(settings(), &[member("w1", 3)]);
    let old = granted(&mut gate, &of(Class::Batch), at(0)).permit;
    let young = granted(&mut gate, &of(Class::Batch), at(1)).permit;
    let begun = granted(&mut gate, &of(Class::Batch), at(2)).permit;
    gate.dispatched(begun, at(2));
    gate.first_token(begun, at(3));
    granted(&mut gate, &of(Class::Critical), at(4));
    let events = displaced(&mut gate);
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].permit, young);
    let Ok((id, expires_at)) = events[0].next else { panic!("{events:?}") };
    assert_eq!(expires_at, at(254));
    // Its permit is revoked; it is served again when there is room.
    gate.release(young, Ending::ClientGone, 0, at(5));
    assert_eq!(gate.snapshot(at(5)).workers[0].in_flight, 3);
    gate.release(old, Ending::Complete, 5, at(6));
    assert_eq!(outcomes(&mut gate), [(id, None)]);
}

#[test]
fn who_finds_no_place_in_the_queue_either_is_refused() {
    let mut gate = gate(GateSettings { queue_length: 0, ..settings() }, &[member("w1", 1)]);
    granted(&mut gate, &of(Class::Batch), at(0));
    granted(&mut gate, &of(Class::Critical), at(1));
    let events = displaced(&mut gate);
    let refusal = events[0].next.clone().unwrap_err();
    assert_eq!(refusal.reason, Reason::Overloaded);
    assert!(refusal.message.contains("took this request's slot"), "{}", refusal.message);
    assert!(refusal.retry_after.is_some());
}

#[test]
fn nobody_else_gives_way_and_for_nobody_else() {
    let kept = [
        (of(Class::Interactive), of(Class::Critical)),
        (of(Class::Batch), of(Class::Interactive)),
        (PermitRequest { repeatable: false, ..of(Class::Batch) }, of(Class::Critical)),
        // It would not have room even then.
        (of(Class::Batch), PermitRequest { sequences: 3, ..of(Class::Critical) }),
    ];
    for (holds, asks) in kept {
        let mut gate = gate(settings(), &[member("w1", 2)]);
        granted(&mut gate, &holds, at(0));
        granted(&mut gate, &PermitRequest { repeatable: false, ..of(Class::Interactive) }, at(0));
        waiting(&mut gate, &asks, at(1));
        assert!(displaced(&mut gate).is_empty(), "{holds:?} {asks:?}");
    }
}

#[test]
fn an_answer_that_begins_keeps_its_seat() {
    let mut gate = gate(settings(), &[member("w1", 1)]);
    let permit = granted(&mut gate, &of(Class::Batch), at(0)).permit;
    assert!(gate.keep(permit));
    waiting(&mut gate, &of(Class::Critical), at(1));
    assert!(displaced(&mut gate).is_empty());

    gate.release(permit, Ending::Complete, 5, at(2));
    assert!(!gate.keep(permit));
}

#[test]
fn a_seat_that_moved_to_another_worker_can_still_be_taken() {
    let mut gate = gate(settings(), &[member("w1", 1), member("w2", 1)]);
    let permit = granted(&mut gate, &of(Class::Batch), at(0)).permit;
    gate.worker_failed(permit, WorkerFailure::Broke, at(1));
    assert_eq!(gate.reassign(permit, at(1)).as_deref(), Some("w2"));
    granted(&mut gate, &ask("a"), at(2));
    granted(&mut gate, &of(Class::Critical), at(3));
    assert_eq!(displaced(&mut gate)[0].permit, permit);
}

#[test]
fn what_was_taken_away_costs_its_caller_nothing() {
    let mut gate = gate(settings(), &[member("w1", 2)]);
    let batch = PermitRequest { prompt_tokens: 1_000_000, ..of(Class::Batch) };
    granted(&mut gate, &PermitRequest { repeatable: false, ..of(Class::Batch) }, at(0));
    granted(&mut gate, &PermitRequest { caller: Arc::from("heavy"), ..batch }, at(0));
    let critical = granted(&mut gate, &of(Class::Critical), at(1)).permit;
    assert_eq!(displaced(&mut gate).len(), 1);
    // If it were charged, `other` would go first.
    let other = waiting(&mut gate, &PermitRequest { caller: Arc::from("other"), ..of(Class::Batch) }, at(2));
    gate.release(critical, Ending::Complete, 5, at(3));
    let served = outcomes(&mut gate);
    assert!(served.len() == 1 && served[0].0 != other, "{served:?}");
}

#[test]
fn a_class_that_is_shut_out_goes_first_once_in_a_while() {
    let patient =
        GateSettings { promote: Duration::from_secs(2), queue_wait: Duration::from_secs(60), ..settings() };
    let mut gate = gate(patient, &[member("w1", 1)]);
    let mut permit = granted(&mut gate, &of(Class::Interactive), at(0)).permit;
    let batch: Vec<_> = (0..2).map(|_| waiting(&mut gate, &of(Class::Batch), at(0))).collect();
    let mut served = Vec::new();
    for second in 0..5 {
        let now = at(1 + second * 1000);
        waiting(&mut gate, &of(Class::Interactive), now);
        gate.release(permit, Ending::Complete, 5, now);
        let settled: Vec<_> = gate.take_outcomes().collect();
        assert_eq!(settled.len(), 1);
        for (id, outcome) in settled {
            permit = outcome.unwrap().permit;
            served.push(batch.contains(&id));
        }
    }
    // At 2 s it has waited 2 s. Once served, it waits 2 s more before it is first again.
    assert_eq!(served, [false, false, true, false, false]);
}
