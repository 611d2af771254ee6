//! Rules that are changed through the admin port while gateways run.

use super::client::ask;
use super::{Answer, Dam, Server, Worker, before, call, eventually, gateways, patient, request};

const LIMITS: &str = "  - { name: bucket, algorithm: token_bucket, per: caller, rate: 1/h, burst: 2 }
  - { name: log, algorithm: sliding_log, per: all, limit: 50, window: 1h }";
const ADMIN: &str = "admin: { token: s3cret }\n";

async fn admin(dam: &Dam, line: &str, body: &str) -> Answer {
    let headers =
        ["authorization: Bearer s3cret", "origin: http://localhost", "content-type: application/json"];
    ask(dam.admin, request(line, &headers, body)).await
}

async fn change(dam: &Dam, rule: &str, body: &str) -> (u16, String) {
    let answer = admin(dam, &format!("PUT /api/v1/limits/{rule}"), body).await;
    (answer.status, answer.text().to_owned())
}

async fn taken_back(dam: &Dam, rule: &str) -> u16 {
    admin(dam, &format!("DELETE /api/v1/limits/{rule}"), "").await.status
}

async fn quota(dam: &Dam, rule: usize) -> String {
    let explained = admin(dam, "GET /api/v1/explain?caller=ip:127.0.0.1", "").await.json();
    explained["rules"][rule]["quota"].as_str().unwrap().to_owned()
}

async fn admitted(dam: &Dam) -> usize {
    let mut admitted = 0;
    while call(dam).await.status == 200 {
        admitted += 1;
    }
    admitted
}

#[tokio::test]
async fn a_rule_is_changed_at_all_gateways_and_taken_back() {
    let (mut redis, worker) = (Server::start().await, Worker::start(8));
    let text = patient(&redis, &worker, LIMITS, ADMIN);
    let gateways = gateways(2, &text).await;
    assert_eq!(admitted(&gateways[0]).await, 2);
    let (status, text_of) = change(&gateways[0], "bucket", r#"{"burst":5,"scope":"fleet"}"#).await;
    assert_eq!(status, 200, "{text_of}");
    assert_eq!(admitted(&gateways[0]).await, 3, "counts in Redis go on");
    eventually("the other follows", async || quota(&gateways[1], 0).await.ends_with("burst 5")).await;

    // A change made here has precedence over the file, also after a reload.
    assert_eq!(change(&gateways[1], "bucket", r#"{"burst":9}"#).await.0, 200);
    gateways[1].app.reload(super::rig::settings(&text)).unwrap();
    assert_eq!(
        (quota(&gateways[0], 0).await, quota(&gateways[1], 0).await),
        (five(), five().replace('5', "9"))
    );
    assert_eq!(taken_back(&gateways[1], "bucket").await, 200);
    eventually("all is as it was", async || {
        quota(&gateways[0], 0).await == quota(&gateways[1], 0).await
            && quota(&gateways[0], 0).await.ends_with("burst 2")
    })
    .await;
    assert_eq!(taken_back(&gateways[1], "bucket").await, 404);
    redis.kill();
    assert_eq!(change(&gateways[0], "bucket", r#"{"burst":5,"scope":"fleet"}"#).await.0, 503);
    assert_eq!(change(&gateways[0], "bucket", r#"{"burst":5}"#).await.0, 200, "nobody else need know");
    assert_eq!(taken_back(&gateways[0], "bucket").await, 503);
    assert!(quota(&gateways[0], 0).await.ends_with("burst 1"), "here it is taken back; this is half of two");
}

fn five() -> String {
    "1 request per hour, burst 5".to_owned()
}

#[tokio::test]
async fn a_change_ends_by_itself() {
    let (redis, worker) = (Server::start().await, Worker::start(8));
    let gateways = gateways(1, &patient(&redis, &worker, LIMITS, ADMIN)).await;
    let dam = &gateways[0];
    for scope in ["dam", "fleet"] {
        let body = format!(r#"{{"limit":7,"ttl":1,"scope":"{scope}"}}"#);
        assert_eq!(change(dam, "log", &body).await.0, 200);
        assert_eq!(quota(dam, 1).await, "7 requests per hour");
        eventually("its time is over", async || quota(dam, 1).await == "50 requests per hour").await;
    }
}

#[tokio::test]
async fn a_rule_that_is_in_the_way_observes_for_a_while() {
    let worker = Worker::start(8);
    let dam = Dam::start(&before(&[worker.entry("w1", 8)], &format!("limits:\n{LIMITS}\n{ADMIN}")));
    assert_eq!(admitted(&dam).await, 2);
    assert_eq!(change(&dam, "bucket", r#"{"mode":"observe","ttl":60}"#).await.0, 200);
    for _ in 0..3 {
        assert_eq!(call(&dam).await.status, 200);
    }
    assert_eq!(taken_back(&dam, "bucket").await, 200);
    assert_eq!(admitted(&dam).await, 0, "what it saw meanwhile counts");

    for (rule, body, status, words) in [
        ("none", r#"{"burst":1}"#, 404, "no rule of this name"),
        ("bucket", r#"{"limit":1}"#, 400, "set `rate` and `burst`"),
        ("bucket", r#"{"rate":"1"}"#, 400, "`rate` must be"),
        ("bucket", r#"{"burst":0}"#, 400, "from 1 to"),
        ("bucket", "{}", 400, "at least one of"),
        ("bucket", r#"{"burst":1,"ttl":0}"#, 400, "`ttl` must be from 1"),
        ("bucket", r#"{"burst":1,"scope":"all"}"#, 400, "`scope` must be"),
        ("bucket", r#"{"mode":"off"}"#, 400, "`mode` must be"),
        ("bucket", r#"{"size":1}"#, 400, "unknown field"),
        ("bucket", r#"{"burst":1,"scope":"fleet"}"#, 409, "no other gateway can be reached"),
    ] {
        let (found, text) = change(&dam, rule, body).await;
        assert!(found == status && text.contains(words), "{rule} {body}: {found} {text}");
    }
    let strange = request("DELETE /api/v1/limits/bucket", &["authorization: Bearer guess"], "");
    assert_eq!(ask(dam.admin, strange).await.status, 401);
}

#[tokio::test]
async fn with_a_key_a_change_that_is_not_signed_changes_nothing() {
    let (redis, worker) = (Server::start().await, Worker::start(8));
    let text =
        patient(&redis, &worker, LIMITS, ADMIN).replace("timeout: 5s", "timeout: 5s, hmac_key: secret");
    let gateways = gateways(2, &text).await;
    let mut connection = redis.connect().await;
    redis::cmd("SET")
        .arg("dam:{limits}:bucket")
        .arg(r#"{"burst":1000}"#)
        .query_async::<()>(&mut connection)
        .await
        .unwrap();
    // The signed change of another rule comes later: when it holds, the earlier one has been read.
    assert_eq!(change(&gateways[0], "log", r#"{"limit":7,"scope":"fleet"}"#).await.0, 200);
    eventually("the other follows", async || quota(&gateways[1], 1).await.starts_with("7 ")).await;
    assert!(quota(&gateways[1], 0).await.ends_with("burst 2"));
    assert!(quota(&gateways[0], 0).await.ends_with("burst 2"));
}

#[tokio::test]
async fn a_change_that_cannot_be_read_hides_no_other() {
    let (redis, worker) = (Server::start().await, Worker::start(8));
    let gateways = gateways(2, &patient(&redis, &worker, LIMITS, ADMIN)).await;
    let mut connection = redis.connect().await;
    let spoil = redis::cmd("SET").arg("dam:{limits}:bucket").arg(b"\xff\xfe").take();
    spoil.query_async::<()>(&mut connection).await.unwrap();
    assert_eq!(change(&gateways[0], "log", r#"{"limit":7,"scope":"fleet"}"#).await.0, 200);
    eventually("the other follows", async || quota(&gateways[1], 1).await.starts_with("7 ")).await;
    assert!(quota(&gateways[1], 0).await.ends_with("burst 2"));
}

#[tokio::test]
async fn a_signed_change_that_is_over_cannot_be_brought_back() {
    let (redis, worker) = (Server::start().await, Worker::start(8));
    let text =
        patient(&redis, &worker, LIMITS, ADMIN).replace("timeout: 5s", "timeout: 5s, hmac_key: secret");
    let gateways = gateways(1, &text).await;
    let dam = &gateways[0];
    let mut connection = redis.connect().await;
    let get = redis::cmd("GET").arg("dam:{limits}:bucket").take();
    let get = async |connection: &mut redis::aio::MultiplexedConnection| -> Option<Vec<u8>> {
        get.query_async(connection).await.unwrap()
    };
    assert_eq!(change(dam, "bucket", r#"{"burst":1000,"ttl":1,"scope":"fleet"}"#).await.0, 200);
    let recorded = get(&mut connection).await.unwrap();
    let restore = redis::cmd("SET").arg("dam:{limits}:bucket").arg(&recorded).take();
    restore.query_async::<()>(&mut connection).await.unwrap();
    assert!(quota(dam, 0).await.ends_with("burst 1000"));
    eventually("it is over all the same", async || quota(dam, 0).await.ends_with("burst 2")).await;
    assert_eq!(get(&mut connection).await, Some(recorded));
    // One that comes later is read in the same look: the old text stays without effect.
    assert_eq!(change(dam, "log", r#"{"limit":7,"ttl":60,"scope":"fleet"}"#).await.0, 200);
    eventually("the other rule", async || quota(dam, 1).await.starts_with("7 ")).await;
    assert!(quota(dam, 0).await.ends_with("burst 2"));
}
