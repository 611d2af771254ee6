//! One share of the workers for a caller, however many gateways it uses.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::JoinSet;

use super::client::{ask, chat};
use super::{Dam, Server, Worker, chat_as, eventually, gateways, patient};

/// The callers, each with the numbers of the gateways that it uses.
const CALLERS: [(&str, &[usize]); 4] = [("greedy", &[0, 1, 2]), ("a", &[0]), ("b", &[1]), ("c", &[2])];
/// Clients of each caller at each of its gateways: more than it gets permits, so that one always waits.
const CLIENTS: usize = 4;
/// Tokens of an answer.
const TOKENS: u32 = 5;

/// Two permits at each gateway, and nobody is refused.
const SHARED: &str = "gateways: 3\n\
    concurrency: { limit: slots, fleet_factor: 1.0, queue: { wait: 60s } }\n\
    callers: { from: [{ header: x-user-id }], trusted_proxies: [127.0.0.1] }\n";
const RULE: &str = "  - { name: each, algorithm: token_bucket, per: caller, rate: 100000/s, burst: 100000 }";

/// Clients that ask again and again until it is dropped.
struct Load {
    served: [Arc<AtomicU64>; CALLERS.len()],
    _clients: JoinSet<()>,
}

impl Load {
    fn start(gateways: &[Dam]) -> Self {
        let served: [Arc<AtomicU64>; CALLERS.len()] = Default::default();
        let mut clients = JoinSet::new();
        for ((caller, places), served) in CALLERS.iter().zip(&served) {
            for place in places.iter().flat_map(|place| [*place; CLIENTS]) {
                let (addr, served, user) =
                    (gateways[place].addr, Arc::clone(served), format!("x-user-id: {caller}"));
                clients.spawn(async move {
                    loop {
                        let answer = ask(addr, chat("same", false, TOKENS, &[&user])).await;
                        assert_eq!(answer.status, 200, "{}", answer.text());
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        }
        Self { served, _clients: clients }
    }

    /// Returns the requests served so far: of the greedy caller, and of all others together.
    fn served(&self) -> (u64, u64) {
        let [greedy, light @ ..] = self.served.each_ref().map(|served| served.load(Ordering::Relaxed));
        (greedy, light.iter().sum())
    }

    /// Waits until the light callers have been served that many requests more; returns what was served.
    async fn more(&self, light: u64) -> (u64, u64) {
        let before = self.served();
        eventually("requests", async || self.served().1 >= before.1 + light).await;
        let after = self.served();
        (after.0 - before.0, after.1 - before.1)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_of_three_gateways_gets_one_share_and_not_three() {
    let (redis, worker) = (Server::start().await, Worker::paced(6, 1.0));
    let signed = "timeout: 5s, hmac_key: \"a-secret-of-more-than-thirty-two-letters\"";
    let text = patient(&redis, &worker, RULE, SHARED).replace("timeout: 5s", signed).replace("64 }", "6 }");
    let gateways = gateways(3, &text).await;
    for dam in &gateways {
        // They tell each other even if nobody asks.
        eventually("texts are told and heard", async || {
            dam.metric("redis_command_seconds_count", "exchange") >= 4.0
        })
        .await;
    }
    let load = Load::start(&gateways);
    load.more(300).await;
    let (greedy, light) = load.more(1500).await;
    // Alone, each gateway would give the greedy caller as much as its light one.
    let times = 3.0 * greedy as f64 / light as f64;
    assert!((0.5..=1.6).contains(&times), "{greedy} requests of the greedy caller, {light} of three others");
    drop(load);

    let mut connection = redis.connect().await;
    eventually("each gateway has a text that expires", async || {
        let keys: Vec<String> =
            redis::cmd("KEYS").arg("dam:{exchange}:*").query_async(&mut connection).await.unwrap();
        for key in &keys {
            let text: Option<String> = redis::cmd("GET").arg(key).query_async(&mut connection).await.unwrap();
            assert!(!text.unwrap_or_default().contains("greedy"), "names of callers do not leave a gateway");
            let lives: i64 = redis::cmd("PTTL").arg(key).query_async(&mut connection).await.unwrap();
            // -2: it has just expired.
            assert!(lives == -2 || (0..=3000).contains(&lives), "{lives} ms");
        }
        keys.len() == 3
    })
    .await;
}

#[tokio::test]
async fn a_gateway_that_is_alone_tells_nobody() {
    let (redis, worker) = (Server::start().await, Worker::start(8));
    let gateways = gateways(1, &patient(&redis, &worker, RULE, &SHARED.replace("gateways: 3", ""))).await;
    assert_eq!(chat_as(&gateways[0], "a", 1, false).await.status, 200);
    let probes = || gateways[0].metric("redis_command_seconds_count", "probe");
    let before = probes();
    // Each second has at least three.
    eventually("some seconds", async || probes() >= before + 12.0).await;
    assert_eq!(gateways[0].metric("redis_command_seconds_count", "exchange"), 0.0);
}
