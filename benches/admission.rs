//! Measures the admission of a request: identify, limit and shed as the gateway stacks them, around
//! an empty service and without reading a body.
//!
//! `cargo bench --bench admission`. The request has a known key and matches four rules. Returning
//! its permit and charge is part of the measured time; building the request is not.
#![expect(clippy::expect_used, reason = "a benchmark: there is nobody to handle an error")]

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, Request, Response, header::AUTHORIZATION};
use http_body_util::Empty;
use sha2::{Digest, Sha256};
use tower::{Service, ServiceBuilder, service_fn};
use traffic_dam::clock::{Clock, Nanos};
use traffic_dam::layers::identify::{CallerSettings, IdentifyLayer, KnownCallers};
use traffic_dam::layers::limit::LimitLayer;
use traffic_dam::layers::shed::ShedLayer;
use traffic_dam::limit::RuleSet;
use traffic_dam::limit::rule::{Algorithm, Match, Mode, OnLoss, Per, Quota, Rule};
use traffic_dam::refusal::Unit;
use traffic_dam::request::{CallerRights, KeyOwner, Kind, RequestCost, RequestRecord};
use traffic_dam::shed::settings::GateSettings;

/// As in the gateway.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Body = Empty<&'static [u8]>;

fn rule(name: &str, algorithm: Algorithm, per: Per, unit: Unit) -> Rule {
    let limit = 1_000_000_000;
    Rule {
        name: name.into(),
        algorithm,
        per: vec![per],
        unit,
        quota: Quota { limit, period: Duration::from_secs(1), burst: limit },
        mode: Mode::Enforce,
        matches: Match::default(),
        reserve_max: false,
        on_loss: OnLoss::Share,
        max_keys: 1000,
    }
}

fn request() -> Request<Body> {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer sk-one"));
    let mut request = Request::new(Body::new());
    *request.headers_mut() = headers;
    let request_cost = RequestCost {
        kind: Kind::Chat,
        model: Some("m".into()),
        prompt_tokens: 500,
        expected_output: 200,
        stream: true,
        ..RequestCost::path()
    };
    request.extensions_mut().insert(request_cost);
    request.extensions_mut().insert(Arc::new(RequestRecord::new("r", Nanos::ZERO)));
    request
}

fn nothing(_: Request<Body>) -> Ready<Result<Response<Body>, Infallible>> {
    ready(Ok(Response::new(Body::new())))
}

fn admission(criterion: &mut Criterion) {
    let clock = Clock::system();
    let callers = KnownCallers::new(CallerSettings {
        keys: vec![KeyOwner {
            id: "team-a".into(),
            sha256: Sha256::digest("sk-one").into(),
            rights: CallerRights::default(),
        }],
        ..CallerSettings::default()
    });
    let rule_set = RuleSet::new(vec![
        rule("caller-burst", Algorithm::TokenBucket, Per::Caller, Unit::Requests),
        rule("caller-minute", Algorithm::SlidingWindow, Per::Caller, Unit::Tokens),
        rule("model", Algorithm::TokenBucket, Per::Model, Unit::Requests),
        rule("all", Algorithm::TokenBucket, Per::All, Unit::Requests),
    ]);
    let mut stack = ServiceBuilder::new()
        .layer(IdentifyLayer::new(Arc::new(callers)))
        .layer(LimitLayer::new(Arc::new(rule_set), clock.clone()))
        .layer(ShedLayer::local(64, GateSettings::default(), clock))
        .service(service_fn(nothing));
    criterion.bench_function("admission/identify, 4 rules, gate, release", |bencher| {
        bencher.iter_batched(
            request,
            |request| {
                let mut answer = pin!(stack.call(request));
                match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(answer) => drop(answer.expect("nothing refuses")),
                    Poll::Pending => unreachable!("nothing waits"),
                }
            },
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, admission);
criterion_main!(benches);
