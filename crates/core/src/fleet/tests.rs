//! Snapshots: routing, colours, and what survives a reload.

use std::sync::Arc;

use http::{HeaderMap, Uri};

use super::spec::WorkerSpec;
use super::{Eligibility, Fleet};
use crate::clock::{Clock, Nanos};
use crate::refusal::Reason;
use crate::request::{Caller, RequestCost};
use crate::shed::settings::GateSettings;
use crate::shed::{GateEntry, Permit, PermitRequest};

fn settings() -> GateSettings {
    GateSettings { queue_length: 8, queue_bytes: 1 << 20, ..GateSettings::default() }
}

fn spec(id: &str, pool: &str, model: &str) -> WorkerSpec {
    WorkerSpec {
        id: Arc::from(id),
        url: Uri::from_static("http://127.0.0.1:8000"),
        pool: Arc::from(pool),
        model: Arc::from(model),
        slots: Some(1),
        kv_tokens: None,
        colour: Arc::from("blue"),
        headers: HeaderMap::new(),
        external: None,
        address: None,
        http2: None,
    }
}

fn green(spec: WorkerSpec) -> WorkerSpec {
    WorkerSpec { colour: Arc::from("green"), ..spec }
}

fn fleet(specs: Vec<WorkerSpec>) -> Fleet {
    Fleet::new(specs, settings(), None, Clock::manual(Nanos::ZERO))
}

fn reloaded(fleet: &Fleet, specs: Vec<WorkerSpec>, colour: Option<&str>) -> Fleet {
    let next = fleet.rebuilt(specs, settings(), colour.map(Arc::from));
    next.take_over();
    next
}

fn ask(fleet: &Fleet) -> Result<GateEntry, Reason> {
    let ask = PermitRequest::of(&Caller::new("key:a"), &RequestCost::path());
    fleet.route(None).unwrap().gate.ask(ask).map_err(|refusal| refusal.reason)
}

fn admitted(fleet: &Fleet) -> Permit {
    match ask(fleet) {
        Ok(GateEntry::Admitted(permit)) => permit,
        other => panic!("not admitted: {other:?}"),
    }
}

#[test]
fn the_pattern_that_says_most_routes() {
    let fleet = fleet(vec![
        spec("w1", "small", "qwen*"),
        spec("w2", "default", "*"),
        spec("w3", "large", "qwen3-72b"),
        spec("w4", "coder", "qwen3-*-coder"),
        spec("w5", "other", "qwen*"),
        spec("w6", "small", "phi"),
    ]);
    let route = |model| fleet.route(model).unwrap().name.to_string();
    for (model, pool) in [
        (Some("qwen3-72b"), "large"),
        (Some("qwen3-9b-coder"), "coder"),
        (Some("qwen3-9b"), "small"),
        (Some("phi"), "small"),
        (Some("llama"), "default"),
        (Some(""), "default"),
        (None, "default"),
    ] {
        assert_eq!(route(model), pool, "{model:?}");
    }
}

#[test]
fn a_model_that_nobody_serves_has_no_pool() {
    let named = fleet(vec![spec("w1", "one", "qwen*"), spec("w2", "two", "phi")]);
    assert!(named.route(Some("llama")).is_none());
    assert_eq!(named.route(None).map(|pool| pool.name.as_ref()), Some("one"));
    assert!(fleet(Vec::new()).route(None).is_none());
}

#[test]
fn of_two_workers_with_one_id_the_first_counts() {
    let fleet = fleet(vec![spec("w1", "one", "*"), spec("w1", "two", "*")]);
    assert_eq!((fleet.workers().len(), fleet.pools().len()), (1, 1));
    assert_eq!(fleet.worker("w1").unwrap().spec.pool.as_ref(), "one");
}

#[test]
fn only_the_active_colour_takes_work_and_the_other_finishes() {
    let specs = || vec![spec("b1", "default", "*"), green(spec("g1", "default", "*"))];
    let blue = Fleet::new(specs(), settings(), Some(Arc::from("blue")), Clock::manual(Nanos::ZERO));
    let old = admitted(&blue);
    assert_eq!(old.worker().as_ref(), "b1");
    let Ok(GateEntry::Waiting(mut waiter)) = ask(&blue) else { panic!("the green worker is not active") };

    let green = reloaded(&blue, specs(), Some("green"));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(Ok(new)) = std::pin::Pin::new(&mut waiter).poll(&mut context) else {
        panic!("who waits is served by the new colour at once")
    };
    assert_eq!(new.worker().as_ref(), "g1");
    assert!(!green.worker("b1").unwrap().eligible);
    assert_eq!(green.pools()[0].gate.snapshot().in_flight(), 2);
    drop(old);
    assert!(matches!(ask(&green), Ok(GateEntry::Waiting(_))), "a permit on the old colour is of no use");
}

#[test]
fn a_reload_keeps_gates_and_ledgers() {
    let before = fleet(vec![spec("w1", "default", "*")]);
    let permit = admitted(&before);
    let after = reloaded(&before, vec![spec("w0", "first", "x"), spec("w1", "default", "*")], None);
    assert!(matches!(ask(&after), Ok(GateEntry::Waiting(_))), "the permit is still taken");
    drop(permit);
    drop(admitted(&after));
}

#[test]
fn gates_change_when_the_snapshot_takes_over_and_not_before() {
    let before = fleet(vec![spec("w1", "default", "*")]);
    let next = before.rebuilt(vec![spec("w2", "default", "*")], settings(), None);
    assert_eq!(admitted(&before).worker().as_ref(), "w1");
    next.take_over();
    assert_eq!(admitted(&before).worker().as_ref(), "w2");
}

#[test]
fn a_removed_worker_is_known_until_its_seats_are_free() {
    let first = fleet(vec![spec("w1", "default", "*")]);
    let permit = admitted(&first);
    let empty = reloaded(&first, Vec::new(), None);
    assert!(empty.workers().is_empty() && empty.pools().is_empty());
    assert!(empty.worker("w1").is_some_and(|worker| !worker.eligible));
    let still = reloaded(&empty, vec![spec("w2", "other", "*")], None);
    assert!(still.worker("w1").is_some());
    // Its pool comes back, with the ledger it had.
    let back = reloaded(&still, vec![spec("w1", "default", "*")], None);
    assert_eq!(back.pools()[0].gate.snapshot().in_flight(), 1);
    let gone = reloaded(&back, Vec::new(), None);
    drop(permit);
    let forgotten = reloaded(&gone, Vec::new(), None);
    assert!(forgotten.worker("w1").is_none());
    assert_eq!(ask(&first).err(), Some(Reason::NoWorker));
}

#[test]
fn what_is_waited_for_is_not_unknown() {
    let open = || Eligibility { workers_may_join: true, ..Eligibility::default() };
    let next = |fleet: &Fleet, specs| {
        let next = fleet.rebuilt(specs, settings(), open());
        next.take_over();
        next
    };
    let name = |fleet: &Fleet, model| fleet.route(model).map(|pool| pool.name.to_string());
    let start = Fleet::new(Vec::new(), settings(), open(), Clock::manual(Nanos::ZERO));
    assert_eq!(name(&start, Some("anything")).as_deref(), Some("default"));
    assert_eq!(ask(&start).err(), Some(Reason::NoWorker));

    let two = next(&start, vec![spec("w1", "chat", "qwen"), spec("w2", "any", "*-embed")]);
    assert_eq!(name(&two, Some("phi")), None, "a worker has come, and the others are known not to serve it");
    // The pool without workers is kept, after those that have some.
    let one = next(&two, vec![spec("w2", "any", "*")]);
    assert_eq!(name(&one, Some("qwen")).as_deref(), Some("any"));
    let none = next(&one, Vec::new());
    assert_eq!(name(&none, Some("qwen")).as_deref(), Some("chat"));
    assert_eq!(name(&none, None).as_deref(), Some("any"));
    let back = next(&none, vec![spec("w3", "chat", "qwen")]);
    assert_eq!(back.pools().len(), 2);
    drop(admitted(&back));
    // A fleet of configured workers only forgets such pools.
    assert_eq!(reloaded(&back, vec![spec("w3", "chat", "qwen")], None).pools().len(), 1);
}

#[test]
fn colours_are_switched_pool_by_pool_and_held_workers_take_nothing() {
    let specs = || {
        let mut specs = vec![spec("b1", "default", "*"), green(spec("g1", "default", "*"))];
        specs.extend([spec("b2", "embed", "e"), green(spec("g2", "embed", "e"))]);
        specs
    };
    let blue = Fleet::new(specs(), settings(), Some(Arc::from("blue")), Clock::manual(Nanos::ZERO));
    let eligible = |fleet: &Fleet| {
        let workers = fleet.workers().iter().filter(|worker| worker.eligible);
        workers.map(|worker| worker.spec.id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(eligible(&blue), ["b1", "b2"]);
    let mut eligibility = Eligibility::from(Some(Arc::from("blue")));
    eligibility.colours.switched.insert("embed".into(), "green".into());
    assert_eq!(eligible(&blue.rebuilt(specs(), settings(), eligibility.clone())), ["b1", "g2"]);
    eligibility.held.insert("b1".into());
    assert_eq!(eligible(&blue.rebuilt(specs(), settings(), eligibility)), ["g2"]);
}
