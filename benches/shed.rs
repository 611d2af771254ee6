//! Measures a decision of the gate: one permit, alone and while a thousand callers wait.
//!
//! `cargo bench --bench shed`

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use traffic_dam::clock::{Clock, Nanos};
use traffic_dam::fleet;
use traffic_dam::request::{Class, Ending};
use traffic_dam::shed::settings::{GateSettings, LimitSource};
use traffic_dam::shed::{Gate, GateAnswer, GateHandle, PermitId, PermitRequest, PoolMember};

const SLOTS: u32 = 64;

fn settings(queue_wait: Duration) -> GateSettings {
    GateSettings {
        limit: LimitSource::Slots,
        queue_length: 1000,
        queue_bytes: 1 << 30,
        queue_wait,
        reserve: [0.0, 0.0, 0.1],
        ..GateSettings::default()
    }
}

fn gate(workers: usize, queue_wait: Duration) -> Gate {
    let mut gate = Gate::new(Arc::from("default"), settings(queue_wait), fleet::PICK, 7);
    let member = |i| PoolMember {
        id: Arc::from(format!("w{i}")),
        slots: Some(SLOTS),
        kv_tokens: Some(1 << 20),
        eligible: true,
        external: None,
        canary: false,
    };
    gate.rebuild(settings(queue_wait), (0..workers).map(member).collect(), Nanos::ZERO);
    gate
}

fn ask(caller: usize) -> PermitRequest {
    PermitRequest {
        caller: Arc::from(format!("key:caller-{caller}")),
        weight: 1,
        class: Class::Interactive,
        prompt_tokens: 200,
        expected_output: 100,
        sequences: 1,
        stream: true,
        repeatable: true,
        body_bytes: 1000,
        session: None,
        prefix: None,
        deadline: None,
        worker: None,
        external: false,
    }
}

fn uncontended(criterion: &mut Criterion) {
    for workers in [1, 8, 1000] {
        let handle = GateHandle::new(gate(workers, Duration::from_millis(250)), Clock::system());
        let ask = ask(0);
        criterion.bench_function(&format!("ask and release, {workers} workers"), |bencher| {
            bencher.iter(|| black_box(handle.ask(ask.clone())));
        });
        let mut session = 0_u64;
        criterion.bench_function(&format!("the same of 1000 sessions, {workers} workers"), |bencher| {
            bencher.iter(|| {
                session = (session + 1) % 1000;
                // Spread like the hashes that name sessions.
                let session = Some(session.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                black_box(handle.ask(PermitRequest { session, ..ask.clone() }))
            });
        });
    }
    let handle = GateHandle::new(gate(1000, Duration::from_millis(250)), Clock::system());
    let ask = ask(0);
    let mut session = 0_u64;
    criterion.bench_function("the same of sessions that are new, 1000 workers", |bencher| {
        bencher.iter(|| {
            session += 1;
            let session = Some(session.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            black_box(handle.ask(PermitRequest { session, ..ask.clone() }))
        });
    });
}

/// A full gate with a thousand callers waiting, who come back as soon as they are served.
struct Crowd {
    gate: Gate,
    asks: Vec<PermitRequest>,
    permits: std::collections::VecDeque<PermitId>,
    now: Nanos,
}

impl Crowd {
    fn new(workers: usize, queue_wait: Duration) -> Self {
        let mut retry_spread = Self {
            gate: gate(workers, queue_wait),
            asks: (0..1000).map(ask).collect(),
            permits: std::collections::VecDeque::new(),
            now: Nanos::ZERO,
        };
        for i in 0.. {
            let Ok(answer) = retry_spread.gate.ask(&retry_spread.asks[i % 1000], retry_spread.now) else {
                break;
            };
            if let GateAnswer::Granted(grant) = answer {
                retry_spread.permits.push_back(grant.permit);
            }
        }
        retry_spread
    }

    /// Frees one permit, which the next waiter gets, and adds another request.
    fn turn(&mut self, i: usize) {
        self.now = self.now + Duration::from_micros(100);
        if let Some(permit) = self.permits.pop_front() {
            self.gate.dispatched(permit, self.now);
            self.gate.first_token(permit, self.now);
            self.gate.release(permit, Ending::Complete, 80, self.now);
        }
        for (_, outcome) in self.gate.take_outcomes() {
            self.permits.extend(outcome.ok().map(|grant| grant.permit));
        }
        black_box(self.gate.ask(&self.asks[i % 1000], self.now)).ok();
    }
}

fn crowded(criterion: &mut Criterion) {
    for workers in [1, 8] {
        let mut retry_spread = Crowd::new(workers, Duration::from_secs(3600));
        let mut i = 0;
        criterion.bench_function(
            &format!("release, grant and enqueue, 1000 waiting, {workers} workers"),
            |b| {
                b.iter(|| {
                    i += 1;
                    retry_spread.turn(i);
                });
            },
        );
        assert!(retry_spread.gate.snapshot(retry_spread.now).queue[Class::Interactive as usize] >= 999);
    }
}

fn refusing(criterion: &mut Criterion) {
    let mut retry_spread = Crowd::new(8, Duration::from_secs(3600));
    // Enough turns to know the rate: at 10 000 a second, 1000 waiting callers are 100 ms of work.
    (0..2000).for_each(|i| retry_spread.turn(i));
    let hurried = PermitRequest {
        deadline: Some(retry_spread.now + Duration::from_millis(20)),
        ..retry_spread.asks[0].clone()
    };
    assert!(retry_spread.gate.ask(&hurried, retry_spread.now).is_err());
    criterion.bench_function("refuse on arrival for 200 of 1000 ahead", |bencher| {
        bencher.iter(|| black_box(retry_spread.gate.ask(&hurried, retry_spread.now)).ok());
    });
}

criterion_group!(benches, uncontended, crowded, refusing);
criterion_main!(benches);
