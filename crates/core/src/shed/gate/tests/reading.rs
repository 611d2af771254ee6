//! Conclusions from prompts that are read or not, and from all workers together.

use super::*;
use crate::shed::LoadReport;

/// A gate that knows its only worker: 50 ms, and 1000 tokens per second.
fn known(settings: GateSettings) -> Gate {
    known_by(settings, true)
}

/// The same, known by streams that were `announced` or not.
fn known_by(settings: GateSettings, announced: bool) -> Gate {
    let mut gate = gate(GateSettings { queue_length: 0, ..settings }, &[member("w1", 64)]);
    for i in 0..40 {
        let start = i * 1000;
        let ask = |prompt| PermitRequest { stream: announced, ..stream(prompt) };
        let ahead = granted(&mut gate, &ask(100 * (i % 4)), at(start)).permit;
        let permit = granted(&mut gate, &ask(100), at(start)).permit;
        for permit in [ahead, permit] {
            gate.dispatched(permit, at(start));
            gate.answered_as_stream(permit);
        }
        gate.first_token(ahead, at(start + 50 + 100 * (i % 4)));
        gate.first_token(permit, at(start + 150 + 100 * (i % 4)));
        gate.release(ahead, Ending::Complete, 5, at(start + 900));
        gate.release(permit, Ending::Complete, 5, at(start + 900));
    }
    gate
}

fn stream(prompt_tokens: u64) -> PermitRequest {
    PermitRequest { prompt_tokens, expected_output: 5, ..ask("a") }
}

fn sent(gate: &mut Gate, ask: &PermitRequest, now: Nanos) -> PermitId {
    let permit = granted(gate, ask, now).permit;
    gate.dispatched(permit, now);
    permit
}

fn prefill(gate: &Gate) -> u64 {
    gate.snapshot(Nanos::ZERO).workers[0].prefill_tokens
}

#[test]
fn a_prompt_that_would_be_read_too_late_is_not_sent() {
    let mut gate = known(settings());
    let now = at(50_000);
    let first = sent(&mut gate, &stream(300), now);
    // Behind 300 tokens, 100 more are read within half a second; 300 more behind those are not.
    sent(&mut gate, &stream(100), now);
    assert_eq!(refused(&mut gate, &stream(300), now).reason, Reason::Overloaded);
    gate.first_token(first, at(50_350));
    sent(&mut gate, &stream(100), at(50_350));
}

#[test]
fn a_stream_that_was_not_announced_shows_as_much() {
    let mut gate = known_by(settings(), false);
    let now = at(50_000);
    sent(&mut gate, &stream(400), now);
    assert_eq!(refused(&mut gate, &stream(300), now).reason, Reason::Overloaded);
}

#[test]
fn a_worker_that_reads_nothing_takes_any_prompt() {
    let mut gate = known(settings());
    let now = at(50_000);
    let short = sent(&mut gate, &stream(100), now);
    gate.first_token(short, at(50_150));
    let huge = sent(&mut gate, &stream(100_000), at(50_200));
    assert_eq!(refused(&mut gate, &stream(100), at(50_200)).reason, Reason::Overloaded);
    gate.release(huge, Ending::ClientGone, 0, at(50_300));
    granted(&mut gate, &stream(100), at(50_300));
}

#[test]
fn long_prompts_are_promised_more() {
    let mut gate = known(GateSettings { ttft_per_1k: Duration::from_secs(2), ..settings() });
    let now = at(50_000);
    sent(&mut gate, &stream(600), now);
    assert_eq!(refused(&mut gate, &stream(100), now).reason, Reason::Overloaded);
    // 1000 tokens have 3 s; half of that is enough for 1.6 s less the base time of 0.1 s.
    granted(&mut gate, &stream(800), now);
}

#[test]
fn what_other_gateways_send_is_supposed_to_be_as_much() {
    let mut gate = known(settings());
    gate.settings.gateways = 3;
    let now = at(50_000);
    sent(&mut gate, &stream(200), now);
    assert_eq!(refused(&mut gate, &stream(100), now).reason, Reason::Overloaded);
}

#[test]
fn prompts_of_what_is_not_streamed_count_as_read_after_the_expected_time() {
    let mut gate = known(settings());
    let now = at(50_000);
    let plain = PermitRequest { stream: false, ..stream(400) };
    sent(&mut gate, &plain, now);
    assert_eq!(prefill(&gate), 400);
    assert_eq!(refused(&mut gate, &stream(200), now).reason, Reason::Overloaded);
    gate.process_timeouts(at(51_000));
    assert_eq!(prefill(&gate), 0);
    granted(&mut gate, &stream(200), at(51_000));
}

#[test]
fn a_worker_that_answers_nothing_gets_no_more_until_it_does() {
    let mut gate = known(settings());
    let lost = sent(&mut gate, &stream(100), at(50_000));
    let late = sent(&mut gate, &stream(100), at(50_001));
    granted(&mut gate, &stream(1), at(50_400));
    assert_eq!(refused(&mut gate, &stream(1), at(51_000)).reason, Reason::Overloaded);
    // A request that was overtaken says nothing about the others.
    gate.first_token(late, at(51_100));
    granted(&mut gate, &stream(1), at(51_100));
    gate.release(lost, Ending::TimedOut, 0, at(80_000));
}

#[test]
fn streams_that_flow_while_another_waits_show_how_much_a_worker_decodes() {
    let mut gate = known(settings());
    for worker in gate.workers.iter_mut().flatten() {
        worker.member.slots = None;
    }
    let flowing: Vec<_> = (0..6).map(|_| sent(&mut gate, &stream(1), at(50_000))).collect();
    flowing.iter().for_each(|permit| gate.first_token(*permit, at(50_060)));
    let waits = sent(&mut gate, &stream(1), at(50_100));
    let limit = |gate: &Gate| gate.snapshot(Nanos::ZERO).workers[0].limit;
    for tick in 1..=8 {
        assert!(limit(&gate) > 6, "at {tick}");
        flowing.iter().for_each(|permit| gate.tokens(*permit, tick, at(50_060 + tick * 20)));
    }
    for tick in 9..=40 {
        flowing.iter().for_each(|permit| gate.tokens(*permit, tick, at(50_060 + tick * 20)));
    }
    assert_eq!(limit(&gate), 6);
    gate.release(waits, Ending::ClientGone, 0, at(52_000));
}

#[test]
fn several_workers_have_a_ceiling_below_the_sum_of_their_slots() {
    let ceiling = |workers: &[PoolMember], settings: GateSettings| {
        let mut gate = gate(GateSettings { queue_length: 0, fleet_factor: 0.83, ..settings }, workers);
        (0..100).take_while(|_| gate.ask(&ask("a"), at(0)).is_ok()).count()
    };
    let workers: Vec<_> = (0..4).map(|i| member(&format!("w{i}"), 10)).collect();
    assert_eq!(ceiling(&workers[..1], settings()), 10);
    assert_eq!(ceiling(&workers[..2], settings()), 17);
    assert_eq!(ceiling(&workers, settings()), 34);
    assert_eq!(ceiling(&workers, GateSettings { gateways: 2, ..settings() }), 17);
    let fixed = GateSettings { limit: LimitSource::Fixed(5), ..settings() };
    assert_eq!(ceiling(&workers[..2], fixed), 9);
    let mut untold = workers;
    untold[0].slots = None;
    assert_eq!(ceiling(&untold[..2], settings()), 32 + 10);
}

fn reported(kv_used: u64, waiting: u32) -> LoadReport {
    LoadReport {
        kv_used: Some(kv_used),
        running: None,
        waiting: Some(waiting),
        valid_for: Duration::from_secs(3),
    }
}

#[test]
fn a_report_only_ever_lowers_what_is_known_here() {
    let member = PoolMember { kv_tokens: Some(2000), ..member("w1", 64) };
    let mut gate = gate(GateSettings { queue_length: 0, ..settings() }, &[member]);
    let room = |gate: &mut Gate, now: Nanos| {
        let permits: Vec<_> = std::iter::from_fn(|| match gate.ask(&ask("a"), now) {
            Ok(GateAnswer::Granted(grant)) => Some(grant.permit),
            _ => None,
        })
        .collect();
        permits.iter().for_each(|permit| gate.release(*permit, Ending::Refused, 0, now));
        permits.len()
    };
    // One stays, as an idle worker would take anything.
    granted(&mut gate, &ask("a"), at(0));
    // 0.9 · 2000 tokens hold eleven more of 150 beside it.
    assert_eq!(room(&mut gate, at(0)), 11);
    gate.report("w1", reported(1000, 0), at(1));
    assert_eq!(room(&mut gate, at(1)), 5);
    // Tokens sent since are added, also after their end: the report does not know.
    assert_eq!(room(&mut gate, at(2)), 0);
    gate.report("w1", reported(0, 0), at(3));
    assert_eq!(room(&mut gate, at(3)), 11, "an empty cache does not make more room than is known here");
    gate.report("w1", reported(1799, 0), at(4));
    assert_eq!(room(&mut gate, at(5)), 0);
    assert_eq!(room(&mut gate, at(3004)), 11, "a report that is out of date says nothing");
    gate.report("w2", reported(2000, 0), at(3005));
    assert_eq!(room(&mut gate, at(3005)), 11);
}

#[test]
fn a_reported_queue_cuts_and_none_does_not_raise() {
    let mut gate = known(settings());
    let limit = |gate: &Gate| gate.snapshot(Nanos::ZERO).workers[0].limit;
    let before = limit(&gate);
    let seconds = |gate: &mut Gate, waiting: u32, from: u64| {
        for i in 0..30 {
            let now = at(from + i * 100);
            gate.report("w1", reported(0, waiting), now);
            let permit = sent(gate, &stream(1), now);
            gate.first_token(permit, at(from + i * 100 + 60));
            gate.release(permit, Ending::Complete, 5, at(from + i * 100 + 90));
        }
    };
    seconds(&mut gate, 0, 50_000);
    assert_eq!(limit(&gate), before);
    seconds(&mut gate, 10, 60_000);
    assert!(limit(&gate) < before, "{} after {before}", limit(&gate));
}

#[test]
fn a_weight_scales_a_limit_down_and_zero_takes_the_worker_out() {
    let mut gate = gate(GateSettings { queue_length: 0, ..settings() }, &[member("w1", 8)]);
    let limit = |gate: &Gate| gate.snapshot(Nanos::ZERO).workers[0].limit;
    for (weight, expected) in [(0.5, 4), (7.0, 8), (0.01, 1), (f64::NAN, 8)] {
        gate.weigh("w1", weight, at(0));
        assert_eq!(limit(&gate), expected, "{weight}");
    }
    gate.weigh("w1", 0.0, at(0));
    assert_eq!(refused(&mut gate, &ask("a"), at(0)).reason, Reason::NoWorker);
    gate.weigh("w1", 1.0, at(1));
    granted(&mut gate, &ask("a"), at(1));
}

/// The limit after a minute in which every fourth stream waits 600 ms for the process that has its
/// session, before it is served as all others are.
fn limit_after_waits(told: bool) -> u32 {
    let mut gate = known(GateSettings { ttft_slo: Duration::from_secs(1), ..settings() });
    let wait = |step: u64| if step.is_multiple_of(4) { 600 } else { 0 };
    let mut moments: Vec<(u64, bool, u64)> = Vec::new();
    for step in 0..600 {
        let start = 50_000 + step * 100;
        moments.push((start, false, step));
        moments.push((start + wait(step) + 150, true, step));
    }
    moments.sort_unstable();
    let mut permits = std::collections::HashMap::new();
    for (millis, answered, step) in moments {
        if !answered {
            let permit = sent(&mut gate, &stream(100), at(millis));
            if told && wait(step) > 0 {
                gate.waits_for_session(permit, Duration::from_secs(1));
            }
            permits.insert(step, permit);
            continue;
        }
        let permit = permits.remove(&step).unwrap();
        if told && wait(step) > 0 {
            gate.session_begun_after(permit, Duration::from_millis(wait(step)), at(millis));
        }
        gate.first_token(permit, at(millis));
        gate.release(permit, Ending::Complete, 5, at(millis));
    }
    gate.snapshot(at(120_000)).workers[0].limit
}

#[test]
fn a_wait_for_the_process_that_has_the_session_is_no_load() {
    assert!(limit_after_waits(false) < limit_after_waits(true), "the waits look like load");
    assert!(limit_after_waits(true) >= 28, "{}", limit_after_waits(true));
}

#[test]
fn without_word_of_such_a_wait_its_first_token_says_nothing() {
    let mut gate = known(settings());
    let known = gate.snapshot(at(45_000)).workers[0].limit;
    for step in 0..100 {
        let start = 50_000 + step * 1000;
        let permit = sent(&mut gate, &stream(100), at(start));
        gate.waits_for_session(permit, Duration::from_secs(1));
        gate.first_token(permit, at(start + 900));
        gate.release(permit, Ending::Complete, 5, at(start + 910));
    }
    assert_eq!(gate.snapshot(at(160_000)).workers[0].limit, known);
    // Nor about the time that prompts take: had it, 100 tokens would come too late behind 300.
    sent(&mut gate, &stream(300), at(160_000));
    sent(&mut gate, &stream(100), at(160_000));
}

#[test]
fn what_was_learned_of_an_idle_worker_is_shown() {
    let idle = known(settings()).snapshot(at(50_000)).workers[0].idle_ttft.clone();
    // Prompts of 0, 100, 200 and 300 tokens were seen.
    let sizes: Vec<_> = idle.iter().map(|(size, _)| *size).collect();
    assert_eq!(sizes, [1, 128, 256, 512]);
    for ((_, ttft), expected) in idle.iter().zip([50, 150, 250, 350]) {
        assert!((expected..expected + 5).contains(&ttft.as_millis()), "{idle:?}");
    }
}
