//! Workers found by name, and the server of the names fails.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::task::JoinSet;
use traffic_dam::server::admin::AdminSource;

use super::client::{ask, chat, get};
use super::dns::{Behaviour, Dns, fully};
use super::fleet::{serves, shown};
use super::rig::{Dam, Worker, eventually, settings};

const NAME: &str = "vllm.test";

/// Settings that find the workers at `port` of the name.
fn found(dns: &Dns, port: u16, entry: &str, more: &str) -> String {
    let refresh = if entry.contains("refresh") { "" } else { ", refresh: 100ms" };
    format!(
        "workers:\n  discovery: dns\n  dns: [ {{ name: {NAME}, port: {port}{entry}{refresh} }} ]\n  \
         dns_servers: [ \"{}\" ]\n  allow: [ 127.0.0.0/8 ]\n  scrape: {{ interval: 100ms }}\n{more}",
        dns.addr
    )
}

/// Starts workers at 127.0.0.2, 127.0.0.3 and so on, at one port.
fn workers(count: u8, slots: u32) -> (u16, Vec<Worker>) {
    let at = |host: u8, port| SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), port));
    let first = Worker::start_at(at(2, 0), slots);
    let port = first.addr.port();
    let more = (1..count).map(|number| Worker::start_at(at(2 + number, port), slots));
    (port, std::iter::once(first).chain(more.collect::<Vec<_>>()).collect())
}

fn addresses(workers: &[Worker]) -> Vec<SocketAddr> {
    workers.iter().map(|worker| worker.addr).collect()
}

fn id(worker: &Worker) -> String {
    format!("{NAME}/{}", worker.addr.ip())
}

/// Returns the ids of the workers that take new requests.
fn eligible(dam: &Dam) -> Vec<String> {
    let state = dam.app.state();
    let pools = state["pools"].as_array().unwrap().iter();
    let workers = pools.flat_map(|pool| pool["workers"].as_array().unwrap());
    let eligible = workers.filter(|worker| worker["eligible"] == true);
    let mut ids: Vec<_> = eligible.map(|worker| worker["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

async fn has(dam: &Dam, workers: &[Worker]) {
    let ids: Vec<_> = workers.iter().map(id).collect();
    eventually("these workers", async || eligible(dam) == ids).await;
}

#[tokio::test]
async fn scaling_by_dns_under_load_fails_no_request_and_traffic_follows() {
    let ((port, workers), dns) = (workers(6, 16), Dns::start(0).await);
    dns.addresses(NAME, addresses(&workers[..2]));
    let dam = Arc::new(Dam::start(&found(&dns, port, ", model: sim", "")));
    has(&dam, &workers[..2]).await;
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut clients = JoinSet::new();
    for number in 0..8 {
        let (dam, stop, served) = (Arc::clone(&dam), Arc::clone(&stop), Arc::clone(&served));
        clients.spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                let answer = dam.ask(chat(&format!("c{number}"), true, 20, &[])).await;
                assert_eq!((answer.status, answer.whole), (200, true), "{}", answer.text());
                served.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    // Waits until so many more requests were served.
    let pass = async |more: u64| {
        let until = served.load(Ordering::SeqCst) + more;
        eventually("requests are served", async || served.load(Ordering::SeqCst) >= until).await;
    };
    pass(50).await;
    for number in [6, 3] {
        dns.addresses(NAME, addresses(&workers[..number]));
        has(&dam, &workers[..number]).await;
        pass(20).await;
        let before: Vec<u64> = received(&workers).await;
        pass(100).await;
        for (at, (before, after)) in before.into_iter().zip(received(&workers).await).enumerate() {
            assert_eq!(after > before, at < number, "worker {at} of {number}: {before} → {after}");
        }
    }
    stop.store(true, Ordering::SeqCst);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    dam.idle().await;
}

async fn received(workers: &[Worker]) -> Vec<u64> {
    let mut counts = Vec::new();
    for worker in workers {
        counts.push(worker.tally("received").await);
    }
    counts
}

#[tokio::test]
async fn without_an_answer_at_the_start_the_gateway_is_not_ready() {
    let ((port, workers), dns) = (workers(1, 8), Dns::start(0).await);
    dns.addresses(NAME, addresses(&workers));
    dns.behave(Behaviour::Fails);
    let dam = Dam::start(&found(&dns, port, "", ""));
    eventually("it asks", async || dns.asked() > 0).await;
    let ready = async || ask(dam.admin, get("/readyz")).await;
    let answer = ready().await;
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("discovery: dns has not answered"), "{}", answer.text());
    dns.behave(Behaviour::Answers);
    eventually("it is ready", async || ready().await.status == 200).await;
    // The model is the one that the worker names.
    has(&dam, &workers).await;
    serves(&dam).await;
    let unknown = String::from_utf8(chat("a", true, 2, &[])).unwrap().replace("\"sim\"", "\"mis\"");
    assert_eq!(dam.ask(unknown).await.status, 404);
}

#[tokio::test]
async fn a_server_that_fails_or_knows_nothing_changes_nothing() {
    let ((port, workers), dns) = (workers(2, 8), Dns::start(0).await);
    dns.addresses(NAME, addresses(&workers));
    let dam = Dam::start(&found(&dns, port, ", model: sim", ""));
    has(&dam, &workers).await;
    for behaviour in [Behaviour::Fails, Behaviour::Silent] {
        dns.behave(behaviour);
        let asked = dns.asked();
        eventually("it was asked again", async || dns.asked() > asked + 1).await;
        eventually("the age grows", async || dam.metric("discovery_age_seconds", "dns") > 0.3).await;
        assert_eq!(eligible(&dam).len(), 2);
        serves(&dam).await;
        dns.behave(Behaviour::Answers);
        eventually("it answers", async || dam.metric("discovery_age_seconds", "dns") < 0.3).await;
    }
    // The name is gone, for less than the grace.
    dns.set(NAME, RecordType::A, Vec::new());
    let asked = dns.asked();
    eventually("it was asked again", async || dns.asked() > asked + 4).await;
    assert_eq!(eligible(&dam).len(), 2);
    serves(&dam).await;
    dns.addresses(NAME, addresses(&workers[..1]));
    has(&dam, &workers[..1]).await;
}

#[tokio::test]
async fn an_empty_name_loses_its_workers_after_the_grace() {
    let ((port, workers), dns) = (workers(1, 8), Dns::start(0).await);
    dns.addresses(NAME, addresses(&workers));
    let dam = Dam::start(&found(&dns, port, ", model: sim", "  empty_grace: 200ms\n"));
    has(&dam, &workers).await;
    dns.set(NAME, RecordType::A, Vec::new());
    has(&dam, &[]).await;
    let answer = dam.ask(chat("a", true, 2, &[])).await;
    assert_eq!((answer.status, answer.reason()), (503, "no_worker"));
    dns.addresses(NAME, addresses(&workers));
    has(&dam, &workers).await;
    serves(&dam).await;
}

#[tokio::test]
async fn addresses_that_are_not_allowed_get_nothing() {
    let ((port, workers), dns) = (workers(2, 8), Dns::start(0).await);
    dns.addresses(NAME, addresses(&workers));
    let text = found(&dns, port, ", model: sim", "").replace("127.0.0.0/8", "127.0.0.2");
    let dam = Dam::start(&text);
    has(&dam, &workers[..1]).await;
    serves(&dam).await;
    eventually("the other is read", async || {
        shown(&dam, &id(&workers[0])).unwrap()["said"] != serde_json::Value::Null
    })
    .await;
    assert!(workers[1].last().await.is_null(), "it was asked nothing at all");
    // Another network in the settings.
    dam.app.reload(settings(&text.replace("127.0.0.2", "127.0.0.3"))).unwrap();
    has(&dam, &workers[1..]).await;
    // No discovery at all: nobody is left over.
    dam.app.reload(settings("workers: { static: [] }")).unwrap();
    has(&dam, &[]).await;
}

#[tokio::test]
async fn a_service_has_hosts_with_ports_of_their_own() {
    let (workers, dns) = ([Worker::start(8), Worker::start(8), Worker::start(8)], Dns::start(0).await);
    let service = "_http._tcp.vllm.test";
    let record = |host: &str, port, priority| RData::SRV(SRV::new(priority, 1, port, fully(host)));
    let ports = [0, 1, 2].map(|at: usize| workers[at].addr.port());
    let records =
        [record("a.test", ports[0], 1), record("b.test", ports[1], 1), record("b.test", ports[2], 2)];
    dns.set(service, RecordType::SRV, records.to_vec());
    dns.addresses("a.test", [SocketAddr::from(([127, 0, 0, 1], 0))]);
    dns.addresses("b.test", [SocketAddr::from(([127, 0, 0, 1], 0))]);
    let text = format!(
        "workers: {{ discovery: [dns], dns: [ {{ name: {service}, model: sim, refresh: 100ms }} ], \
         dns_servers: [ \"{}\" ], allow: [ 127.0.0.1 ] }}",
        dns.addr
    );
    let dam = Dam::start(&text);
    let mut ids: Vec<_> = ports[..2].iter().map(|port| format!("{service}/127.0.0.1:{port}")).collect();
    ids.sort();
    eventually("both of the best priority", async || eligible(&dam) == ids).await;
    for _ in 0..10 {
        serves(&dam).await;
    }
    assert_eq!(workers[2].tally("received").await, 0);
    // A host without an address is gone.
    dns.set("b.test", RecordType::A, Vec::new());
    eventually("only the other is left", async || eligible(&dam).len() == 1).await;
}

#[tokio::test]
async fn one_family_is_used_and_ipv4_first() {
    let ((port, workers), dns) = (workers(1, 8), Dns::start(0).await);
    let six: IpAddr = "::1".parse().unwrap();
    let IpAddr::V6(address) = six else { unreachable!() };
    dns.addresses(NAME, addresses(&workers));
    dns.set(NAME, RecordType::AAAA, vec![RData::AAAA(address.into())]);
    let with = |family: &str| {
        let entry = format!(", model: sim, family: {family}");
        found(&dns, port, &entry, "").replace("127.0.0.0/8", "127.0.0.0/8, ::1")
    };
    let dam = Dam::start(&with("auto"));
    has(&dam, &workers).await;
    dam.app.reload(settings(&with("ipv6"))).unwrap();
    eventually("the IPv6 address", async || eligible(&dam) == [format!("{NAME}/::1")]).await;
    dam.app.reload(settings(&with("auto"))).unwrap();
    has(&dam, &workers).await;
    dns.set(NAME, RecordType::A, Vec::new());
    eventually("the IPv6 address", async || eligible(&dam) == [format!("{NAME}/::1")]).await;
}

#[tokio::test]
async fn an_answer_is_kept_as_long_as_it_holds() {
    let ((port, workers), dns) = (workers(1, 8), Dns::start(3600).await);
    dns.addresses(NAME, addresses(&workers));
    let dam = Dam::start(&found(&dns, port, ", model: sim, refresh: 60s", ""));
    has(&dam, &workers).await;
    let asked = dns.asked();
    for _ in 0..50 {
        serves(&dam).await;
    }
    assert_eq!(dns.asked(), asked, "no request looks anything up");
}

#[tokio::test]
async fn the_load_of_a_worker_is_read_and_a_failed_check_takes_it_out() {
    let ((port, workers), dns) = (workers(2, 8), Dns::start(0).await);
    dns.addresses(NAME, addresses(&workers));
    let dam = Dam::start(&found(&dns, port, ", model: sim", ""));
    has(&dam, &workers).await;
    let said = |what: &str| shown(&dam, &id(&workers[0])).unwrap()["said"][what].clone();
    eventually("its load", async || said("kv_used").is_f64() && said("running").is_u64()).await;
    let [first, second] = <[Worker; 2]>::try_from(workers).unwrap();
    let gone = id(&first);
    first.kill().await;
    let light = |id: &str| shown(&dam, id).unwrap()["light"].clone();
    eventually("it is red", async || light(&gone) == "red" && eligible(&dam) == [id(&second)]).await;
    serves(&dam).await;
}

#[tokio::test]
async fn a_configured_worker_is_read_only_if_the_settings_say_so() {
    let workers = [Worker::start(8), Worker::start(8)];
    let text = format!(
        "workers: {{ static: [ {{ id: w1, url: \"http://{}\", scrape: true }}, {{ id: w2, url: \"http://{}\" }} ], \
         scrape: {{ interval: 100ms }} }}",
        workers[0].addr, workers[1].addr
    );
    let dam = Dam::start(&text);
    eventually("it is read", async || shown(&dam, "w1").unwrap()["said"]["kv_used"].is_f64()).await;
    assert!(shown(&dam, "w2").unwrap()["said"].is_null());
    // Paths that it does not have are not read, and make no worker red.
    dam.app.reload(settings(&text.replace("100ms", "100ms, path: /none, health: /nothing"))).unwrap();
    eventually("nothing is known", async || shown(&dam, "w1").unwrap()["said"].is_null()).await;
    assert_eq!(shown(&dam, "w1").unwrap()["light"], "green");
    serves(&dam).await;
}

#[tokio::test]
async fn a_stranger_at_a_workers_address_gets_nothing_while_the_source_is_away() {
    let ((port, mut workers), dns) = (workers(2, 8), Dns::start(0).await);
    dns.addresses(NAME, addresses(&workers));
    // Without a model in the settings, they are used once they have listed theirs.
    let dam = Dam::start(&found(&dns, port, "", ""));
    has(&dam, &workers).await;
    dns.behave(Behaviour::Fails);
    eventually("the source is away", async || {
        dam.app.state()["discovery"][0]["away"] == serde_json::json!([format!("{NAME}:{port}")])
    })
    .await;
    // The fleet follows by a timer of its own; a reload does so at once.
    dam.app.reload(settings(&found(&dns, port, "", ""))).unwrap();
    serves(&dam).await;
    // Another model's worker starts at the address of the first.
    let first = workers.remove(0);
    let address = first.addr;
    first.kill().await;
    let stranger = Worker::serving_at(address, "other", 8);
    for _ in 0..20 {
        serves(&dam).await;
    }
    assert_eq!(stranger.tally("received").await, 0);
    // When the source says that this is its worker, it is one.
    dns.behave(Behaviour::Answers);
    eventually("it is used", async || {
        serves(&dam).await;
        stranger.tally("received").await > 0
    })
    .await;
}
