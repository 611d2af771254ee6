//! Measures reading along: per stream event, per chunk through the usage filter, per body.
//!
//! `cargo bench --bench openai`. For comparison `serde_json` reads the same body into a `Value`.
#![expect(clippy::expect_used, reason = "a benchmark: there is nobody to handle an error")]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use serde_json::{Value, json};
use traffic_dam::estimate::{Estimator, PromptText};
use traffic_dam::openai::body::{ModelText, Shape, parse, spliced};
use traffic_dam::openai::dialect::Dialect;
use traffic_dam::openai::error::StreamFormat;
use traffic_dam::openai::headers;
use traffic_dam::openai::tap::{JsonTap, SseTap, UsageFilter};
use traffic_dam::refusal::{QuotaStatus, Unit};
use traffic_dam::request::Kind;

/// One token of a chat stream, as vLLM sends it.
fn event() -> Bytes {
    let chunk = json!({
        "id": "chatcmpl-5f0c2a7e9d1b4c3f8a6e0d2b", "object": "chat.completion.chunk", "created": 1_763_680_000,
        "model": "Qwen/Qwen3-14B", "choices": [{"index": 0, "delta": {"content": " the"}, "logprobs": null,
        "finish_reason": null}], "usage": null,
    });
    format!("data: {chunk}\n\n").into()
}

/// One token of a message, as vLLM sends it.
fn message_event() -> Bytes {
    let data =
        json!({"index": 0, "type": "content_block_delta", "delta": {"text": " the", "type": "text_delta"}});
    format!("event: content_block_delta\ndata: {data}\n\n").into()
}

/// A body of about 2 KiB, with line breaks and some non-ASCII letters; a message may have it too.
fn chat_body() -> Bytes {
    let text = "Summarise the following notes in three sentences.\nKeep every figure, drop the résumés.\n\n"
        .repeat(7);
    let body = json!({
        "model": "qwen3-14b", "stream": true, "max_tokens": 512, "temperature": 0.7,
        "messages": [
            {"role": "system", "content": "You are a careful assistant."},
            {"role": "user", "content": text.as_str()},
            {"role": "assistant", "content": text.as_str()},
            {"role": "user", "content": [{"type": "text", "text": text.as_str()}]},
        ],
    });
    body.to_string().into()
}

fn tap(c: &mut Criterion) {
    let event = event();
    let mut group = c.benchmark_group("tap");
    group.throughput(Throughput::Bytes(event.len() as u64));
    group.bench_function("event, whole", |b| {
        let mut tap = SseTap::new();
        b.iter(|| black_box(tap.feed(black_box(&event))));
    });
    let of_message = message_event();
    group.bench_function("event of a message, whole", |b| {
        let mut tap = SseTap::expecting(StreamFormat::Messages);
        b.iter(|| black_box(tap.feed(black_box(&of_message))));
    });
    group.bench_function("event, cut in two", |b| {
        let mut tap = SseTap::new();
        let (one, two) = event.split_at(event.len() / 2);
        b.iter(|| {
            tap.feed(black_box(one));
            black_box(tap.feed(black_box(two)))
        });
    });
    group.bench_function("event, usage filter", |b| {
        let mut filter = UsageFilter::new();
        b.iter(|| black_box(filter.feed(black_box(&event))));
    });
    let answer =
        json!({"data": [{"embedding": vec![0.012_345_67; 1536]}], "usage": {"prompt_tokens": 8}}).to_string();
    group.throughput(Throughput::Bytes(answer.len() as u64));
    group.bench_function("embedding answer, 1536 numbers", |b| {
        b.iter_batched_ref(
            JsonTap::new,
            |tap| {
                tap.feed(black_box(answer.as_bytes()));
                black_box(tap.usage())
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn request_cost(c: &mut Criterion) {
    let body = chat_body();
    let shape = Shape::of_kind(Kind::Chat);
    let facts = parse(&shape, &body).expect("the body is valid");
    let mut group = c.benchmark_group("demand");
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("parse", |b| b.iter(|| parse(black_box(&shape), black_box(&body))));
    let message = Shape::of_kind(Kind::Messages);
    group.bench_function("parse as a message", |b| b.iter(|| parse(black_box(&message), black_box(&body))));
    group.bench_function("serde_json to Value, for comparison", |b| {
        b.iter(|| serde_json::from_slice::<Value>(black_box(&body)));
    });
    let splice = |model| spliced(black_box(&body), &facts, true, model);
    group.bench_function("splice include_usage", |b| b.iter(|| splice(ModelText::Unchanged)));
    group.bench_function("splice include_usage and the model", |b| b.iter(|| splice(ModelText::Named("m"))));
    group.finish();

    let estimator = Estimator::new();
    for _ in 0..20 {
        estimator.learn_output("key:team-a", Some("qwen3-14b"), 300);
    }
    c.bench_function("estimate prompt and output", |b| {
        b.iter(|| {
            (
                estimator.prompt(facts.model.as_deref(), PromptText::Bytes(black_box(facts.prompt_bytes)), 0),
                estimator.output("key:team-a", Some("qwen3-14b"), Some(512)),
            )
        });
    });
}

fn answer_headers(c: &mut Criterion) {
    let second = std::time::Duration::from_secs(1);
    let quota = |rule: &str, unit| QuotaStatus {
        rule: rule.into(),
        unit,
        limit: 60_000,
        remaining: 41_234,
        reset: second * 17,
        window: second * 60,
    };
    let quotas = [quota("caller-burst", Unit::Requests), quota("caller-minute", Unit::Tokens)];
    for dialect in [Dialect::OpenAi, Dialect::Anthropic] {
        c.bench_function(&format!("headers of an admitted answer, 2 rules, {dialect:?}"), |b| {
            b.iter_batched_ref(
                http::HeaderMap::new,
                |headers| {
                    dialect.quota_headers(headers, black_box(&quotas), || std::time::UNIX_EPOCH);
                    headers::server_timing(headers, second / 1000, second / 2000);
                },
                BatchSize::SmallInput,
            );
        });
    }
}

criterion_group!(benches, tap, request_cost, answer_headers);
criterion_main!(benches);
