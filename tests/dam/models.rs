//! Aliases, shares, fallbacks and the models of a caller.

use serde_json::{Value, json};

use super::client::{Answer, Conn, ask, get, request};
use super::rig::{Dam, Worker, before};

/// Keys with the secrets `a` and `b`.
const A: &str = "sha256: ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb";
const B: &str = "sha256: 3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d";

/// An entry of a worker in a pool of its own.
fn entry(worker: &Worker, id: &str, slots: u32, model: &str) -> String {
    worker.entry(id, slots).replace(" }", &format!(", pool: {id}, model: \"{model}\" }}"))
}

/// A gateway before the pools `own`, which serves `qwen3`, and `other`, which serves `small`.
fn two(own: &Worker, other: &Worker, slots: [u32; 2], more: &str) -> Dam {
    Dam::start(&before(
        &[entry(own, "own", slots[0], "qwen3"), entry(other, "other", slots[1], "small")],
        more,
    ))
}

/// Calls `model` for `tokens` answer tokens.
fn call(model: &str, stream: bool, tokens: u32, fields: &[&str]) -> Vec<u8> {
    let body = json!({
        "model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": stream,
        "max_tokens": tokens, "ignore_eos": true,
    });
    request("POST /v1/chat/completions", fields, body.to_string())
}

/// Returns the model that the worker was last asked for.
async fn asked_for(worker: &Worker) -> Value {
    let last = worker.last().await;
    serde_json::from_str::<Value>(last["body"].as_str().unwrap()).unwrap()["model"].clone()
}

fn names(models: &Answer) -> Vec<String> {
    let models = models.json();
    let names = models["data"].as_array().unwrap().iter();
    names.map(|model| model["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn an_alias_is_served_under_its_other_name_and_the_answer_says_which() {
    let workers = [Worker::serving("qwen3", 8), Worker::serving("small", 8)];
    let models = "models: [{ model: gpt-4o-mini, serve: qwen3 }, { model: \"gpt-*\", serve: small }]
answer_headers: { model: true, worker: true }";
    let dam = two(&workers[0], &workers[1], [8, 8], models);
    for (model, worker, served, id) in
        [("gpt-4o-mini", 0, "qwen3", "own"), ("gpt-5", 1, "small", "other"), ("small", 1, "small", "other")]
    {
        for stream in [false, true] {
            let answer = dam.ask(call(model, stream, 2, &[])).await;
            assert_eq!((answer.status, answer.whole), (200, true), "{}", answer.text());
            assert_eq!(asked_for(&workers[worker]).await, served);
            // The body of the answer is the worker's.
            assert!(answer.text().contains(&format!("\"model\":\"{served}\"")), "{}", answer.text());
            assert_eq!(answer.header("x-traffic-dam-model"), Some(served));
            assert_eq!(answer.header("x-traffic-dam-worker"), Some(id));
        }
    }
    let unknown = dam.ask(call("llama", false, 2, &[])).await;
    assert_eq!((unknown.status, unknown.reason()), (404, "not_found"));
    dam.idle().await;
}

#[tokio::test]
async fn a_share_is_of_the_sessions_and_each_keeps_its_model() {
    let workers = [Worker::serving("qwen3", 8), Worker::serving("small", 8)];
    let models =
        "models: [{ model: assistant, serve: [{ model: qwen3, weight: 3 }, { model: small, weight: 1 }] }]
answer_headers: { model: true }";
    let dam = two(&workers[0], &workers[1], [8, 8], models);
    let mut of_qwen = 0;
    for session in 0..60 {
        let field = format!("x-session-id: s{session}");
        let mut served = Vec::new();
        for _ in 0..2 {
            let answer = dam.ask(call("assistant", false, 1, &[&field])).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(answer.header("x-traffic-dam-worker"), None);
            served.push(answer.header("x-traffic-dam-model").unwrap().to_owned());
        }
        assert_eq!(served[0], served[1]);
        of_qwen += u32::from(served[0] == "qwen3");
    }
    // Sessions of this caller are hashed by a fixed key: the count is the same in every run.
    assert!((30..=57).contains(&of_qwen), "{of_qwen} of 60");
    let models: Vec<_> = (0..4).map(|_| call("assistant", false, 1, &[])).collect();
    let mut served = Vec::new();
    for call in models {
        served.push(dam.ask(call).await.header("x-traffic-dam-model").unwrap().to_owned());
    }
    served.dedup();
    assert_eq!(served.len(), 1, "without a session, the caller decides: {served:?}");
    dam.idle().await;
}

#[tokio::test]
async fn rules_see_the_name_asked_for_and_every_name_it_may_be_served_as() {
    let workers = [Worker::serving("qwen3", 8), Worker::serving("small", 8)];
    let models = "models:
  - { model: assistant, serve: [{ model: qwen3, weight: 1000 }, { model: small, weight: 1 }] }
  - { model: \"gpt-*\", serve: qwen3 }\n";
    let rule = |more: &str| {
        format!(
            "{models}limits: [{{ name: few, algorithm: token_bucket, per: {more}, rate: 1/h, burst: 1 }}]"
        )
    };
    let statuses = async |dam: &Dam, models: &[&str]| {
        let mut statuses = Vec::new();
        for model in models {
            statuses.push(dam.ask(call(model, false, 1, &[])).await.status);
        }
        statuses
    };
    for (name, met) in [("assistant", true), ("small", true), ("qwen*", true), ("llama", false)] {
        let rule = rule(&format!("caller, match: {{ model: \"{name}\" }}"));
        let dam = two(&workers[0], &workers[1], [8, 8], &rule);
        let second = if met { 429 } else { 200 };
        assert_eq!(statuses(&dam, &["assistant", "assistant"]).await, [200, second], "{name}");
    }
    // An alias counts as its entry, whatever it is served as; unknown names count together.
    let dam = two(&workers[0], &workers[1], [8, 8], &rule("model"));
    assert_eq!(
        statuses(&dam, &["gpt-1", "gpt-2", "qwen3", "qwen3", "assistant", "x", "y"]).await,
        [200, 429, 200, 429, 200, 404, 404]
    );
    let question = "/api/v1/explain?caller=ip:127.0.0.1&model=";
    for (model, key) in [("gpt-9", "model=gpt-*"), ("qwen3", "model=qwen3"), ("x", "model=*")] {
        let explained = ask(dam.admin, get(&format!("{question}{model}"))).await.json();
        assert_eq!(explained["rules"][0]["key"], key, "{explained}");
    }
}

#[tokio::test]
async fn a_caller_sees_and_gets_only_its_models() {
    let workers = [Worker::serving("qwen3", 8), Worker::serving("small", 8)];
    let more = format!(
        "models: [{{ model: assistant, serve: small }}, {{ model: lost, serve: nowhere }}]
callers:
  anonymous: refuse
  keys:
    - {{ id: a, {A}, models: [assistant, \"qw*\"] }}
    - {{ id: b, {B}, models: [], answer_headers: {{ worker: true }} }}
    - {{ id: c, sha256: 2e7d2c03a9507ae265ecf5b5356885a53393a2029d241394997265a1a25aefc6, answer_headers: {{ worker: true }} }}"
    );
    let dam = two(&workers[0], &workers[1], [8, 8], &more);
    let key = |name: &str| format!("authorization: Bearer {name}");
    let mut refusals = Vec::new();
    for (caller, model, status) in [
        ("a", "assistant", 200),
        ("a", "qwen3", 200),
        ("a", "small", 404),
        ("b", "assistant", 404),
        ("c", "small", 200),
        ("c", "lost", 404),
        ("c", "unknown", 404),
    ] {
        let answer = dam.ask(call(model, false, 1, &[&key(caller)])).await;
        assert_eq!(answer.status, status, "{caller} {model}: {}", answer.text());
        assert_eq!(answer.header("x-traffic-dam-worker").is_some(), caller == "c" && status == 200);
        if status == 404 {
            let mut error = answer.json();
            error["error"]["request_id"] = Value::Null;
            refusals.push((answer.reason().to_owned(), error));
        }
    }
    refusals.dedup();
    assert_eq!(refusals.len(), 1, "nobody learns what there is: {refusals:?}");
    for (caller, expected) in
        [("a", &["assistant", "qwen3"][..]), ("b", &[]), ("c", &["assistant", "qwen3", "small"])]
    {
        let list = dam.ask(request("GET /v1/models", &[&key(caller)], "")).await;
        assert_eq!(
            (list.status, names(&list)),
            (200, expected.iter().map(ToString::to_string).collect::<Vec<_>>())
        );
        for model in ["assistant", "qwen3", "small", "lost"] {
            let one = dam.ask(request(&format!("GET /v1/models/{model}"), &[&key(caller)], "")).await;
            let status = if expected.contains(&model) { 200 } else { 404 };
            assert_eq!(one.status, status, "{caller} {model}");
            if status == 200 {
                assert_eq!(one.json()["id"], model);
            }
        }
    }
    let fields = [&key("a")[..], "anthropic-version: 2023-06-01"];
    let list = dam.ask(request("GET /v1/models", &fields, "")).await.json();
    assert_eq!((&list["first_id"], &list["last_id"]), (&json!("assistant"), &json!("qwen3")));
    assert_eq!((&list["has_more"], &list["data"][0]["type"]), (&json!(false), &json!("model")));
    let one = dam.ask(request("GET /v1/models/qwen3", &fields, "")).await.json();
    assert_eq!((&one["type"], &one["display_name"]), (&json!("model"), &json!("qwen3")));
}

const FALLBACK: &str = "models: [{ model: assistant, serve: qwen3, fallback: [{ model: small }] }]\n";

#[tokio::test]
async fn a_fallback_takes_what_a_full_pool_cannot_and_each_request_is_charged_once() {
    let workers = [Worker::serving("qwen3", 2), Worker::serving("small", 4)];
    let more = format!(
        "{FALLBACK}answer_headers: {{ worker: true }}
admin: {{ token: t }}
concurrency: {{ limit: slots, queue: {{ length: 0 }} }}
limits: [{{ name: all, algorithm: token_bucket, per: all, rate: 1/h, burst: 100 }}]"
    );
    let dam = two(&workers[0], &workers[1], [2, 4], &more);
    let explain = ["x-traffic-dam-explain: 1", "x-traffic-dam-admin-token: t"];
    // Three times what the pool takes: all are served, each by one pool.
    let mut open = Vec::new();
    let body = json!({
        "model": "assistant", "messages": [], "stream": true, "max_tokens": 8, "sim_fault": "stall:1",
    });
    for index in 0..6 {
        let mut conn = Conn::open(dam.addr).await;
        conn.send(request("POST /v1/chat/completions", &explain, body.to_string())).await.unwrap();
        let head = conn.head().await.unwrap();
        let worker = if index < 2 { "own" } else { "other" };
        assert_eq!((head.status, head.header("x-traffic-dam-worker")), (200, Some(worker)), "{}", head.head);
        let line = "\"fallback\";model=\"assistant\";to=\"small\";pool=\"other\";reason=overloaded";
        assert_eq!(head.head.contains(line), worker == "other", "{}", head.head);
        open.push(conn);
    }
    assert_eq!(asked_for(&workers[1]).await, "small");
    assert_eq!(workers[0].tally("in_flight").await + workers[1].tally("in_flight").await, 6);
    assert_eq!(dam.held(), 6, "each holds one permit");
    // The fallback is full too: the first pool refuses.
    let refused = dam.ask(call("assistant", true, 2, &[])).await;
    assert_eq!((refused.status, refused.reason()), (503, "overloaded"));
    assert!(refused.refusal().3.contains("pool `own`"), "{}", refused.text());
    assert!(refused.number("retry-after") >= 1);
    drop(open);
    dam.idle().await;
    let answer = dam.ask(call("assistant", true, 2, &[])).await;
    assert_eq!((answer.status, answer.header("x-traffic-dam-worker")), (200, Some("own")));
    assert!(answer.header("ratelimit").unwrap().contains("\"all\";r=93"), "{}", answer.head);
    let label = "model=\"assistant\",reason=\"overloaded\",to=\"small\"";
    assert_eq!(dam.metric("fallback_total", label), 4.0);
    dam.idle().await;
    assert_eq!(dam.metric("fallback_total", label), 4.0);
}

#[tokio::test]
async fn a_fallback_answers_for_a_worker_that_fails_before_the_first_content() {
    let workers = [Worker::serving("qwen3", 8), Worker::serving("small", 8)];
    let timeouts = "  timeouts: { first_token: 500ms, idle: 500ms }\n  ejection: { mode: off }\n";
    let dam = two(&workers[0], &workers[1], [8, 8], &format!("{timeouts}{FALLBACK}"));
    for (fault, reason) in [
        ("die", "failed"),
        ("die-after-headers", "failed"),
        ("hang", "failed"),
        ("hang-after-headers", "failed"),
        ("status:500", "failed"),
        ("status:503", "overloaded"),
        ("status:429", "overloaded"),
        ("break:0", "failed"),
    ] {
        // A worker that was busy or failed may get nothing for a while: a new gateway knows nothing.
        let dam = two(&workers[0], &workers[1], [8, 8], &format!("{timeouts}{FALLBACK}"));
        workers[0].fault(fault, 1).await;
        let answer = dam.ask(call("assistant", true, 3, &[])).await;
        assert_eq!((answer.status, answer.whole), (200, true), "{fault}: {}", answer.text());
        assert!(answer.text().ends_with("data: [DONE]\n\n"), "{}", answer.text());
        assert!(!answer.text().contains("\"model\":\"qwen3\""), "nothing of the first is left");
        dam.idle().await;
        assert_eq!(dam.metric("fallback_total", &format!("reason=\"{reason}\"")), 1.0, "{fault}");
        workers[0].fault("die", 0).await;
    }
    // What is the client's own, or has begun, goes nowhere else.
    let received = workers[1].tally("received").await;
    for (fault, status) in [("status:400", 400), ("status:404", 404), ("break:2", 200)] {
        workers[0].fault(fault, 1).await;
        let answer = dam.ask(call("assistant", true, 5, &[])).await;
        assert_eq!(answer.status, status, "{fault}: {}", answer.text());
        assert!(!answer.text().contains("[DONE]"));
    }
    // A stored response may have begun, and one that continues another is known to its worker alone.
    for more in [json!({}), json!({"store": false, "previous_response_id": "resp_1"})] {
        let mut body = json!({ "model": "assistant", "input": "Hi" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        workers[0].fault("die", 1).await;
        let answer = dam.ask(request("POST /v1/responses", &[], body.to_string())).await;
        assert!(answer.status >= 400, "{}", answer.text());
        workers[0].fault("die", 0).await;
    }
    assert_eq!(workers[1].tally("received").await, received);
    dam.idle().await;
}

#[tokio::test]
async fn a_chain_goes_on_for_the_reasons_and_the_share_of_each_fallback() {
    let [first, second, third] = ["a", "b", "c"].map(|model| Worker::serving(model, 8));
    let more = "  retry: { max: 0, budget: 0 }
  ejection: { mode: off }
models:
  - { model: a, fallback: [{ model: b, on: [failed] }] }
  - { model: b, fallback: [{ model: c, on: [failed], share: 0.5 }] }
answer_headers: { model: true }\n";
    let entries = [entry(&first, "a", 8, "a"), entry(&second, "b", 8, "b"), entry(&third, "c", 8, "c")];
    let dam = Dam::start(&before(&entries, more));
    let mut served = Vec::new();
    for _ in 0..4 {
        first.fault("die", 1).await;
        second.fault("die", 1).await;
        let answer = dam.ask(call("a", true, 1, &[])).await;
        let refused = (answer.status, answer.reason()) == (502, "upstream_broke");
        assert!(answer.status == 200 || refused, "{}", answer.text());
        assert!(!refused || answer.refusal().3.contains("Worker a "), "the first one's: {}", answer.text());
        served.push(answer.header("x-traffic-dam-model").map(str::to_owned));
    }
    let c = Some("c".to_owned());
    // A request that failed at two workers goes to no third.
    assert_eq!(served.iter().filter(|served| **served == c).count(), 0, "{served:?}");
    first.fault("die", 0).await;
    second.fault("die", 0).await;
    first.kill().await;
    second.kill().await;
    // Nobody answers there: the request reached no worker, so it goes on, for half of those of `b`.
    let mut taken = 0;
    for _ in 0..8 {
        let answer = dam.ask(call("a", true, 1, &[])).await;
        taken += u32::from(answer.status == 200);
        assert!(answer.status == 200 || answer.status >= 502, "{}", answer.text());
    }
    assert!(taken >= 1, "the chain was never used");
    let to = |name: &str| dam.metric("fallback_total", &format!("to=\"{name}\""));
    assert!(f64::from(taken) <= to("b") * 0.5 + 1.0, "{taken} of {}", to("b"));
    assert_eq!(to("c"), f64::from(taken));
    dam.idle().await;
}
