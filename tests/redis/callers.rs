//! Callers that are stored in Redis and changed through the admin port.

use serde_json::json;

use super::client::ask;
use super::{Answer, Dam, Server, Worker, before, eventually, get, request};

const LOCAL: &str = "origin: http://localhost";

fn settings(redis: &Server, worker: &Worker) -> String {
    let rest = format!(
        "callers: {{ stored: redis, anonymous: refuse }}
admin: {{ token: s3cret }}
redis: {{ url: \"{}\", timeout: 1s }}
limits: [{{ name: each, algorithm: token_bucket, per: team, rate: 1/h, burst: 3 }}]\n",
        redis.url()
    );
    before(&[worker.entry("w1", 8)], &rest)
}

async fn admin(dam: &Dam, line: &str, body: &str) -> Answer {
    let token = "authorization: Bearer s3cret";
    ask(dam.admin, request(line, &[token, LOCAL, "content-type: application/json"], body)).await
}

async fn call(dam: &Dam, key: &str) -> u16 {
    let key = format!("x-api-key: {key}");
    dam.ask(request("GET /v1/models", &[&key], "")).await.status
}

async fn ready(dam: &Dam) {
    eventually("it is ready", async || ask(dam.admin, get("/readyz")).await.status == 200).await;
}

#[tokio::test]
async fn a_caller_comes_changes_and_goes_at_every_gateway() {
    let (mut redis, worker) = (Server::start().await, Worker::start(8));
    let text = settings(&redis, &worker);
    let (one, two) = (Dam::start(&text), Dam::start(&text));
    ready(&one).await;
    ready(&two).await;
    assert_eq!(call(&one, "sk-1").await, 401);

    let path = "/api/v1/callers/team-a";
    let put = async |body: &str| admin(&one, &format!("PUT {path}"), body).await;
    let answer = put(r#"{"key":"sk-1","class":"batch","weight":3,"team":"red"}"#).await;
    assert_eq!((answer.status, answer.text().contains("sk-1")), (200, false), "{}", answer.text());
    assert_eq!(call(&one, "sk-1").await, 200, "known here at once");
    eventually("the other knows it", async || call(&two, "sk-1").await == 200).await;
    let shown = json!({ "id": "team-a", "class": "batch", "weight": 3, "team": "red", "limits": {}, "external": false });
    assert_eq!(admin(&two, &format!("GET {path}"), "").await.json(), shown);
    let mut connection = redis.connect().await;
    let stored: String =
        redis::cmd("GET").arg("dam:caller:team-a").query_async(&mut connection).await.unwrap();
    assert!(!stored.contains("sk-1") && stored.contains("\"team\":\"red\""), "{stored}");

    // The key changes; the old one is no longer valid.
    let digest = "3f79bb7b435b05321651daefd374cdc681dc06faa65e374e38337b88ca046dea";
    assert_eq!(put(&format!(r#"{{"sha256":"{digest}","team":"red"}}"#)).await.status, 200);
    eventually("the old key is unknown", async || call(&two, "sk-1").await == 401).await;
    let models = async || one.ask(request("GET /v1/models", &["x-api-key: e"], "")).await.json();
    assert_eq!(models().await["data"][0]["id"], "sim");
    assert_eq!(put(&format!(r#"{{"sha256":"{digest}","team":"red","models":["qwen*"]}}"#)).await.status, 200);
    assert_eq!(models().await["data"], json!([]), "what it may not use is not shown");
    assert_eq!(admin(&two, &format!("GET {path}"), "").await.json()["models"], json!(["qwen*"]));
    assert_ne!(call(&two, "e").await, 401);

    redis.kill();
    assert_ne!(call(&two, "e").await, 401, "known while Redis is away");
    let answer = put(r#"{"key":"sk-2"}"#).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    redis.resume().await;
    eventually("it came back empty", async || call(&two, "e").await == 401).await;
    // The other gateway may have been the first to reconnect.
    eventually("this one finds nobody", async || {
        admin(&one, &format!("DELETE {path}"), "").await.status == 404
    })
    .await;
    assert_eq!(put(r#"{"key":"sk-3"}"#).await.status, 200);
    assert_eq!(admin(&two, &format!("DELETE {path}"), "").await.status, 200);
    assert_eq!(admin(&two, &format!("GET {path}"), "").await.status, 404);
    eventually("nobody knows it any more", async || call(&one, "sk-3").await == 401).await;
}

#[tokio::test]
async fn a_callers_own_limits_change_while_it_calls() {
    let (mut redis, worker) = (Server::start().await, Worker::start(8));
    for state in ["redis", "memory"] {
        let limits = "limits:
  - { name: burst, algorithm: token_bucket, per: caller, rate: 1/h, burst: 2 }
  - { name: hour, algorithm: sliding_window, per: [caller, model], limit: 100, window: 1h }";
        let rest = format!(
            "callers: {{ stored: redis }}\nstate: {state}\nadmin: {{ token: s3cret }}\n\
             redis: {{ url: \"{}\", timeout: 1s }}\n{limits}\n",
            redis.url()
        );
        let dam = Dam::start(&before(&[worker.entry("w1", 8)], &rest));
        ready(&dam).await;
        let put = async |body: &str| {
            let answer = admin(&dam, "PUT /api/v1/callers/a", body).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
        };
        let admitted = async || {
            let mut admitted = 0;
            while call(&dam, "sk-1").await == 200 {
                admitted += 1;
            }
            admitted
        };
        put(r#"{"key":"sk-1"}"#).await;
        assert_eq!(admitted().await, 2, "as all others");
        put(r#"{"key":"sk-1","limits":{"burst":{"burst":5}}}"#).await;
        assert_eq!(admitted().await, 3, "{state}: it goes on from what it has used");
        put(r#"{"key":"sk-1","limits":{"burst":{"rate":"1/h","burst":20},"hour":{"limit":7}}}"#).await;
        assert_eq!(admitted().await, 2, "{state}: seven in all");
        let explained = ask(dam.admin, get("/api/v1/explain?caller=key:a&path=/v1/models")).await;
        assert_eq!(explained.status, 401, "the admin port has a token");
        let explained = admin(&dam, "GET /api/v1/explain?caller=key:a&path=/v1/models", "").await.json();
        assert_eq!(explained["rules"][0]["quota"], "1 request per hour, burst 20", "{explained}");
        let hour = &explained["rules"][1];
        assert_eq!((&hour["limit"], &hour["decision"]), (&json!(7), &json!("refused")), "{explained}");
        redis.kill();
        redis.resume().await;
    }
}

#[tokio::test]
async fn what_is_wrong_is_refused_and_said() {
    let (redis, worker) = (Server::start().await, Worker::start(8));
    let dam = Dam::start(&settings(&redis, &worker));
    ready(&dam).await;
    let put = async |id: &str, body: &str| {
        let answer = admin(&dam, &format!("PUT /api/v1/callers/{id}"), body).await;
        (answer.status, answer.json()["error"]["message"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(put("a", r#"{"key":"sk-1"}"#).await.0, 200);
    for (id, body, status, words) in [
        ("b", r#"{"key":"sk-1"}"#, 409, "another caller has this key"),
        ("b", "{}", 400, "give `sha256`"),
        ("b", r#"{"key":"x","sha256":"y"}"#, 400, "give `sha256`"),
        ("b", r#"{"sha256":"abc"}"#, 400, "64 hexadecimal digits"),
        ("b", r#"{"key":"x","class":"vip"}"#, 400, "found \"vip\""),
        ("b", r#"{"key":"x","rank":1}"#, 400, "unknown field"),
        (
            "b",
            r#"{"key":"x","limits":{"each":{"burst":9}}}"#,
            400,
            "'each': the rule does not count per caller",
        ),
        ("b", r#"{"key":"x","limits":{"none":{"burst":9}}}"#, 400, "the rule 'none', which does not exist"),
        (
            "b",
            r#"{"key":"x","limits":{"each":{"rate":"fast"}}}"#,
            400,
            "'each': `rate` must be a whole number per",
        ),
        ("b", r#"{"key":"x","limits":{"each":{"size":1}}}"#, 400, "unknown field"),
        ("a%20b", r#"{"key":"x"}"#, 400, "a caller's id is"),
        ("a/b", r#"{"key":"x"}"#, 400, "a caller's id is"),
    ] {
        let (found, message) = put(id, body).await;
        assert!(found == status && message.contains(words), "{id} {body}: {found} {message}");
    }
    let strange = request("DELETE /api/v1/callers/a", &["authorization: Bearer wrong", LOCAL], "");
    assert_eq!(ask(dam.admin, strange).await.status, 401);
    let foreign = ["authorization: Bearer s3cret", "origin: http://evil.example"];
    assert_eq!(ask(dam.admin, request("DELETE /api/v1/callers/a", &foreign, "")).await.status, 403);
    assert_eq!(call(&dam, "sk-1").await, 200);
}

#[tokio::test]
async fn with_a_key_a_caller_that_is_not_signed_is_nobody() {
    let (redis, worker) = (Server::start().await, Worker::start(8));
    let text = settings(&redis, &worker).replace("timeout: 1s", "timeout: 1s, hmac_key: secret");
    let (one, two) = (Dam::start(&text), Dam::start(&text));
    ready(&one).await;
    ready(&two).await;
    let put = r#"{"key":"sk-1","team":"red"}"#;
    assert_eq!(admin(&one, "PUT /api/v1/callers/team-a", put).await.status, 200);
    eventually("the other knows it", async || call(&two, "sk-1").await == 200).await;
    let mut connection = redis.connect().await;
    let signed: String =
        redis::cmd("GET").arg("dam:caller:team-a").query_async(&mut connection).await.unwrap();
    // An unsigned record is refused, and so is another caller's record under the wrong id.
    let unsigned =
        r#"{"sha256":"4d89207fc2eafddf7d8fa040f066b3f2bf58900e58095149520d88267d85ca66"}"#.to_owned();
    for (id, text) in [("evil", &unsigned), ("other", &signed)] {
        redis::cmd("SET")
            .arg(format!("dam:caller:{id}"))
            .arg(text)
            .query_async::<()>(&mut connection)
            .await
            .unwrap();
        redis::cmd("SADD").arg("dam:callers").arg(id).query_async::<()>(&mut connection).await.unwrap();
        assert_eq!(admin(&two, &format!("GET /api/v1/callers/{id}"), "").await.status, 404);
    }
    // All are read again with the next change.
    assert_eq!(admin(&one, "PUT /api/v1/callers/team-b", r#"{"key":"sk-2"}"#).await.status, 200);
    eventually("the other has read all", async || call(&two, "sk-2").await == 200).await;
    assert_eq!(call(&two, "sk-1").await, 200);
    assert_eq!(call(&two, "sk-3").await, 401, "its record is not signed");
}

#[tokio::test]
async fn a_signing_key_is_replaced_without_a_caller_that_is_unknown_meanwhile() {
    let (redis, worker) = (Server::start().await, Worker::start(8));
    let keyed = |keys: &str| {
        let keys = format!("timeout: 1s, hmac_key: \"{keys}\"");
        Dam::start(&settings(&redis, &worker).replace("timeout: 1s", &keys))
    };
    let put = async |dam: &Dam, id: &str| {
        let caller = format!(r#"{{"key":"sk-{id}","team":"{id}"}}"#);
        assert_eq!(admin(dam, &format!("PUT /api/v1/callers/{id}"), &caller).await.status, 200);
    };
    let knows = async |dam: &Dam, id: &str| {
        eventually("the caller is known", async || call(dam, &format!("sk-{id}")).await == 200).await;
    };
    let old = keyed("old");
    ready(&old).await;
    put(&old, "a").await;
    // Gateways get "old new" one after the other, then "new old", then "new".
    let both = keyed("old new");
    ready(&both).await;
    knows(&both, "a").await;
    put(&both, "b").await;
    knows(&old, "b").await;
    drop(old);
    let turned = keyed("new old");
    ready(&turned).await;
    knows(&turned, "a").await;
    put(&turned, "c").await;
    knows(&both, "c").await;
    drop(both);
    // What was signed with the old key is written again while it is still accepted.
    put(&turned, "a").await;
    let new = keyed("new");
    ready(&new).await;
    knows(&new, "a").await;
    knows(&new, "c").await;
    assert_eq!(call(&new, "sk-b").await, 401, "its record has a signature of the old key");
}

#[tokio::test]
async fn odd_values_hide_no_caller() {
    let (redis, worker) = (Server::start().await, Worker::start(8));
    let mut connection = redis.connect().await;
    let mut spoil = redis::pipe();
    spoil.cmd("SADD").arg("dam:callers").arg(&[&b"\xff\xfe"[..], b"list", b"bytes", b"gone"]);
    spoil.cmd("RPUSH").arg("dam:caller:list").arg("x").cmd("SET").arg("dam:caller:bytes").arg(b"\xff");
    spoil.cmd("RPUSH").arg("dam:callers:version").arg("x");
    spoil.query_async::<()>(&mut connection).await.unwrap();
    let text = settings(&redis, &worker);
    let (one, two) = (Dam::start(&text), Dam::start(&text));
    ready(&one).await;
    ready(&two).await;
    assert_eq!(admin(&one, "PUT /api/v1/callers/a", r#"{"key":"sk-1"}"#).await.status, 200);
    assert_eq!(call(&one, "sk-1").await, 200);
    eventually("the other knows it", async || call(&two, "sk-1").await == 200).await;
}
