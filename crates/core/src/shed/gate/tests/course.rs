//! The life of a permit: ledgers, samples for limit algorithms, failures, and moves.

use std::sync::Mutex;

use super::*;
use crate::shed::algorithm::{LimitAlgorithm, WorkerHints, WorkerSample};
use crate::shed::{PermitId, WorkerFailure};

#[derive(Debug)]
struct Listening(Arc<Mutex<Vec<WorkerSample>>>);

impl LimitAlgorithm for Listening {
    fn limit(&self) -> u32 {
        8
    }

    fn observe(&mut self, sample: WorkerSample, _now: Nanos) {
        self.0.lock().unwrap().push(sample);
    }

    fn reconfigure(&mut self, _told: &WorkerHints) {}
}

/// The samples that the limit algorithm of a gate's only worker gets from `act`.
fn heard(act: impl FnOnce(&mut Gate, PermitId)) -> Vec<WorkerSample> {
    let samples = Arc::new(Mutex::new(Vec::new()));
    let mut gate = gate(settings(), &[member("w1", 8)]);
    for worker in gate.workers.iter_mut().flatten() {
        worker.law = Box::new(Listening(Arc::clone(&samples)));
    }
    let permit = granted(&mut gate, &ask("a"), at(0)).permit;
    act(&mut gate, permit);
    let samples = samples.lock().unwrap();
    samples.clone()
}

#[test]
fn a_law_hears_the_whole_course() {
    let samples = heard(|gate, permit| {
        gate.dispatched(permit, at(10));
        gate.first_token(permit, at(310));
        gate.first_token(permit, at(320));
        gate.tokens(permit, 1, at(310));
        gate.tokens(permit, 9, at(450));
        gate.release(permit, Ending::Complete, 12, at(500));
        gate.release(permit, Ending::Complete, 12, at(500));
    });
    assert_eq!(
        samples,
        [
            WorkerSample::Dispatch { in_flight: 1 },
            WorkerSample::FirstToken {
                dispatched: at(10),
                ttft: Duration::from_millis(300),
                expected: Duration::from_millis(300),
                slo: Duration::from_secs(1),
                flowing: 1,
            },
            WorkerSample::Tokens { count: 8, span: Duration::from_millis(140) },
            WorkerSample::End { elapsed: Duration::from_millis(490), in_flight: 1 },
        ]
    );
}

#[test]
fn a_law_hears_of_a_gap_in_everything_instead_of_slow_tokens() {
    let samples = heard(|gate, permit| {
        gate.dispatched(permit, at(10));
        gate.first_token(permit, at(310));
        gate.tokens(permit, 1, at(310));
        gate.tokens(permit, 9, at(470));
    });
    assert_eq!(samples.last(), Some(&WorkerSample::Stalled { from: at(310), to: at(470) }));
}

#[test]
fn a_law_hears_each_way_to_end() {
    let end = WorkerSample::End { elapsed: Duration::from_millis(1), in_flight: 1 };
    let failed = WorkerSample::WorkerFailed { in_flight: 1 };
    for (ending, heard_at_end) in [
        (Ending::Complete, Some(end)),
        (Ending::ClientGone, Some(WorkerSample::ClientGone)),
        (Ending::WorkerFailed, Some(failed)),
        (Ending::TimedOut, Some(failed)),
        (Ending::Refused, None),
    ] {
        let samples = heard(|gate, permit| {
            gate.dispatched(permit, at(1));
            gate.release(permit, ending, 0, at(2));
        });
        assert_eq!(samples.get(1).copied(), heard_at_end, "{ending:?}");
    }
    let told_before = heard(|gate, permit| {
        gate.dispatched(permit, at(1));
        gate.worker_failed(permit, WorkerFailure::Broke, at(2));
        gate.release(permit, Ending::WorkerFailed, 0, at(2));
    });
    assert_eq!(told_before[1..], [failed]);
    let never_sent = heard(|gate, permit| gate.release(permit, Ending::ClientGone, 0, at(1)));
    assert_eq!(never_sent, []);
}

#[test]
fn the_ledger_follows_what_arrives() {
    let mut gate = gate(settings(), &[member("w1", 8)]);
    let permit = granted(&mut gate, &ask("a"), at(0)).permit;
    let ledger = |gate: &Gate| {
        let worker = &gate.snapshot(at(0)).workers[0];
        (worker.in_flight, worker.prefill_tokens, worker.tokens)
    };
    assert_eq!(ledger(&gate), (1, 100, 150));
    gate.first_token(permit, at(1));
    gate.tokens(permit, 40, at(2));
    assert_eq!(ledger(&gate), (1, 0, 150));
    gate.tokens(permit, 70, at(3));
    assert_eq!(ledger(&gate), (1, 0, 170));
    gate.release(permit, Ending::Complete, 80, at(4));
    assert_eq!(ledger(&gate), (0, 0, 0));
}

#[test]
fn tokens_of_streams_are_counted_once_each_and_those_of_whole_answers_not() {
    let mut gate = gate(settings(), &[member("w1", 8)]);
    for stream in [true, false] {
        let permit = granted(&mut gate, &PermitRequest { stream, ..ask("a") }, at(0)).permit;
        gate.dispatched(permit, at(0));
        gate.tokens(permit, 10, at(100));
        gate.tokens(permit, 25, at(200));
        gate.release(permit, Ending::Complete, 30, at(300));
        assert_eq!(gate.snapshot(at(300)).workers[0].streamed, 30);
    }
}

#[test]
fn kv_tokens_bound_what_is_in_flight_and_the_largest_prompt() {
    let kv = |tokens| PoolMember { kv_tokens: Some(tokens), ..member("w1", 8) };
    let mut gate = gate(GateSettings { queue_length: 0, ..settings() }, &[kv(500)]);
    // 0.9 · 500 = 450 tokens hold three requests of 150.
    for _ in 0..3 {
        granted(&mut gate, &ask("a"), at(0));
    }
    let refusal = refused(&mut gate, &ask("a"), at(0));
    assert_eq!(refusal.reason, Reason::Overloaded);
    assert!(refusal.message.contains("(3 of 8 slots taken)"), "{}", refusal.message);
    let refusal = refused(&mut gate, &PermitRequest { prompt_tokens: 501, ..ask("a") }, at(0));
    assert_eq!((refusal.reason, refusal.retry_after), (Reason::RequestTooLarge, None));
}

#[test]
fn an_idle_worker_takes_what_is_heavier_than_its_limits() {
    let members = [PoolMember { kv_tokens: Some(500), ..member("w1", 2) }];
    let mut gate = gate(GateSettings { queue_length: 0, ..settings() }, &members);
    let heavy = PermitRequest { prompt_tokens: 500, expected_output: 900, sequences: 5, ..ask("a") };
    let permit = granted(&mut gate, &heavy, at(0)).permit;
    refused(&mut gate, &ask("a"), at(0));
    gate.release(permit, Ending::Complete, 0, at(1));
    granted(&mut gate, &ask("a"), at(1));
    refused(&mut gate, &heavy, at(1));
}

#[test]
fn told_limits_are_shared_among_gateways() {
    let mut gate = gate(GateSettings { gateways: 3, queue_length: 0, ..settings() }, &[member("w1", 8)]);
    assert_eq!((0..8).take_while(|_| gate.ask(&ask("a"), at(0)).is_ok()).count(), 2);
}

#[test]
fn two_failed_connections_put_a_worker_aside_and_a_trial_brings_it_back() {
    let mut gate = gate(GateSettings { queue_length: 0, ..settings() }, &[member("w1", 8)]);
    let permits: Vec<_> = (0..2).map(|_| granted(&mut gate, &ask("a"), at(0)).permit).collect();
    for permit in permits {
        gate.worker_failed(permit, WorkerFailure::Connect, at(0));
        gate.release(permit, Ending::Refused, 0, at(0));
    }
    let refusal = refused(&mut gate, &ask("a"), at(500));
    assert_eq!(refusal.reason, Reason::NoWorker);
    assert!(refusal.retry_after.is_some());
    assert!(!gate.snapshot(at(999)).workers[0].reachable);

    let trial: Vec<_> = (0..4).map(|_| granted(&mut gate, &ask("a"), at(1000)).permit).collect();
    refused(&mut gate, &ask("a"), at(1000));
    gate.dispatched(trial[0], at(1000));
    gate.first_token(trial[0], at(1001));
    granted(&mut gate, &ask("a"), at(1001));
}

#[test]
fn who_waits_is_served_when_a_cool_down_ends() {
    let patient = GateSettings { wait_no_worker: Duration::from_secs(5), ..settings() };
    let mut gate = gate(patient, &[member("w1", 1)]);
    for now in [0, 1] {
        let permit = granted(&mut gate, &ask("a"), at(now)).permit;
        gate.worker_failed(permit, WorkerFailure::Connect, at(now));
        gate.release(permit, Ending::Refused, 0, at(now));
    }
    let id = waiting(&mut gate, &ask("a"), at(2));
    gate.process_timeouts(at(1000));
    assert_eq!(outcomes(&mut gate), []);
    gate.process_timeouts(at(1001));
    assert_eq!(outcomes(&mut gate), [(id, None)]);
}

#[test]
fn a_seat_moves_to_each_worker_once_and_only_where_there_is_room() {
    let mut gate = gate(settings(), &[member("w1", 1), member("w2", 1), member("w3", 1)]);
    let permit = granted(&mut gate, &ask("a"), at(0)).permit;
    let elsewhere = granted(&mut gate, &ask("b"), at(0));
    assert_eq!(elsewhere.worker.as_ref(), "w2");
    assert_eq!(gate.reassign(permit, at(1)).as_deref(), Some("w3"));
    let in_flight =
        |gate: &Gate| gate.snapshot(at(1)).workers.iter().map(|w| w.in_flight).collect::<Vec<_>>();
    assert_eq!(in_flight(&gate), [0, 1, 1]);
    assert_eq!(gate.reassign(permit, at(1)), None);
    gate.release(elsewhere.permit, Ending::Complete, 0, at(2));
    assert_eq!(gate.reassign(permit, at(2)).as_deref(), Some("w2"));
    gate.release(permit, Ending::Complete, 0, at(3));
    assert_eq!(in_flight(&gate), [0, 0, 0]);
}

#[test]
fn a_removed_worker_keeps_its_ledger_and_may_come_back_with_it() {
    let mut gate = gate(GateSettings { queue_length: 0, ..settings() }, &[member("w1", 2)]);
    let permit = granted(&mut gate, &ask("a"), at(0)).permit;
    gate.rebuild(gate.settings.clone(), vec![member("w2", 1)], at(1));
    let leaving = |gate: &Gate| {
        let workers = gate.snapshot(at(1)).workers;
        workers.into_iter().map(|w| (w.id.to_string(), w.in_flight, w.leaving)).collect::<Vec<_>>()
    };
    assert_eq!(leaving(&gate), [("w1".to_owned(), 1, true), ("w2".to_owned(), 0, false)]);
    gate.rebuild(gate.settings.clone(), vec![member("w1", 2)], at(1));
    assert_eq!(leaving(&gate), [("w1".to_owned(), 1, false)]);
    gate.rebuild(gate.settings.clone(), Vec::new(), at(1));
    gate.release(permit, Ending::Complete, 0, at(2));
    assert_eq!(leaving(&gate), []);
}

#[test]
fn sequences_that_end_make_room_before_the_request_does() {
    let mut gate = gate(GateSettings { queue_length: 0, ..settings() }, &[member("w1", 4)]);
    let wide = granted(&mut gate, &PermitRequest { sequences: 4, ..ask("a") }, at(0));
    assert_eq!(wide.sequences, 4);
    refused(&mut gate, &ask("a"), at(1));
    gate.finished(wide.permit, 1, at(2));
    let one = granted(&mut gate, &ask("a"), at(2)).permit;
    refused(&mut gate, &ask("a"), at(2));
    // It keeps one place until the end, whatever the worker says.
    gate.finished(wide.permit, 9, at(3));
    assert_eq!(gate.snapshot(at(3)).workers[0].in_flight, 2);
    gate.release(wide.permit, Ending::Complete, 9, at(4));
    gate.release(one, Ending::Complete, 9, at(4));
    let rest = gate.snapshot(at(4));
    assert_eq!((rest.in_flight(), rest.workers[0].tokens, gate.in_flight), (0, 0, 0));
}

#[test]
fn a_wide_request_needs_one_place_and_no_more_than_half_the_limit_beyond() {
    let mut gate = gate(GateSettings { queue_length: 0, ..settings() }, &[member("w1", 8)]);
    let wide = |sequences| PermitRequest { sequences, ..ask("a") };
    granted(&mut gate, &wide(7), at(0));
    refused(&mut gate, &wide(6), at(0));
    granted(&mut gate, &wide(5), at(0));
    refused(&mut gate, &wide(1), at(0));
}

#[test]
fn a_seat_is_held_however_long_nothing_is_heard_of_it() {
    let mut gate = gate(GateSettings { queue_length: 0, ..settings() }, &[member("w1", 1)]);
    let permit = granted(&mut gate, &ask("a"), at(0)).permit;
    gate.dispatched(permit, at(0));
    for hour in 1..=100 {
        gate.process_timeouts(at(hour * 3_600_000));
        refused(&mut gate, &ask("a"), at(hour * 3_600_000));
    }
    assert_eq!(gate.snapshot(at(0)).in_flight(), 1);
}
