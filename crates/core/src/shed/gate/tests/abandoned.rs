//! Non-streamed answers whose clients have left, and load that this gateway did not send.

use super::*;
use crate::shed::LoadReport;

fn whole(caller: &str) -> PermitRequest {
    PermitRequest { stream: false, ..ask(caller) }
}

/// A gate with one worker, which has answered 50 tokens in a second.
fn known(slots: u32) -> Gate {
    let settings = GateSettings { limit: LimitSource::Slots, ..settings() };
    let mut gate = gate(settings, &[member("w1", slots)]);
    serve_one(&mut gate, &whole("a"), at(0), at(1000));
    gate
}

/// The permit of a request that was sent to its worker.
fn sent(gate: &mut Gate, ask: &PermitRequest, now: Nanos) -> PermitId {
    let permit = granted(gate, ask, now).permit;
    gate.dispatched(permit, now);
    permit
}

fn in_flight(gate: &Gate, now: Nanos) -> u32 {
    gate.snapshot(now).workers[0].in_flight
}

#[test]
fn a_whole_answer_is_counted_until_it_should_be_whole() {
    let mut gate = known(1);
    let permit = sent(&mut gate, &whole("a"), at(2000));
    gate.abandon(permit, 0, at(2100));
    gate.process_timeouts(at(2999));
    assert_eq!(in_flight(&gate, at(2999)), 1);
    gate.process_timeouts(at(3000));
    assert_eq!(in_flight(&gate, at(3000)), 0);
    // Half as many tokens take half as long. Then the waiting request has the permit.
    let half = PermitRequest { expected_output: 25, ..whole("a") };
    let permit = sent(&mut gate, &half, at(4000));
    gate.abandon(permit, 0, at(4100));
    let next = waiting(&mut gate, &ask("b"), at(4400));
    gate.process_timeouts(at(4500));
    assert_eq!(outcomes(&mut gate), [(next, None)]);
}

#[test]
fn what_the_worker_does_not_work_on_is_free_at_once() {
    let mut gate = known(1);
    let costless = PermitRequest { prompt_tokens: 0, expected_output: 0, ..whole("a") };
    for (ask, is_sent, left_at) in [
        (ask("a"), true, at(2100)),
        (whole("a"), false, at(3100)),
        (costless, true, at(4100)),
        // Longer than expected.
        (whole("a"), true, at(6000)),
    ] {
        let granted_at = if left_at == at(6000) { at(5000) } else { left_at - Duration::from_millis(100) };
        let permit = granted(&mut gate, &ask, granted_at).permit;
        if is_sent {
            gate.dispatched(permit, granted_at);
        }
        gate.abandon(permit, 0, left_at);
        assert_eq!(in_flight(&gate, left_at), 0, "{ask:?}");
    }
}

#[test]
fn the_wait_is_bounded_and_guessed_where_nothing_is_known() {
    let mut gate = gate(settings(), &[member("w1", 1)]);
    let permit = sent(&mut gate, &whole("a"), at(0));
    gate.abandon(permit, 0, at(10));
    gate.process_timeouts(at(1500));
    assert_eq!(in_flight(&gate, at(1500)), 1, "fifty tokens are not read and written in so little");
    gate.process_timeouts(at(4000));
    assert_eq!(in_flight(&gate, at(4000)), 0);
    let endless = PermitRequest { expected_output: 1_000_000, ..whole("a") };
    let permit = sent(&mut gate, &endless, at(10_000));
    gate.abandon(permit, 0, at(10_010));
    gate.process_timeouts(at(69_999));
    assert_eq!(in_flight(&gate, at(69_999)), 1);
    gate.process_timeouts(at(70_000));
    assert_eq!(in_flight(&gate, at(70_000)), 0);
}

fn running(running: u32) -> LoadReport {
    LoadReport { kv_used: None, running: Some(running), waiting: Some(0), valid_for: Duration::from_secs(3) }
}

#[test]
fn a_worker_that_reports_less_has_stopped() {
    let mut gate = known(4);
    gate.report("w1", running(0), at(1500));
    let long = PermitRequest { expected_output: 1000, ..whole("a") };
    let permits = [2000, 2001, 2002].map(|now| sent(&mut gate, &long, at(now)));
    gate.abandon(permits[0], 0, at(2100));
    gate.abandon(permits[1], 0, at(2100));
    gate.report("w1", running(1), at(2500));
    assert_eq!(in_flight(&gate, at(2500)), 3, "it may be older than what was sent since the last one");
    gate.report("w1", running(3), at(3500));
    assert_eq!(in_flight(&gate, at(3500)), 3);
    gate.report("w1", running(2), at(4500));
    assert_eq!(in_flight(&gate, at(4500)), 2);
    gate.report("w1", running(1), at(5500));
    assert_eq!(in_flight(&gate, at(5500)), 1, "one client waits");
    gate.report("w1", running(0), at(6500));
    assert_eq!(in_flight(&gate, at(6500)), 1);
}

#[test]
fn what_others_run_there_leaves_less() {
    let limit = |gate: &Gate, now| gate.snapshot(now).workers[0].limit;
    let mut gate = known(8);
    gate.report("w1", running(0), at(1500));
    let permits = [2000, 2001, 2002].map(|now| sent(&mut gate, &ask("a"), at(now)));
    for permit in permits {
        gate.release(permit, Ending::Complete, 1, at(2300));
    }
    gate.report("w1", running(3), at(2500));
    assert_eq!(limit(&gate, at(2500)), 8, "they were ours when it counted");
    gate.report("w1", running(3), at(3500));
    gate.report("w1", running(3), at(4500));
    assert_eq!(limit(&gate, at(4500)), 5);
    gate.report("w1", running(20), at(5500));
    assert_eq!(limit(&gate, at(5500)), 1, "one is always tried");
    let _first = granted(&mut gate, &ask("a"), at(5600));
    let next = waiting(&mut gate, &ask("a"), at(8400));
    gate.process_timeouts(at(8500));
    assert_eq!((limit(&gate, at(8500)), outcomes(&mut gate)), (8, vec![(next, None)]), "it is out of date");

    // The other gateway may take half of its slots.
    let shared = GateSettings { limit: LimitSource::Slots, gateways: 2, ..settings() };
    let mut gate = super::gate(shared, &[member("w1", 8)]);
    gate.report("w1", running(4), at(1000));
    assert_eq!(limit(&gate, at(1000)), 4);
    gate.report("w1", running(6), at(2000));
    assert_eq!(limit(&gate, at(2000)), 3);
}
