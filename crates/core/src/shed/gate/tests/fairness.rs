//! The shares of callers when one offers ten times what the others do.

use std::collections::BTreeMap;

use super::*;
use crate::shed::PermitId;

/// The offer and the result of one caller.
struct Offered {
    name: &'static str,
    weight: u32,
    /// Requests per second.
    rate: f64,
    asked: usize,
    served: usize,
    /// Prompt tokens plus twice the output tokens, divided by the weight.
    tokens: f64,
}

impl Offered {
    fn new(name: &'static str, weight: u32, rate: f64) -> Self {
        Self { name, weight, rate, asked: 0, served: 0, tokens: 0.0 }
    }
}

/// Jain's index of fairness (Jain, Chiu & Hawe 1984): 1 if all are equal, 1/n if one has it all.
fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    sum * sum / (shares.len() as f64 * squares)
}

/// Runs `callers` against a worker of `slots` for `seconds` of virtual time. Output lengths vary
/// and are estimated wrongly; refused requests are not repeated.
fn run(callers: &mut [Offered], slots: u32, seconds: u64, settings: GateSettings) {
    let mut random = Rng::with_seed(3);
    let mut gate = gate(settings, &[member("w1", slots)]);
    let end = Nanos::from_secs(seconds);
    let mut arrivals: BTreeMap<(Nanos, usize), ()> = BTreeMap::new();
    let mut departures: BTreeMap<(Nanos, PermitId), (usize, u64)> = BTreeMap::new();
    let mut waiting: BTreeMap<WaiterId, usize> = BTreeMap::new();
    for caller in 0..callers.len() {
        arrivals.insert((Nanos(caller as u64), caller), ());
    }
    loop {
        let arrival = arrivals.first_key_value().map(|(key, ())| *key);
        let departure = departures.first_key_value().map(|(key, value)| (*key, *value));
        let mut permits = Vec::new();
        let now;
        match (arrival, departure) {
            (arrival, Some(((at, permit), (caller, output)))) if arrival.is_none_or(|next| at <= next.0) => {
                now = at;
                departures.remove(&(at, permit));
                callers[caller].served += 1;
                callers[caller].tokens += (100 + 2 * output) as f64 / f64::from(callers[caller].weight);
                gate.release(permit, Ending::Complete, output, now);
            }
            (Some((at, caller)), _) => {
                now = at;
                arrivals.remove(&(at, caller));
                let gap = -(1.0 - random.f64()).ln() / callers[caller].rate;
                let next = now + Duration::from_secs_f64(gap);
                if next < end {
                    arrivals.insert((next, caller), ());
                }
                callers[caller].asked += 1;
                let ask = PermitRequest { weight: callers[caller].weight, ..ask(callers[caller].name) };
                match gate.ask(&ask, now) {
                    Ok(GateAnswer::Granted(grant)) => permits.push((grant.permit, caller)),
                    Ok(GateAnswer::Waiting { id, .. }) => {
                        waiting.insert(id, caller);
                    }
                    Err(_) => {}
                }
            }
            _ => break,
        }
        for (id, outcome) in gate.take_outcomes() {
            let caller = waiting.remove(&id).unwrap();
            permits.extend(outcome.ok().map(|grant| (grant.permit, caller)));
        }
        for (permit, caller) in permits {
            gate.dispatched(permit, now);
            let output = random.u64(5..200);
            departures.insert((now + Duration::from_millis(50 + output), permit), (caller, output));
        }
    }
}

/// Returns the order of service at a worker with one slot; each of `order` waits and costs 100.
fn next_served(gate: &mut Gate, order: &[&str], now: Nanos) -> Vec<String> {
    let plain = |caller: &str| PermitRequest { expected_output: 0, ..ask(caller) };
    let mut permit = granted(gate, &plain("first"), now).permit;
    let waiters: BTreeMap<_, _> =
        order.iter().map(|name| (waiting(gate, &plain(name), now), *name)).collect();
    let mut served = Vec::new();
    while served.len() < order.len() {
        gate.dispatched(permit, now);
        gate.release(permit, Ending::Complete, 0, now);
        let (id, outcome) = gate.take_outcomes().next().unwrap();
        served.push(waiters[&id].to_owned());
        permit = outcome.unwrap().permit;
    }
    gate.release(permit, Ending::Complete, 0, now);
    served
}

#[test]
fn callers_take_turns_and_idleness_is_not_saved_up() {
    let mut gate = gate(settings(), &[member("w1", 1)]);
    assert_eq!(
        next_served(&mut gate, &["a", "a", "a", "b", "b", "b"], at(0)),
        ["a", "b", "a", "b", "a", "b"]
    );
    // Caller a works on while b pauses; then both return. Of a's 19 requests only the last still
    // counts, as much as two of those that wait now.
    for now in 1..20 {
        serve_one(&mut gate, &ask("a"), at(now), at(now));
    }
    let order = ["b", "b", "b", "b", "b", "b", "a", "a"];
    assert_eq!(next_served(&mut gate, &order, at(20)), ["b", "b", "b", "a", "b", "a", "b", "b"]);
}

#[test]
fn a_wrong_estimate_is_corrected_at_the_end() {
    let mut gate = gate(settings(), &[member("w1", 1)]);
    // Only what a caller takes while others want it counts.
    next_served(&mut gate, &["x", "y"], at(0));
    // Both were charged for 50 tokens of output; a took 300, b none.
    for (caller, output) in [("a", 300), ("b", 0)] {
        let permit = granted(&mut gate, &ask(caller), at(0)).permit;
        gate.dispatched(permit, at(0));
        gate.release(permit, Ending::Complete, output, at(0));
    }
    assert_eq!(next_served(&mut gate, &["a", "b", "b", "b", "b"], at(0)), ["b", "b", "b", "b", "a"]);
}

#[test]
fn a_caller_with_ten_times_the_load_gets_no_more_than_the_others() {
    // Eight permits of about 150 ms free 53/s; ten callers of weight 1 or 2 offer three times that.
    let names = ["flood", "a", "b", "c", "d", "e", "f", "g", "h", "i"];
    let mut callers: Vec<_> = names
        .into_iter()
        .enumerate()
        .map(|(i, name)| {
            let weight = if i % 4 == 3 { 2 } else { 1 };
            Offered::new(name, weight, f64::from(weight) * if i == 0 { 100.0 } else { 10.0 })
        })
        .collect();
    run(&mut callers, 8, 120, GateSettings { queue_length: 64, ..settings() });
    let shares: Vec<f64> = callers.iter().map(|caller| caller.tokens).collect();
    assert!(jain(&shares) >= 0.98, "{} {shares:?}", jain(&shares));
}

#[test]
fn light_callers_beside_a_flood_get_all_they_ask_for() {
    let mut callers =
        [("flood", 500.0), ("a", 8.0), ("b", 8.0)].map(|(name, rate)| Offered::new(name, 1, rate));
    run(&mut callers, 8, 120, settings());
    for Offered { name, asked, served, .. } in &callers[1..] {
        assert!(served * 100 >= asked * 98, "{name}: {served} of {asked}");
    }
}

#[test]
fn what_was_taken_of_an_idle_pool_is_not_held_against_a_caller() {
    let mut gate = gate(settings(), &[member("w1", 4)]);
    let permits: Vec<_> = (0..4).map(|_| granted(&mut gate, &ask("heavy"), at(0)).permit).collect();
    permits.iter().for_each(|permit| gate.dispatched(*permit, at(0)));
    let order = ["heavy", "light", "heavy", "light"];
    let waiters: BTreeMap<_, _> =
        order.iter().map(|name| (waiting(&mut gate, &ask(name), at(1)), *name)).collect();
    let served: Vec<_> = permits
        .into_iter()
        .map(|permit| {
            gate.release(permit, Ending::Complete, 50, at(2));
            waiters[&gate.take_outcomes().next().unwrap().0]
        })
        .collect();
    assert_eq!(served, order);
}

#[test]
fn newcomers_are_not_owed_what_was_served_before_they_came() {
    let patient = GateSettings { queue_wait: Duration::from_secs(60), ..settings() };
    let mut gate = gate(patient, &[member("w1", 1)]);
    // One caller contends with itself for half a minute, and gets everything.
    let mut permit = granted(&mut gate, &ask("old"), at(0)).permit;
    for now in (0..30_000).step_by(100) {
        gate.dispatched(permit, at(now));
        waiting(&mut gate, &ask("old"), at(now));
        gate.release(permit, Ending::Complete, 50, at(now + 50));
        permit = gate.take_outcomes().next().unwrap().1.unwrap().permit;
    }
    gate.release(permit, Ending::Complete, 50, at(30_000));
    let order = ["old", "new", "old", "new", "old", "new"];
    let served = next_served(&mut gate, &order, at(30_001));
    assert!(served[..3].contains(&"old".to_owned()), "{served:?}");
}
