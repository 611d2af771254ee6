//! How long a caller pays for what it took, and how long it can be kept waiting.

use std::collections::{BTreeMap, HashMap};

use fastrand::Rng;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::shed::account::{DEBT, LOOK_EVERY};
use crate::shed::contest::CREDIT;
use crate::shed::{CallerDigest, CallerTokens, PermitId};

/// Step of the time, in milliseconds.
const STEP: u64 = 10;

/// Callers in front of one worker.
struct Scene {
    gate: Gate,
    random: Rng,
    now: u64,
    /// Mean milliseconds of a request; each takes from half of it to half as much again.
    hold: u64,
    /// Permits by their end, with the index of their caller.
    ends: BTreeMap<(u64, PermitId), usize>,
    waiting: HashMap<WaiterId, usize>,
    /// Admission times of each caller, in milliseconds.
    admitted: Vec<Vec<u64>>,
    /// Most tokens that another gateway tells of each caller in a second; zero: there is none.
    elsewhere: u64,
}

impl Scene {
    fn new(callers: usize, slots: u32, hold: u64, settings: GateSettings) -> Self {
        Self {
            gate: gate(GateSettings { limit: LimitSource::Slots, ..settings }, &[member("w1", slots)]),
            random: Rng::with_seed(5),
            now: 0,
            hold,
            ends: BTreeMap::new(),
            waiting: HashMap::new(),
            admitted: vec![Vec::new(); callers],
            elsewhere: 0,
        }
    }

    /// Runs for `length` milliseconds, in which caller `i` asks `rates[i]` times a second.
    fn run(&mut self, rates: &[f64], length: u64) {
        for _ in 0..length / STEP {
            self.now += STEP;
            while let Some((&(end, permit), _)) =
                self.ends.first_key_value().filter(|((end, _), _)| *end <= self.now)
            {
                self.ends.remove(&(end, permit));
                // Expected are 50: that is the mean, but no single answer is like it.
                let output = self.random.u64(0..=100);
                self.gate.release(permit, Ending::Complete, output, at(self.now));
                self.settle();
            }
            for (caller, rate) in rates.iter().enumerate() {
                let expected = rate * STEP as f64 / 1000.0;
                let asked = expected as usize + usize::from(self.random.f64() < expected.fract());
                for _ in 0..asked {
                    match self.gate.ask(&ask(&format!("caller-{caller}")), at(self.now)) {
                        Ok(GateAnswer::Granted(grant)) => self.sit(&grant, caller),
                        Ok(GateAnswer::Waiting { id, .. }) => drop(self.waiting.insert(id, caller)),
                        Err(_) => {}
                    }
                    self.settle();
                }
            }
            self.gate.process_timeouts(at(self.now));
            self.settle();
            if self.elsewhere > 0 && self.now.is_multiple_of(1000) {
                self.hear();
            }
        }
    }

    /// Charges what another gateway has served to some of the callers.
    fn hear(&mut self) {
        self.gate.tokens_to_tell();
        for caller in 0..self.admitted.len() {
            let caller = CallerDigest::of(&format!("caller-{caller}"));
            let tokens = self.random.u64(0..=self.elsewhere) * self.random.u64(0..2);
            self.gate
                .hear_tokens(&[CallerTokens { class: Class::Interactive, caller, tokens }], at(self.now));
        }
        self.settle();
    }

    fn settle(&mut self) {
        let settled: Vec<_> = self.gate.take_outcomes().collect();
        for (id, outcome) in settled {
            let caller = self.waiting.remove(&id).unwrap();
            if let Ok(grant) = outcome {
                self.sit(&grant, caller);
            }
        }
    }

    fn sit(&mut self, grant: &GrantedPermit, caller: usize) {
        self.gate.dispatched(grant.permit, at(self.now));
        self.gate.first_token(grant.permit, at(self.now));
        let end = self.now + self.random.u64(self.hold / 2..=self.hold * 3 / 2);
        self.ends.insert((end, grant.permit), caller);
        self.admitted[caller].push(self.now);
    }

    /// Returns the longest time without an admission of `caller` since `since`, in milliseconds.
    fn longest_wait(&self, caller: usize, since: u64) -> u64 {
        let later = self.admitted[caller].iter().copied().filter(|at| *at >= since);
        let (longest, last) = later.fold((0, since), |(longest, last), at| (longest.max(at - last), at));
        longest.max(self.now - last)
    }

    /// Returns the number of admissions of `caller` since `since`.
    fn count(&self, caller: usize, since: u64) -> usize {
        self.admitted[caller].iter().filter(|at| **at >= since).count()
    }
}

#[test]
fn who_was_refused_and_left_is_not_owed_what_the_others_took_meanwhile() {
    // Two callers flood one place for 1 s. Then one leaves for 3 s; the other has all ten a second.
    let mut scene = Scene::new(2, 1, 100, settings());
    scene.run(&[50.0, 50.0], 1000);
    scene.run(&[50.0, 0.0], 3000);
    let since = scene.now;
    scene.run(&[50.0, 50.0], 3000);
    let (stayed, left) = (scene.count(0, since), scene.count(1, since));
    assert!(stayed >= 11 && left <= 19, "{stayed} and {left}");
}

#[test]
fn who_filled_the_pool_in_a_contest_pays_for_five_seconds_and_no_longer() {
    // 64 permits of 1.5 s free 43 a second. After a first overload and a second of calm, one caller
    // takes most of the pool before the others come: eleven seconds of its equal share.
    let mut scene = Scene::new(10, 64, 1500, settings());
    scene.run(&[8.0; 10], 6000);
    scene.run(&[0.0; 10], 3000);
    let since = scene.now;
    let greedy: Vec<f64> = (0..10).map(|caller| if caller == 0 { 300.0 } else { 14.0 }).collect();
    scene.run(&greedy, 10_000);
    assert!(scene.count(0, since) - scene.count(0, since + 500) > 40, "it did not fill the pool");
    let waited = scene.longest_wait(0, since + 500);
    let most = (DEBT + LOOK_EVERY).as_millis() as u64 + 500;
    assert!((3000..most).contains(&waited), "{waited} ms");
    // Then it gets what the others get: a tenth of 43 a second, for four seconds.
    let later = scene.count(0, since + 6000);
    assert!((9..=28).contains(&later), "{later}");
}

#[test]
fn who_only_waits_is_forgiven_too() {
    // As above, but waits are long, and the greedy caller stops asking once it has a queue.
    let patient = GateSettings { queue_length: 2000, queue_wait: Duration::from_secs(60), ..settings() };
    let mut scene = Scene::new(10, 64, 1500, patient);
    scene.run(&[8.0; 10], 2000);
    scene.run(&[0.0; 10], 4500);
    let greedy: Vec<f64> = (0..10).map(|caller| if caller == 0 { 300.0 } else { 14.0 }).collect();
    scene.run(&greedy, 500);
    let since = scene.now;
    let light: Vec<f64> = (0..10).map(|caller| if caller == 0 { 0.0 } else { 8.0 }).collect();
    scene.run(&light, 10_000);
    let waited = scene.longest_wait(0, since);
    let most = (DEBT + LOOK_EVERY).as_millis() as u64 + 500;
    assert!((2000..most).contains(&waited), "{waited} ms");
}

/// Number of callers in the property test.
const CALLERS: usize = 10;

/// Requests per second of each caller: none, few, too many, or a flood by one caller alone.
fn rates() -> impl Strategy<Value = Vec<f64>> {
    prop_oneof![
        Just(vec![0.0; CALLERS]),
        Just(vec![20.0; CALLERS]),
        vec(0.0..5.0, CALLERS),
        (0..CALLERS).prop_map(|greedy| (0..CALLERS).map(|i| if i == greedy { 500.0 } else { 0.0 }).collect()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]

    #[test]
    fn whatever_happened_before_a_caller_that_waits_is_served_in_time(
        history in vec((rates(), 100..4000_u64), 0..8),
        (slots, hold) in prop_oneof![Just((1_u32, 100_u64)), (Just(8), 100..800_u64), (Just(64), 100..3000_u64)],
        patient in any::<bool>(),
        elsewhere in prop_oneof![Just(0), Just(500_000), Just(u64::MAX)],
    ) {
        let queue_wait = Duration::from_millis(if patient { 30_000 } else { 250 });
        let settings = GateSettings { queue_length: 64, queue_wait, ..settings() };
        let mut scene = Scene::new(CALLERS, slots, hold, settings);
        scene.elsewhere = elsewhere;
        for (rates, length) in &history {
            scene.run(rates, *length);
        }
        let since = scene.now;
        scene.run(&[20.0; CALLERS], 20_000);
        let answer = Duration::from_millis(hold * 3 / 2);
        let round = Duration::from_millis(CALLERS as u64 * hold / u64::from(slots));
        let most = (DEBT + LOOK_EVERY + CREDIT + answer + round * 2).as_millis() as u64;
        for caller in 0..CALLERS {
            let waited = scene.longest_wait(caller, since);
            prop_assert!(waited <= most, "caller {caller} waited {waited} ms; {most} are the most");
        }
    }
}
