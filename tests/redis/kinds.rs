//! The deployments of Redis: with a password and TLS, behind sentinels, as a cluster.

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use redis::aio::MultiplexedConnection;
use tempfile::TempDir;

use traffic_dam::fleet::heartbeat::Heartbeat;
use traffic_dam::redis::publisher::HeartbeatPublisher;
use traffic_dam::redis::settings::{RedisSettings, Topology};
use traffic_dam::server::admin::AdminSource;

use super::server::free_port;
use super::{Dam, Server, Worker, before, call, eventually, request, up};

const LIMITS: &str = "limits: [{ name: each, algorithm: token_bucket, per: caller, rate: 1/h, burst: 1000 }]";

fn dam(worker: &Worker, redis: &str) -> Dam {
    let text = format!(
        "  discovery: redis\n  allow: [127.0.0.1]\n  active_colour: blue\n\
         state: redis\nredis: {{ {redis} }}\n{LIMITS}\nlog: {{ sample: 0 }}\n"
    );
    Dam::start(&before(&[worker.entry("w1", 64)], &text))
}

async fn left(dam: &Dam) -> u64 {
    let answer = call(dam).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.number("x-ratelimit-remaining-requests")
}

/// Checks that a heartbeat arrives, and that a switch of colours is published.
async fn hears(dam: &Dam, settings: RedisSettings, epoch: u64) {
    let mut publisher = HeartbeatPublisher::new(settings, None);
    let mut seq = epoch * 1000;
    let id = format!("w{}", epoch + 1);
    eventually("the heartbeat is heard", async || {
        seq += 1;
        let text = format!(
            r#"{{"v":1,"worker":"{id}","boot":"a","seq":{seq},"interval_ms":60000,"state":"ready","url":"http://127.0.0.1:{}"}}"#,
            epoch
        );
        // It reconnects if the connection was lost.
        publisher.publish(&Heartbeat::read(text.as_bytes()).unwrap()).await.ok();
        dam.app.state()["pools"][0]["workers"].as_array().unwrap().iter().any(|worker| worker["id"] == *id)
    })
    .await;
    let body = "{\"colour\":\"blue\"}";
    let put = request("PUT /api/v1/pools/default/active", &["content-type: application/json"], body);
    eventually("a switch is told", async || {
        let switched = super::client::ask(dam.admin, &put).await;
        // Shortly after a failover the admin port may answer 503.
        assert!(matches!(switched.status, 200 | 503), "{}", switched.text());
        switched.status == 200 && switched.json()["epoch"].as_u64() >= Some(epoch)
    })
    .await;
}

fn reached(urls: &[String], topology: Topology) -> RedisSettings {
    let urls = urls.iter().map(|url| url.as_str().into()).collect::<Vec<_>>().into();
    RedisSettings { urls, topology, ..RedisSettings::single("".into(), "dam".into()) }
}

/// Writes a certificate for 127.0.0.1, its key, and its authority to files.
fn certificate(folder: &TempDir) -> [String; 3] {
    let authority_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(params, authority_key);
    let key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    [("cert.pem", server.pem()), ("key.pem", key.serialize_pem()), ("ca.pem", authority.pem())].map(
        |(name, pem)| {
            let path = folder.path().join(name);
            std::fs::write(&path, pem).unwrap();
            path.to_str().unwrap().to_owned()
        },
    )
}

#[tokio::test]
async fn a_password_and_tls() {
    let folder = tempfile::tempdir().unwrap();
    let [cert, key, ca] = certificate(&folder);
    let port = free_port().to_string();
    let mut options = vec!["--tls-port", &port, "--tls-cert-file", &cert, "--tls-key-file", &key];
    options.extend(["--tls-ca-cert-file", &ca, "--tls-auth-clients", "no"]);
    options.extend(["--user", "dam", "on", ">s3cret", "~*", "&*", "+@all"]);
    let _redis = Server::start_with(&options).await;
    let worker = Worker::start(64);
    let url = |user: &str| format!("url: \"rediss://{user}@127.0.0.1:{port}/3\"");
    let trusting = dam(&worker, &format!("{}, ca: \"{ca}\", timeout: 5s", url("dam:s3cret")));
    up(&trusting, true).await;
    assert_eq!((left(&trusting).await, left(&trusting).await), (999, 998));
    for redis in [url("dam:s3cret"), format!("{}, ca: \"{ca}\"", url("dam:wrong"))] {
        let other = dam(&worker, &redis);
        assert_eq!(left(&other).await, 0, "it begins with one, since it cannot know what it gave before");
        assert_eq!(other.metric("redis_up", ""), 0.0);
    }
}

#[tokio::test]
async fn sentinels_lead_to_the_new_master() {
    let mut master = Server::start().await;
    let replica = Server::start_with(&["--replicaof", "127.0.0.1", &master.port.to_string()]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sentinel.conf");
    let settings = format!(
        "sentinel monitor main 127.0.0.1 {} 1\nsentinel down-after-milliseconds main 500\n\
         sentinel failover-timeout main 3000\n",
        master.port
    );
    std::fs::write(&file, settings).unwrap();
    let sentinel = Server::start_sentinel(&file).await;
    let mut asked = sentinel.connect().await;
    eventually("the sentinel knows the replica", async || {
        let mut command = redis::cmd("SENTINEL");
        let known: Vec<redis::Value> =
            command.arg("REPLICAS").arg("main").query_async(&mut asked).await.unwrap();
        known.len() == 1
    })
    .await;
    let worker = Worker::start(64);
    let dam = dam(&worker, &format!("url: [\"{}\"], sentinel: main, timeout: 1s", sentinel.url()));
    up(&dam, true).await;
    assert_eq!(left(&dam).await, 999);
    let sentinels = reached(&[sentinel.url()], Topology::Sentinel("main".into()));
    hears(&dam, sentinels.clone(), 1).await;
    // Writes that the replica does not have yet are lost with the master; here it has them all.
    let mut connection = master.connect().await;
    redis::cmd("WAIT").arg(1).arg(5000).query_async::<i64>(&mut connection).await.unwrap();
    master.kill();
    // Calls in the meantime are served from this gateway's share.
    for wanted in [0.0, 1.0] {
        while dam.metric("redis_up", "") != wanted {
            assert!(left(&dam).await > 0);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    eventually("it counts on where it was", async || {
        let alone = dam.metric("redis_fallback_total", "");
        let left = left(&dam).await;
        let shared = dam.metric("redis_fallback_total", "") == alone;
        // At the new master 999 would be a new quota. Others may count before `redis_up` shows it.
        assert!(!shared || (1..=998).contains(&left), "{left}");
        shared
    })
    .await;
    hears(&dam, sentinels, 2).await;
    let mut connection = replica.connect().await;
    let role: Vec<redis::Value> = redis::cmd("ROLE").query_async(&mut connection).await.unwrap();
    assert_eq!(role[0], redis::Value::BulkString(b"master".to_vec()));
}

async fn cluster(connection: &mut MultiplexedConnection, words: &[&str]) -> redis::Value {
    let mut command = redis::cmd("CLUSTER");
    for word in words {
        command.arg(word);
    }
    command.query_async(connection).await.unwrap()
}

fn text(value: redis::Value) -> String {
    redis::from_redis_value(value).unwrap()
}

#[tokio::test]
async fn a_cluster_whose_slot_moves() {
    let mut nodes = Vec::new();
    for first in [0, 5462, 10923] {
        let bus = free_port().to_string();
        let options = ["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "2000"];
        let node = Server::start_with(&options).await;
        let mut connection = node.connect().await;
        let last = (first + 5461).min(16383);
        let range = [first, last].map(|slot: u32| slot.to_string());
        cluster(&mut connection, &["ADDSLOTSRANGE", &range[0], &range[1]]).await;
        let id = text(cluster(&mut connection, &["MYID"]).await);
        nodes.push((node, connection, bus, id));
    }
    let others: Vec<_> =
        nodes[1..].iter().map(|(node, _, bus, _)| (node.port.to_string(), bus.clone())).collect();
    for (port, bus) in &others {
        cluster(&mut nodes[0].1, &["MEET", "127.0.0.1", port, bus]).await;
    }
    eventually("the cluster is whole", async || {
        let mut whole = true;
        for (_, connection, ..) in &mut nodes {
            let info = text(cluster(connection, &["INFO"]).await);
            whole &= info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3");
        }
        whole
    })
    .await;
    let worker = Worker::start(64);
    let urls: Vec<_> = nodes.iter().map(|(node, ..)| format!("\"{}\"", node.url())).collect();
    let dam = dam(&worker, &format!("url: [{}], cluster: true, timeout: 1s", urls.join(", ")));
    up(&dam, true).await;
    assert_eq!((left(&dam).await, left(&dam).await), (999, 998));
    let nodes_at: Vec<_> = nodes.iter().map(|(node, ..)| node.url()).collect();
    hears(&dam, reached(&nodes_at, Topology::Cluster), 1).await;

    // The node with the caller's cell gives its slot, with all contents, to the next node.
    let mut held = None;
    for (index, (_, connection, ..)) in nodes.iter_mut().enumerate() {
        let keys: Vec<String> =
            redis::cmd("KEYS").arg("dam:limit:*:each:*").query_async(connection).await.unwrap();
        held = held.or(keys.into_iter().next().map(|key| (index, key)));
    }
    let (from, key) = held.unwrap();
    let to = (from + 1) % nodes.len();
    let slot = redis::from_redis_value::<u16>(cluster(&mut nodes[from].1, &["KEYSLOT", &key]).await).unwrap();
    let slot = slot.to_string();
    let ids: Vec<_> = nodes.iter().map(|(.., id)| id.clone()).collect();
    cluster(&mut nodes[to].1, &["SETSLOT", &slot, "IMPORTING", &ids[from]]).await;
    cluster(&mut nodes[from].1, &["SETSLOT", &slot, "MIGRATING", &ids[to]]).await;
    let inside: Vec<String> =
        redis::from_redis_value(cluster(&mut nodes[from].1, &["GETKEYSINSLOT", &slot, "100"]).await).unwrap();
    let target = nodes[to].0.port;
    let mut migrate = redis::cmd("MIGRATE");
    migrate.arg("127.0.0.1").arg(target).arg("").arg(0).arg(5000).arg("KEYS").arg(inside);
    migrate.query_async::<()>(&mut nodes[from].1).await.unwrap();
    for index in [to, from] {
        cluster(&mut nodes[index].1, &["SETSLOT", &slot, "NODE", &ids[to]]).await;
    }
    assert_eq!((left(&dam).await, left(&dam).await), (997, 996), "it is asked where it is now");
    assert_eq!(dam.metric("redis_fallback_total", ""), 0.0);
}
