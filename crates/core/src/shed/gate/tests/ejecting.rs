//! Ejection of workers that fail requests which others can serve.

use std::collections::VecDeque;

use fastrand::Rng;

use super::*;
use crate::request::PromptPrefix;
use crate::shed::pick::{Candidate, Pick};
use crate::shed::settings::PrefixSettings;
use crate::shed::{EjectionMode, EjectionSettings, WorkerFailure, WorkerTrouble};

fn gate_of(count: usize, ejection: EjectionSettings) -> Gate {
    let members: Vec<_> = (1..=count).map(|number| member(&format!("w{number}"), 8)).collect();
    gate(GateSettings { ejection, ..settings() }, &members)
}

fn of(count: usize) -> Gate {
    gate_of(count, EjectionSettings::default())
}

/// Sends a request to `worker` at `now` and returns its permit.
fn sent_to(gate: &mut Gate, worker: &str, caller: &str, now: Nanos) -> PermitId {
    let mut elsewhere = Vec::new();
    let permit = loop {
        let grant = granted(gate, &ask(caller), now);
        if &*grant.worker == worker {
            break grant.permit;
        }
        elsewhere.push(grant.permit);
    };
    elsewhere.into_iter().for_each(|permit| gate.release(permit, Ending::ClientGone, 0, now));
    gate.dispatched(permit, now);
    permit
}

/// Lets `worker` serve a request.
fn serves(gate: &mut Gate, worker: &str, caller: &str, now: Nanos) {
    let permit = sent_to(gate, worker, caller, now);
    gate.release(permit, Ending::Complete, 5, now);
}

/// Lets `worker` fail a request that goes nowhere else.
fn fails(gate: &mut Gate, worker: &str, caller: &str, failure: WorkerFailure, now: Nanos) {
    let permit = sent_to(gate, worker, caller, now);
    gate.worker_failed(permit, failure, now);
    gate.suspect(permit, worker, failure, now);
    gate.release(permit, Ending::Refused, 0, now);
}

/// Lets `worker` fail a request that another one serves.
fn fails_alone(gate: &mut Gate, worker: &str, failure: WorkerFailure, now: Nanos) {
    let permit = sent_to(gate, worker, "a", now);
    gate.worker_failed(permit, failure, now);
    gate.reassign(permit, now).expect("another has room");
    gate.convict(worker, failure, now);
    gate.release(permit, Ending::ClientGone, 0, now);
}

fn troubles(gate: &Gate, now: Nanos) -> Vec<Option<WorkerTrouble>> {
    gate.snapshot(now).workers.iter().map(|worker| worker.trouble).collect()
}

fn open(gate: &Gate, now: Nanos) -> Vec<bool> {
    gate.snapshot(now).workers.iter().map(|worker| worker.reachable).collect()
}

#[test]
fn who_fails_five_that_others_serve_is_ejected_and_tried_with_one() {
    for failure in [WorkerFailure::Error, WorkerFailure::Refused, WorkerFailure::Broke] {
        let mut gate = of(4);
        for _ in 0..4 {
            fails_alone(&mut gate, "w1", failure, at(0));
        }
        assert_eq!(open(&gate, at(0)), [true; 4]);
        fails_alone(&mut gate, "w1", failure, at(0));
        assert_eq!(open(&gate, at(4999)), [false, true, true, true]);
        assert_eq!(open(&gate, at(5000)), [true; 4]);
        assert_eq!(
            troubles(&gate, at(5000))[0],
            Some(WorkerTrouble::Ejected),
            "not well before it has served"
        );
        let trial = sent_to(&mut gate, "w1", "a", at(5000));
        let worker = gate.snapshot(at(5000)).workers[0].clone();
        assert_eq!((worker.in_flight, worker.limit), (1, 1));
        gate.first_token(trial, at(5100));
        assert_eq!(troubles(&gate, at(5100))[0], Some(WorkerTrouble::Ejected), "it may break off yet");
        gate.release(trial, Ending::Complete, 5, at(5200));
        assert_eq!(troubles(&gate, at(5200)), [None; 4]);
    }
}

#[test]
fn a_failed_trial_ejects_for_twice_as_long() {
    let mut gate = of(2);
    for _ in 0..5 {
        fails_alone(&mut gate, "w1", WorkerFailure::Error, at(0));
    }
    fails_alone(&mut gate, "w1", WorkerFailure::Error, at(5000));
    assert_eq!((open(&gate, at(14_999)), open(&gate, at(15_000))), (vec![false, true], vec![true; 2]));
    // A failure without certain evidence only delays the next trial.
    let permit = sent_to(&mut gate, "w1", "a", at(15_000));
    gate.worker_failed(permit, WorkerFailure::Error, at(15_000));
    gate.release(permit, Ending::Refused, 0, at(15_000));
    assert_eq!((open(&gate, at(15_999)), open(&gate, at(16_000))), (vec![false, true], vec![true; 2]));
}

#[test]
fn what_failed_before_an_ejection_does_not_lengthen_it() {
    let mut gate = of(2);
    let permits: Vec<_> = (0..7).map(|_| sent_to(&mut gate, "w1", "a", at(0))).collect();
    for permit in &permits {
        gate.worker_failed(*permit, WorkerFailure::Error, at(1));
        gate.reassign(*permit, at(1)).expect("another has room");
    }
    for (number, permit) in (0..).zip(permits) {
        gate.convict("w1", WorkerFailure::Error, at(10 + number));
        gate.release(permit, Ending::Complete, 5, at(10 + number));
    }
    assert_eq!((open(&gate, at(5013)), open(&gate, at(5014))), (vec![false, true], vec![true; 2]));
}

#[test]
fn a_stream_that_flows_for_long_enough_ends_an_ejection() {
    let mut gate = of(2);
    for _ in 0..5 {
        fails_alone(&mut gate, "w1", WorkerFailure::Error, at(0));
    }
    let trial = sent_to(&mut gate, "w1", "a", at(5000));
    gate.first_token(trial, at(5100));
    gate.tokens(trial, 10, at(9999));
    assert_eq!(troubles(&gate, at(9999))[0], Some(WorkerTrouble::Ejected));
    gate.tokens(trial, 20, at(10_000));
    assert_eq!(troubles(&gate, at(10_000)), [None; 2]);
}

#[test]
fn a_prompt_that_fails_anywhere_ejects_nobody() {
    let mut gate = of(4);
    for now in 0..100 {
        for worker in ["w1", "w2", "w3", "w4"] {
            fails(&mut gate, worker, "poisoner", WorkerFailure::Broke, at(now * 10));
        }
    }
    assert_eq!(troubles(&gate, at(1000)), [None; 4]);
    // Other requests are served beside it.
    for now in 100..200 {
        for worker in ["w1", "w2", "w3", "w4"] {
            serves(&mut gate, worker, "b", at(now * 10));
            fails(&mut gate, worker, "poisoner", WorkerFailure::Broke, at(now * 10));
        }
    }
    assert_eq!(troubles(&gate, at(2000)), [None; 4]);
}

#[test]
fn streams_that_break_off_eject_where_two_callers_met_it_or_others_do_well() {
    for (callers, well, by, ejected) in [
        (2, 0, "a", true),
        (1, 5, "a", true),
        (1, 4, "a", false),
        // Another caller that is served says nothing about this one's requests.
        (1, 50, "b", false),
    ] {
        let mut gate = of(2);
        for number in 0..5 {
            let permit = sent_to(&mut gate, "w1", ["a", "b"][number % callers], at(0));
            gate.first_token(permit, at(1));
            gate.release(permit, Ending::WorkerFailed, 3, at(2));
            if number == 0 {
                (0..well).for_each(|_| serves(&mut gate, "w2", by, at(2)));
            }
        }
        assert_eq!(open(&gate, at(2)), [!ejected, true], "{callers} callers, {well} well");
    }
}

/// The less loaded of two random workers, and sessions at a worker of their own.
fn random_gate(slots: &[u32]) -> Gate {
    let any = |candidates: &[Candidate], random: &mut Rng| {
        let drawn = [random.usize(..candidates.len()), random.usize(..candidates.len())];
        drawn
            .into_iter()
            .filter(|index| candidates[*index].fits)
            .min_by_key(|index| candidates[*index].in_flight * 1000 / candidates[*index].limit)
    };
    let members: Vec<_> =
        slots.iter().enumerate().map(|(at, slots)| member(&format!("w{}", at + 1), *slots)).collect();
    let rank = |session: u64, key: u64| (session ^ key).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut gate =
        Gate::new("default".into(), settings(), Pick { any, rank, below_session_share: |_, _| true }, 7);
    gate.rebuild(gate.settings.clone(), members, Nanos::ZERO);
    gate
}

/// Sends `count` requests of callers in turn. The worker `bad` fails each at once, the others serve four
/// at a time. Returns how many `bad` got.
fn drawn_by(gate: &mut Gate, bad: &str, callers: &[&str], count: u64) -> usize {
    let (mut drawn, mut served) = (0, VecDeque::new());
    for (number, caller) in (0..count).zip(callers.iter().cycle()) {
        let grant = granted(gate, &ask(caller), at(number));
        gate.dispatched(grant.permit, at(number));
        if &*grant.worker == bad {
            drawn += 1;
            gate.release(grant.permit, Ending::WorkerFailed, 0, at(number));
        } else {
            served.push_back(grant.permit);
        }
        if served.len() > 8 {
            gate.release(served.pop_front().unwrap(), Ending::Complete, 5, at(number));
        }
    }
    served.into_iter().for_each(|permit| gate.release(permit, Ending::Complete, 5, at(count)));
    drawn
}

#[test]
fn who_fails_more_at_once_than_the_others_serve_is_ejected() {
    let mut gate = random_gate(&[64; 3]);
    let drawn = drawn_by(&mut gate, "w1", &["a"], 200);
    assert_eq!(open(&gate, at(200)), [false, true, true]);
    assert!(drawn < 60, "{drawn} of 200");
}

#[test]
fn one_prompt_that_fails_in_its_session_ejects_nobody() {
    for (sessions, ejected) in [(1, false), (20, true)] {
        let mut gate = random_gate(&[64; 4]);
        for number in 0..400 {
            let bound = PermitRequest { session: Some(number % sessions), ..ask("a") };
            let grant = granted(&mut gate, &bound, at(number));
            gate.dispatched(grant.permit, at(number));
            // Of one session all fail wherever it is, of many those that are at the first worker.
            let failed = sessions == 1 || &*grant.worker == "w1";
            let ending = if failed { Ending::WorkerFailed } else { Ending::Complete };
            gate.release(grant.permit, ending, 3, at(number));
            let other = granted(&mut gate, &ask("b"), at(number)).permit;
            gate.dispatched(other, at(number));
            gate.release(other, Ending::Complete, 3, at(number));
        }
        assert_eq!(open(&gate, at(400)), [!ejected, true, true, true], "{sessions} sessions");
    }
}

#[test]
fn a_worker_that_fails_and_is_not_ejected_gets_no_more_than_its_share() {
    // The other one may have a smaller limit.
    for slots in [64, 16] {
        let mut gate = random_gate(&[64, 64, slots]);
        for worker in ["w1", "w2"] {
            for caller in ["a", "b", "a", "b", "a"] {
                fails(&mut gate, worker, caller, WorkerFailure::Error, at(0));
            }
        }
        assert_eq!(
            troubles(&gate, at(0)),
            [Some(WorkerTrouble::Ejected), Some(WorkerTrouble::Failing), None]
        );
        let drawn = drawn_by(&mut gate, "w2", &["a", "b"], 400);
        assert!((100..240).contains(&drawn), "{drawn} of 400 went to the one that fails");
    }
}

#[test]
fn what_is_bound_to_a_worker_that_fails_goes_elsewhere_while_there_is_room() {
    let prefix = Arc::new(PromptPrefix { blocks: (1..=8).collect(), bytes: 2048 });
    for prefix in [None, Some(prefix)] {
        let mut gate = random_gate(&[64; 2]);
        gate.settings.prefix = prefix.as_ref().map(|_| PrefixSettings { capacity: None });
        let bound = |session: u64| PermitRequest {
            session: Some(session),
            prefix: prefix.clone(),
            ..ask(["a", "b"][session as usize % 2])
        };
        // The one fails all, the other one is at most half of the pool and gets none for a while.
        for worker in ["w1", "w2"] {
            for caller in ["a", "b", "a", "b", "a"] {
                fails(&mut gate, worker, caller, WorkerFailure::Error, at(0));
            }
        }
        let now = at(6000);
        serves(&mut gate, "w1", "a", now);
        assert_eq!(troubles(&gate, now), [None, Some(WorkerTrouble::Failing)]);
        for session in 0..30 {
            assert_eq!(&*granted(&mut gate, &bound(session), now).worker, "w1", "{session} {prefix:?}");
        }
        let places: Vec<_> =
            (30..40).map(|session| granted(&mut gate, &bound(session), now).worker).collect();
        assert!(places.iter().any(|worker| &**worker == "w2"), "w1 has no more room");
    }
}

#[test]
fn no_more_than_half_of_a_pool_is_ejected_and_never_the_only_worker() {
    for (workers, most) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)] {
        let mut gate = of(workers);
        for number in 1..=workers {
            let worker = format!("w{number}");
            for caller in ["a", "b", "a", "b", "a"] {
                fails(&mut gate, &worker, caller, WorkerFailure::Error, at(0));
            }
        }
        let ejected =
            troubles(&gate, at(0)).iter().filter(|trouble| **trouble == Some(WorkerTrouble::Ejected)).count();
        assert_eq!(ejected, most, "of {workers}");
        let failing =
            troubles(&gate, at(0)).iter().filter(|trouble| **trouble == Some(WorkerTrouble::Failing)).count();
        assert_eq!(failing, workers - most, "the others are shown");
    }
}

#[test]
fn who_was_ejected_serves_when_nobody_else_can() {
    let mut gate = of(2);
    for _ in 0..5 {
        fails_alone(&mut gate, "w1", WorkerFailure::Error, at(0));
    }
    let permit = sent_to(&mut gate, "w2", "a", at(100));
    for _ in 0..2 {
        gate.worker_failed(permit, WorkerFailure::Connect, at(100));
    }
    assert_eq!(&*granted(&mut gate, &ask("a"), at(101)).worker, "w1");
    assert_eq!(&*granted(&mut gate, &ask("a"), at(101)).worker, "w1", "with more than a trial");
    assert_eq!(troubles(&gate, at(101))[0], Some(WorkerTrouble::Failing));
}

#[test]
fn who_says_that_it_is_busy_is_left_alone_and_never_ejected() {
    let mut gate = of(2);
    let busy = |asks: Option<u64>| WorkerFailure::Busy(asks.map(Duration::from_secs));
    fails(&mut gate, "w1", "a", busy(Some(7)), at(0));
    assert_eq!((open(&gate, at(999)), open(&gate, at(1000))), (vec![false, true], vec![true; 2]));
    assert_eq!(troubles(&gate, at(1000))[0], Some(WorkerTrouble::Busy));
    // Another worker served it, so the requested pause does not concern this caller alone.
    fails_alone(&mut gate, "w1", busy(Some(7)), at(1000));
    assert_eq!((open(&gate, at(7999)), open(&gate, at(8000))), (vec![false, true], vec![true; 2]));
    for _ in 0..20 {
        let now = at(8000);
        if open(&gate, now)[0] {
            fails(&mut gate, "w1", "b", busy(None), now);
        }
    }
    assert_eq!(troubles(&gate, at(8000))[0], Some(WorkerTrouble::Busy));
    let permit = sent_to(&mut gate, "w1", "a", at(90_000));
    gate.first_token(permit, at(90_001));
    assert_eq!(troubles(&gate, at(90_001)), [None; 2]);
    let mut alone = of(1);
    fails(&mut alone, "w1", "a", busy(Some(7)), at(0));
    assert_eq!(open(&alone, at(0)), [true], "the only one");
}

/// Lets both workers fail all requests of 35 s, one every 100 ms. Then the one that is set aside is well,
/// and the other one busy. Returns for how many milliseconds requests still fail.
fn back_after(mut failure: WorkerFailure) -> u64 {
    let mut gate = of(2);
    let mut well = None;
    for millis in (0..200_000).step_by(100) {
        let now = at(millis);
        if well.is_none() && millis >= 35_000 {
            let aside = gate.snapshot(now).workers.into_iter().find(|worker| !worker.reachable);
            well = aside.map(|worker| (worker.id, millis));
            failure = WorkerFailure::Busy(None);
        }
        let grant = granted(&mut gate, &ask(if millis % 200 == 0 { "a" } else { "b" }), now);
        gate.dispatched(grant.permit, now);
        match &well {
            Some((well, since)) if *well == grant.worker => return millis - since,
            _ => gate.worker_failed(grant.permit, failure, now),
        }
        gate.suspect(grant.permit, &grant.worker, failure, now);
        gate.release(grant.permit, Ending::Refused, 0, now);
    }
    u64::MAX
}

#[test]
fn a_worker_that_is_well_again_serves_soon_if_the_others_refuse_everything() {
    // Paused for longer and longer, or ejected.
    for failure in [WorkerFailure::Busy(None), WorkerFailure::Error] {
        let back = back_after(failure);
        assert!(back <= 10_000, "{failure:?}: {back} ms");
    }
}

#[test]
fn errors_are_no_samples_of_speed_and_plain_ones_no_failures() {
    let mut gate = of(2);
    for caller in ["a", "b"].into_iter().cycle().take(60) {
        let permit = sent_to(&mut gate, "w1", caller, at(0));
        gate.answered_with_error(permit);
        gate.release(permit, Ending::Complete, 0, at(1));
    }
    assert_eq!(troubles(&gate, at(1)), [None; 2]);
}

#[test]
fn observed_workers_are_shown_and_keep_their_work() {
    let observe = EjectionSettings { mode: EjectionMode::Observe, ..EjectionSettings::default() };
    for (ejection, trouble) in [
        (observe, Some(WorkerTrouble::Failing)),
        (EjectionSettings { mode: EjectionMode::Off, ..observe }, None),
    ] {
        let mut gate = gate_of(2, ejection);
        for _ in 0..5 {
            fails_alone(&mut gate, "w1", WorkerFailure::Error, at(0));
        }
        fails_alone(&mut gate, "w2", WorkerFailure::Busy(Some(Duration::from_secs(7))), at(0));
        assert_eq!((open(&gate, at(0)), troubles(&gate, at(0))[0]), (vec![true; 2], trouble));
        serves(&mut gate, "w1", "a", at(1));
        assert_eq!(troubles(&gate, at(1)), [None; 2], "a success ends it");
    }
}

#[test]
fn leaving_and_coming_back_ends_no_ejection() {
    let mut gate = of(3);
    for n in 0..5 {
        fails_alone(&mut gate, "w1", WorkerFailure::Error, at(n));
    }
    let members: Vec<_> = (1..=3).map(|number| member(&format!("w{number}"), 8)).collect();
    gate.rebuild(gate.settings.clone(), members[1..].to_vec(), at(10));
    assert_eq!(gate.snapshot(at(10)).workers.len(), 2);
    gate.rebuild(gate.settings.clone(), members.clone(), at(20));
    let of_w1 = |gate: &Gate, now: Nanos| {
        let snapshot = gate.snapshot(now);
        let w1 = snapshot.workers.iter().find(|worker| &*worker.id == "w1").unwrap();
        (w1.trouble, w1.reachable)
    };
    assert_eq!(of_w1(&gate, at(20)), (Some(WorkerTrouble::Ejected), false));
    assert!(of_w1(&gate, at(6000)).1, "it is tried when its time is over");
    serves(&mut gate, "w1", "a", at(6000));
    assert_eq!(of_w1(&gate, at(6010)), (None, true));
    // What is over is not remembered.
    gate.rebuild(gate.settings.clone(), members[1..].to_vec(), at(6020));
    gate.rebuild(gate.settings.clone(), members, at(6030));
    assert_eq!(of_w1(&gate, at(6030)), (None, true));
}
