//! Builds a request's span by OpenTelemetry's semantic conventions for HTTP servers and GenAI.

use std::time::SystemTime;

use opentelemetry::trace::{Event, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::SpanHead;
use crate::clock::Nanos;
use crate::request::{Ending, Kind, RequestRecord};

/// Builds the span of a request that ended at `now`; `wall` is the same moment on the wall clock.
pub(super) fn span(
    record: &RequestRecord,
    head: &SpanHead,
    status: u16,
    (now, wall): (Nanos, SystemTime),
    scope: &InstrumentationScope,
) -> SpanData {
    let at = |moment: Nanos| wall.checked_sub(now.since(moment)).unwrap_or(wall);
    let trace = head.trace;
    let ending = record.ending();
    let asked = record.asked();
    let operation = asked.and_then(|asked| operation(asked.kind));
    let model = asked.and_then(|asked| asked.model.clone());
    let route = record.route().map(|route| route.to_string());
    let name = match (operation, &model) {
        (Some(operation), Some(model)) => format!("{operation} {model}"),
        (Some(operation), None) => operation.to_owned(),
        (None, _) => match (head.method(), &route) {
            (Ok(method), Some(route)) => format!("{method} {route}"),
            (Ok(method), None) => method.to_owned(),
            // An unknown method is text from the client: it must not become part of a name.
            (Err(_), Some(route)) => format!("HTTP {route}"),
            (Err(_), None) => "HTTP".to_owned(),
        },
    };

    let mut attributes = Vec::with_capacity(20);
    let mut set = |key: &'static str, value: Option<Value>| {
        attributes.extend(value.map(|value| KeyValue::new(key, value)));
    };
    let count = |count: u64| Value::from(i64::try_from(count).unwrap_or(i64::MAX));
    let text = |text: &str| Value::from(text.to_owned());
    set("http.request.method", Some(text(head.method().unwrap_or("_OTHER"))));
    set("http.request.method_original", head.method().err().map(text));
    set("url.path", Some(text(&head.path)));
    set("url.scheme", Some(if head.tls { "https" } else { "http" }.into()));
    set("http.route", route.map(Value::from));
    set("http.response.status_code", (status > 0).then(|| i64::from(status).into()));
    set("gen_ai.operation.name", operation.map(Value::from));
    set("gen_ai.provider.name", asked.zip(operation).map(|(asked, _)| provider(asked.kind).into()));
    set("gen_ai.request.model", model.as_deref().map(text));
    // Who answered as what: absent if no worker was asked.
    let served = record.served().or(model.filter(|_| record.worker().is_some()));
    set("gen_ai.response.model", served.as_deref().map(text));
    let (max_tokens, stream) = asked.map_or((None, false), |asked| (asked.max_tokens, asked.stream));
    set("gen_ai.request.max_tokens", max_tokens.map(count));
    set("gen_ai.request.stream", operation.map(|_| stream.into()));
    set("gen_ai.usage.input_tokens", record.usage().map(|(prompt, _)| count(prompt)));
    set("gen_ai.usage.output_tokens", record.first_token().map(|_| count(record.output_tokens())));
    set("error.type", record.reason().map(|reason| reason.as_str().into()));
    set("traffic_dam.request_id", Some(text(&record.id)));
    set("traffic_dam.outcome", Some(ending.as_str().into()));
    set("traffic_dam.caller", record.caller().map(|caller| text(&caller.id)));
    set("traffic_dam.class", record.caller().map(|caller| caller.class.as_str().into()));
    set("traffic_dam.pool", record.pool().as_deref().map(text));
    set("traffic_dam.worker", record.worker().map(|worker| text(worker)));

    let millis = |key, length: std::time::Duration| vec![KeyValue::new(key, length.as_secs_f64() * 1000.0)];
    let mut events = SpanEvents::default();
    events.events.push(Event::new("received", at(record.received()), Vec::new(), 0));
    if let Some(dispatched) = record.dispatched() {
        let queued = millis("traffic_dam.queued_ms", record.queued());
        events.events.push(Event::new("dispatched", at(dispatched), queued, 0));
    }
    if let (Some(first), Some(ttft)) = (record.first_token(), record.ttft()) {
        events.events.push(Event::new("first_token", at(first), millis("traffic_dam.ttft_ms", ttft), 0));
    }

    let flags = if trace.sampled { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
    SpanData {
        span_context: SpanContext::new(
            TraceId::from(trace.id.0),
            SpanId::from(trace.gateway_span),
            flags,
            false,
            TraceState::NONE,
        ),
        parent_span_id: trace.parent.map_or(SpanId::INVALID, SpanId::from),
        parent_span_is_remote: trace.parent.is_some(),
        span_kind: SpanKind::Server,
        name: name.into(),
        start_time: at(record.started),
        end_time: wall,
        attributes,
        dropped_attributes_count: 0,
        events,
        links: SpanLinks::default(),
        status: match ending {
            Ending::WorkerFailed | Ending::TimedOut => Status::error(ending.as_str()),
            // A 4xx is the client's error, a 5xx the server's, even for an intended refusal.
            _ if status >= 500 => Status::error(record.reason().map_or("", |reason| reason.as_str())),
            _ => Status::Unset,
        },
        instrumentation_scope: scope.clone(),
    }
}

/// Returns `gen_ai.operation.name`; `None` for a kind that is not generative AI.
const fn operation(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Chat | Kind::Response | Kind::Messages => Some("chat"),
        Kind::Completion => Some("text_completion"),
        Kind::Embedding => Some("embeddings"),
        _ => None,
    }
}

/// Returns `gen_ai.provider.name`. The conventions ask for the API format, not for the maker or host
/// of the model.
const fn provider(kind: Kind) -> &'static str {
    match kind {
        Kind::Messages => "anthropic",
        _ => "openai",
    }
}
