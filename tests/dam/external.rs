//! External workers: a paid API is sent little, tells nothing, and is left alone when it asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use traffic_dam::server::admin::AdminSource;

use super::client::{Answer, Conn, get, request};
use super::rig::{Dam, Worker, eventually};

/// An answer of a paid API.
const SERVED: &str = "{\"choices\":[{\"message\":{\"content\":\"hi\"}}],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3}}";
/// Fields that tell of the account with the provider.
const ACCOUNT: &str = "set-cookie: a=b\r\nopenai-organization: acme\r\nanthropic-organization-id: acme\r\n\
                       x-ratelimit-limit-requests: 500\r\nanthropic-ratelimit-tokens-limit: 9\r\nrequest-id: req_1\r\n";

/// A paid API that answers each request with the next of its answers, the last one for ever.
struct Api {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
    answers: Arc<Mutex<Vec<String>>>,
    count: Arc<AtomicUsize>,
}

impl Api {
    async fn start(answers: &[String]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            asked: Arc::default(),
            answers: Arc::new(Mutex::new(answers.to_vec())),
            count: Arc::default(),
        };
        let (asked, answers, count) =
            (Arc::clone(&api.asked), Arc::clone(&api.answers), Arc::clone(&api.count));
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let (asked, answers, count) = (Arc::clone(&asked), Arc::clone(&answers), Arc::clone(&count));
                tokio::spawn(async move {
                    let mut heard = Vec::new();
                    while connection.read_buf(&mut heard).await.is_ok_and(|read| read > 0) {
                        let text = String::from_utf8_lossy(&heard).into_owned();
                        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                        if body.len() < length.map_or(0, |length| length.parse().unwrap()) {
                            continue;
                        }
                        heard.clear();
                        asked.lock().push(text.clone());
                        count.fetch_add(1, Ordering::SeqCst);
                        let answer = {
                            let mut answers = answers.lock();
                            if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() }
                        };
                        connection.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        api
    }

    fn asked(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    fn last(&self) -> String {
        self.asked.lock().last().cloned().unwrap()
    }

    /// Returns its entry in `workers.static`.
    fn entry(&self, id: &str, more: &str) -> String {
        format!(
            "{{ id: {id}, url: \"{}/base/v1\", model: remote, pool: remote, slots: 8, {more} }}",
            self.url
        )
    }
}

fn answer(status: u16, fields: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} Said\r\ncontent-type: application/json\r\n{fields}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn served() -> String {
    answer(200, ACCOUNT, SERVED)
}

/// Settings with two callers, of which only `rich` may use external workers.
fn settings(workers: &[String]) -> String {
    let key = |key: &str| Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!(
        "workers: {{ static: [{}] }}\ncallers: {{ keys: [{{ id: rich, external: true, sha256: \"{}\" }}, \
         {{ id: poor, sha256: \"{}\" }}] }}\n",
        workers.join(", "),
        key("rich-key"),
        key("poor-key")
    )
}

async fn ask(dam: &Dam, key: &str, model: &str, fields: &[&str]) -> Answer {
    let key = format!("authorization: Bearer {key}");
    let fields = [&[key.as_str(), "content-type: application/json"], fields].concat();
    let body =
        format!("{{\"model\":\"{model}\",\"messages\":[{{\"role\":\"user\",\"content\":\"hello\"}}]}}");
    dam.ask(request("POST /v1/chat/completions?beta=true&api_key=k", &fields, body)).await
}

const LIMITS: &str =
    "provider: { requests: 500/m, tokens: 200000/m }, headers: { authorization: \"Bearer ours\" }";

#[tokio::test]
async fn a_provider_learns_nothing_of_the_caller_and_clients_nothing_of_the_account() {
    let api = Api::start(&[served()]).await;
    // Limits so slow that nothing comes back during the test.
    let limits = LIMITS.replace("500/m", "50/d").replace("200000/m", "2000/d");
    let dam = Dam::start(&settings(&[api.entry("api", &limits)]));
    let fields = [
        "x-api-key: callers",
        "cookie: a=b",
        "x-forwarded-for: 192.0.2.7",
        "x-session-id: s1",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "anthropic-version: 2023-06-01",
        "openai-beta: assistants=v2",
        "openai-organization: callers",
    ];
    let answer = ask(&dam, "rich-key", "remote", &fields).await;
    assert_eq!((answer.status, answer.text()), (200, SERVED));
    let asked = api.last();
    let (head, _) = asked.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /base/v1/chat/completions?beta=true HTTP/1.1\r\n"), "{head}");
    let mut names: Vec<_> = head.lines().skip(1).map(|line| line.split_once(": ").unwrap().0).collect();
    names.sort_unstable();
    let expected = [
        "accept-encoding",
        "anthropic-version",
        "authorization",
        "content-length",
        "content-type",
        "host",
        "openai-beta",
    ];
    assert_eq!(names, expected);
    assert!(head.contains("authorization: Bearer ours\r\n"), "{head}");
    for gone in ["set-cookie", "openai-organization", "anthropic-organization-id", "request-id"] {
        assert_eq!(answer.header(gone), None, "{}", answer.head);
    }
    assert!(
        !answer.head.contains("ratelimit-limit-requests: 500") && !answer.head.contains("tokens-limit: 9")
    );
    eventually("the permit is back", async || dam.held() == 0).await;
    assert_eq!(dam.metric("provider_remaining", "unit=\"requests\""), 49.0);
    assert_eq!(dam.metric("provider_remaining", "unit=\"tokens\""), 1990.0, "7 + 3 tokens were used");
}

#[tokio::test]
async fn only_callers_with_the_right_are_served_and_none_of_class_batch() {
    let (api, own) = (Api::start(&[served()]).await, Worker::serving("own", 8));
    let own_entry = format!("{{ id: own, url: \"http://{}\", model: own, pool: own, slots: 8 }}", own.addr);
    let dam = Dam::start(&settings(&[api.entry("api", LIMITS), own_entry]));
    let unknown = ask(&dam, "poor-key", "nothing", &[]).await;
    for (key, fields) in [("poor-key", &[][..]), ("rich-key", &["x-traffic-dam-class: batch"])] {
        let answer = ask(&dam, key, "remote", fields).await;
        assert_eq!((answer.status, answer.reason()), (404, "not_found"));
        assert_eq!(answer.text(), unknown.text(), "as for a model that nobody serves");
    }
    // Nor does anything go there that needs no permit.
    let listed = dam.ask(get("/v1/models")).await;
    assert_eq!(listed.status, 200, "{}", listed.text());
    assert_eq!(api.asked(), 0);
    assert_eq!(ask(&dam, "rich-key", "remote", &[]).await.status, 200);
    assert_eq!(ask(&dam, "poor-key", "own", &[]).await.status, 200);
}

#[tokio::test]
async fn in_a_mixed_pool_an_external_worker_gets_only_what_no_other_has_room_for() {
    let (api, own) = (Api::start(&[served()]).await, Worker::serving("remote", 1));
    let own_entry =
        format!("{{ id: own, url: \"http://{}\", model: remote, pool: remote, slots: 1 }}", own.addr);
    let text = settings(&[api.entry("api", LIMITS), own_entry]) + "concurrency: { limit: slots }\n";
    let dam = Dam::start(&text);
    for _ in 0..5 {
        assert_eq!(ask(&dam, "rich-key", "remote", &[]).await.status, 200);
    }
    assert_eq!(api.asked(), 0);
    own.fault("hang", 1).await;
    let (key, body) =
        ("authorization: Bearer rich-key", "{\"model\":\"remote\",\"stream\":true,\"messages\":[]}");
    let mut held = Conn::open(dam.addr).await;
    held.send(request("POST /v1/chat/completions", &[key], body)).await.unwrap();
    own.busy_with(1).await;
    assert_eq!(ask(&dam, "rich-key", "remote", &[]).await.status, 200);
    assert_eq!(api.asked(), 1);
    let refused = ask(&dam, "poor-key", "remote", &[]).await;
    assert_eq!((refused.status, api.asked()), (503, 1), "{}", refused.text());
}

#[tokio::test]
async fn what_a_provider_refuses_is_served_elsewhere_and_nothing_is_sent_there_for_as_long_as_it_asks() {
    let busy = answer(429, "retry-after: 7\r\n", "{\"error\":\"slow down\"}");
    let (one, two) = (Api::start(std::slice::from_ref(&busy)).await, Api::start(&[served()]).await);
    let dam = Dam::start(&settings(&[one.entry("one", LIMITS), two.entry("two", LIMITS)]));
    for _ in 0..40 {
        let answer = ask(&dam, "rich-key", "remote", &[]).await;
        assert_eq!((answer.status, answer.text()), (200, SERVED));
    }
    assert_eq!((one.asked(), two.asked()), (1, 40));
    assert_eq!(dam.metric("provider_refusals_total", "cause=\"quota\",worker=\"one\""), 1.0);
    assert!((5.0..=7.0).contains(&dam.metric("provider_closed_seconds", "one")));
    assert_eq!(dam.metric("worker_light", "one"), 1.0, "it is not red: it is asked again by itself");

    // Without another worker the refusal is the gateway's own, with the provider's time.
    let alone = Api::start(&[busy]).await;
    let dam = Dam::start(&settings(&[alone.entry("alone", LIMITS)]));
    for _ in 0..5 {
        let answer = ask(&dam, "rich-key", "remote", &[]).await;
        assert_eq!((answer.status, answer.reason()), (503, "overloaded"), "{}", answer.text());
        assert!((5..=8).contains(&answer.number("retry-after")), "{}", answer.head);
        assert!(!answer.text().contains("slow down"));
    }
    assert_eq!(alone.asked(), 1);
}

#[tokio::test]
async fn the_configured_limits_hold_for_all_callers_together() {
    let api = Api::start(&[served()]).await;
    let dam = Dam::start(&settings(&[api.entry("api", "provider: { requests: 3/h }")]));
    for _ in 0..3 {
        assert_eq!(ask(&dam, "rich-key", "remote", &[]).await.status, 200);
    }
    let answer = ask(&dam, "rich-key", "remote", &[]).await;
    assert_eq!((answer.status, answer.reason()), (503, "overloaded"), "{}", answer.text());
    assert!((1190..=1330).contains(&answer.number("retry-after")), "a third of an hour: {}", answer.head);
    assert_eq!(api.asked(), 3);
}

#[tokio::test]
async fn a_provider_with_nothing_left_is_not_asked_until_it_says() {
    let last = answer(200, "x-ratelimit-remaining-tokens: 0\r\nx-ratelimit-reset-tokens: 9m0s\r\n", SERVED);
    let api = Api::start(&[last]).await;
    let dam = Dam::start(&settings(&[api.entry("api", LIMITS)]));
    assert_eq!(ask(&dam, "rich-key", "remote", &[]).await.status, 200);
    let answer = ask(&dam, "rich-key", "remote", &[]).await;
    assert_eq!((answer.status, api.asked()), (503, 1));
    assert!((530..=600).contains(&answer.number("retry-after")), "{}", answer.head);
}

#[tokio::test]
async fn a_request_waits_for_quota_that_comes_in_time() {
    let api = Api::start(&[served()]).await;
    let entry = api.entry("api", "provider: { requests: 10/s }");
    let dam = Dam::start(&(settings(&[entry]) + "concurrency: { queue: { wait: 20s } }\n"));
    let asked = (0..15).map(|_| ask(&dam, "rich-key", "remote", &[]));
    for answer in futures_util::future::join_all(asked).await {
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(api.asked(), 15);
}

#[tokio::test]
async fn rejected_credentials_are_an_error_of_the_gateway_that_somebody_must_see() {
    for status in [401, 403] {
        let api =
            Api::start(&[answer(status, "", "{\"error\":\"Incorrect API key: sk-ours\"}"), served()]).await;
        let dam = Dam::start(&settings(&[api.entry("api", LIMITS)]));
        assert!(
            dam.app.metrics().contains("provider_refusals_total{cause=\"credentials\",worker=\"api\"} 0")
        );
        let answer = ask(&dam, "rich-key", "remote", &[]).await;
        assert_eq!((answer.status, answer.reason()), (502, "upstream_broke"), "{}", answer.text());
        assert!(!answer.text().contains("sk-ours"), "{}", answer.text());
        assert_eq!(dam.metric("provider_refusals_total", "cause=\"credentials\""), 1.0);
        assert_eq!(dam.metric("worker_light", "api"), 0.0);
        let state = dam.app.state();
        let trouble = state["pools"][0]["workers"][0]["trouble"].as_str().unwrap();
        assert!(trouble.contains("401 or 403"), "{trouble}");
        assert_eq!(ask(&dam, "rich-key", "remote", &[]).await.status, 200);
        eventually("it is well again", async || dam.metric("worker_light", "api") == 2.0).await;
    }
}

#[tokio::test]
async fn the_health_of_an_external_worker_is_read_from_its_traffic_alone() {
    let api = Api::start(&[served()]).await;
    let dam = Dam::start(&settings(&[api.entry("api", LIMITS)]));
    eventually("it is ready", async || dam.app.ready().is_ok()).await;
    assert_eq!(dam.metric("worker_light", "api"), 2.0);
    assert_eq!(dam.app.state()["pools"][0]["workers"][0]["provider"]["requests"], 500);
    assert_eq!(api.asked(), 0);
}
