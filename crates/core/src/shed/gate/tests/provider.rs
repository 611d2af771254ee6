//! External workers and the quotas of their providers.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::*;
use crate::shed::{ProviderLevel, ProviderQuota, QuotaHandle, QuotaUse, WorkerFailure};

/// A quota that opens when a test says, and remembers what it was told.
#[derive(Debug, Default)]
struct Scripted {
    opens_at: Mutex<Nanos>,
    /// Sum of all charges and corrections: requests, tokens.
    used: Mutex<(i64, i64)>,
    refused: Mutex<Vec<Option<Duration>>>,
}

impl ProviderQuota for Scripted {
    fn opens_at(&self, _tokens: u64, now: Nanos) -> Option<Nanos> {
        Some(*self.opens_at.lock()).filter(|at| *at > now)
    }

    fn charge(&self, tokens: u64, _now: Nanos) -> u64 {
        let mut used = self.used.lock();
        *used = (used.0 + 1, used.1 + tokens as i64);
        tokens
    }

    fn settle(&self, charged: u64, used_now: QuotaUse, _now: Nanos) {
        let mut used = self.used.lock();
        used.1 -= charged as i64;
        match used_now {
            QuotaUse::Unsent => used.0 -= 1,
            QuotaUse::Tokens(tokens) => used.1 += tokens as i64,
        }
    }

    fn refused(&self, wait: Option<Duration>, _now: Nanos) {
        self.refused.lock().push(wait);
    }

    fn level(&self, now: Nanos) -> ProviderLevel {
        ProviderLevel { closed_for: self.opens_at.lock().since(now), ..ProviderLevel::default() }
    }
}

fn external(id: &str) -> (PoolMember, Arc<Scripted>) {
    let quota = Arc::new(Scripted::default());
    let handle: Arc<dyn ProviderQuota> = Arc::clone(&quota) as _;
    (PoolMember { external: Some(QuotaHandle(handle)), ..member(id, 8) }, quota)
}

fn by_slots() -> GateSettings {
    GateSettings { limit: LimitSource::Slots, ..settings() }
}

fn paying(caller: &str) -> PermitRequest {
    PermitRequest { external: true, ..ask(caller) }
}

#[test]
fn external_workers_serve_only_requests_that_may_go_there_and_only_what_no_other_has_room_for() {
    let (api, quota) = external("api");
    let mut gate = gate(by_slots(), &[api, member("own", 2)]);
    for _ in 0..2 {
        assert_eq!(&*granted(&mut gate, &paying("a"), at(0)).worker, "own");
    }
    waiting(&mut gate, &ask("a"), at(0));
    assert_eq!(quota.used.lock().0, 0);
    let mut other = gate_of_external();
    assert_eq!(&*granted(&mut other.0, &paying("a"), at(0)).worker, "api");
    waiting(&mut other.0, &ask("a"), at(0));
    assert_eq!(other.1.used.lock().0, 1);
}

fn gate_of_external() -> (Gate, Arc<Scripted>) {
    let (api, quota) = external("api");
    (gate(by_slots(), &[api]), quota)
}

#[test]
fn a_request_that_no_quota_comes_for_in_time_is_told_when_there_will_be_some() {
    let (mut gate, quota) = gate_of_external();
    *quota.opens_at.lock() = at(7000);
    let refusal = refused(&mut gate, &paying("a"), at(0));
    assert_eq!(refusal.reason, Reason::Overloaded);
    let retry = refusal.retry_after.unwrap();
    assert!((Duration::from_secs(7)..=Duration::from_secs(8)).contains(&retry), "{retry:?}");
    assert!(refusal.message.starts_with("The provider's limit for pool `default` is used up"), "{refusal}");
    // Sooner than the wait ends: it waits, and gets its permit in that moment.
    *quota.opens_at.lock() = at(100);
    let id = waiting(&mut gate, &paying("a"), at(0));
    gate.process_timeouts(at(99));
    assert_eq!(gate.take_outcomes().count(), 0);
    gate.process_timeouts(at(100));
    let outcomes: Vec<_> = gate.take_outcomes().collect();
    assert!(matches!(outcomes.as_slice(), [(served, Ok(_))] if *served == id), "{outcomes:?}");
}

#[test]
fn a_charge_is_corrected_by_what_became_of_the_request() {
    // What happens, and the requests and tokens that count in the end; 150 tokens are expected.
    type Course = fn(&mut Gate, PermitId);
    let courses: [(&str, Course, (i64, i64)); 5] = [
        ("never sent", |gate, id| gate.release(id, Ending::Refused, 0, at(1)), (0, 0)),
        (
            "refused by the provider",
            |gate, id| {
                gate.dispatched(id, at(0));
                gate.worker_failed(id, WorkerFailure::Busy(None), at(1));
                gate.release(id, Ending::Refused, 0, at(1));
            },
            (1, 0),
        ),
        (
            "served",
            |gate, id| {
                gate.dispatched(id, at(0));
                gate.release(id, Ending::Complete, 20, at(1));
            },
            (1, 120),
        ),
        (
            "served, and the prompt counted",
            |gate, id| {
                gate.dispatched(id, at(0));
                gate.prompt_counted(id, 80);
                gate.release(id, Ending::Complete, 20, at(1));
            },
            (1, 100),
        ),
        (
            "left by its client before it began",
            |gate, id| {
                gate.dispatched(id, at(0));
                gate.release(id, Ending::ClientGone, 0, at(1));
            },
            (1, 150),
        ),
    ];
    for (what, course, counted) in courses {
        let (mut gate, quota) = gate_of_external();
        let permit = granted(&mut gate, &paying("a"), at(0)).permit;
        assert_eq!(*quota.used.lock(), (1, 150));
        course(&mut gate, permit);
        assert_eq!(*quota.used.lock(), counted, "{what}");
    }
}

#[test]
fn a_providers_refusal_closes_the_quota_and_pauses_nobody() {
    let (api, quota) = external("api");
    let (other, _) = external("other");
    let mut gate = gate(by_slots(), &[api, other]);
    let wait = Some(Duration::from_secs(7));
    let permit = (0..8)
        .map(|_| granted(&mut gate, &paying("a"), at(0)))
        .find(|grant| &*grant.worker == "api")
        .unwrap()
        .permit;
    gate.dispatched(permit, at(0));
    gate.worker_failed(permit, WorkerFailure::Busy(wait), at(1));
    assert_eq!(*quota.refused.lock(), [wait]);
    let snapshot = gate.snapshot(at(1));
    assert!(snapshot.workers.iter().all(|worker| worker.reachable && worker.trouble.is_none()));
    assert_eq!(gate.reassign(permit, at(1)).as_deref(), Some("other"));
}

#[test]
fn a_worker_that_rejects_the_credentials_says_so_until_it_serves() {
    let (mut gate, _) = gate_of_external();
    let permit = granted(&mut gate, &paying("a"), at(0)).permit;
    gate.dispatched(permit, at(0));
    gate.worker_failed(permit, WorkerFailure::Rejected, at(1));
    gate.release(permit, Ending::Refused, 0, at(1));
    let trouble = |gate: &Gate, now| gate.snapshot(now).workers[0].trouble.map(|trouble| trouble.as_str());
    assert!(trouble(&gate, at(1)).unwrap().contains("rejects the gateway's credentials"));
    let permit = granted(&mut gate, &paying("a"), at(2)).permit;
    gate.dispatched(permit, at(2));
    gate.release(permit, Ending::Complete, 5, at(3));
    assert_eq!(trouble(&gate, at(3)), None);
}
