//! Callers that use several gateways.

use std::collections::HashMap;

use super::*;
use crate::shed::{CallerDigest, CallerTokens};

/// Milliseconds for which a request holds its permit.
const HOLD: u64 = 50;

fn told(caller: &str, tokens: u64) -> CallerTokens {
    CallerTokens { class: Class::Interactive, caller: CallerDigest::of(caller), tokens }
}

/// A gateway with one place, at which some callers always wait.
struct BusyGate {
    gate: Gate,
    permit: PermitId,
    waiting: HashMap<WaiterId, &'static str>,
    served: HashMap<&'static str, u64>,
}

impl BusyGate {
    fn new(callers: &[&'static str]) -> Self {
        let patient = GateSettings {
            limit: LimitSource::Slots,
            queue_wait: Duration::from_secs(3600),
            promote: Duration::ZERO,
            ..settings()
        };
        let mut gate = gate(patient, &[member("w1", 1)]);
        let permit = granted(&mut gate, &ask("first"), at(0)).permit;
        let mut busy = Self { gate, permit, waiting: HashMap::new(), served: HashMap::new() };
        callers.iter().for_each(|caller| busy.wait(caller, at(0)));
        assert_eq!(busy.gate.tokens_to_tell(), [], "the first call begins to keep charges");
        busy
    }

    fn wait(&mut self, caller: &'static str, now: Nanos) {
        let id = waiting(&mut self.gate, &ask(caller), now);
        self.waiting.insert(id, caller);
    }

    /// Ends the request under way; the next one begins, and its caller waits again.
    fn serve(&mut self, now: Nanos) {
        self.gate.dispatched(self.permit, now);
        self.gate.release(self.permit, Ending::Complete, 50, now);
        let (id, outcome) = self.gate.take_outcomes().next().unwrap();
        self.permit = outcome.unwrap().permit;
        let caller = self.waiting.remove(&id).unwrap();
        *self.served.entry(caller).or_default() += 1;
        self.wait(caller, now);
    }

    fn served(&self, caller: &str) -> u64 {
        self.served.get(caller).copied().unwrap_or(0)
    }
}

/// Serves for a minute at all gates. With `exchange`, they tell each other once a second.
fn run(gates: &mut [BusyGate], exchange: bool) {
    for millis in (HOLD..=60_000).step_by(HOLD as usize) {
        gates.iter_mut().for_each(|busy| busy.serve(at(millis)));
        if exchange && millis % 1000 == 0 {
            let told: Vec<_> = gates.iter_mut().map(|busy| busy.gate.tokens_to_tell()).collect();
            for (place, busy) in gates.iter_mut().enumerate() {
                for (_, told) in told.iter().enumerate().filter(|(other, _)| *other != place) {
                    busy.gate.hear_tokens(told, at(millis));
                }
            }
        }
    }
}

#[test]
fn a_caller_of_three_gateways_gets_one_share_and_not_three() {
    let three = || [["greedy", "a"], ["greedy", "b"], ["greedy", "c"]].map(|callers| BusyGate::new(&callers));
    let greedy = |gates: &[BusyGate]| gates.iter().map(|busy| busy.served("greedy")).sum::<u64>();

    let mut alone = three();
    run(&mut alone, false);
    assert_eq!((greedy(&alone), alone[0].served("a")), (1800, 600), "each gateway is fair by itself");

    let mut gates = three();
    run(&mut gates, true);
    let light = [gates[0].served("a"), gates[1].served("b"), gates[2].served("c")];
    // 3600 requests are a quarter for each; the first second or two are as without an exchange.
    assert!((880..=960).contains(&greedy(&gates)), "{} and {light:?}", greedy(&gates));
    assert!(light.iter().all(|served| (870..=910).contains(served)), "{light:?}");
}

#[test]
fn callers_that_all_use_both_gateways_take_turns_as_before() {
    let mut gates = [["a", "b"], ["a", "b"]].map(|callers| BusyGate::new(&callers));
    run(&mut gates, true);
    for busy in &gates {
        let served = ["a", "b"].map(|caller| busy.served(caller));
        assert!(served.iter().all(|served| (590..=610).contains(served)), "{served:?}");
    }
}

#[test]
fn whatever_is_told_its_caller_is_served_within_the_time_of_a_debt() {
    let mut gates = [BusyGate::new(&["victim", "other"])];
    let mut longest = 0;
    let (mut last, mut before) = (0, 0);
    for millis in (HOLD..=60_000).step_by(HOLD as usize) {
        gates[0].serve(at(millis));
        gates[0].gate.hear_tokens(&[told("victim", u64::MAX)], at(millis));
        if gates[0].served("victim") > before {
            (last, before) = (millis, gates[0].served("victim"));
        }
        longest = longest.max(millis - last);
    }
    assert!((4000..=5500).contains(&longest), "{longest} ms without a request");
    // The numbers of a minute have not driven a counter to its end.
    let next = gates[0].served("other");
    (60_050..=61_000).step_by(HOLD as usize).for_each(|millis| gates[0].serve(at(millis)));
    assert!(gates[0].served("other") > next);
}

#[test]
fn nobody_is_entered_by_what_is_told_and_nothing_counts_without_a_contest() {
    let mut gate = gate(settings(), &[member("w1", 1)]);
    gate.tokens_to_tell();
    serve_one(&mut gate, &ask("a"), at(0), at(10));
    gate.hear_tokens(&[told("a", 1 << 20), told("stranger", 1 << 20)], at(20));
    assert_eq!(gate.queue.remembered(), 1);
    let permit = granted(&mut gate, &ask("x"), at(30)).permit;
    let [a, b] = ["a", "b"].map(|caller| waiting(&mut gate, &ask(caller), at(40)));
    gate.hear_tokens(&[told("stranger", 1 << 20)], at(50));
    gate.dispatched(permit, at(50));
    gate.release(permit, Ending::Complete, 50, at(60));
    assert_eq!(outcomes(&mut gate), [(a, None)], "b came later, and both have the same counter");
    gate.hear_tokens(&[told("b", 1 << 20)], at(70));
    assert!(gate.queue.remembered() <= 3);
    gate.cancel(b, at(80));
}

#[test]
fn a_gateway_tells_what_was_really_used_and_only_of_those_with_the_most() {
    let mut gate = gate(settings(), &[member("w1", 200)]);
    serve_one(&mut gate, &ask("early"), at(0), at(1));
    assert_eq!(gate.tokens_to_tell(), []);
    let tokens = |output: u64| (100 + 2 * output) * 256;
    // Estimated are 50 tokens of output.
    let long = granted(&mut gate, &ask("a"), at(10)).permit;
    gate.dispatched(long, at(10));
    assert_eq!(gate.tokens_to_tell(), [told("a", tokens(50))]);
    gate.release(long, Ending::Complete, 80, at(20));
    assert_eq!(gate.tokens_to_tell(), [told("a", 2 * 30 * 256)], "the rest");
    let short = granted(&mut gate, &ask("a"), at(30)).permit;
    gate.dispatched(short, at(30));
    assert_eq!(gate.tokens_to_tell(), [told("a", tokens(50))]);
    gate.release(short, Ending::Complete, 10, at(40));
    assert_eq!(gate.tokens_to_tell(), [], "nobody is told of what was paid back");
    serve_one(&mut gate, &PermitRequest { weight: 2, ..ask("a") }, at(50), at(60));
    assert_eq!(
        gate.tokens_to_tell(),
        [told("a", tokens(50) / 2 - 2 * 40 * 256)],
        "it is taken off later charges"
    );

    for number in 0..100_u64 {
        let large = PermitRequest { prompt_tokens: 100 + number, ..ask(&format!("caller-{number}")) };
        serve_one(&mut gate, &large, at(70), at(80));
    }
    let most = gate.tokens_to_tell();
    assert_eq!(most.len(), 64);
    let least = most.iter().map(|told| told.tokens).min();
    assert_eq!(least, Some(tokens(50) + 36 * 256));
    assert_eq!(gate.tokens_to_tell(), [], "the others are forgotten");

    serve_one(&mut gate, &ask("a"), at(90), at(100));
    gate.stop_telling();
    assert_eq!(gate.tokens_to_tell(), [], "it begins anew");
}
