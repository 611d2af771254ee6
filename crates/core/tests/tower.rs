//! The tower layers before services of their own: what they hold, and what they give back.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use tower::{Layer, Service, ServiceExt, service_fn};
use traffic_dam_core::clock::Clock;
use traffic_dam_core::limit::RuleSet;
use traffic_dam_core::limit::rule::{Algorithm, Match, Mode, OnLoss, Per, Quota, Rule};
use traffic_dam_core::refusal::Unit;
use traffic_dam_core::request::{Caller, RequestCost};
use traffic_dam_core::shed::Permit;
use traffic_dam_core::shed::settings::GateSettings;
use traffic_dam_core::tower::{LimitLayer, ShedLayer};

fn ask() -> Request<Empty<Bytes>> {
    Request::get("/").body(Empty::new()).unwrap()
}

fn anybody<B>(_: &Request<B>) -> (Caller, RequestCost) {
    (Caller::new("anybody"), RequestCost::path())
}

async fn hello(request: Request<Empty<Bytes>>) -> Result<Response<Full<Bytes>>, Infallible> {
    assert!(request.extensions().get::<Permit>().is_some(), "the service finds its permit");
    Ok(Response::new(Full::new(Bytes::from_static(b"hello"))))
}

/// Before `hello`: one request at once, one more waits for at most a minute of a stopped clock.
fn one_at_once() -> ShedLayer<impl Fn(&Request<Empty<Bytes>>) -> (Caller, RequestCost) + Clone> {
    let settings =
        GateSettings { queue_length: 1, queue_wait: Duration::from_secs(60), ..GateSettings::default() };
    ShedLayer::local(1, settings, Clock::system(), anybody)
}

#[tokio::test]
async fn a_permit_is_held_until_the_body_ends_and_the_next_request_gets_it() {
    let layer = one_at_once();
    let service = layer.layer(service_fn(hello));
    let first = service.clone().oneshot(ask()).await.unwrap();
    assert_eq!(layer.gate().snapshot().in_flight(), 1, "the body was not read");
    let next = tokio::spawn(service.clone().oneshot(ask()));
    while layer.gate().snapshot().queue.iter().sum::<usize>() == 0 {
        tokio::task::yield_now().await;
    }
    let refused = service.oneshot(ask()).await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE, "the queue is full");
    assert_eq!(refused.headers()["x-traffic-dam-reason"], "overloaded");
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(first.into_body().collect().await.unwrap().to_bytes(), "hello");
    let next = next.await.unwrap().unwrap();
    assert_eq!(next.status(), StatusCode::OK);
    drop(next);
    assert_eq!(layer.gate().snapshot().in_flight(), 0, "a body that nobody reads has ended too");
}

#[tokio::test]
async fn a_service_that_fails_costs_neither_a_permit_nor_a_charge() {
    let rules = RuleSet::new(vec![Rule {
        name: "once".into(),
        algorithm: Algorithm::TokenBucket,
        per: vec![Per::Caller],
        unit: Unit::Requests,
        quota: Quota { limit: 1, period: Duration::from_secs(3600), burst: 1 },
        mode: Mode::Enforce,
        matches: Match::default(),
        reserve_max: false,
        on_loss: OnLoss::Share,
        max_keys: 1,
    }]);
    let layer = one_at_once();
    let broken = Arc::new(AtomicBool::new(true));
    let service = service_fn(move |_: Request<Empty<Bytes>>| {
        let broken = broken.swap(false, Ordering::Relaxed);
        let answer = if broken { Err("broken") } else { Ok(Response::new(Full::<Bytes>::default())) };
        async move { answer }
    });
    let mut service = LimitLayer::new(Arc::new(rules), Clock::system(), anybody).layer(layer.layer(service));
    assert!(service.ready().await.unwrap().call(ask()).await.is_err());
    assert_eq!(layer.gate().snapshot().in_flight(), 0);
    assert_eq!(service.ready().await.unwrap().call(ask()).await.unwrap().status(), StatusCode::OK);
    let refused = service.ready().await.unwrap().call(ask()).await.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()["x-traffic-dam-reason"], "rate_limited");
}
