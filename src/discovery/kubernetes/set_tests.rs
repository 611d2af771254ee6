//! From the objects of a cluster, as the API server writes them, to the set of workers.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::records::{PodRecord, PoolRecord, RecordUpdate, SliceRecord};
use super::set::{ClusterView, WorkerSet};
use super::target::{KubernetesEndpoints, KubernetesPort, KubernetesTarget, LabelChoices};
use crate::discovery::dns::AddressFamily;
use crate::fleet::discovery::{DiscoverySource, Presence, TargetId, TargetSettings};

fn target() -> KubernetesTarget {
    KubernetesTarget {
        settings: TargetSettings {
            id: TargetId { source: DiscoverySource::Kubernetes, name: "llm/vllm".into() },
            pool: "chat".into(),
            model: None,
            colour: "blue".into(),
            silence: Duration::from_secs(12),
            scrape: true,
        },
        namespace: Some("llm".into()),
        endpoints: KubernetesEndpoints::Service("vllm".into()),
        port: None,
        ids_with_port: false,
        https: false,
        family: AddressFamily::Auto,
        slots: Some(8),
        kv_tokens: None,
        any_target: false,
        labels: None,
    }
}

/// An endpoint of a slice: the pod `name` with the UID `uid`.
fn endpoint(name: &str, uid: &str, address: &str, conditions: Value) -> Value {
    json!({
        "addresses": [address],
        "conditions": conditions,
        "targetRef": { "kind": "Pod", "namespace": "llm", "name": name, "uid": uid },
    })
}

fn slice(name: &str, endpoints: Vec<Value>) -> Value {
    json!({
        "metadata": { "name": name, "namespace": "llm" },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "port": 8000, "protocol": "TCP" }],
        "endpoints": endpoints,
    })
}

fn pod(name: &str, labels: Value, annotations: Value) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": "llm", "uid": format!("uid-{name}"), "labels": labels,
            "annotations": annotations,
        },
        "spec": { "containers": [{ "name": "vllm", "env": [{ "name": "KEY", "value": "secret" }] }] },
        "status": {
            "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{ "ip": "10.0.0.1" }, { "ip": "fd00::1" }],
            "conditions": [{ "type": "Initialized", "status": "True" }, { "type": "Ready", "status": "True" }],
        },
    })
}

fn view(slices: &[Value], pods: &[Value]) -> ClusterView {
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap().to_owned();
    let slice = |object: &Value| {
        let slice: EndpointSlice = serde_json::from_value(object.clone()).unwrap();
        (name(object), SliceRecord::read(&slice))
    };
    let pod = |object: &Value| {
        let pod: Pod = serde_json::from_value(object.clone()).unwrap();
        (name(object), PodRecord::read(&pod))
    };
    ClusterView {
        slices: Some(slices.iter().map(slice).collect()),
        pods: Some(pods.iter().map(pod).collect()),
        pool: None,
    }
}

fn found(target: &KubernetesTarget, view: &ClusterView) -> WorkerSet {
    view.workers(target, "llm").unwrap()
}

/// Ids, URLs and states.
fn shown(set: &WorkerSet) -> Vec<(&str, String, Presence)> {
    set.workers.iter().map(|it| (&*it.id, it.url.to_string(), it.presence)).collect()
}

fn reasons(set: &WorkerSet) -> Vec<String> {
    set.left_out.iter().map(|(id, reason)| format!("{id}: {reason}")).collect()
}

#[test]
fn an_endpoint_is_a_worker_and_its_conditions_say_whether_it_serves() {
    let endpoints = vec![
        endpoint("a", "1", "10.0.0.1", json!({})),
        endpoint("b", "2", "10.0.0.2", json!({ "ready": true, "terminating": false })),
        endpoint("c", "3", "10.0.0.3", json!({ "ready": false })),
        endpoint("d", "4", "10.0.0.4", json!({ "ready": false, "serving": true, "terminating": true })),
        endpoint("e", "5", "10.0.0.5", json!({ "ready": true, "terminating": true })),
    ];
    let set = found(&target(), &view(&[slice("vllm-1", endpoints)], &[]));
    let expected = [
        ("llm/a", "http://10.0.0.1:8000/".to_owned(), Presence::Ready),
        ("llm/b", "http://10.0.0.2:8000/".to_owned(), Presence::Ready),
        ("llm/c", "http://10.0.0.3:8000/".to_owned(), Presence::NotReady),
        ("llm/d", "http://10.0.0.4:8000/".to_owned(), Presence::Draining),
        ("llm/e", "http://10.0.0.5:8000/".to_owned(), Presence::Draining),
    ];
    assert_eq!(shown(&set), expected);
    assert!(set.workers.iter().all(|worker| worker.slots == Some(8)) && set.left_out.is_empty());
}

#[test]
fn only_pods_of_the_namespace_count_unless_any_target_does() {
    let with = |target: Value| json!({ "addresses": ["10.0.0.9"], "targetRef": target });
    for other in [
        json!(null),
        json!({ "kind": "Node", "name": "a" }),
        json!({ "kind": "Pod", "namespace": "other", "name": "a", "uid": "1" }),
        json!({ "kind": "Pod", "namespace": "llm" }),
    ] {
        let view = view(&[slice("vllm-1", vec![with(other.clone())])], &[]);
        assert!(found(&target(), &view).workers.is_empty(), "{other}");
        let any = found(&KubernetesTarget { any_target: true, ..target() }, &view);
        assert_eq!(shown(&any), [("llm/10.0.0.9", "http://10.0.0.9:8000/".into(), Presence::Ready)]);
    }
    // A target without a namespace is in that of the slice.
    let view = view(&[slice("vllm-1", vec![with(json!({ "kind": "Pod", "name": "a", "uid": "1" }))])], &[]);
    assert_eq!(&*found(&target(), &view).workers[0].id, "llm/a");
}

#[test]
fn a_pod_counts_once_and_its_successor_of_the_same_name_goes_first() {
    let ready = endpoint("a", "1", "10.0.0.1", json!({ "ready": true }));
    let ending = endpoint("a", "1", "10.0.0.1", json!({ "ready": true, "terminating": true }));
    let next = endpoint("a", "2", "10.0.0.2", json!({ "ready": true }));
    for (first, second, url, presence) in [
        (&ready, &ready, "http://10.0.0.1:8000/", Presence::Ready),
        (&ready, &ending, "http://10.0.0.1:8000/", Presence::Draining),
        (&ending, &ready, "http://10.0.0.1:8000/", Presence::Draining),
        (&ending, &next, "http://10.0.0.2:8000/", Presence::Ready),
        (&next, &ending, "http://10.0.0.2:8000/", Presence::Ready),
    ] {
        let slices = [slice("vllm-1", vec![first.clone()]), slice("vllm-2", vec![second.clone()])];
        let set = found(&target(), &view(&slices, &[]));
        assert_eq!(shown(&set), [("llm/a", url.to_owned(), presence)]);
    }
}

#[test]
fn one_family_is_used_and_ipv4_first() {
    let six = endpoint("a", "1", "fd00::1", json!({}));
    let both =
        [slice("four", vec![endpoint("a", "1", "10.0.0.1", json!({}))]), slice("six", vec![six.clone()])];
    let name = json!({ "addresses": ["host.example"], "targetRef": six["targetRef"] });
    for (family, slices, expected) in [
        (AddressFamily::Auto, &both[..], Some("http://10.0.0.1:8000/")),
        (AddressFamily::Auto, &both[1..], Some("http://[fd00::1]:8000/")),
        (AddressFamily::Ipv6, &both, Some("http://[fd00::1]:8000/")),
        (AddressFamily::Ipv4, &both[1..], None),
        (AddressFamily::Auto, &[slice("names", vec![name])], None),
    ] {
        let set = found(&KubernetesTarget { family, ..target() }, &view(slices, &[]));
        let urls: Vec<_> = set.workers.iter().map(|worker| worker.url.to_string()).collect();
        assert_eq!(urls.first().map(String::as_str), expected, "{family:?}");
        assert!(urls.len() < 2);
    }
}

#[test]
fn a_port_has_a_number_or_a_name_or_is_the_only_one() {
    let with = |ports: Value| {
        let mut slice = slice("vllm-1", vec![endpoint("a", "1", "10.0.0.1", json!({}))]);
        slice["ports"] = ports;
        view(&[slice], &[])
    };
    let (http, grpc) = (json!({ "name": "http", "port": 8000 }), json!({ "name": "grpc", "port": 9000 }));
    let udp = json!({ "name": "udp", "port": 53, "protocol": "UDP" });
    let named = |name: &str| Some(KubernetesPort::Name(name.into()));
    for (port, ports, expected) in [
        (None, json!([http, udp]), Ok(8000)),
        (named("grpc"), json!([http, grpc]), Ok(9000)),
        (Some(KubernetesPort::Number(7000)), json!([http, grpc]), Ok(7000)),
        (Some(KubernetesPort::Number(7000)), json!(null), Ok(7000)),
        (None, json!([http, grpc]), Err("it has the ports `http` (8000), `grpc` (9000): name one of them")),
        (named("grpc"), json!([http]), Err("it has no port `grpc`, but these: `http` (8000)")),
        (None, json!(null), Err("its service lists no ports")),
        (None, json!([{ "port": 0 }, { "port": 70000 }]), Err("its service lists no ports")),
    ] {
        let set = found(&KubernetesTarget { port, ..target() }, &with(ports));
        match expected {
            Ok(port) => assert_eq!(set.workers[0].url.port_u16(), Some(port)),
            Err(words) => assert!(set.workers.is_empty() && reasons(&set)[0].contains(words), "{set:?}"),
        }
    }
    let several = KubernetesTarget { ids_with_port: true, https: true, ..target() };
    let set = found(&several, &with(json!([http])));
    assert_eq!(shown(&set)[0].0, "llm/a:8000");
    assert_eq!(set.workers[0].url, "https://vllm.llm.svc:8000/");
    assert_eq!(set.workers[0].address, "10.0.0.1".parse::<std::net::IpAddr>().unwrap());
}

fn choices() -> Option<LabelChoices> {
    let list = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
    Some(LabelChoices {
        pools: list(&["chat", "code"]),
        models: list(&["qwen*", "llama-3"]),
        colours: list(&["blue", "green"]),
    })
}

#[test]
fn labels_choose_from_the_lists_of_the_settings_and_may_only_lower_sizes() {
    let slices = [slice("vllm-1", vec![endpoint("a", "uid-a", "10.0.0.1", json!({}))])];
    let all = json!({
        "traffic-dam/pool": "code", "traffic-dam/colour": "green", "traffic-dam/slots": "4",
        "traffic-dam/kv-tokens": "90000", "app": "vllm",
    });
    let notes = json!({ "traffic-dam/model": "qwen3-14b", "traffic-dam/version": "2026.11" });
    let view = view(&slices, &[pod("a", all, notes)]);
    let set = found(&KubernetesTarget { labels: choices(), ..target() }, &view);
    let worker = &set.workers[0];
    let texts = [&worker.pool, &worker.colour, &worker.model, &worker.version].map(|it| it.as_deref());
    assert_eq!(texts, ["code", "green", "qwen3-14b", "2026.11"].map(Some));
    assert_eq!((worker.slots, worker.kv_tokens), (Some(4), Some(90_000)));
    // Without `labels`, nobody reads them.
    let worker = &found(&target(), &view).workers[0];
    assert_eq!((&worker.pool, &worker.version, worker.slots), (&None, &None, Some(8)));
}

#[test]
fn a_pod_whose_labels_go_beyond_the_settings_is_not_used() {
    let slices = [slice("vllm-1", vec![endpoint("a", "uid-a", "10.0.0.1", json!({}))])];
    let long = "v".repeat(65);
    for (key, value, words) in [
        (
            "label",
            ("pool", "batch"),
            "llm/a: its label `traffic-dam/pool` is `batch`, but the settings list `chat`, `code`",
        ),
        ("label", ("colour", ""), "its label `traffic-dam/colour` is ``"),
        (
            "label",
            ("slots", "many"),
            "its label `traffic-dam/slots` is `many`; it must be a whole number from 1 to 1000000",
        ),
        ("label", ("slots", "0"), "whole number"),
        ("label", ("kv-tokens", "-1"), "whole number"),
        (
            "annotation",
            ("model", "mistral"),
            "annotation `traffic-dam/model` is `mistral`, but the settings list `qwen*`",
        ),
        ("annotation", ("model", "qwen3*"), "is `qwen3*`"),
        ("annotation", ("version", long.as_str()), "1 to 64 characters"),
    ] {
        let set = json!({ format!("traffic-dam/{}", value.0): value.1 });
        let pod = if key == "label" { pod("a", set, json!({})) } else { pod("a", json!({}), set) };
        let set = found(&KubernetesTarget { labels: choices(), ..target() }, &view(&slices, &[pod]));
        assert!(set.workers.is_empty(), "{value:?}");
        assert!(reasons(&set)[0].contains(words), "{:?}", reasons(&set));
    }
    // A label may not raise the size.
    let more = pod("a", json!({ "traffic-dam/slots": "64" }), json!({}));
    let set = found(&KubernetesTarget { labels: choices(), ..target() }, &view(&slices, &[more]));
    assert_eq!(set.workers[0].slots, Some(8));
}

#[test]
fn a_pod_waits_until_its_labels_are_known() {
    let target = KubernetesTarget { labels: choices(), ..target() };
    let slices = [slice("vllm-1", vec![endpoint("a", "uid-a", "10.0.0.1", json!({}))])];
    let mut view = view(&slices, &[]);
    assert!(found(&target, &view).workers.is_empty());
    // The pod of this name that was there before has another UID.
    let before = json!({ "metadata": { "name": "a", "uid": "old" } });
    let record = |pod: Value| PodRecord::read(&serde_json::from_value(pod).unwrap());
    assert!(RecordUpdate::Set("a".into(), record(before)).apply(&mut view.pods));
    assert!(found(&target, &view).workers.is_empty() && found(&target, &view).left_out.is_empty());
    assert!(RecordUpdate::Set("a".into(), record(pod("a", json!({}), json!({})))).apply(&mut view.pods));
    assert_eq!(found(&target, &view).workers.len(), 1);
    view.pods = None;
    assert!(view.workers(&target, "llm").is_none(), "the pods are not listed yet");
}

#[test]
fn pods_that_a_selector_matches_need_no_service() {
    let endpoints = KubernetesEndpoints::Selector("app=vllm".into());
    let target = KubernetesTarget { endpoints, port: Some(KubernetesPort::Number(8000)), ..target() };
    let change = |pointer: &str, value: Value| {
        let mut pod = pod("a", json!({}), json!({}));
        *pod.pointer_mut(pointer).unwrap() = value;
        pod
    };
    let deleted = json!({ "name": "a", "uid": "1", "deletionTimestamp": "2026-11-30T00:00:00Z" });
    for (pod, expected) in [
        (pod("a", json!({}), json!({})), Some(Presence::Ready)),
        (change("/status/conditions/1/status", json!("False")), Some(Presence::NotReady)),
        (change("/metadata", deleted), Some(Presence::Draining)),
        (change("/status/phase", json!("Failed")), None),
        (change("/status", json!({ "phase": "Pending" })), None),
    ] {
        let set = found(&target, &view(&[], &[pod]));
        assert_eq!(set.workers.first().map(|worker| worker.presence), expected);
    }
    let set = found(&target, &view(&[], &[pod("a", json!({}), json!({}))]));
    assert_eq!(shown(&set), [("llm/a", "http://10.0.0.1:8000/".into(), Presence::Ready)]);
    let six = found(
        &KubernetesTarget { family: AddressFamily::Ipv6, ..target },
        &view(&[], &[pod("a", json!({}), json!({}))]),
    );
    assert_eq!(six.workers[0].url, "http://[fd00::1]:8000/");
}

#[test]
fn an_inference_pool_says_which_pods_and_which_port() {
    let endpoints = KubernetesEndpoints::InferencePool("vllm".into());
    let target = KubernetesTarget { endpoints, ..target() };
    let read = |spec: Value| {
        let pool: DynamicObject =
            serde_json::from_value(json!({ "metadata": { "name": "vllm" }, "spec": spec })).unwrap();
        PoolRecord::read(&pool)
    };
    let labels = json!({ "matchLabels": { "app": "vllm", "tier": "chat" } });
    for wrong in [
        json!({}),
        json!({ "selector": { "matchLabels": {} }, "targetPorts": [{ "number": 8000 }] }),
        json!({ "selector": labels, "targetPorts": [] }),
        json!({ "selector": labels, "targetPorts": [{ "number": 80000 }] }),
        json!({ "selector": { "matchLabels": { "app": 1 } }, "targetPorts": [{ "number": 8000 }] }),
    ] {
        assert_eq!(read(wrong.clone()), None, "{wrong}");
    }
    let pool = read(json!({ "selector": labels, "targetPorts": [{ "number": 8000 }] })).unwrap();
    assert_eq!(pool.selector, "app=vllm,tier=chat");
    let mut view = view(&[], &[pod("a", json!({}), json!({}))]);
    assert!(view.workers(&target, "llm").is_none(), "the pool is not known yet");
    assert!(RecordUpdate::All([("vllm".to_owned(), pool)].into()).apply(&mut view.pool));
    assert_eq!(view.selector(), Some("app=vllm,tier=chat"));
    assert_eq!(shown(&found(&target, &view)), [("llm/a", "http://10.0.0.1:8000/".into(), Presence::Ready)]);
    // Several ranks of an engine: the settings say which.
    let ranks = read(json!({ "selector": labels, "targetPorts": [{ "number": 8000 }, { "number": 8001 }] }));
    RecordUpdate::Set("vllm".into(), ranks.unwrap()).apply(&mut view.pool);
    assert!(reasons(&found(&target, &view))[0].contains("it has the ports 8000, 8001"));
    // There is no pool: an answer too.
    assert!(RecordUpdate::Gone("vllm".into()).apply(&mut view.pool));
    assert!(found(&target, &view).workers.is_empty());
}

#[test]
fn news_that_change_nothing_are_told_from_those_that_do() {
    let mut known = None;
    assert!(!RecordUpdate::Set("a".to_owned(), 1).apply(&mut known), "not listed yet");
    assert!(RecordUpdate::All([("a".to_owned(), 1)].into()).apply(&mut known));
    assert!(!RecordUpdate::All([("a".to_owned(), 1)].into()).apply(&mut known));
    assert!(!RecordUpdate::Set("a".into(), 1).apply(&mut known));
    assert!(RecordUpdate::Set("a".into(), 2).apply(&mut known));
    assert!(!RecordUpdate::Alive.apply(&mut known));
    assert!(RecordUpdate::<i32>::Gone("a".into()).apply(&mut known));
    assert!(!RecordUpdate::<i32>::Gone("a".into()).apply(&mut known));
}
