//! Sets of discovery sources: trust, merging, grace and freezing.

use std::net::IpAddr;

use super::*;
use crate::fleet::address::worker_url;
use crate::fleet::discovery::{DiscoveredWorker, DiscoveryRefusal, DiscoverySource, Presence, TargetId};

const GRACE: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_secs(15);

fn target(name: &str) -> TargetId {
    TargetId { source: DiscoverySource::Dns, name: name.into() }
}

fn followed(name: &str, pool: &str, model: Option<&str>) -> TargetSettings {
    TargetSettings {
        id: target(name),
        pool: pool.into(),
        model: model.map(Into::into),
        colour: "blue".into(),
        silence: SILENCE,
        scrape: true,
    }
}

fn seen(name: &str, address: &str, presence: Presence) -> DiscoveredWorker {
    DiscoveredWorker {
        id: format!("{name}/{address}").into(),
        url: worker_url(&format!("http://{name}:8000")).unwrap(),
        address: address.parse().unwrap(),
        pool: None,
        model: None,
        colour: None,
        version: None,
        slots: None,
        kv_tokens: None,
        presence,
    }
}

struct Stage {
    registry: WorkerRegistry,
    now: Nanos,
}

impl Stage {
    fn new(targets: &[TargetSettings], configured: Vec<WorkerSpec>) -> Self {
        let settings = RegistrySettings {
            allow: vec![AllowedHosts::read("10.0.0.0/8").unwrap()],
            targets: targets.to_vec(),
            empty_grace: GRACE,
            ..RegistrySettings::default()
        };
        let mut registry = WorkerRegistry::new(settings, configured);
        registry.tick(Nanos::from_secs(5));
        Self { registry, now: Nanos::from_secs(5) }
    }

    /// Lets time pass in the steps of a running gateway.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds * 4 {
            self.now = self.now + Duration::from_millis(250);
            self.registry.tick(self.now);
        }
    }

    fn publish(&mut self, name: &str, addresses: &[&str]) {
        let set = addresses.iter().map(|address| seen(name, address, Presence::Ready)).collect();
        self.publish_set(name, set);
    }

    fn publish_set(&mut self, name: &str, set: Vec<DiscoveredWorker>) {
        self.registry.discover(&target(name), set, &[], self.now);
    }

    fn ids(&self) -> Vec<String> {
        self.registry.specs().iter().map(|spec| spec.id.to_string()).collect()
    }

    fn held(&mut self) -> Vec<String> {
        self.registry.expire_and_revise().held.iter().map(ToString::to_string).collect()
    }

    fn refused(&self, id: &str) -> Option<DiscoveryRefusal> {
        self.registry
            .discovery_refusals()
            .into_iter()
            .find(|(refused, _)| **refused == *id)
            .map(|(_, why)| why)
    }
}

fn one_target() -> Stage {
    Stage::new(&[followed("vllm", "chat", Some("qwen*"))], Vec::new())
}

#[test]
fn every_address_is_a_worker_and_goes_with_it() {
    let mut stage = one_target();
    let before = stage.registry.expire_and_revise();
    stage.publish("vllm", &["10.0.0.1", "10.0.0.2"]);
    assert_eq!(stage.ids(), ["vllm/10.0.0.1", "vllm/10.0.0.2"]);
    let spec = &stage.registry.specs()[0];
    assert_eq!((&*spec.pool, &*spec.model, &*spec.colour), ("chat", "qwen*", "blue"));
    assert_eq!(spec.address, Some(IpAddr::from([10, 0, 0, 1])));
    let after = stage.registry.expire_and_revise();
    assert_ne!(after, before);
    // The same set again changes nothing.
    stage.publish("vllm", &["10.0.0.1", "10.0.0.2"]);
    assert_eq!(stage.registry.expire_and_revise(), after);
    stage.publish("vllm", &["10.0.0.2", "10.0.0.3"]);
    assert_eq!(stage.ids(), ["vllm/10.0.0.2", "vllm/10.0.0.3"]);
}

#[test]
fn only_allowed_addresses_are_used_whatever_the_settings_said_before() {
    let mut stage = one_target();
    stage.publish("vllm", &["10.0.0.1", "11.0.0.1", "127.0.0.1"]);
    assert_eq!(stage.ids(), ["vllm/10.0.0.1"]);
    assert_eq!(stage.refused("vllm/11.0.0.1"), Some(DiscoveryRefusal::NotAllowed));
    assert!(stage.registry.specs()[0].headers.is_empty());
    assert_eq!(stage.registry.workers_to_ask().len(), 1, "nobody else is connected to");
    let allow = vec![AllowedHosts::read("11.0.0.0/8").unwrap()];
    let headers: HeaderMap =
        [(http::header::AUTHORIZATION, "Bearer k".parse().unwrap())].into_iter().collect();
    let settings = RegistrySettings {
        headers: vec![(allow[0].clone(), headers.clone())],
        allow,
        ..stage.registry.settings.clone()
    };
    stage.registry.apply_settings(settings, Vec::new());
    assert_eq!(stage.ids(), ["vllm/11.0.0.1"]);
    assert_eq!(stage.registry.specs()[0].headers, headers);
    // An address that must be listed itself.
    let set = vec![seen("vllm", "11.0.0.1", Presence::Ready)];
    stage.registry.discover(&target("vllm"), set, &["11.0.0.1".parse().unwrap()], stage.now);
    assert!(stage.ids().is_empty());
}

#[test]
fn an_empty_answer_removes_nothing_for_the_grace() {
    let mut stage = one_target();
    stage.publish("vllm", &["10.0.0.1"]);
    for _ in 0..6 {
        stage.publish("vllm", &[]);
        assert_eq!(stage.ids(), ["vllm/10.0.0.1"]);
        stage.pass(5);
    }
    stage.publish("vllm", &[]);
    assert!(stage.ids().is_empty());
}

#[test]
fn the_grace_counts_only_while_the_source_answers() {
    let mut stage = one_target();
    stage.publish("vllm", &["10.0.0.1"]);
    stage.publish("vllm", &[]);
    stage.pass(60);
    stage.registry.source_works(&target("vllm"), stage.now);
    assert_eq!(stage.ids(), ["vllm/10.0.0.1"], "it begins anew after an outage");
    for _ in 0..3 {
        stage.pass(10);
        stage.registry.source_works(&target("vllm"), stage.now);
    }
    assert!(stage.ids().is_empty());
    // An answer with workers ends the grace.
    stage.publish("vllm", &["10.0.0.1"]);
    stage.publish("vllm", &[]);
    stage.publish("vllm", &["10.0.0.1"]);
    stage.pass(10);
    stage.publish("vllm", &[]);
    assert_eq!(stage.ids(), ["vllm/10.0.0.1"]);
}

#[test]
fn without_an_answer_everything_stays_and_must_prove_what_it_serves() {
    let mut stage = one_target();
    stage.publish("vllm", &["10.0.0.1", "10.0.0.2"]);
    stage.registry.name_models(&"vllm/10.0.0.1".into(), vec!["qwen3".into()]);
    stage.pass(15);
    assert!(stage.registry.expire_and_revise().unverified.is_empty());
    stage.pass(1);
    let revision = stage.registry.expire_and_revise();
    assert_eq!(stage.ids().len(), 2);
    let expected: ModelNames = vec!["qwen3".into()].into();
    // The other never said what it serves: nothing can be compared.
    assert_eq!(revision.unverified, BTreeMap::from([("vllm/10.0.0.1".into(), expected)]));
    assert_eq!(stage.registry.targets_away(), [target("vllm")]);
    // Whoever answers there now may be a stranger.
    stage.registry.name_models(&"vllm/10.0.0.1".into(), vec!["other".into()]);
    assert_eq!(stage.registry.expire_and_revise(), revision);
    assert_eq!(stage.registry.source_ages()[&DiscoverySource::Dns], Duration::from_secs(16));
    stage.registry.source_works(&target("vllm"), stage.now);
    assert!(stage.registry.expire_and_revise().unverified.is_empty());
    assert_eq!(stage.registry.source_ages()[&DiscoverySource::Dns], Duration::ZERO);
}

#[test]
fn a_gateway_that_was_paused_takes_no_source_for_gone() {
    let mut stage = one_target();
    stage.publish("vllm", &["10.0.0.1"]);
    stage.now = stage.now + Duration::from_secs(600);
    stage.registry.tick(stage.now);
    assert!(stage.registry.targets_away().is_empty());
}

#[test]
fn a_target_is_awaited_until_it_answered_once_even_with_nothing() {
    let mut stage = one_target();
    assert_eq!(stage.registry.awaited_targets(), [target("vllm")]);
    stage.publish("vllm", &[]);
    assert!(stage.registry.awaited_targets().is_empty());
    // A target that is gone from the settings takes its workers with it.
    stage.publish("vllm", &["10.0.0.1"]);
    let targets = vec![followed("other", "chat", None)];
    let settings = RegistrySettings { targets, ..stage.registry.settings.clone() };
    stage.registry.apply_settings(settings, Vec::new());
    assert!(stage.ids().is_empty());
    assert!(stage.registry.awaited_targets().is_empty(), "a gateway that serves stays ready");
}

#[test]
fn a_worker_that_ends_or_is_not_ready_takes_no_new_requests() {
    let mut stage = one_target();
    let set = |first, second| vec![seen("vllm", "10.0.0.1", first), seen("vllm", "10.0.0.2", second)];
    stage.publish_set("vllm", set(Presence::Ready, Presence::Draining));
    assert_eq!(stage.held(), ["vllm/10.0.0.2"]);
    stage.publish_set("vllm", set(Presence::NotReady, Presence::Ready));
    assert_eq!(stage.held(), ["vllm/10.0.0.1"]);
    // None is ready, and none ends: a check that fails everywhere is wrong.
    for _ in 0..2 {
        stage.publish_set("vllm", set(Presence::NotReady, Presence::NotReady));
        assert_eq!(stage.held(), ["vllm/10.0.0.1"]);
    }
    stage.publish_set("vllm", set(Presence::NotReady, Presence::Draining));
    assert_eq!(stage.held(), ["vllm/10.0.0.1", "vllm/10.0.0.2"]);
}

#[test]
fn the_first_listed_name_is_the_model_that_nobody_told() {
    let mut stage = Stage::new(&[followed("vllm", "chat", None)], Vec::new());
    stage.publish("vllm", &["10.0.0.1", "10.0.0.2"]);
    assert!(stage.ids().is_empty(), "nobody knows what they serve");
    assert_eq!(stage.registry.workers_to_ask().len(), 2);
    stage.registry.name_models(&"vllm/10.0.0.1".into(), vec!["qwen3".into(), "lora-a".into()]);
    assert_eq!(stage.ids(), ["vllm/10.0.0.1"]);
    assert_eq!(&*stage.registry.specs()[0].model, "qwen3");
    stage.registry.name_models(&"vllm/10.0.0.2".into(), vec!["llama".into()]);
    assert_eq!(stage.ids(), ["vllm/10.0.0.1"]);
    assert_eq!(stage.refused("vllm/10.0.0.2"), Some(DiscoveryRefusal::OtherModel));
    // Names of workers that are gone are forgotten, and others are never taken.
    stage.registry.name_models(&"vllm/10.0.0.9".into(), vec!["x".into()]);
    stage.publish("vllm", &["10.0.0.2"]);
    stage.publish("vllm", &["10.0.0.1", "10.0.0.9"]);
    assert!(stage.ids().is_empty());
}

#[test]
fn configured_workers_and_earlier_targets_come_first() {
    let configured = WorkerSpec {
        id: "w1".into(),
        url: worker_url("http://10.0.0.1:8000").unwrap(),
        address: None,
        pool: "chat".into(),
        model: "qwen*".into(),
        slots: None,
        kv_tokens: None,
        colour: "blue".into(),
        headers: HeaderMap::new(),
        external: None,
        http2: None,
    };
    let targets = [followed("a", "chat", Some("qwen*")), followed("b", "chat", Some("qwen*"))];
    let mut stage = Stage::new(&targets, vec![configured]);
    stage.publish("b", &["10.0.0.2", "10.0.0.3"]);
    stage.publish("a", &["10.0.0.1", "10.0.0.2"]);
    assert_eq!(stage.ids(), ["w1", "a/10.0.0.2", "b/10.0.0.3"]);
}

#[test]
fn a_worker_that_fails_its_check_yields_to_one_that_is_only_discovered() {
    let mut stage = one_target();
    stage.publish("vllm", &["10.0.0.1", "10.0.0.2"]);
    let reading = |id: &str, check: &str| {
        let text = format!(
            r#"{{"v":1,"worker":"x","boot":"b","seq":1,"interval_ms":1000,"state":"ready","slots":8,
                "checks":[{{"name":"health","status":"{check}"}}]}}"#
        );
        Heartbeat { worker: id.into(), ..Heartbeat::read(text.as_bytes()).unwrap() }
    };
    stage.registry.take_reading(reading("vllm/10.0.0.1", "red"), stage.now);
    assert_eq!(stage.held(), ["vllm/10.0.0.1"]);
    assert_eq!(stage.registry.specs()[0].slots, Some(8));
    // The other ends: one that fails is better than none.
    let ends = seen("vllm", "10.0.0.2", Presence::Draining);
    stage.publish_set("vllm", vec![seen("vllm", "10.0.0.1", Presence::Ready), ends]);
    assert_eq!(stage.held(), ["vllm/10.0.0.2"]);
    stage.registry.take_reading(reading("vllm/10.0.0.1", "green"), stage.now);
    assert!(stage.registry.reports()[0].age.is_zero());
    stage.registry.keep_readings(|_| false);
    assert!(stage.registry.reports().is_empty() && stage.registry.specs()[0].slots.is_none());
}
