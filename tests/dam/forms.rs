//! Forms: the model is found, the rest is passed on as it arrives.

use super::client::{Conn, request};
use super::rig::{Dam, Worker, before};

const TYPE: &str = "content-type: multipart/form-data; boundary=b0";

fn part(head: &str, value: &str) -> String {
    format!("--b0\r\ncontent-disposition: form-data; {head}\r\n\r\n{value}\r\n")
}

fn form(parts: &[String]) -> String {
    parts.concat() + "--b0--\r\n"
}

fn sound(length: usize) -> String {
    part("name=\"file\"; filename=\"a.wav\"\r\ncontent-type: audio/wav", &"\r\n-".repeat(length / 3))
}

const RULE: &str = "kinds: [audio, images]
limits: [{ name: hour, algorithm: sliding_window, per: caller, unit: tokens, limit: 100000, window: 1h }]
bounds: { held: 4KiB, body: 1MiB }";

#[tokio::test]
async fn a_form_passes_byte_for_byte_and_costs_what_the_worker_reports() {
    let worker = Worker::start(8);
    let entry = format!("{{ id: w1, url: \"http://{}\", slots: 8, model: whisper }}", worker.addr);
    let dam = Dam::start(&before(&[entry], RULE));
    let body = form(&[part("name=language", "de"), part("name=\"model\"", "whisper"), sound(40_000)]);
    for path in ["transcriptions", "translations"] {
        let answer = dam.ask(request(&format!("POST /v1/audio/{path}"), &[TYPE], &body)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()["usage"]["input_tokens"], body.len() / 400);
        assert_eq!(worker.last().await["body"].as_str().unwrap(), body);
    }
    dam.idle().await;
    assert_eq!(dam.metric("tokens_total", ""), 2.0 * (body.len() / 400 + 5) as f64);

    // Another model is served by nobody; a form without one goes to any worker.
    let other = form(&[part("name=model", "other"), sound(9)]);
    let other = dam.ask(request("POST /v1/audio/transcriptions", &[TYPE], other)).await;
    assert_eq!((other.status, other.reason()), (404, "not_found"));
    let none = form(&[part("name=prompt", "a cat"), sound(9)]);
    let none = dam.ask(request("POST /v1/images/edits", &[TYPE], none)).await;
    assert_eq!(none.status, 200, "{}", none.text());
    dam.idle().await;
}

#[tokio::test]
async fn an_alias_is_renamed_in_a_form_and_a_full_pool_gives_it_to_a_fallback() {
    let workers = [Worker::serving("whisper-large", 1), Worker::serving("whisper-small", 8)];
    let entry = |index: usize, id: &str, model: &str| {
        let url = format!("http://{}", workers[index].addr);
        format!("{{ id: {id}, url: \"{url}\", slots: 1, pool: {id}, model: {model} }}")
    };
    let more = "kinds: [audio]
models: [{ model: whisper-1, serve: whisper-large, fallback: [{ model: whisper-small }] }]
concurrency: { queue: { length: 0 } }";
    let entries = [entry(0, "large", "whisper-large"), entry(1, "small", "whisper-small")];
    let dam = Dam::start(&before(&entries, more));
    let asked =
        |model: &str| form(&[part("name=language", "de"), part("name=\"model\"", model), sound(40_000)]);
    let post = request("POST /v1/audio/transcriptions", &[TYPE], asked("whisper-1"));
    let answer = dam.ask(post.clone()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(workers[0].last().await["body"].as_str().unwrap(), asked("whisper-large"));

    let mut holder = Conn::open(dam.addr).await;
    let body = r#"{"model":"whisper-large","messages":[],"stream":true}"#;
    holder.send(request("POST /v1/chat/completions", &["x-sim-fault: stall:1"], body)).await.unwrap();
    assert_eq!(holder.head().await.unwrap().status, 200);
    let answer = dam.ask(post).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(workers[1].last().await["body"].as_str().unwrap(), asked("whisper-small"));
    assert_eq!(dam.metric("fallback_total", "to=\"whisper-small\""), 1.0);
    drop(holder);
    dam.idle().await;
}

#[tokio::test]
async fn a_form_that_cannot_be_read_is_refused_before_or_while_it_is_sent() {
    let worker = Worker::start(8);
    let dam = Dam::start(&before(&[worker.entry("w1", 8)], RULE));
    let post = |fields: &[&str], body: &str| request("POST /v1/audio/transcriptions", fields, body);
    let late = form(&[sound(9000), part("name=model", "m")]);
    let late = dam.ask(post(&[TYPE], &late)).await;
    assert_eq!((late.status, late.reason()), (413, "body_too_large"));
    assert_eq!(late.json()["error"]["param"], "model");
    assert!(late.refusal().3.contains("bounds.held"), "{}", late.text());
    let large = dam.ask(post(&[TYPE], &form(&[part("name=model", "m"), sound(1 << 21)]))).await;
    assert_eq!((large.status, large.reason()), (413, "body_too_large"));
    let bare = dam.ask(post(&["content-type: multipart/form-data"], "x")).await;
    assert_eq!((bare.status, bare.reason()), (400, "bad_request"));
    assert!(worker.last().await.is_null(), "nothing of them was sent");

    // The second model comes after the first was acted on.
    let twice = form(&[part("name=model", "m"), sound(400_000), part("name=model", "n")]);
    let mut conn = Conn::open(dam.addr).await;
    let twice = conn.ask(post(&[TYPE], &twice)).await.unwrap();
    assert_eq!((twice.status, twice.reason()), (400, "bad_request"), "{}", twice.text());
    dam.idle().await;
}

#[tokio::test]
async fn speech_and_pictures_pass_as_json_too() {
    let worker = Worker::start(8);
    let dam = Dam::start(&before(&[worker.entry("w1", 8)], RULE));
    let spoken = request("POST /v1/audio/speech", &[], r#"{"model":"sim","input":"Hello","voice":"alloy"}"#);
    let spoken = dam.ask(spoken).await;
    assert_eq!(
        (spoken.status, spoken.header("content-type"), spoken.body.len()),
        (200, Some("audio/mpeg"), 2048)
    );
    let drawn = request("POST /v1/images/generations", &[], r#"{"model":"sim","prompt":"a cat"}"#);
    let drawn = dam.ask(drawn).await;
    assert_eq!((drawn.status, &drawn.json()["usage"]["output_tokens"]), (200, &100.into()));
    dam.idle().await;
}

#[tokio::test]
async fn pictures_have_a_price_and_urls_a_gate() {
    let worker = Worker::start(8);
    let more = "limits: [{ name: hour, algorithm: sliding_window, per: caller, unit: tokens, limit: 2000, window: 1h }]
media: { urls: [example.org] }";
    let dam = Dam::start(&before(&[worker.entry("w1", 8)], more));
    let chat = |url: &str, count: usize| {
        let picture = format!(r#"{{"type":"image_url","image_url":{{"url":"{url}"}}}}"#);
        let body = format!(
            r#"{{"model":"sim","max_tokens":1,"messages":[{{"role":"user","content":[{}]}}]}}"#,
            vec![picture; count].join(",")
        );
        request("POST /v1/chat/completions", &[], body)
    };
    let many = dam.ask(chat("https://example.org/a.png", 3)).await;
    assert_eq!((many.status, many.reason()), (400, "request_too_large"), "{}", many.text());
    let foreign = dam.ask(chat("https://evil.test/a.png", 1)).await;
    assert_eq!((foreign.status, foreign.reason()), (400, "bad_request"));
    assert!(foreign.refusal().3.contains("media.urls"), "{}", foreign.text());
    let few = dam.ask(chat("https://example.org/a.png", 2)).await;
    assert_eq!(few.status, 200, "{}", few.text());
    dam.idle().await;

    // A model may have a price of its own.
    let more = format!("{more}\nmodels: [{{ model: \"s*\", image_tokens: 1990 }}]");
    let dam = Dam::start(&before(&[worker.entry("w1", 8)], &more));
    for (count, status) in [(2, 400), (1, 200)] {
        let answer = dam.ask(chat("https://example.org/a.png", count)).await;
        assert_eq!(answer.status, status, "{}", answer.text());
    }
    dam.idle().await;
}
