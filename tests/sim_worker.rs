//! The simulated worker over real sockets: formats, timing, faults, and its own metrics.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests, where a panic is the verdict")]

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use traffic_dam::net::bind;
use traffic_dam::sim::worker::{WorkerOptions, serve};

/// Longer than anything here takes; whatever exceeds it hangs.
const PATIENCE: Duration = Duration::from_secs(90);

struct Worker {
    address: SocketAddr,
    /// Shuts the worker down on drop.
    _stop: oneshot::Sender<()>,
}

/// A worker that takes 1 ms per token.
fn fast() -> WorkerOptions {
    WorkerOptions {
        model: "test-model".to_owned(),
        prefill_base: Duration::from_millis(1),
        token_time: Duration::from_millis(1),
        token_time_per_seq: Duration::ZERO,
        ..WorkerOptions::default()
    }
}

async fn start(options: WorkerOptions) -> Worker {
    let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(serve(listener, options, async move { stopped.await.unwrap_or_default() }));
    Worker { address, _stop: stop }
}

/// A body: its bytes, its trailers, and whether it ended properly.
struct Read {
    text: String,
    trailers: HeaderMap,
    complete: bool,
}

async fn read(mut body: Incoming) -> Read {
    let mut bytes = Vec::new();
    let mut trailers = HeaderMap::new();
    loop {
        match tokio::time::timeout(PATIENCE, body.frame()).await.unwrap() {
            None => break,
            Some(Err(_)) => {
                return Read { text: String::from_utf8_lossy(&bytes).into(), trailers, complete: false };
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => bytes.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().unwrap(),
            },
        }
    }
    Read { text: String::from_utf8(bytes).unwrap(), trailers, complete: true }
}

/// `true` if nothing has come so far.
async fn is_silent(something: impl Future) -> bool {
    tokio::select! {
        biased;
        _ = something => false,
        () = std::future::ready(()) => true,
    }
}

impl Worker {
    async fn send(&self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        let socket = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
        tokio::spawn(connection);
        tokio::time::timeout(PATIENCE, sender.send_request(request)).await.unwrap()
    }

    fn request(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
        let mut request = Request::post(path).header("host", self.address.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Full::from(body.to_string())).unwrap()
    }

    async fn post(&self, path: &str, body: Value) -> Response<Incoming> {
        self.send(self.request(path, &body, &[])).await.unwrap()
    }

    /// Sends a chat with exactly `tokens` answer tokens and a fault.
    async fn chat(&self, tokens: u32, stream: bool, fault: &str) -> hyper::Result<Response<Incoming>> {
        let headers = [("x-sim-fault", fault), ("te", "trailers")];
        self.send(self.request("/v1/chat/completions", &chat(tokens, stream), &headers)).await
    }

    async fn get(&self, path: &str) -> String {
        let request = Request::get(path).header("host", "worker").body(Full::default()).unwrap();
        read(self.send(request).await.unwrap().into_body()).await.text
    }

    async fn count(&self, outcome: &str) -> u64 {
        let counts: Value = serde_json::from_str(&self.get("/debug/requests").await).unwrap();
        counts[outcome].as_u64().unwrap()
    }

    async fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await;
        let prefix = format!("vllm:{name}{{model_name=\"test-model\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&prefix));
        line.unwrap_or_else(|| panic!("{name} is not in\n{text}")).parse().unwrap()
    }

    async fn until_metric(&self, name: &str, value: f64) {
        let reached = async {
            while self.metric(name).await != value {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.unwrap();
    }

    async fn until_count(&self, outcome: &str, value: u64) {
        let reached = async {
            while self.count(outcome).await != value {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.unwrap();
    }
}

fn chat(tokens: u32, stream: bool) -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "hello you"}],
           "max_tokens": tokens, "ignore_eos": true, "stream": stream})
}

/// Returns the JSON of each event but the last, which must be the end marker.
fn events(text: &str) -> Vec<Value> {
    let mut data: Vec<&str> =
        text.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap()).collect();
    assert_eq!(data.pop(), Some("[DONE]"));
    data.into_iter().map(|data| serde_json::from_str(data).unwrap()).collect()
}

fn contents(events: &[Value]) -> Vec<&str> {
    let content = events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str());
    content.filter(|content| !content.is_empty()).collect()
}

#[tokio::test]
async fn a_chat_streams_role_content_reason_usage_and_done() {
    let worker = start(fast()).await;
    let mut body = chat(5, true);
    body["stream_options"] = json!({"include_usage": true});
    let request = worker.request("/v1/chat/completions", &body, &[("x-request-id", "r-1")]);
    let response = worker.send(request).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
    assert_eq!(response.headers()["x-request-id"], "r-1");
    let streamed = read(response.into_body()).await;
    assert!(streamed.complete);

    let events = events(&streamed.text);
    assert_eq!(events.len(), 1 + 5 + 1 + 1);
    assert!(events.iter().all(|event| event["id"] == "chatcmpl-r-1" && event["model"] == "m"));
    assert_eq!(events[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    assert_eq!(
        events[6]["choices"][0],
        json!({"index": 0, "delta": {}, "logprobs": null, "finish_reason": "length"})
    );
    assert_eq!(events[7]["choices"], json!([]));
    assert_eq!(events[7]["usage"], json!({"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}));

    let whole: Value = serde_json::from_str(
        &read(worker.post("/v1/chat/completions", chat(5, false)).await.into_body()).await.text,
    )
    .unwrap();
    assert_eq!(whole["choices"][0]["message"]["content"], contents(&events).concat());
    assert_eq!(whole["usage"], events[7]["usage"]);
    assert_eq!(worker.count("finished").await, 2);
}

#[tokio::test]
async fn the_same_request_gets_the_same_bytes() {
    let worker = start(fast()).await;
    let mut texts = Vec::new();
    for fault in ["", "chunk:1", "chunk:65536"] {
        let headers = [("x-request-id", "same"), ("x-sim-fault", fault)];
        let request = worker.request("/v1/chat/completions", &chat(30, true), &headers);
        texts.push(read(worker.send(request).await.unwrap().into_body()).await.text);
    }
    assert!(texts.iter().all(|text| text == &texts[0]));
    assert_eq!(contents(&events(&texts[0])).len(), 30);
}

#[tokio::test]
async fn completions_have_a_choice_for_each_prompt_and_n() {
    let worker = start(fast()).await;
    let body = json!({"prompt": ["one", "two"], "n": 2, "max_tokens": 3, "ignore_eos": true});
    let answer = read(worker.post("/v1/completions", body.clone()).await.into_body()).await.text;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(
        (choices.len(), &choices[3]["index"], &choices[3]["finish_reason"]),
        (4, &json!(3), &json!("length"))
    );
    assert_eq!((&answer["usage"]["completion_tokens"], &answer["model"]), (&json!(12), &json!("test-model")));

    let mut body = body;
    body["stream"] = json!(true);
    let streamed = events(&read(worker.post("/v1/completions", body).await.into_body()).await.text);
    for (choice, whole) in choices.iter().enumerate() {
        let text: String = streamed
            .iter()
            .filter(|event| event["choices"][0]["index"] == choice)
            .filter_map(|event| event["choices"][0]["text"].as_str())
            .collect();
        assert_eq!(whole["text"], text);
    }
}

#[tokio::test]
async fn responses_and_embeddings_have_their_shapes() {
    let worker = start(fast()).await;
    let mut body = json!({"input": "hello", "max_output_tokens": 4, "ignore_eos": true});
    let whole = read(worker.post("/v1/responses", body.clone()).await.into_body()).await.text;
    let whole: Value = serde_json::from_str(&whole).unwrap();
    assert_eq!((&whole["status"], &whole["usage"]["output_tokens"]), (&json!("completed"), &json!(4)));

    body["stream"] = json!(true);
    let streamed = read(worker.post("/v1/responses", body).await.into_body()).await.text;
    let streamed: Vec<(&str, Value)> = streamed
        .split_terminator("\n\n")
        .map(|event| event.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap())
        .map(|(name, data)| (name, serde_json::from_str(data).unwrap()))
        .collect();
    for (place, (name, event)) in streamed.iter().enumerate() {
        assert_eq!((&event["type"], &event["sequence_number"]), (&json!(name), &json!(place)));
    }
    let deltas: String = streamed.iter().filter_map(|(_, event)| event["delta"].as_str()).collect();
    let (name, last) = streamed.last().unwrap();
    assert_eq!((*name, &last["response"]["output"]), ("response.completed", &whole["output"]));
    assert_eq!(whole["output"][0]["content"][0]["text"], deltas);

    let body = json!({"input": ["a", "b", "c"]});
    let embedded = read(worker.post("/v1/embeddings", body).await.into_body()).await.text;
    let embedded: Value = serde_json::from_str(&embedded).unwrap();
    assert_eq!((embedded["data"].as_array().unwrap().len(), &embedded["data"][2]["index"]), (3, &json!(2)));
    assert!(embedded["data"][0]["embedding"].as_array().unwrap().iter().all(Value::is_f64));
}

#[tokio::test]
async fn messages_have_thoughts_text_and_tools_in_blocks() {
    let worker = start(fast()).await;
    let mut body = json!({
        "max_tokens": 9, "ignore_eos": true, "thinking": {"type": "enabled", "budget_tokens": 1024},
        "system": [{"type": "text", "text": "eight by", "cache_control": {"type": "ephemeral"}}],
        "messages": [{"role": "user", "content": "four"}],
    });
    let tools = json!([{"name": "now", "input_schema": {"type": "object"}}]);
    for tool in [false, true] {
        if tool {
            body["tools"] = tools.clone();
            body["tool_choice"] = json!({"type": "tool", "name": "now"});
        }
        body["stream"] = json!(false);
        let whole = read(worker.post("/v1/messages", body.clone()).await.into_body()).await.text;
        let whole: Value = serde_json::from_str(&whole).unwrap();
        assert_eq!((&whole["type"], &whole["content"][0]["type"]), (&json!("message"), &json!("thinking")));
        assert_eq!(
            whole["usage"],
            json!({"input_tokens": 5, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 2,
                   "output_tokens": 9})
        );
        let stop = if tool { "tool_use" } else { "max_tokens" };
        assert_eq!(whole["stop_reason"], stop);

        body["stream"] = json!(true);
        let streamed = read(worker.post("/v1/messages", body.clone()).await.into_body()).await.text;
        let mut blocks: Vec<(Value, String)> = Vec::new();
        for event in streamed.split_terminator("\n\n") {
            let (name, data) = event.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
            let event: Value = serde_json::from_str(data).unwrap();
            assert_eq!(event["type"], name);
            match name {
                "content_block_start" => blocks.push((event["content_block"].clone(), String::new())),
                "content_block_delta" => {
                    assert_eq!(event["index"], blocks.len() - 1);
                    let delta = &event["delta"];
                    let piece =
                        ["thinking", "text", "partial_json"].iter().find_map(|name| delta[name].as_str());
                    blocks.last_mut().unwrap().1.push_str(piece.unwrap_or_default());
                }
                "message_delta" => assert_eq!(
                    (&event["delta"]["stop_reason"], &event["usage"]),
                    (&json!(stop), &whole["usage"])
                ),
                _ => {}
            }
        }
        assert_eq!(blocks.len(), 2);
        assert_eq!(whole["content"][0]["thinking"], blocks[0].1);
        if tool {
            assert_eq!((&blocks[1].0["name"], &blocks[1].0["input"]), (&json!("now"), &json!({})));
            assert_eq!(whole["content"][1]["input"], serde_json::from_str::<Value>(&blocks[1].1).unwrap());
        } else {
            assert_eq!(whole["content"][1]["text"], blocks[1].1);
        }
    }
}

#[tokio::test]
async fn drawn_lengths_stay_below_the_bound_and_end_by_themselves() {
    let worker = start(WorkerOptions { mean_output: 10, token_time: Duration::ZERO, ..fast() }).await;
    let body = json!({"prompt": "x", "n": 64, "max_tokens": 20});
    let answer = read(worker.post("/v1/completions", body).await.into_body()).await.text;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let reasons: Vec<&str> = answer["choices"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|choice| choice["finish_reason"].as_str())
        .collect();
    assert!(reasons.contains(&"stop") && reasons.contains(&"length"), "{reasons:?}");
    assert!(answer["usage"]["completion_tokens"].as_u64().unwrap() < 64 * 20);
}

#[tokio::test]
async fn beyond_the_slots_requests_wait_in_order_and_a_hang_up_frees_the_slot() {
    let worker = start(WorkerOptions { slots: 1, ..fast() }).await;
    let endless = worker.chat(60_000, true, "").await.unwrap();
    worker.until_metric("num_requests_running", 1.0).await;
    let first = worker.chat(3, true, "").await.unwrap();
    worker.until_metric("num_requests_waiting", 1.0).await;
    let second = worker.chat(60_000, true, "").await.unwrap();
    worker.until_metric("num_requests_waiting", 2.0).await;
    let gone = worker.chat(3, true, "").await.unwrap();
    worker.until_metric("num_requests_waiting", 3.0).await;
    drop(gone);
    worker.until_metric("num_requests_waiting", 2.0).await;

    // If it waited for the second, the first would never end.
    drop(endless);
    assert!(read(first.into_body()).await.complete);
    worker.until_metric("num_requests_waiting", 0.0).await;
    assert_eq!(worker.metric("num_requests_running").await, 1.0);
    drop(second);
    worker.until_count("in_flight", 0).await;
    assert_eq!((worker.count("cancelled").await, worker.count("finished").await), (3, 1));
    assert_eq!(worker.metric("kv_cache_usage_perc").await, 0.0);
}

#[tokio::test]
async fn a_client_that_leaves_before_a_whole_answer_frees_its_slot_too() {
    let worker = start(fast()).await;
    let mut socket = TcpStream::connect(worker.address).await.unwrap();
    let body = chat(60_000, false).to_string();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: w\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    worker.until_metric("num_requests_running", 1.0).await;
    drop(socket);
    worker.until_metric("num_requests_running", 0.0).await;
    worker.until_count("cancelled", 1).await;
}

#[tokio::test]
async fn metrics_tell_what_happened() {
    let worker = start(fast()).await;
    for _ in 0..3 {
        assert!(read(worker.chat(4, true, "").await.unwrap().into_body()).await.complete);
    }
    assert_eq!(worker.metric("prompt_tokens_total").await, 21.0);
    assert_eq!(worker.metric("generation_tokens_total").await, 12.0);
    assert_eq!(worker.metric("time_to_first_token_seconds_count").await, 3.0);
    assert_eq!(worker.metric("inter_token_latency_seconds_count").await, 9.0);
    assert!(worker.metric("time_to_first_token_seconds_sum").await >= 0.006);
    let models: Value = serde_json::from_str(&worker.get("/v1/models").await).unwrap();
    assert_eq!(models["data"][0]["id"], "test-model");
}

#[tokio::test]
async fn a_full_cache_preempts_and_all_answers_are_whole() {
    // Either answer alone needs nearly all of the cache.
    let worker = start(WorkerOptions { kv_tokens: 60, ..fast() }).await;
    let (one, two) = tokio::join!(worker.chat(50, true, ""), worker.chat(50, true, ""));
    let (one, two) = tokio::join!(read(one.unwrap().into_body()), read(two.unwrap().into_body()));
    for answer in [one, two] {
        assert_eq!(contents(&events(&answer.text)).len(), 50);
    }
    assert!(worker.metric("num_preemptions_total").await >= 1.0);
    let refused = worker.post("/v1/completions", json!({"prompt": vec![7; 60]})).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn faults_before_the_answer() {
    let worker = start(fast()).await;
    for stream in [true, false] {
        let died = worker.chat(5, stream, "die").await.unwrap_err();
        assert!(died.is_incomplete_message(), "{died:?}");
        for code in [429, 500, 503] {
            let response = worker.chat(5, stream, &format!("status:{code}")).await.unwrap();
            assert_eq!(response.status(), code);
            let error: Value = serde_json::from_str(&read(response.into_body()).await.text).unwrap();
            assert!(error["error"]["message"].is_string());
        }
    }
    assert_eq!((worker.count("cut").await, worker.count("refused").await), (2, 6));
    assert_eq!(worker.metric("generation_tokens_total").await, 0.0);

    let request = worker.request("/v1/chat/completions", &chat(5, true), &[("x-sim-fault", "hang")]);
    let socket = TcpStream::connect(worker.address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut answer = std::pin::pin!(sender.send_request(request));
    assert!(is_silent(answer.as_mut()).await);
    worker.until_count("in_flight", 1).await;
    assert!(is_silent(answer.as_mut()).await);
    connection.abort();
    worker.until_count("cancelled", 1).await;
}

#[tokio::test]
async fn faults_in_the_middle_of_a_stream() {
    let worker = start(fast()).await;
    for (fault, role, tokens) in [("die-after-headers", 0, 0), ("break:0", 1, 0), ("break:3", 1, 3)] {
        let broken = read(worker.chat(9, true, fault).await.unwrap().into_body()).await;
        assert!(!broken.complete, "{fault} ended properly");
        let whole_events = broken.text.matches("\n\n").count();
        assert_eq!(whole_events, role + tokens, "{fault}: {}", broken.text);
    }
    let complete = read(worker.chat(2, true, "break:3").await.unwrap().into_body()).await;
    assert!(complete.complete);

    let failed = read(worker.chat(9, true, "error-event:2").await.unwrap().into_body()).await;
    let failed = events(&failed.text);
    assert_eq!((contents(&failed).len(), failed.len()), (2, 4));
    assert!(failed[3]["error"]["message"].is_string());

    for (fault, wanted) in [("stall:2", 3), ("hang-after-headers", 1)] {
        let before = worker.count("cancelled").await;
        let mut silent = worker.chat(9, true, fault).await.unwrap().into_body();
        let mut text = String::new();
        while text.matches("\n\n").count() < wanted {
            let frame = tokio::time::timeout(PATIENCE, silent.frame()).await.unwrap().unwrap().unwrap();
            text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
        }
        // The engine has finished the request, and still nothing more comes.
        worker.until_metric("num_requests_running", 0.0).await;
        assert!(is_silent(silent.frame()).await);
        drop(silent);
        worker.until_count("cancelled", before + 1).await;
    }
}

#[tokio::test]
async fn faults_in_the_middle_of_a_whole_answer() {
    let worker = start(fast()).await;
    let broken = worker.chat(9, false, "break:1").await.unwrap();
    let promised: usize = broken.headers()["content-length"].to_str().unwrap().parse().unwrap();
    let broken = read(broken.into_body()).await;
    assert!(!broken.complete && broken.text.len() == promised / 2);
    let failed = worker.chat(9, false, "error-event:1").await.unwrap();
    assert_eq!(failed.status(), StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn pieces_and_trailers_are_as_ordered() {
    let worker = start(fast()).await;
    let response = worker.chat(9, true, "trailers").await.unwrap();
    assert_eq!(response.headers()["trailer"], "x-sim-trailer");
    assert_eq!(read(response.into_body()).await.trailers["x-sim-trailer"], "done");

    // Reads the raw bytes, before a client assembles them.
    let mut socket = TcpStream::connect(worker.address).await.unwrap();
    let body = chat(2, true).to_string();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: w\r\nconnection: close\r\nx-sim-fault: chunk:7\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer)).await.unwrap().unwrap();
    let answer = String::from_utf8_lossy(&answer);
    let (_, chunks) = answer.split_once("\r\n\r\n").unwrap();
    let sizes: Vec<&str> = chunks.split("\r\n").step_by(2).collect();
    let full = sizes.iter().take_while(|size| **size == "7").count();
    assert!(full > 50 && sizes.len() - full <= 3, "{sizes:?}");
}

#[tokio::test]
async fn an_ordered_fault_meets_the_next_requests_only() {
    let worker = start(fast()).await;
    let order = worker.post("/debug/fault", json!({"fault": "status:503", "count": 2})).await;
    assert_eq!(order.status(), StatusCode::OK);
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(worker.post("/v1/chat/completions", chat(1, false)).await.status().as_u16());
    }
    assert_eq!(statuses, [503, 503, 200]);
    let wrong = worker.post("/debug/fault", json!({"fault": "explode"})).await;
    assert_eq!(wrong.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn slots_can_be_lost_while_it_runs() {
    // No request gets its first token while this test runs.
    let slow = Duration::from_secs(600);
    let worker = start(WorkerOptions { slots: 4, first_token: slow, ..fast() }).await;
    let requests: Vec<_> = (0..4).map(|_| worker.chat(1, false, "")).collect();
    let lost = async {
        worker.until_metric("num_requests_running", 4.0).await;
        for (wrong, word) in [(json!({"slots": 0}), "slots"), (json!({"cached_share": 2}), "cached_share")] {
            let refused = worker.post("/debug/worker", wrong).await;
            assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
            assert!(read(refused.into_body()).await.text.contains(word));
        }
        let change = worker.post("/debug/worker", json!({"slots": 1})).await;
        assert_eq!(change.status(), StatusCode::OK);
        // The change is made with the next event: here, when one more request joins the queue.
        let fifth = worker.chat(1, false, "");
        let seen = worker.until_metric("num_requests_waiting", 4.0);
        tokio::select! {
            _ = fifth => panic!("a first token came"),
            () = seen => {}
        }
        assert!((worker.metric("num_requests_running").await - 1.0).abs() < 1e-9);
    };
    tokio::select! {
        _ = futures_util::future::join_all(requests) => panic!("a first token came"),
        () = lost => {}
    }
}

#[tokio::test]
async fn the_last_request_can_be_inspected() {
    let worker = start(fast()).await;
    assert_eq!(worker.get("/debug/last").await, "null");
    let request = worker.request("/v1/chat/completions", &chat(1, false), &[("authorization", "Bearer s")]);
    read(worker.send(request).await.unwrap().into_body()).await;
    let last: Value = serde_json::from_str(&worker.get("/debug/last").await).unwrap();
    assert_eq!(last["request"], "POST /v1/chat/completions");
    assert_eq!(last["headers"]["authorization"], json!(["Bearer s"]));
    assert_eq!(last["body"], chat(1, false).to_string());
}

#[tokio::test]
async fn bad_requests_are_refused_with_a_reason() {
    let worker = start(fast()).await;
    for (path, body, status) in [
        ("/v1/chat/completions", json!({"messages": 7, "n": 0}), 400),
        ("/v1/chat/completions", json!({}), 400),
        ("/v1/other", json!({}), 404),
        ("/v1/completions", json!({"prompt": "x".repeat(9 << 20)}), 413),
    ] {
        let response = worker.post(path, body).await;
        assert_eq!(response.status(), status, "{path}");
        let error: Value = serde_json::from_str(&read(response.into_body()).await.text).unwrap();
        assert!(!error["error"]["message"].as_str().unwrap().is_empty());
    }
    assert_eq!((worker.count("refused").await, worker.count("received").await), (3, 3));
}

#[tokio::test]
async fn a_burst_of_clients_finds_room_before_the_first_is_accepted() {
    let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = listener.local_addr().unwrap();
    let mut clients = Vec::new();
    for _ in 0..400 {
        clients.push(tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await.unwrap().unwrap());
    }
}

#[tokio::test]
async fn http2_streams_and_is_reset_by_a_break() {
    let worker = start(fast()).await;
    let socket = TcpStream::connect(worker.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
    tokio::spawn(connection);
    let uri = format!("http://{}/v1/chat/completions", worker.address);
    for (fault, complete) in [("", true), ("break:2", false), ("trailers", true)] {
        let request = worker.request(&uri, &chat(4, true), &[("x-sim-fault", fault)]);
        let mut request = request;
        request.headers_mut().remove("host");
        let answer = read(sender.send_request(request).await.unwrap().into_body()).await;
        assert_eq!((answer.complete, answer.trailers.is_empty()), (complete, fault != "trailers"), "{fault}");
    }
    let died = worker.request(&uri, &chat(4, true), &[("x-sim-fault", "die")]);
    assert!(sender.send_request(died).await.is_err());
}

#[tokio::test]
async fn a_stopped_worker_is_gone_at_once() {
    let worker = start(fast()).await;
    let address = worker.address;
    let body = worker.chat(60_000, true, "").await.unwrap().into_body();
    drop(worker);
    assert!(!read(body).await.complete);
    assert!(TcpStream::connect(address).await.is_err());
}
