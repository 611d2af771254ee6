//! What clients and workers receive: the worker's bytes, and refusals with all that a client needs.

use std::time::Duration;

use super::client::{Conn, ask, chat, get, request};
use super::messages::message;
use super::rig::{Dam, Worker, before, eventually};

fn completion(path: &str, body: &str, fields: &[&str]) -> Vec<u8> {
    let fields: Vec<&str> = ["x-request-id: same"].iter().chain(fields).copied().collect();
    request(&format!("POST {path}"), &fields, body)
}

/// Returns a request of each kind, streamed and not, with one sequence: several would interleave.
fn kinds(fields: &[&str]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for stream in [true, false] {
        all.push(chat("same", stream, 40, fields));
        let rest = format!(r#""stream":{stream},"max_tokens":30,"ignore_eos":true}}"#);
        all.push(completion("/v1/completions", &format!(r#"{{"prompt":"One",{rest}"#), fields));
        all.push(completion(
            "/v1/responses",
            &format!(r#"{{"input":"Hi","max_output_tokens":30,{rest}"#),
            fields,
        ));
        for more in [
            "",
            r#","thinking":{"type":"enabled","budget_tokens":1024}"#,
            r#","thinking":{"type":"enabled"},"tools":[{"name":"now"}],"tool_choice":{"type":"any"}"#,
        ] {
            all.push(message("same", stream, 30, more, fields));
        }
    }
    all.push(completion("/v1/embeddings", r#"{"input":["One","Two"]}"#, fields));
    all
}

#[tokio::test]
async fn bytes_are_the_workers_own_whatever_its_pieces() {
    let worker = Worker::start(64);
    let dam = Dam::start(&before(&[worker.entry("w1", 64)], ""));
    for chunk in ["chunk:1", "chunk:2", "chunk:7", "chunk:65536", "trailers"] {
        let fault = format!("x-sim-fault: {chunk}");
        for asked in kinds(&[&fault]) {
            let own = ask(worker.addr, &asked).await;
            let through = dam.ask(&asked).await;
            assert_eq!((through.status, own.status), (200, 200), "{}", own.text());
            assert!(through.whole && own.body.len() > 100);
            assert_eq!(through.text(), own.text(), "{chunk}");
            for field in ["content-type", "x-sim-model", "x-request-id", "cache-control", "content-length"] {
                assert_eq!(through.header(field), own.header(field), "{field}");
            }
            let timing = through.header("server-timing").unwrap();
            assert!(timing.starts_with("dam;dur=") && timing.contains("queue;dur="), "{timing}");
        }
    }
    let models = dam.ask(get("/v1/models")).await;
    assert_eq!(models.json(), ask(worker.addr, get("/v1/models")).await.json());
    dam.idle().await;
}

#[tokio::test]
async fn usage_that_only_a_token_rule_asked_for_is_hidden_again() {
    let worker = Worker::start(64);
    let rule =
        "{ name: minute, algorithm: sliding_window, per: caller, unit: tokens, limit: 100000, window: 1h }";
    let dam = Dam::start(&before(&[worker.entry("w1", 64)], &format!("limits: [{rule}]")));
    for chunk in ["chunk:1", "chunk:7", "chunk:65536"] {
        let asked = chat("same", true, 40, &[&format!("x-sim-fault: {chunk}")]);
        let own = ask(worker.addr, &asked).await;
        let through = dam.ask(&asked).await;
        assert_eq!((through.status, through.text()), (200, own.text()), "{chunk}");
        assert!(!through.text().contains("usage"));
        let sent = worker.last().await["body"].as_str().unwrap().to_owned();
        assert!(sent.contains("include_usage"), "{sent}");
        assert_eq!(through.header("x-ratelimit-limit-tokens"), Some("100000"));
    }
    // The rule is settled with the worker's reported usage: its charge equals the metric.
    dam.idle().await;
    let used = dam.metric("tokens_total", "");
    assert!(used >= 3.0 * 40.0, "{used}");
    let next = dam.ask(completion("/v1/embeddings", r#"{"input":"x"}"#, &[])).await;
    let left = next.number("x-ratelimit-remaining-tokens");
    let reserved = 100_000 - used as u64 - left;
    assert!(reserved <= 4, "{left} left after {used}: {reserved} for one word");

    // A client that asks for it gets it.
    let body = r#"{"messages":[{"role":"user","content":"Hi"}],"stream":true,"max_tokens":5,"ignore_eos":true,
        "stream_options":{"include_usage":true}}"#;
    let asked = completion("/v1/chat/completions", body, &[]);
    let own = ask(worker.addr, &asked).await;
    assert!(own.text().contains("\"usage\":{"));
    assert_eq!(dam.ask(&asked).await.text(), own.text());
}

#[tokio::test]
async fn a_429_says_everything_and_its_wait_is_true() {
    let worker = Worker::start(64);
    let rules = "limits:
  - { name: burst, algorithm: token_bucket, per: caller, unit: requests, rate: 1/s, burst: 1 }
  - { name: hour, algorithm: sliding_window, per: caller, unit: tokens, limit: 100000, window: 1h }";
    let dam = Dam::start(&before(&[worker.entry("w1", 64)], rules));
    for round in 0..4 {
        let admitted = dam.ask(chat("a", false, 3, &[])).await;
        assert_eq!(admitted.status, 200, "round {round}: {}", admitted.text());
        for (name, value) in [("x-ratelimit-limit-requests", "1"), ("x-ratelimit-remaining-requests", "0")] {
            assert_eq!(admitted.header(name), Some(value));
        }
        assert!(admitted.header("x-ratelimit-reset-tokens").is_some());

        let refused = dam.ask(chat("b", true, 3, &[])).await;
        assert_eq!(refused.status, 429, "round {round}");
        let (reason, family, code, message) = refused.refusal();
        assert_eq!(
            (reason.as_str(), family.as_str(), code.as_str()),
            ("rate_limited", "rate_limit_error", "rate_limit_exceeded")
        );
        assert!(
            message.contains("'burst'")
                && message.contains("1 request per second")
                && message.contains("Retry in"),
            "{message}"
        );
        assert!(refused.json()["error"]["param"].is_null());
        assert_eq!(refused.header("content-type"), Some("application/json"));
        assert_eq!(refused.header("x-request-id"), Some("b"));
        assert_eq!(refused.number("retry-after"), 1);
        let wait = refused.number("retry-after-ms");
        assert!((1..=1000).contains(&wait), "{wait}");
        assert_eq!(refused.header("x-ratelimit-limit-requests"), Some("1"));
        assert_eq!(refused.header("x-ratelimit-remaining-requests"), Some("0"));
        assert!(refused.header("x-ratelimit-reset-requests").unwrap().ends_with('s'));
        let policy = refused.header("ratelimit-policy").unwrap();
        assert!(policy.contains("\"burst\";q=1;w=1"), "{policy}");
        let standing = refused.header("ratelimit").unwrap();
        assert!(standing.contains("\"burst\";r=0;t=1"), "{standing}");
        assert!(refused.header("server-timing").is_some());
        assert_eq!(refused.header("x-should-retry"), None);
        // The wait itself is tested: a lone caller that obeys it is admitted.
        tokio::time::sleep(Duration::from_millis(wait)).await;
    }
}

#[tokio::test]
async fn a_full_worker_is_a_503_that_says_when_and_costs_no_quota() {
    let worker = Worker::start(1);
    let more = "concurrency: { queue: { length: 0 } }
limits: [{ name: two, algorithm: token_bucket, per: all, rate: 1/h, burst: 2 }]";
    let dam = Dam::start(&before(&[worker.entry("w1", 1)], more));
    let mut holder = Conn::open(dam.addr).await;
    holder.send(chat("holder", true, 5, &["x-sim-fault: stall:2"])).await.unwrap();
    assert_eq!(holder.head().await.unwrap().status, 200);
    for _ in 0..5 {
        let refused = dam.ask(chat("next", true, 5, &[])).await;
        assert_eq!(refused.status, 503, "{}", refused.text());
        let (reason, family, code, message) = refused.refusal();
        assert_eq!(
            (reason.as_str(), family.as_str(), code.as_str()),
            ("overloaded", "server_error", "overloaded")
        );
        assert!(message.contains("default"), "{message}");
        assert!((1..=60).contains(&refused.number("retry-after")));
        assert!((1..=60_000).contains(&refused.number("retry-after-ms")));
    }
    drop(holder);
    dam.idle().await;
    worker.busy_with(0).await;
    assert_eq!(dam.ask(chat("next", false, 5, &[])).await.status, 200);
    let refused = dam.ask(chat("next", false, 5, &[])).await;
    assert_eq!(refused.status, 429);
    assert_eq!(
        refused.header("x-should-retry"),
        Some("false"),
        "an hour is too long for a client to try by itself"
    );
}

#[tokio::test]
async fn paths_that_do_not_pass_name_the_setting() {
    let worker = Worker::start(4);
    let dam = Dam::start(&before(&[worker.entry("w1", 4)], ""));
    for path in ["/pause", "/metrics", "/debug/last", "/v1/chat"] {
        let refused = dam.ask(request(&format!("POST {path}"), &[], "{}")).await;
        let (reason, family, code, message) = refused.refusal();
        assert_eq!((refused.status, reason.as_str()), (404, "not_found"), "{path}");
        assert_eq!((family.as_str(), code.as_str()), ("invalid_request_error", "not_found"));
        assert!(message.contains("`paths`") && message.contains("`routes`"), "{message}");
    }
    assert_eq!(worker.tally("received").await, 0);
}

#[tokio::test]
async fn a_request_id_is_kept_when_harmless_and_made_otherwise() {
    let worker = Worker::start(4);
    let dam = Dam::start(&before(&[worker.entry("w1", 4)], ""));
    let kept = dam.ask(chat("Az.09_-", false, 1, &[])).await;
    assert_eq!(kept.header("x-request-id"), Some("Az.09_-"));
    assert_eq!(worker.last().await["headers"]["x-request-id"][0], "Az.09_-");
    for id in ["", "a b", "a\"b", "<x>", &"x".repeat(129)] {
        let made = dam.ask(chat(id, false, 1, &[])).await;
        let own = made.header("x-request-id").unwrap();
        assert!(own.len() == 32 && own.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id} became {own}");
        assert_eq!(worker.last().await["headers"]["x-request-id"][0], own, "the worker hears the same");
    }
}

#[tokio::test]
async fn secrets_stay_here_and_nobody_is_who_they_merely_say() {
    // SHA-256 of `sk-dam-team-a`.
    let digest = "7c171dd92b3bdc6781337a6375c17061b81f28c49d769593fd9d771c627aaf1a";
    for forward in [false, true] {
        let worker = Worker::start(4);
        let more = format!(
            "callers:
  from: [api_key, {{ header: x-user-id }}, ip]
  trusted_proxies: [10.0.0.0/8]
  forward_authorization: {forward}
  keys: [{{ id: team-a, sha256: \"{digest}\" }}]
limits:
  - {{ name: keyed, algorithm: token_bucket, per: caller, rate: 1/h, burst: 2, match: {{ caller: \"key:team-a\" }} }}
  - {{ name: address, algorithm: token_bucket, per: caller, rate: 1/h, burst: 6, match: {{ caller: \"ip:*\" }} }}"
        );
        let dam = Dam::start(&before(&[worker.entry("w1", 4)], &more));
        for field in ["authorization: Bearer sk-dam-team-a", "x-api-key: sk-dam-team-a"] {
            let answer = dam.ask(chat("a", false, 1, &[field])).await;
            assert_eq!(answer.status, 200);
            assert!(answer.header("ratelimit").unwrap().contains("keyed"));
            let last = worker.last().await.to_string();
            assert!(!last.contains("sk-dam-team-a"), "{last}");
        }
        assert_eq!(dam.ask(chat("a", false, 1, &["x-api-key: sk-dam-team-a"])).await.status, 429);

        // The settings may pass an unknown key to the worker; it does not identify a caller here.
        let forged = [
            "authorization: Bearer sk-other",
            "x-user-id: key:team-a",
            "x-forwarded-for: 192.0.2.7",
            "x-traffic-dam-caller: key:team-a",
            "x-traffic-dam-class: batch",
            "x-traffic-dam-deadline-ms: 9000",
            "X-Traffic-Dam-Reason: forged",
        ];
        for _ in 0..6 {
            let answer = dam.ask(chat("a", false, 1, &forged)).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert!(answer.header("ratelimit").unwrap().contains("address"));
        }
        let last = worker.last().await;
        let headers = last["headers"].as_object().unwrap();
        assert!(!headers.keys().any(|name| name.starts_with("x-traffic-dam")), "{last}");
        assert_eq!(headers.contains_key("authorization"), forward, "{last}");
        // All of them were one caller, known by its address, whatever name it sent.
        assert_eq!(dam.ask(chat("a", false, 1, &["x-user-id: another"])).await.status, 429);
        assert_eq!(dam.ask(chat("a", false, 1, &["x-forwarded-for: 192.0.2.8"])).await.status, 429);
        eventually("nothing left", async || dam.held() == 0).await;
    }
}
