//! Clients of Anthropic's Messages API: what they are told, what they are charged, what they wait for.

use serde_json::Value;

use super::client::{Answer, Conn, request};
use super::rig::{Dam, Worker, before, eventually};

/// Returns a message with `tokens` answer tokens, always the same for the same id; `more` are further
/// members of the body.
pub(crate) fn message(id: &str, stream: bool, tokens: u32, more: &str, fields: &[&str]) -> Vec<u8> {
    let body = format!(
        r#"{{"model":"sim","messages":[{{"role":"user","content":"Say something."}}],"stream":{stream},"max_tokens":{tokens},"ignore_eos":true{more}}}"#
    );
    let id = format!("x-request-id: {id}");
    let fields: Vec<&str> = [id.as_str(), "content-type: application/json", "anthropic-version: 2023-06-01"]
        .iter()
        .chain(fields)
        .copied()
        .collect();
    request("POST /v1/messages", &fields, body)
}

/// Asserts that an answer is an error of the Messages API, and returns its type and message.
fn error_of(answer: &Answer) -> (String, String) {
    let told = answer.json();
    assert_eq!(told["type"], "error", "{told}");
    let id = answer.header("request-id").unwrap_or_else(|| panic!("no request-id: {}", answer.head));
    assert_eq!((told["request_id"].as_str(), answer.header("x-request-id")), (Some(id), Some(id)), "{told}");
    assert_eq!(told.as_object().unwrap().len(), 3, "{told}");
    let text = |name: &str| told["error"][name].as_str().unwrap().to_owned();
    (text("type"), text("message"))
}

#[tokio::test]
async fn every_refusal_is_an_error_that_its_clients_can_read() {
    // SHA-256 of `sk-dam-team-a`.
    let digest = "7c171dd92b3bdc6781337a6375c17061b81f28c49d769593fd9d771c627aaf1a";
    let worker = Worker::start(8);
    let more = format!(
        "callers: {{ anonymous: refuse, keys: [{{ id: team-a, sha256: \"{digest}\" }}] }}
bounds: {{ body: 4KiB }}
limits:
  - {{ name: burst, algorithm: token_bucket, per: caller, rate: 1/h, burst: 2, match: {{ path: /v1/messages }} }}
  - {{ name: hour, algorithm: sliding_window, per: caller, unit: tokens, limit: 100000, window: 1h }}"
    );
    let entry = format!("{{ id: w1, url: \"http://{}\", slots: 8, model: sim }}", worker.addr);
    let dam = Dam::start(&before(&[entry], &more));
    let key = "x-api-key: sk-dam-team-a";

    let unknown = dam.ask(message("a", true, 1, "", &["x-api-key: sk-other"])).await;
    assert_eq!((unknown.status, error_of(&unknown).0.as_str()), (401, "authentication_error"));
    let large = format!(r#","system":"{}""#, "x".repeat(5000));
    let large = dam.ask(message("a", true, 1, &large, &[key])).await;
    assert_eq!((large.status, error_of(&large).0.as_str()), (413, "request_too_large"));
    for (line, status, kind) in [
        ("POST /v1/messages/batches", 404, "not_found_error"),
        ("GET /v1/messages", 405, "invalid_request_error"),
        ("POST /v1/messages//", 400, "invalid_request_error"),
    ] {
        let answer = dam.ask(request(line, &[key], "{}")).await;
        assert_eq!((answer.status, error_of(&answer).0.as_str()), (status, kind), "{line}");
    }
    let wrong = dam.ask(request("POST /v1/messages", &[key], r#"{"max_tokens":"many"}"#)).await;
    assert_eq!((wrong.status, error_of(&wrong).0.as_str()), (400, "invalid_request_error"));
    let elsewhere = request("POST /v1/messages", &[key], r#"{"model":"other","messages":[]}"#);
    let elsewhere = dam.ask(elsewhere).await;
    assert_eq!((elsewhere.status, error_of(&elsewhere).0.as_str()), (404, "not_found_error"));

    // Either header carries the key; neither key nor header reaches the worker, other fields do.
    for key in [key, "authorization: Bearer sk-dam-team-a"] {
        let beta = "anthropic-beta: fine-grained-tool-streaming-2025-05-14";
        let served = dam.ask(message("a", false, 3, "", &[key, beta])).await;
        assert_eq!((served.status, served.header("request-id")), (200, Some("a")), "{}", served.text());
        for (name, value) in
            [("requests-limit", "2"), ("tokens-limit", "100000"), ("input-tokens-limit", "100000")]
        {
            assert_eq!(served.header(&format!("anthropic-ratelimit-{name}")), Some(value));
        }
        assert!(
            served.header("x-ratelimit-limit-requests").is_none() && served.header("ratelimit").is_some()
        );
        let last = worker.last().await;
        assert!(!last.to_string().contains("sk-dam-team-a"), "{last}");
        assert_eq!(last["headers"]["anthropic-version"][0], "2023-06-01");
        assert_eq!(last["headers"]["anthropic-beta"][0], &beta[16..]);
    }
    let refused = dam.ask(message("b", true, 3, "", &[key])).await;
    assert_eq!((refused.status, refused.reason()), (429, "rate_limited"));
    let (kind, text) = error_of(&refused);
    assert!(kind == "rate_limit_error" && text.contains("'burst'"), "{text}");
    assert_eq!(refused.header("anthropic-ratelimit-requests-remaining"), Some("0"));
    let reset = refused.header("anthropic-ratelimit-requests-reset").unwrap();
    assert!(reset.len() == 20 && reset.ends_with('Z') && &reset[10..11] == "T", "{reset}");
    assert!(refused.number("retry-after") > 60 && refused.number("retry-after-ms") > 60_000);
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    dam.idle().await;
}

#[tokio::test]
async fn a_head_that_no_layer_sees_is_refused_in_the_same_form() {
    let worker = Worker::start(8);
    let dam = Dam::start(&before(&[worker.entry("w1", 8)], ""));
    let long = format!("x-a: {}", "a".repeat(40_000));
    for (line, fields, status) in [
        ("POST /v1/messages", &["host: other"][..], 400),
        ("POST /v1/messages", &["transfer-encoding: chunked"], 400),
        ("POST /v1/messages", &[long.as_str()], 431),
        ("post /v1/messages", &[], 400),
        ("POST /v1/messages", &["bad field: x"], 400),
    ] {
        let answer = dam.ask(request(line, fields, "")).await;
        assert_eq!(
            (answer.status, error_of(&answer).0.as_str()),
            (status, "invalid_request_error"),
            "{line}"
        );
    }
    let other = dam.ask(request("POST /v1/chat/completions", &["host: other"], "")).await;
    assert_eq!((other.status, other.refusal().2.as_str()), (400, "bad_request"));
    assert!(other.header("request-id").is_none());
}

#[tokio::test]
async fn a_full_worker_is_a_529_and_frees_itself_when_its_client_leaves() {
    let worker = Worker::start(1);
    let dam = Dam::start(&before(&[worker.entry("w1", 1)], "concurrency: { queue: { length: 0 } }"));
    let mut holder = Conn::open(dam.addr).await;
    holder.send(message("holder", true, 5, "", &["x-sim-fault: stall:2"])).await.unwrap();
    assert_eq!(holder.head().await.unwrap().status, 200);
    let refused = dam.ask(message("next", true, 5, "", &[])).await;
    assert_eq!((refused.status, refused.reason()), (529, "overloaded"));
    assert_eq!(error_of(&refused).0, "overloaded_error");
    assert!((1..=60).contains(&refused.number("retry-after")));

    // Counting needs no room at the worker.
    let count = r#"{"model":"sim","messages":[{"role":"user","content":"eight by"}]}"#;
    let counted = dam.ask(request("POST /v1/messages/count_tokens", &[], count)).await;
    assert_eq!((counted.status, &counted.json()["input_tokens"]), (200, &Value::from(2)));
    drop(holder);
    dam.idle().await;
    worker.busy_with(0).await;
}

#[tokio::test]
async fn until_the_first_content_another_worker_answers_and_afterwards_an_event_says_why() {
    let two = "\n  timeouts: { first_token: 500ms, idle: 500ms }\n  retry: { max: 1, budget: 1.0 }\n  ejection: { mode: off }";
    let workers = [Worker::start(8), Worker::start(8)];
    let dam = Dam::start(&before(&[workers[0].entry("w1", 8), workers[1].entry("w2", 8)], two));
    for fault in ["die-after-headers", "hang-after-headers", "break:0", "status:529", "status:503"] {
        workers[0].fault(fault, 100).await;
        let before = workers[0].tally("received").await;
        // The first worker is drawn at random: repeat until it was the bad one.
        while workers[0].tally("received").await == before {
            let answer = dam.ask(message("same", true, 5, "", &[])).await;
            assert_eq!((answer.status, answer.whole), (200, true), "{fault}: {}", answer.text());
            assert_eq!(answer.text().matches("event: message_start").count(), 1, "{fault}");
            assert!(answer.text().ends_with("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"));
        }
        workers[0].fault("die", 0).await;
    }
    for (fault, kind) in
        [("break:3", "api_error"), ("stall:3", "timeout_error"), ("chunk:9,break:3", "api_error")]
    {
        let answer = dam.ask(message("late", true, 9, "", &[&format!("x-sim-fault: {fault}")])).await;
        assert_eq!((answer.status, answer.whole), (200, true), "{fault}");
        let last = answer.text().trim_end().rsplit("\n\n").next().unwrap();
        let data = last.strip_prefix("event: error\ndata: ").unwrap_or_else(|| panic!("{fault}: {last}"));
        let error: Value = serde_json::from_str(data).unwrap();
        assert_eq!((&error["type"], &error["request_id"]), (&Value::from("error"), &Value::from("late")));
        assert_eq!(error["error"]["type"], kind, "{fault}");
        assert!(error["error"]["message"].as_str().unwrap().contains("Worker w"));
        assert!(!answer.text().contains("message_stop"));
    }
    dam.idle().await;
}

#[tokio::test]
async fn a_stream_that_began_without_content_fails_in_the_words_of_its_api() {
    let worker = Worker::start(8);
    let more = "\n  timeouts: { hold: 20ms, first_token: 300ms }";
    let dam = Dam::start(&before(&[worker.entry("w1", 8)], more));
    let answer = dam.ask(message("slow", true, 5, "", &["x-sim-fault: hang-after-headers"])).await;
    assert_eq!((answer.status, answer.whole, answer.header("request-id")), (200, true, Some("slow")));
    let text = answer.text();
    assert!(!text.contains("message_start"), "held until there is content: {text}");
    let error: Value =
        serde_json::from_str(text.rsplit("event: error\ndata: ").next().unwrap().trim_end()).unwrap();
    assert_eq!(error["error"]["type"], "timeout_error");
    dam.idle().await;
}

#[tokio::test]
async fn the_charge_is_what_the_worker_reports_cached_tokens_included() {
    let worker = Worker::start(8);
    let rule = "limits: [{ name: hour, algorithm: sliding_window, per: caller, unit: tokens, limit: 100000, window: 1h }]";
    let cached = format!(
        r#","system":[{{"type":"text","text":"{}","cache_control":{{"type":"ephemeral"}}}}]"#,
        "word ".repeat(400)
    );
    for stream in [true, false] {
        let dam = Dam::start(&before(&[worker.entry("w1", 8)], rule));
        let answer = dam.ask(message("a", stream, 40, &cached, &[])).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.text().contains(r#""cache_read_input_tokens":500"#), "{}", answer.text());
        dam.idle().await;
        // 500 cached tokens, 4 of the message, 4 of the template, 40 of the answer.
        assert_eq!(dam.metric("tokens_total", ""), 548.0);
        let next = dam.ask(request("POST /v1/embeddings", &[], r#"{"input":"x"}"#)).await;
        let left = next.number("x-ratelimit-remaining-tokens");
        assert!((100_000 - 548 - 4..=100_000 - 548).contains(&left), "{left}");
    }

    // A client that leaves has used its prompt and what it has seen.
    let dam = Dam::start(&before(&[worker.entry("w1", 8)], rule));
    let mut leaves = Conn::open(dam.addr).await;
    leaves.send(message("b", true, 40, &cached, &["x-sim-fault: stall:20"])).await.unwrap();
    leaves.see("text_delta").await.unwrap();
    drop(leaves);
    dam.idle().await;
    let used = dam.metric("tokens_total", "");
    assert!((509.0..=530.0).contains(&used), "{used}");
}

#[tokio::test]
async fn counting_is_bounded_by_itself() {
    let worker = Worker::start(8);
    let rule = "limits: [{ name: few, algorithm: token_bucket, per: all, rate: 1/h, burst: 50 },
        { name: tokens, algorithm: token_bucket, per: all, unit: tokens, rate: 1/h, burst: 10 }]";
    let dam = Dam::start(&before(&[worker.entry("w1", 8)], rule));
    let body = |text: &str| format!(r#"{{"model":"sim","prompt":"{text}"}}"#);
    let slow = request("POST /tokenize", &["x-sim-fault: slow-start:600000"], body("eight by"));
    let mut two = [Conn::open(dam.addr).await, Conn::open(dam.addr).await];
    for conn in &mut two {
        conn.send(&slow).await.unwrap();
    }
    // Two are at the worker; the third is refused at once, and its rules are not charged.
    eventually("a refusal", async || {
        let third = dam.ask(request("POST /tokenize", &["x-sim-fault: slow-start:0"], body("x"))).await;
        third.status == 503
    })
    .await;
    let third =
        dam.ask(request("POST /v1/messages/count_tokens", &[], r#"{"model":"sim","messages":[]}"#)).await;
    assert_eq!((third.status, third.reason()), (529, "overloaded"));
    assert_eq!(error_of(&third).0, "overloaded_error");
    assert_eq!(dam.held(), 0, "they take no permits");
    drop(two);
    dam.idle().await;

    let words = dam.ask(request("POST /detokenize", &[], r#"{"model":"sim","tokens":[0,1]}"#)).await;
    assert_eq!((words.status, &words.json()["prompt"]), (200, &Value::from("The water")));
    let large = dam.ask(request("POST /tokenize", &[], body(&"x".repeat(1 << 20)))).await;
    assert_eq!((large.status, large.reason()), (413, "body_too_large"));
    assert!(large.refusal().3.contains("1048576"), "{}", large.text());
    let mut left = 50;
    let limited = loop {
        let answer = dam.ask(request("POST /tokenize", &[], body("x"))).await;
        if answer.status != 200 {
            break answer;
        }
        left -= 1;
        assert!(left >= 0, "request rules count these calls");
    };
    assert_eq!((limited.status, limited.reason()), (429, "rate_limited"));
}

#[tokio::test]
async fn kinds_that_are_not_named_are_not_served() {
    let worker = Worker::start(8);
    let dam = Dam::start(&before(&[worker.entry("w1", 8)], "kinds: [rerank]"));
    let refused = dam.ask(message("a", false, 3, "", &[])).await;
    assert_eq!((refused.status, error_of(&refused).0.as_str()), (404, "not_found_error"));
    assert_eq!(dam.ask(request("POST /tokenize", &[], "{}")).await.status, 404);
    let ranked = r#"{"model":"sim","query":"four","documents":["one","two"]}"#;
    let ranked = dam.ask(request("POST /v1/rerank", &[], ranked)).await;
    assert_eq!((ranked.status, ranked.json()["results"].as_array().unwrap().len()), (200, 2));
    dam.idle().await;
    assert_eq!(dam.metric("tokens_total", ""), ranked.json()["usage"]["total_tokens"].as_f64().unwrap());
}
