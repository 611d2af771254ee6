//! Workers on trial: who goes there, and what is counted.

use super::*;
use crate::shed::{CanaryCounts, CanaryShare, SideCounts, WorkerFailure};

const SHARE: CanaryShare = CanaryShare { epoch: 5, per_million: 100_000 };

/// A gate with `old`, and with `new` on trial.
fn on_trial(settings: GateSettings, old: u32, new: u32) -> Gate {
    let members = [member("old", old), PoolMember { canary: true, ..member("new", new) }];
    gate(GateSettings { canary: Some(SHARE), limit: LimitSource::Slots, ..settings }, &members)
}

/// Returns a request of the share, or of the others.
fn of_share(drawn: bool) -> PermitRequest {
    let session = (0..).find(|session| SHARE.takes(*session) == drawn);
    PermitRequest { session, repeatable: true, ..ask("a") }
}

fn counts(gate: &Gate) -> CanaryCounts {
    gate.canary_counts().unwrap().1
}

/// Sends a stream, whose first token comes after `ttft` ms and its 50 tokens in 490 ms more.
fn serve(gate: &mut Gate, ask: &PermitRequest, from: u64, ttft: u64) -> Arc<str> {
    let grant = granted(gate, ask, at(from));
    gate.dispatched(grant.permit, at(from));
    gate.first_token(grant.permit, at(from + ttft));
    gate.release(grant.permit, Ending::Complete, 50, at(from + ttft + 490));
    grant.worker
}

#[test]
fn a_share_of_the_sessions_or_else_of_the_callers_goes_to_the_side_on_trial() {
    let mut gate = on_trial(settings(), 4, 4);
    for turn in 0..20 {
        assert_eq!(&*serve(&mut gate, &of_share(true), turn * 1000, 100), "new");
        assert_eq!(&*serve(&mut gate, &of_share(false), turn * 1000, 100), "old");
    }
    let counts = counts(&gate);
    assert_eq!((counts.canary.served, counts.canary.good, counts.usual.served), (20, 20, 20));
    let number =
        [counts.canary.ttft, counts.canary.pace, counts.canary.whole].map(|moments| moments.0[0].count);
    assert_eq!(number, [20, 20, 0]);
    let (pace, _) = counts.canary.pace.total().mean().unwrap();
    assert!((pace.exp() - 0.010).abs() < 1e-6, "{}", pace.exp());

    let callers = (0..2000).map(|number| PermitRequest { session: None, ..ask(&format!("c{number}")) });
    let drawn = callers.filter(|ask| {
        let worker = serve(&mut gate, ask, 30_000, 100);
        assert_eq!(&*worker == "new", SHARE.takes(ask.caller_key()));
        &*worker == "new"
    });
    let drawn = drawn.count();
    assert!((150..250).contains(&drawn), "{drawn} of 2000");
}

#[test]
fn a_full_side_on_trial_sends_its_share_to_the_others_and_never_takes_theirs() {
    let mut gate = on_trial(settings(), 2, 1);
    let held = granted(&mut gate, &of_share(true), at(0));
    let spilled = granted(&mut gate, &of_share(true), at(0));
    assert_eq!((&*held.worker, &*spilled.worker), ("new", "old"));
    gate.release(held.permit, Ending::Refused, 0, at(0));
    let other = granted(&mut gate, &of_share(false), at(0));
    assert_eq!(&*other.worker, "old");
    // The old side is full: its requests wait, though the new one is idle.
    let waits = waiting(&mut gate, &of_share(false), at(0));
    assert!(outcomes(&mut gate).is_empty());
    gate.dispatched(spilled.permit, at(0));
    gate.release(spilled.permit, Ending::Complete, 50, at(100));
    assert_eq!(outcomes(&mut gate), [(waits, None)]);
    let late = waiting(&mut gate, &of_share(false), at(100));
    gate.process_timeouts(at(5000));
    assert_eq!(outcomes(&mut gate), [(late, Some(Reason::QueueTimeout))]);
    let counts = counts(&gate);
    assert_eq!(counts.canary, SideCounts { spilled: 1, ..SideCounts::default() });
    assert_eq!(counts.usual, SideCounts { refused: 1, ..SideCounts::default() });
}

#[test]
fn a_failure_counts_for_the_side_that_failed_and_the_others_serve_the_request() {
    let mut gate = on_trial(settings(), 2, 2);
    for turn in 0..20 {
        let grant = granted(&mut gate, &of_share(true), at(turn));
        gate.dispatched(grant.permit, at(turn));
        gate.worker_failed(grant.permit, WorkerFailure::Error, at(turn));
        assert_eq!(gate.reassign(grant.permit, at(turn)).as_deref(), Some("old"));
        gate.dispatched(grant.permit, at(turn));
        gate.first_token(grant.permit, at(turn));
        gate.convict("new", WorkerFailure::Error, at(turn));
        gate.release(grant.permit, Ending::Complete, 50, at(turn));
    }
    assert_eq!(counts(&gate).canary, SideCounts { failed: 20, ..SideCounts::default() });
    // It is not ejected: the judge would see no more of its failures.
    assert!(gate.snapshot(at(20)).workers[1].trouble.is_none());

    // Without room at the others it waits for them, and counts once.
    let full: Vec<_> = (0..2).map(|_| granted(&mut gate, &of_share(false), at(50))).collect();
    let grant = granted(&mut gate, &of_share(true), at(50));
    gate.worker_failed(grant.permit, WorkerFailure::Error, at(50));
    assert_eq!(gate.reassign(grant.permit, at(50)), None);
    let (again, _) = gate.resubmit(grant.permit, &of_share(true), at(50)).unwrap().unwrap();
    gate.release(full[0].permit, Ending::Refused, 0, at(60));
    let settled: Vec<_> = gate.take_outcomes().collect();
    let [(id, Ok(next))] = &settled[..] else { panic!("{settled:?}") };
    assert_eq!((*id, &*next.worker), (again, "old"));
    gate.dispatched(next.permit, at(60));
    gate.release(next.permit, Ending::Complete, 50, at(70));
    assert_eq!(counts(&gate).canary, SideCounts { failed: 21, ..SideCounts::default() });
    assert_eq!(counts(&gate).usual, SideCounts::default());
}

#[test]
fn a_prompt_that_its_side_can_never_hold_is_refused_and_holds_up_nobody() {
    let members = [
        PoolMember { kv_tokens: Some(1000), ..member("old", 1) },
        PoolMember { canary: true, kv_tokens: Some(8000), ..member("new", 1) },
    ];
    let settings = GateSettings { canary: Some(SHARE), limit: LimitSource::Slots, ..settings() };
    let mut gate = gate(settings, &members);
    let large = |drawn| PermitRequest { prompt_tokens: 5000, ..of_share(drawn) };
    assert_eq!(&*granted(&mut gate, &large(true), at(0)).worker, "new");
    assert_eq!(refused(&mut gate, &large(false), at(0)).reason, Reason::RequestTooLarge);
    assert_eq!(&*granted(&mut gate, &of_share(false), at(0)).worker, "old");
}

#[test]
fn what_failed_at_its_side_and_gives_way_to_a_critical_request_counts_and_stays_with_the_others() {
    let mut gate = on_trial(settings(), 1, 1);
    let batch = PermitRequest { class: Class::Batch, ..of_share(true) };
    let grant = granted(&mut gate, &batch, at(0));
    gate.dispatched(grant.permit, at(0));
    gate.worker_failed(grant.permit, WorkerFailure::Error, at(0));
    assert_eq!(gate.reassign(grant.permit, at(0)).as_deref(), Some("old"));
    let critical = PermitRequest { class: Class::Critical, ..of_share(false) };
    let urgent = granted(&mut gate, &critical, at(1));
    assert_eq!(gate.take_displaced().count(), 1);
    assert_eq!(counts(&gate).canary, SideCounts { failed: 1, ..SideCounts::default() });
    // The side on trial is idle, but has failed it.
    assert!(outcomes(&mut gate).is_empty());
    gate.release(urgent.permit, Ending::Refused, 0, at(2));
    let settled: Vec<_> = gate.take_outcomes().collect();
    let [(_, Ok(next))] = &settled[..] else { panic!("{settled:?}") };
    assert_eq!(&*next.worker, "old");
}

#[test]
fn late_answers_and_error_answers_are_not_good_and_clients_that_leave_do_not_count() {
    let mut gate = on_trial(settings(), 4, 4);
    serve(&mut gate, &of_share(true), 0, 1500);
    let ends = |gate: &mut Gate, ask: &PermitRequest, from: u64, act: &dyn Fn(&mut Gate, PermitId)| {
        let grant = granted(gate, ask, at(from));
        gate.dispatched(grant.permit, at(from));
        act(gate, grant.permit);
    };
    let share = of_share(true);
    ends(&mut gate, &share, 3000, &|gate, id| {
        gate.answered_with_error(id);
        gate.release(id, Ending::Complete, 0, at(3100));
    });
    ends(&mut gate, &share, 4000, &|gate, id| gate.release(id, Ending::ClientGone, 0, at(4100)));
    ends(&mut gate, &share, 5000, &|gate, id| gate.release(id, Ending::ClientGone, 0, at(6100)));
    ends(&mut gate, &share, 7000, &|gate, id| gate.release(id, Ending::TimedOut, 0, at(9100)));
    let whole = PermitRequest { stream: false, ..share };
    ends(&mut gate, &whole, 9000, &|gate, id| gate.release(id, Ending::Complete, 50, at(10_000)));
    let canary = counts(&gate).canary;
    assert_eq!((canary.served, canary.good, canary.failed), (3, 1, 2));
    assert_eq!((canary.ttft.total().count, canary.whole.total().count), (2, 1));
}

#[test]
fn the_pace_of_the_usual_workers_before_a_canary_is_known_until_others_take_their_place() {
    let members = |canary| vec![member("old", 4), PoolMember { canary, ..member("new", 4) }];
    let mut gate = gate(settings(), &members(false)[..1]);
    for turn in 0..50 {
        serve(&mut gate, &of_share(false), turn * 1000, 100);
    }
    let begins = |gate: &mut Gate, members: Vec<PoolMember>, epoch| {
        let canary = Some(CanaryShare { epoch, ..SHARE });
        gate.rebuild(GateSettings { canary, ..gate.settings.clone() }, members, at(60_000));
        counts(gate).earlier.0[0].count
    };
    assert_eq!(begins(&mut gate, members(true), 1), 50);
    serve(&mut gate, &of_share(false), 61_000, 100);
    assert_eq!(begins(&mut gate, members(true), 2), 50, "what the canary counted is no history");
    let promoted = vec![PoolMember { eligible: false, ..member("old", 4) }, member("new", 4)];
    assert_eq!(begins(&mut gate, promoted, 3), 0);
}

#[test]
fn the_next_canary_counts_from_zero_and_without_one_nothing_is_kept_apart() {
    let mut gate = on_trial(settings(), 4, 4);
    serve(&mut gate, &of_share(true), 0, 100);
    let members = |canary| vec![member("old", 4), PoolMember { canary, ..member("new", 4) }];
    let with = |gate: &Gate, canary| GateSettings { canary, ..gate.settings.clone() };
    let same = with(&gate, Some(CanaryShare { per_million: 200_000, ..SHARE }));
    gate.rebuild(same, members(true), at(1000));
    assert_eq!(counts(&gate).canary.served, 1);
    let next = with(&gate, Some(CanaryShare { epoch: 6, ..SHARE }));
    gate.rebuild(next, members(true), at(1000));
    assert_eq!(counts(&gate), CanaryCounts::default());
    let none = with(&gate, None);
    gate.rebuild(none, members(false), at(1000));
    assert_eq!(gate.canary_counts(), None);
    let workers: Vec<_> = (0..8).map(|_| granted(&mut gate, &of_share(true), at(1000)).worker).collect();
    assert_eq!(workers.iter().filter(|worker| &***worker == "new").count(), 4);
}
