//! Workers that hang: silence on all streams, and connections that break before an answer.

use super::*;
use crate::shed::{PoolMember, WorkerFailure, WorkerTrouble};

fn two() -> Gate {
    gate(settings(), &[member("w1", 8), member("w2", 8)])
}

/// Sends a stream to the worker `id`, chosen because it is the least loaded. Its first token comes
/// at `now` if it `begins`.
fn stream(gate: &mut Gate, id: &str, begins: bool, now: Nanos) -> PermitId {
    let grant = granted(gate, &PermitRequest { repeatable: true, ..ask("a") }, now);
    assert_eq!(&*grant.worker, id);
    gate.dispatched(grant.permit, now);
    if begins {
        gate.first_token(grant.permit, now);
    }
    grant.permit
}

fn reachable(gate: &Gate, now: Nanos) -> Vec<bool> {
    gate.snapshot(now).workers.iter().map(|worker| worker.reachable).collect()
}

#[test]
fn silence_on_all_streams_puts_a_worker_aside_and_what_it_has_not_begun_leaves() {
    let mut gate = two();
    let hangs = stream(&mut gate, "w1", true, at(0));
    let lives = stream(&mut gate, "w2", true, at(0));
    let unread = stream(&mut gate, "w1", false, at(10));
    for millis in (100..2000).step_by(100) {
        gate.tokens(lives, millis / 100, at(millis));
        assert!(!gate.awaits(hangs, at(millis)) && !gate.awaits(unread, at(millis)));
    }
    assert_eq!(reachable(&gate, at(1999)), [true, true]);
    assert!(!gate.awaits(hangs, at(2000)), "what was begun stays");
    assert_eq!(reachable(&gate, at(2000)), [false, true]);
    assert!(gate.awaits(unread, at(2000)));
    assert_eq!(gate.reassign(unread, at(2000)).as_deref(), Some("w2"));
    for _ in 0..6 {
        stream(&mut gate, "w2", false, at(2001));
    }
    refused_or_waiting(&mut gate, at(2001));
}

/// Asserts that there is no room anywhere.
fn refused_or_waiting(gate: &mut Gate, now: Nanos) {
    assert!(!matches!(gate.ask(&ask("b"), now), Ok(GateAnswer::Granted(_))));
}

#[test]
fn after_the_cool_down_it_is_tried_with_four_beside_what_hangs_and_one_first_token_restores_it() {
    let mut gate = gate(settings(), &[member("w1", 16)]);
    let hung: Vec<_> = (0..5).map(|_| stream(&mut gate, "w1", true, at(0))).collect();
    assert!(!gate.awaits(hung[0], at(2000)));
    assert_eq!(reachable(&gate, at(2999)), [false]);
    assert_eq!(gate.snapshot(at(3000)).workers[0].limit, 5 + 4);
    // Requests that have hung since then do not start another cool-down.
    assert!(!gate.awaits(hung[1], at(3000)));
    let tried: Vec<_> = (0..4).map(|_| stream(&mut gate, "w1", false, at(3000))).collect();
    refused_or_waiting(&mut gate, at(3000));
    // A trial that hangs does, after its own time, and a longer one.
    assert!(!gate.awaits(tried[0], at(4999)));
    assert_eq!(reachable(&gate, at(4999)), [true]);
    assert!(!gate.awaits(tried[0], at(5000)), "there is no other worker");
    assert_eq!((reachable(&gate, at(6999)), reachable(&gate, at(7000))), (vec![false], vec![true]));
    for permit in hung.into_iter().chain(tried) {
        gate.release(permit, Ending::TimedOut, 0, at(7000));
    }
    assert_eq!(gate.snapshot(at(7000)).workers[0].limit, 4);
    let good = stream(&mut gate, "w1", false, at(7000));
    gate.first_token(good, at(7100));
    assert_eq!(gate.snapshot(at(7100)).workers[0].limit, 16);
}

#[test]
fn a_token_on_any_stream_ends_the_silence() {
    let mut gate = two();
    let hangs = stream(&mut gate, "w1", true, at(0));
    assert!(!gate.awaits(hangs, at(2500)));
    assert_eq!(reachable(&gate, at(2500)), [false, true]);
    gate.tokens(hangs, 2, at(2600));
    assert_eq!(reachable(&gate, at(2600)), [true, true]);
    assert_eq!(gate.snapshot(at(2600)).workers[0].limit, 8);
}

#[test]
fn a_worker_of_slow_tokens_is_given_five_times_their_time() {
    let mut gate = gate(settings(), &[member("w1", 8)]);
    let slow = stream(&mut gate, "w1", true, at(0));
    for count in 1..=20 {
        gate.tokens(slow, count, at(count * 1000));
    }
    // Five times a second per token, within the width of a bucket.
    for (millis, silent) in [(23_000, false), (24_900, false), (25_300, true)] {
        assert!(!gate.awaits(slow, at(millis)));
        assert_eq!(reachable(&gate, at(millis)), [!silent], "{millis}");
    }
}

#[test]
fn a_worker_that_reads_a_long_prompt_is_not_silent() {
    let mut gate = gate(settings(), &[member("w1", 8)]);
    // A token takes 1 ms to read.
    for second in 0..20 {
        let (tokens, sent) = (100 + 700 * (second % 2), at(second * 1000));
        let grant = granted(&mut gate, &PermitRequest { prompt_tokens: tokens, ..ask("a") }, sent);
        gate.dispatched(grant.permit, sent);
        gate.first_token(grant.permit, sent + Duration::from_millis(tokens));
        gate.release(grant.permit, Ending::Complete, 5, sent + Duration::from_millis(tokens + 10));
    }
    let waits = stream(&mut gate, "w1", true, at(20_000));
    let long = granted(&mut gate, &PermitRequest { prompt_tokens: 10_000, ..ask("a") }, at(20_001));
    gate.dispatched(long.permit, at(20_001));
    assert!(!gate.awaits(waits, at(26_000)));
    assert_eq!(reachable(&gate, at(26_000)), [true]);
    assert!(!gate.awaits(waits, at(32_000)));
    assert_eq!(reachable(&gate, at(32_000)), [false]);
}

#[test]
fn a_worker_that_begins_nothing_any_more_is_silent_once_it_is_known_how_long_that_takes() {
    for (known, silent) in [(0, false), (10, true)] {
        let mut gate = two();
        for count in 0..known {
            let permit = stream(&mut gate, "w1", true, at(count));
            gate.release(permit, Ending::Complete, 5, at(count));
        }
        let unread = stream(&mut gate, "w1", false, at(1000));
        // It should be there, plus half the TTFT SLO and two seconds.
        assert!(!gate.awaits(unread, at(3400)));
        assert_eq!(gate.awaits(unread, at(3600)), silent);
        assert_eq!(reachable(&gate, at(3600)), [!silent, true]);
    }
}

#[test]
fn who_breaks_before_it_answers_can_be_reached() {
    let mut gate = two();
    let permits = [stream(&mut gate, "w1", false, at(0)), stream(&mut gate, "w2", false, at(0))];
    for _ in 0..5 {
        gate.worker_failed(permits[0], WorkerFailure::Broke, at(1));
    }
    assert_eq!(reachable(&gate, at(1)), [true, true]);
    for permit in permits {
        gate.worker_failed(permit, WorkerFailure::Connect, at(1));
        gate.worker_failed(permit, WorkerFailure::Connect, at(1));
    }
    assert_eq!(reachable(&gate, at(1)), [false, false]);
    let troubles = |now| gate.snapshot(now).workers.iter().map(|worker| worker.trouble).collect::<Vec<_>>();
    let unreachable = Some(WorkerTrouble::Unreachable);
    assert_eq!((reachable(&gate, at(1001)), troubles(at(1001))), (vec![true; 2], vec![unreachable; 2]));
}

/// A known worker: 16 streams flow from `at(0)` to `at(2000)`, with a report every 100 ms.
fn flowing() -> (Gate, Vec<PermitId>) {
    let mut gate = gate(settings(), &[PoolMember { slots: None, ..member("w1", 16) }]);
    for count in 0..30 {
        let permit = stream(&mut gate, "w1", true, at(count));
        gate.release(permit, Ending::Complete, 5, at(count));
    }
    let permits: Vec<_> = (0..16).map(|_| stream(&mut gate, "w1", true, at(100))).collect();
    (200..=2000).step_by(100).for_each(|now| flow(&mut gate, &permits, now));
    (gate, permits)
}

fn flow(gate: &mut Gate, permits: &[PermitId], now: u64) {
    permits.iter().for_each(|permit| gate.tokens(*permit, now / 20, at(now)));
}

fn limit(gate: &Gate) -> u32 {
    gate.snapshot(Nanos::ZERO).workers[0].limit
}

#[test]
fn a_moment_in_which_nothing_flows_says_nothing_of_how_many_a_worker_decodes() {
    let (mut gate, permits) = flowing();
    let before = limit(&gate);
    let unread: Vec<_> = (0..4).map(|i| stream(&mut gate, "w1", false, at(2050 + i))).collect();
    // A second of nothing; then the streams go on before the first tokens come.
    (3050..3300).step_by(50).for_each(|now| flow(&mut gate, &permits, now));
    unread.iter().for_each(|permit| gate.first_token(*permit, at(3300)));
    (3350..4500).step_by(50).for_each(|now| flow(&mut gate, &permits, now));
    assert_eq!(limit(&gate), before);
    // The same delay while the streams flow is a queue.
    let waits = stream(&mut gate, "w1", false, at(4500));
    (4550..5500).step_by(50).for_each(|now| flow(&mut gate, &permits, now));
    assert_eq!(limit(&gate), 16);
    gate.release(waits, Ending::ClientGone, 0, at(5500));
}

#[test]
fn what_the_gateway_was_late_for_is_held_against_nobody() {
    for told in [true, false] {
        let (mut gate, permits) = flowing();
        let before = limit(&gate);
        let unread = stream(&mut gate, "w1", false, at(2050));
        if told {
            gate.lagged(at(2060), at(5060), Duration::ZERO);
        }
        assert!(!gate.awaits(permits[0], at(5070)));
        assert_eq!(reachable(&gate, at(5070)), [told]);
        gate.first_token(unread, at(5080));
        assert_eq!((limit(&gate), reachable(&gate, at(5080))), (before, vec![true]));
    }
}

#[test]
fn a_missed_first_token_shows_the_silence_of_a_worker_whose_speed_is_unknown() {
    for flows in [false, true] {
        let mut gate = two();
        let hangs = stream(&mut gate, "w1", false, at(0));
        let lives = stream(&mut gate, "w2", true, at(0));
        let beside = flows.then(|| stream(&mut gate, "w1", true, at(10)));
        for millis in (500..20_000).step_by(500) {
            gate.tokens(lives, millis / 500, at(millis));
            beside.into_iter().for_each(|beside| gate.tokens(beside, millis / 500, at(millis)));
            assert!(!gate.awaits(hangs, at(millis)));
        }
        gate.worker_failed(hangs, WorkerFailure::Timeout, at(20_000));
        assert_eq!(reachable(&gate, at(20_000)), [flows, true]);
    }
}

#[test]
fn a_gateway_that_is_late_again_and_again_sees_a_silence_nevertheless() {
    let mut gate = two();
    let hangs = stream(&mut gate, "w1", true, at(0));
    let lives = stream(&mut gate, "w2", true, at(0));
    let seen = (0..10_000).step_by(100).find(|millis| {
        // Throttled: it runs for 200 ms and is late for 300, of which a third is credited.
        if millis % 500 == 400 {
            gate.lagged(at(millis - 300), at(*millis), Duration::from_millis(100));
        }
        gate.tokens(lives, millis / 100, at(*millis));
        gate.awaits(hangs, at(*millis));
        reachable(&gate, at(*millis)) == [false, true]
    });
    assert_eq!(seen, Some(2500), "two seconds and the credit");
}

#[test]
fn a_worker_that_is_back_has_the_limit_that_it_had() {
    let (mut gate, permits) = flowing();
    let before = limit(&gate);
    assert!(!gate.awaits(permits[0], at(4100)));
    assert_eq!(reachable(&gate, at(4100)), [false]);
    flow(&mut gate, &permits, 6000);
    assert_eq!((limit(&gate), reachable(&gate, at(6000))), (before, vec![true]));
}

/// Sends streams to both workers for 2 s each, which is what their clients wait for. `w2` answers at
/// once, `w1` if it is `well`. Returns how many `w1` got from `from` to `to`.
fn impatient(gate: &mut Gate, well: bool, from: u64, to: u64) -> usize {
    let mut got = 0;
    let mut waiting: Vec<(PermitId, u64)> = Vec::new();
    for millis in (from..to).step_by(100) {
        let (leave, stay): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|(_, sent)| millis >= sent + 2000);
        waiting = stay;
        for (permit, _) in leave {
            gate.abandon(permit, 0, at(millis));
        }
        let grant = granted(gate, &ask("a"), at(millis));
        gate.dispatched(grant.permit, at(millis));
        let is_first = &*grant.worker == "w1";
        got += usize::from(is_first);
        if well || !is_first {
            gate.first_token(grant.permit, at(millis + 10));
            gate.release(grant.permit, Ending::Complete, 5, at(millis + 20));
        } else {
            waiting.push((grant.permit, millis));
        }
    }
    for (permit, _) in waiting {
        gate.abandon(permit, 0, at(to));
    }
    got
}

#[test]
fn a_worker_that_hangs_is_tried_ever_less_often_though_its_callers_leave_soon() {
    for known in [false, true] {
        let mut gate = two();
        let begin = if known { 4000 } else { 0 };
        impatient(&mut gate, true, 0, begin);
        let first = impatient(&mut gate, false, begin, begin + 10_000);
        assert!(first <= 25, "{known}: {first} of 100");
        let worker = |gate: &Gate| gate.snapshot(at(begin + 10_000)).workers[0].trouble;
        assert_eq!(worker(&gate), Some(WorkerTrouble::Silent), "{known}");
        let later = impatient(&mut gate, false, begin + 10_000, begin + 40_000);
        assert!((1..=4).contains(&later), "{known}: {later} of 300");
        // Its next answer ends that.
        assert!(impatient(&mut gate, true, begin + 40_000, begin + 60_000) > 50, "{known}");
        assert_eq!(worker(&gate), None, "{known}");
        assert_eq!(gate.snapshot(at(begin + 60_000)).workers[0].limit, 8, "{known}");
    }
}

#[test]
fn clients_that_leave_a_well_worker_say_nothing() {
    // They hang up at once; or all leave in one bad moment, again and again, with answers in between.
    for (left, answers) in [(900, false), (3000, true)] {
        let mut gate = two();
        for round in 0..8 {
            let (sent, left) = (at(round * 5000), at(round * 5000 + left));
            let permits = [(); 4].map(|()| granted(&mut gate, &ask("a"), sent).permit);
            permits.iter().for_each(|permit| gate.dispatched(*permit, sent));
            permits.iter().for_each(|permit| gate.abandon(*permit, 0, left));
            assert_eq!(reachable(&gate, left), [true; 2], "{left:?}");
            for id in ["w1", "w2"].iter().filter(|_| answers) {
                let only = PermitRequest { worker: Some(Arc::from(*id)), ..ask("b") };
                let permit = granted(&mut gate, &only, left).permit;
                gate.dispatched(permit, left);
                gate.first_token(permit, left + Duration::from_millis(100));
                gate.release(permit, Ending::Complete, 5, left + Duration::from_millis(100));
            }
        }
    }
}

#[test]
fn the_last_worker_keeps_its_requests_though_they_leave_it() {
    let mut gate = gate(settings(), &[member("w1", 8)]);
    for round in 0..10 {
        let sent = at(round * 3000);
        let permit = stream(&mut gate, "w1", false, sent);
        gate.abandon(permit, 0, sent + Duration::from_millis(2000));
    }
    assert_eq!(gate.snapshot(at(30_000)).workers[0].trouble, None);
}
