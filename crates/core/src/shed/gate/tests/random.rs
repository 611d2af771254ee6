//! Random sequences of all events, checked against a plain account of the permits.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::shed::{CallerDigest, CallerTokens, PermitId, WorkerFailure};

/// One event. Its numbers select among what exists at that moment.
#[derive(Clone, Debug)]
enum Event {
    Ask(PermitRequest, Option<u64>),
    Cancel(usize),
    Dispatched(usize),
    FirstToken(usize),
    Tokens(usize, u64),
    Finished(usize, u32),
    Failed(usize, WorkerFailure),
    Reassign(usize),
    Release(usize, Ending),
    /// Bits of the workers that exist, of four; bits of the eligible ones; the queue length.
    Rebuild(u8, u8, usize),
    /// Another gateway tells the tokens of a caller; the gate tells its own.
    Exchange(usize, usize, u64),
    Pass(u64),
}

fn events() -> impl Strategy<Value = Event> {
    let any_ask = (0..6_usize, 0..3_usize, 0..600_u64, 0..300_u64, 0..4_u32, 0..3000_u64, 0..8_u8);
    let ask = (any_ask, proptest::option::of(any::<u64>()), proptest::option::of(0..400_u64)).prop_map(
        |((caller, class, prompt_tokens, expected_output, sequences, body_bytes, form), session, slack)| {
            let ask = PermitRequest {
                weight: u32::try_from(caller).unwrap() % 3,
                class: Class::ALL[class],
                prompt_tokens,
                expected_output,
                sequences,
                stream: form != 0,
                repeatable: form != 1,
                body_bytes,
                session,
                ..ask(&format!("caller-{caller}"))
            };
            Event::Ask(ask, slack)
        },
    );
    let failure =
        prop_oneof![Just(WorkerFailure::Connect), Just(WorkerFailure::Broke), Just(WorkerFailure::Refused)];
    let ending = prop_oneof![Just(Ending::Complete), Just(Ending::ClientGone), Just(Ending::WorkerFailed)];
    prop_oneof![
        8 => ask,
        1 => any::<usize>().prop_map(Event::Cancel),
        2 => any::<usize>().prop_map(Event::Dispatched),
        2 => any::<usize>().prop_map(Event::FirstToken),
        2 => (any::<usize>(), 0..600_u64).prop_map(|(i, seen)| Event::Tokens(i, seen)),
        1 => (any::<usize>(), 0..5_u32).prop_map(|(i, ended)| Event::Finished(i, ended)),
        1 => (any::<usize>(), failure).prop_map(|(i, kind)| Event::Failed(i, kind)),
        1 => any::<usize>().prop_map(Event::Reassign),
        5 => (any::<usize>(), ending).prop_map(|(i, ending)| Event::Release(i, ending)),
        1 => (0..16_u8, any::<u8>(), 0..8_usize).prop_map(|(a, b, c)| Event::Rebuild(a, b, c)),
        1 => (0..7_usize, 0..3_usize, prop_oneof![0..400_000_u64, Just(u64::MAX)])
            .prop_map(|(caller, class, tokens)| Event::Exchange(caller, class, tokens)),
        3 => (0..200_u64).prop_map(Event::Pass),
    ]
}

/// A permit in the account.
#[derive(Debug)]
struct Admitted {
    worker: Arc<str>,
    ask: PermitRequest,
    sequences: u32,
    prompt: u64,
    output: u64,
    prefilled: bool,
    seen: u64,
}

#[derive(Debug)]
struct Account {
    gate: Gate,
    now: Nanos,
    waiting: BTreeMap<WaiterId, (PermitRequest, Nanos)>,
    admitted: BTreeMap<PermitId, Admitted>,
    asked: usize,
    ended: usize,
}

fn four_workers(present: u8, eligible: u8) -> Vec<PoolMember> {
    (0..4_u32)
        .filter(|i| present & (1 << i) != 0)
        .map(|i| PoolMember {
            kv_tokens: (i == 1).then_some(700),
            eligible: eligible & (1 << i) != 0,
            ..member(&format!("w{i}"), i + 1)
        })
        .collect()
}

impl Account {
    fn new(reserve: [f64; 3]) -> Self {
        let settings = GateSettings {
            queue_length: 6,
            queue_bytes: 8000,
            wait_no_worker: Duration::from_millis(100),
            promote: Duration::ZERO,
            reserve,
            ..settings()
        };
        Self {
            gate: gate(settings, &four_workers(0b0111, 0b0111)),
            now: Nanos::ZERO,
            waiting: BTreeMap::new(),
            admitted: BTreeMap::new(),
            asked: 0,
            ended: 0,
        }
    }

    fn permit(&self, number: usize) -> Option<PermitId> {
        self.admitted.keys().nth(number % self.admitted.len().max(1)).copied()
    }

    fn sit(&mut self, grant: GrantedPermit, ask: &PermitRequest) {
        let admitted = Admitted {
            worker: grant.worker,
            ask: ask.clone(),
            sequences: ask.sequences.max(1),
            prompt: ask.prompt_tokens,
            output: ask.expected_output,
            prefilled: false,
            seen: 0,
        };
        assert!(self.admitted.insert(grant.permit, admitted).is_none(), "a permit was granted twice");
    }

    /// Applies `event`; returns the classes that got permits and the workers that got requests.
    fn happen(&mut self, event: Event) -> (Vec<Class>, BTreeSet<Arc<str>>) {
        let (mut classes, mut workers) = (Vec::new(), BTreeSet::new());
        match event {
            Event::Ask(mut ask, slack) => {
                ask.deadline = slack.map(|millis| self.now + Duration::from_millis(millis));
                self.asked += 1;
                match self.gate.ask(&ask, self.now) {
                    Ok(GateAnswer::Granted(grant)) => {
                        classes.push(ask.class);
                        workers.insert(Arc::clone(&grant.worker));
                        self.sit(grant, &ask);
                    }
                    Ok(GateAnswer::Waiting { id, expires_at }) => {
                        assert!(expires_at > self.now);
                        self.waiting.insert(id, (ask, expires_at));
                    }
                    Err(refusal) => {
                        assert!(refusal.retry_after.is_some() || refusal.reason == Reason::RequestTooLarge);
                        self.ended += 1;
                    }
                }
            }
            Event::Cancel(i) => {
                let id = self.waiting.keys().nth(i % self.waiting.len().max(1)).copied();
                if let Some(id) = id {
                    self.waiting.remove(&id);
                    self.ended += 1;
                    self.gate.cancel(id, self.now);
                }
            }
            Event::Dispatched(i) => {
                self.permit(i).into_iter().for_each(|id| self.gate.dispatched(id, self.now));
            }
            Event::FirstToken(i) => {
                if let Some(id) = self.permit(i) {
                    self.admitted.get_mut(&id).unwrap().prefilled = true;
                    self.gate.first_token(id, self.now);
                }
            }
            Event::Tokens(i, seen) => {
                if let Some(id) = self.permit(i) {
                    let admitted = self.admitted.get_mut(&id).unwrap();
                    admitted.seen = admitted.seen.max(seen);
                    self.gate.tokens(id, seen, self.now);
                }
            }
            Event::Finished(i, ended) => {
                if let Some(id) = self.permit(i) {
                    let admitted = self.admitted.get_mut(&id).unwrap();
                    let left = admitted.ask.sequences.max(1).saturating_sub(ended).max(1);
                    admitted.sequences = admitted.sequences.min(left);
                    self.gate.finished(id, ended, self.now);
                }
            }
            Event::Failed(i, kind) => {
                self.permit(i).into_iter().for_each(|id| self.gate.worker_failed(id, kind, self.now));
            }
            Event::Reassign(i) => {
                if let Some(id) = self.permit(i)
                    && let Some(worker) = self.gate.reassign(id, self.now)
                {
                    let admitted = self.admitted.get_mut(&id).unwrap();
                    assert_ne!(admitted.worker, worker);
                    workers.insert(Arc::clone(&worker));
                    (admitted.worker, admitted.prefilled) = (worker, false);
                }
            }
            Event::Release(i, ending) => {
                if let Some(id) = self.permit(i) {
                    let seen = self.admitted.remove(&id).unwrap().seen;
                    self.ended += 1;
                    self.gate.release(id, ending, seen, self.now);
                    self.gate.release(id, ending, seen, self.now);
                }
            }
            Event::Rebuild(present, eligible, queue_length) => {
                let settings = GateSettings { queue_length, ..self.gate.settings.clone() };
                self.gate.rebuild(settings, four_workers(present, eligible), self.now);
            }
            Event::Exchange(caller, class, tokens) => {
                self.gate.tokens_to_tell();
                let caller = CallerDigest::of(&format!("caller-{caller}"));
                let told = CallerTokens { class: Class::ALL[class], caller, tokens };
                self.gate.hear_tokens(&[told], self.now);
            }
            Event::Pass(millis) => {
                self.now = self.now + Duration::from_millis(millis);
                self.gate.process_timeouts(self.now);
            }
        }
        for event in self.gate.take_displaced().collect::<Vec<_>>() {
            let admitted = self.admitted.remove(&event.permit).expect("no such permit");
            assert_eq!(
                (admitted.ask.class, admitted.prefilled, admitted.ask.repeatable),
                (Class::Batch, false, true)
            );
            assert!(classes.contains(&Class::Critical), "displaced for nobody");
            match event.next {
                Ok((id, expires_at)) => {
                    self.waiting.insert(id, (admitted.ask, expires_at));
                }
                Err(_) => self.ended += 1,
            }
        }
        let settled: Vec<_> = self.gate.take_outcomes().collect();
        for (id, outcome) in settled {
            let (ask, expires_at) =
                self.waiting.remove(&id).expect("an outcome for nobody, or the second one");
            match outcome {
                Ok(grant) => {
                    assert!(self.now < expires_at, "served late");
                    classes.push(ask.class);
                    workers.insert(Arc::clone(&grant.worker));
                    self.sit(grant, &ask);
                }
                Err(_) => self.ended += 1,
            }
        }
        (classes, workers)
    }

    fn check(
        &mut self,
        waited_before: &BTreeMap<WaiterId, Class>,
        granted: &[Class],
        got: &BTreeSet<Arc<str>>,
    ) {
        let snapshot = self.gate.snapshot(self.now);
        assert_eq!(self.asked, self.ended + self.waiting.len() + self.admitted.len());

        let mut supposed = false;
        let mut sums: HashMap<&str, (u32, u64, u64, usize)> = HashMap::new();
        for admitted in self.admitted.values() {
            let sum = sums.entry(&admitted.worker).or_default();
            sum.0 += admitted.sequences;
            sum.1 += if admitted.prefilled { 0 } else { admitted.prompt };
            supposed |= !admitted.ask.stream;
            sum.2 += admitted.prompt + admitted.output.max(admitted.seen);
            sum.3 += 1;
        }
        for worker in &snapshot.workers {
            let (in_flight, prefill, tokens, permits) = sums.remove(&*worker.id).unwrap_or_default();
            assert_eq!((worker.in_flight, worker.tokens), (in_flight, tokens), "{}", worker.id);
            // Prompts of non-streamed requests count as read after a while.
            let read = worker.prefill_tokens == prefill || (supposed && worker.prefill_tokens < prefill);
            assert!(read, "{}: {} of {prefill} prompt tokens", worker.id, worker.prefill_tokens);
            let within = in_flight <= worker.limit + worker.limit / 2 || permits == 1;
            assert!(within || !got.contains(&worker.id), "{} was given more than it may have", worker.id);
            assert!(!worker.leaving || permits > 0, "a worker that is gone is still here");
        }
        assert!(sums.is_empty(), "permits at unknown workers: {sums:?}");

        self.gate.refresh_sums(self.now);
        let open: Vec<_> =
            self.gate.workers.iter().flatten().filter(|worker| worker.takes_work_now(self.now)).collect();
        let limits: u64 = open.iter().map(|worker| u64::from(worker.limit())).sum();
        let in_flight: u64 = open.iter().map(|worker| u64::from(worker.ledger.in_flight())).sum();
        let sums = &self.gate.sums;
        assert_eq!((sums.open.len(), sums.limit, sums.in_flight()), (open.len(), limits, in_flight));

        assert_eq!(snapshot.queue.iter().sum::<usize>(), self.waiting.len());
        assert!(self.waiting.len() <= self.gate.settings.queue_length);
        let bytes: u64 = self.waiting.values().map(|(ask, _)| ask.body_bytes).sum();
        assert_eq!(snapshot.queue_bytes, bytes);
        assert!(bytes <= self.gate.settings.queue_bytes);
        assert!(self.waiting.values().all(|(_, expires_at)| *expires_at > self.now), "waits too long");

        let passed_over = |class: &Class| {
            waited_before.iter().any(|(id, waiting)| waiting > class && self.waiting.contains_key(id))
        };
        assert!(!granted.iter().any(passed_over), "a lower class was served before a higher one");
        let head = self.gate.queue.head(self.now, self.gate.settings.promote);
        if let Some((load, class, affinity)) = head.map(|head| (head.load, head.class, head.affinity.clone()))
        {
            let place = self.gate.place(&load, class, &affinity, &[], self.now);
            assert_eq!(place, None, "somebody waits who could be served");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn every_order_of_events_keeps_the_account(
        events in vec(events(), 1..200),
        reserve in prop_oneof![Just([0.0; 3]), Just([0.0, 0.2, 0.3])],
    ) {
        let mut account = Account::new(reserve);
        for event in events {
            let before = account.waiting.iter().map(|(id, (ask, _))| (*id, ask.class)).collect();
            let (granted, got) = account.happen(event);
            account.check(&before, &granted, &got);
        }
        // At the end, time ends every wait and every permit is released.
        account.happen(Event::Pass(1000));
        prop_assert!(account.waiting.is_empty());
        while !account.admitted.is_empty() {
            account.happen(Event::Release(0, Ending::Complete));
        }
        let rest = account.gate.snapshot(account.now);
        prop_assert_eq!(rest.in_flight(), 0);
        prop_assert!(rest.workers.iter().all(|w| (w.prefill_tokens, w.tokens, w.leaving) == (0, 0, false)));
        prop_assert_eq!((account.gate.in_flight, account.asked), (0, account.ended));
        prop_assert!(account.gate.displaceable.is_empty() && account.gate.reading.is_empty());
        prop_assert!(account.gate.workers.iter().flatten().all(|worker| worker.first_tokens.is_empty()));
    }
}
