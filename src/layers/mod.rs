//! Tower layers around the pure decisions of limits and gates.
//!
//! The gateway stacks all of them (see `crate::stack`); each also works alone, around any
//! service. This example puts a quota and a gate before an axum service. A refusal is an answer
//! with its reason. A permit is held until the response *body* ends, also for a stream:
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use axum::{Router, body::Body, http::Request, routing::post};
//! use tower::{ServiceBuilder, ServiceExt};
//! use traffic_dam::clock::Clock;
//! use traffic_dam::layers::{limit::LimitLayer, rescue::RescueLayer, shed::ShedLayer};
//! use traffic_dam::limit::{RuleSet, rule::{Algorithm, Match, Mode, OnLoss, Per, Quota, Rule}};
//! use traffic_dam::refusal::Unit;
//! use traffic_dam::shed::settings::GateSettings;
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let clock = Clock::system();
//! let rules = RuleSet::new(vec![Rule {
//!     name: "whole-service".into(),
//!     algorithm: Algorithm::TokenBucket,
//!     per: vec![Per::All],
//!     unit: Unit::Requests,
//!     quota: Quota { limit: 1, period: Duration::from_secs(60), burst: 1 },
//!     mode: Mode::Enforce,
//!     matches: Match::default(),
//!     reserve_max: false,
//!     on_loss: OnLoss::Share,
//!     max_keys: 1,
//! }]);
//! let app = Router::new().route("/chat", post(|| async { "Hello" })).layer(
//!     ServiceBuilder::new()
//!         .layer(RescueLayer::default())
//!         .layer(LimitLayer::new(Arc::new(rules), clock.clone()))
//!         .layer(ShedLayer::local(8, GateSettings::default(), clock)),
//! );
//!
//! let ask = || Request::post("/chat").body(Body::empty()).unwrap();
//! assert_eq!(app.clone().oneshot(ask()).await.unwrap().status(), 200);
//! let refused = app.oneshot(ask()).await.unwrap();
//! assert_eq!((refused.status().as_u16(), &refused.headers()["x-traffic-dam-reason"]), (429, &"rate_limited".parse().unwrap()));
//! # });
//! ```

mod bill;
pub(crate) mod body;
pub(crate) mod buffers;
pub mod cost;
pub(crate) mod explain;
mod followed;
mod forms;
pub(crate) mod health;
pub(crate) mod held;
mod hop;
pub mod identify;
pub(crate) mod intake;
pub(crate) mod jobs;
pub(crate) mod jwt;
pub mod limit;
pub(crate) mod maintenance;
pub(crate) mod models;
pub mod observe;
mod passed;
pub(crate) mod paths;
pub mod prefixes;
pub(crate) mod preflight;
pub mod rescue;
pub(crate) mod responses;
pub mod shed;
pub(crate) mod tokenizers;
pub(crate) mod unserved;
