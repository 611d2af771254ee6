//! One caller offers ten times what the others do; who gets how much.

use std::collections::BTreeMap;

use super::super::SeatId;
use super::*;

/// What a caller is and what it got.
struct Offered {
    name: &'static str,
    weight: u32,
    /// Requests per second.
    rate: f64,
    asked: usize,
    served: usize,
    /// Prompt tokens and twice the output, divided by the weight.
    tokens: f64,
}

impl Offered {
    fn new(name: &'static str, weight: u32, rate: f64) -> Self {
        Self { name, weight, rate, asked: 0, served: 0, tokens: 0.0 }
    }
}

/// Jain's index of fairness (Jain, Chiu & Hawe 1984): 1 when all are equal, 1/n when one has everything.
fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    sum * sum / (shares.len() as f64 * squares)
}

/// Runs `callers` against a worker of `slots` for `seconds` of virtual time. Outputs differ, and are expected
/// wrongly; refused requests are not repeated.
fn run(callers: &mut [Offered], slots: u32, seconds: u64, settings: GateSettings) {
    let mut random = Rng::with_seed(3);
    let mut gate = gate(settings, &[member("w1", slots)]);
    let end = Nanos::from_secs(seconds);
    let mut arrivals: BTreeMap<(Nanos, usize), ()> = BTreeMap::new();
    let mut departures: BTreeMap<(Nanos, SeatId), (usize, u64)> = BTreeMap::new();
    let mut waiting: BTreeMap<WaiterId, usize> = BTreeMap::new();
    for caller in 0..callers.len() {
        arrivals.insert((Nanos(caller as u64), caller), ());
    }
    loop {
        let arrival = arrivals.first_key_value().map(|(key, ())| *key);
        let departure = departures.first_key_value().map(|(key, value)| (*key, *value));
        let mut seats = Vec::new();
        let now;
        match (arrival, departure) {
            (arrival, Some(((at, seat), (caller, output)))) if arrival.is_none_or(|next| at <= next.0) => {
                now = at;
                departures.remove(&(at, seat));
                callers[caller].served += 1;
                callers[caller].tokens += (100 + 2 * output) as f64 / f64::from(callers[caller].weight);
                gate.release(seat, Ending::Complete, output, now);
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
                let ask = Ask { weight: callers[caller].weight, ..ask(callers[caller].name) };
                match gate.ask(&ask, now) {
                    Ok(Answer::Granted(grant)) => seats.push((grant.seat, caller)),
                    Ok(Answer::Waiting { id, .. }) => {
                        waiting.insert(id, caller);
                    }
                    Err(_) => {}
                }
            }
            _ => break,
        }
        for (id, outcome) in gate.take_settled() {
            let caller = waiting.remove(&id).unwrap();
            seats.extend(outcome.ok().map(|grant| (grant.seat, caller)));
        }
        for (seat, caller) in seats {
            gate.dispatched(seat, now);
            let output = random.u64(5..200);
            departures.insert((now + Duration::from_millis(50 + output), seat), (caller, output));
        }
    }
}

#[test]
fn a_caller_with_ten_times_the_load_gets_no_more_than_the_others() {
    // Eight seats of about 150 ms free 53 a second; ten callers of weight 1 or 2 offer three times that.
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
