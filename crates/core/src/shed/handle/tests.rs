//! Many threads on one gate, and the guarantees of its futures.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use fastrand::Rng;

use super::{GateEntry, GateHandle, Permit, Waiter};
use crate::clock::Clock;
use crate::refusal::{Reason, Refusal};
use crate::request::{Class, Ending};
use crate::shed::gate::tests::{ask, at, gate, member, settings};
use crate::shed::settings::GateSettings;
use crate::shed::{PermitRequest, PoolMember, WorkerFailure};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

struct Counting(AtomicUsize);

impl Wake for Counting {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Waits for a permit like an executor with a timer.
fn block_on(waiter: Waiter) -> Result<Permit, Refusal> {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut waiter = pin!(waiter);
    for _ in 0..10_000 {
        if let Poll::Ready(outcome) = waiter.as_mut().poll(&mut Context::from_waker(&waker)) {
            return outcome;
        }
        // Doubles as the timer: a poll after `expires_at` is ready.
        thread::park_timeout(Duration::from_millis(1));
    }
    panic!("a waiter was forgotten");
}

fn shared(settings: GateSettings, members: &[PoolMember], clock: Clock) -> GateHandle {
    GateHandle::new(gate(settings, members), clock)
}

fn admitted(gate: &GateHandle, ask: PermitRequest) -> Permit {
    match gate.ask(ask) {
        Ok(GateEntry::Admitted(permit)) => permit,
        other => panic!("not admitted: {other:?}"),
    }
}

fn queued(gate: &GateHandle, ask: PermitRequest) -> Waiter {
    match gate.ask(ask) {
        Ok(GateEntry::Waiting(waiter)) => waiter,
        other => panic!("not waiting: {other:?}"),
    }
}

#[test]
fn after_ten_thousand_mixed_endings_nothing_is_in_flight() {
    let settings = GateSettings {
        queue_length: 32,
        queue_wait: Duration::from_millis(5),
        wait_no_worker: Duration::from_millis(5),
        reserve: [0.0, 0.0, 0.2],
        ..settings()
    };
    let gate = shared(settings.clone(), &[member("w1", 2), member("w2", 3)], Clock::system());
    let body = |thread: u64| {
        let mut random = Rng::with_seed(thread);
        for round in 0..2500 {
            let ask = PermitRequest {
                class: Class::ALL[random.usize(..3)],
                sequences: random.u32(1..3),
                ..ask(["a", "b", "c"][random.usize(..3)])
            };
            let permit = match gate.ask(ask) {
                Err(_) => continue,
                Ok(GateEntry::Admitted(permit)) => permit,
                Ok(GateEntry::Waiting(waiter)) => match random.u8(..4) {
                    0 => continue,
                    1 => {
                        thread::yield_now();
                        assert!(waiter.give_up().retry_after.is_some());
                        continue;
                    }
                    _ => match block_on(waiter) {
                        Err(_) => continue,
                        Ok(permit) => permit,
                    },
                },
            };
            let other = permit.clone();
            permit.dispatched();
            match random.u8(..6) {
                0 => permit.end(Ending::Complete),
                1 => permit.worker_failed(WorkerFailure::Broke),
                2 => {
                    permit.worker_failed(WorkerFailure::Refused);
                    if let Some(worker) = permit.reassign() {
                        assert_eq!(permit.worker(), worker);
                    }
                }
                3 => {
                    permit.first_token();
                    permit.tokens(random.u64(..100));
                    permit.end(Ending::Complete);
                }
                4 => {
                    assert!(thread::spawn(move || panic!("a handler panics with {other:?}")).join().is_err());
                    continue;
                }
                _ => {}
            }
            if round % 100 == 0 {
                gate.rebuild(settings.clone(), vec![member("w1", 2), member("w3", random.u32(1..4))]);
            }
        }
    };
    thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || body(thread));
        }
    });
    let rest = gate.snapshot();
    assert_eq!((rest.in_flight(), rest.queue, rest.queue_bytes), (0, [0; 3], 0));
    assert!(
        rest.workers.iter().all(|w| (w.tokens, w.prefill_tokens, w.leaving) == (0, 0, false)),
        "{rest:?}"
    );
}

#[test]
fn the_last_clone_frees_the_seat() {
    let gate = shared(settings(), &[member("w1", 1)], Clock::manual(at(0)));
    let permit = admitted(&gate, ask("a"));
    let body = permit.clone();
    drop(permit);
    assert_eq!(gate.snapshot().in_flight(), 1);
    drop(body);
    assert_eq!(gate.snapshot().in_flight(), 0);
}

#[test]
fn a_waiter_is_woken_with_its_permit_and_knows_how_long_it_waited() {
    let clock = Clock::manual(at(0));
    let gate = shared(settings(), &[member("w1", 1)], clock.clone());
    let permit = admitted(&gate, ask("a"));
    let mut waiter = pin!(queued(&gate, ask("b")));
    let woken = Arc::new(Counting(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    assert!(waiter.as_mut().poll(&mut context).is_pending());
    clock.advance(Duration::from_millis(40));
    drop(permit);
    assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    let Poll::Ready(Ok(permit)) = waiter.as_mut().poll(&mut context) else { panic!("no permit") };
    assert_eq!((permit.waited(), permit.worker().as_ref()), (Duration::from_millis(40), "w1"));
}

#[test]
fn a_waiter_dropped_between_grant_and_poll_gives_its_seat_to_the_next() {
    let gate = shared(settings(), &[member("w1", 1)], Clock::manual(at(0)));
    let permit = admitted(&gate, ask("a"));
    let first = queued(&gate, ask("b"));
    let second = queued(&gate, ask("c"));
    drop(permit);
    drop(first);
    let permit = block_on(second).unwrap();
    assert_eq!(gate.snapshot().in_flight(), 1);
    drop(permit);
    assert_eq!(gate.snapshot().in_flight(), 0);
}

#[test]
fn giving_up_frees_a_seat_granted_in_the_same_moment() {
    let gate = shared(settings(), &[member("w1", 1)], Clock::manual(at(0)));
    let permit = admitted(&gate, ask("a"));
    let waiter = queued(&gate, ask("b"));
    drop(permit);
    assert_eq!(waiter.give_up().reason, Reason::QueueTimeout);
    assert_eq!(gate.snapshot().in_flight(), 0);
}

#[test]
fn a_poll_at_the_end_of_the_wait_is_ready() {
    let clock = Clock::manual(at(0));
    let gate = shared(settings(), &[member("w1", 1)], clock.clone());
    let _permit = admitted(&gate, ask("a"));
    let waiter = queued(&gate, ask("b"));
    assert_eq!(waiter.expires_at(), at(250));
    clock.advance(Duration::from_millis(250));
    let refusal = block_on(waiter).unwrap_err();
    assert_eq!(refusal.reason, Reason::QueueTimeout);
    assert!(refusal.message.starts_with("No slot of pool `default` became free within 250 ms; retry in "));
}

#[test]
fn tokens_reach_the_ledger_without_a_lock_for_each() {
    let clock = Clock::manual(at(0));
    let gate = shared(settings(), &[member("w1", 1)], clock.clone());
    let permit = admitted(&gate, ask("a"));
    let tokens = || gate.snapshot().workers[0].tokens;
    permit.tokens(1);
    permit.tokens(500);
    assert_eq!(tokens(), 150);
    clock.advance(Duration::from_millis(100));
    permit.tokens(501);
    assert_eq!(tokens(), 601);
}

#[test]
fn a_gate_hears_of_the_gateways_own_pause_before_anything_else() {
    let clock = Clock::manual(at(1000));
    let gate = shared(settings(), &[member("w1", 8)], clock.clone());
    let tick = |millis: u64| {
        for _ in 0..millis / 10 {
            clock.advance(Duration::from_millis(10));
            clock.lag().tick(clock.now());
        }
    };
    tick(10);
    let permits = [admitted(&gate, ask("a")), admitted(&gate, ask("b"))];
    permits.iter().for_each(Permit::dispatched);
    permits.iter().for_each(Permit::first_token);
    // Five seconds without a tick, then the first task asks: no worker is silent.
    clock.advance(Duration::from_secs(5));
    assert!(!permits[0].report_waiting());
    assert!(gate.snapshot().workers[0].reachable);
    // With ticks, the same is silence of the worker.
    tick(5000);
    assert!(!permits[0].report_waiting());
    assert!(!gate.snapshot().workers[0].reachable);
}
