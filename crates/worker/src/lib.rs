//! A worker for Traffic Dam: takes the jobs of a queue in Redis, answers them, and sends heartbeats.
//!
//! An engine answers the request of a job as a service answers an HTTP call. [`drainer::Drainer`] does
//! the rest: it takes a job only while a slot is free, sends the answer piece by piece, renews what runs,
//! stops what is cancelled, and on shutdown finishes what has begun.
//!
//! ```no_run
//! #![recursion_limit = "256"] // The future of a drainer is deep.
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use bytes::Bytes;
//! use http::Response;
//! use http::request::Parts;
//! use http_body_util::Full;
//! use traffic_dam_core::fleet::side;
//! use traffic_dam_worker::consumer::{AnswerEngine, ConsumerIdentity, NoAnswer};
//! use traffic_dam_worker::drainer::{Drainer, EngineReport, Membership};
//! use traffic_dam_worker::settings::RedisSettings;
//!
//! /// Answers each request with its own body.
//! struct Echo;
//!
//! impl AnswerEngine for Echo {
//!     type Body = Full<Bytes>;
//!
//!     async fn answer(&self, _head: Parts, body: Bytes) -> Result<Response<Full<Bytes>>, NoAnswer> {
//!         Ok(Response::new(Full::new(body)))
//!     }
//! }
//!
//! # #[tokio::main]
//! # async fn main() {
//! let version: Arc<str> = env!("CARGO_PKG_VERSION").into();
//! let place = ConsumerIdentity {
//!     worker: "w1".into(),
//!     pool: "default".into(),
//!     // Without a colour, the version takes the place of one: two builds never share jobs.
//!     colour: side::colour_of(None, Some(&version)).expect("a version of at most 62 characters"),
//!     version: Some(version),
//!     interval: Duration::from_secs(1),
//! };
//! let redis = RedisSettings::single("redis://127.0.0.1:6379".into(), "dam".into());
//! let membership = Membership { redis, place, key: None, drain: Duration::from_secs(60) };
//! let report = || EngineReport { model: Some("echo".into()), ..EngineReport::default() };
//! let ctrl_c = async { tokio::signal::ctrl_c().await.unwrap_or_default() };
//! Drainer::new(Arc::new(Echo), membership, 8, report).drain(ctrl_c).await;
//! # }
//! ```
//!
//! | module | |
//! | --- | --- |
//! | [`drainer`] | the whole worker |
//! | [`consumer`] | each step of the queue's protocol, and runs of jobs |
//! | [`publisher`] | heartbeats, also for workers that are called over HTTP |
//! | [`reply`] [`signing`] [`scripts`] | entries of answers, signatures, the protocol's Lua scripts |
//! | [`settings`] [`connect`] [`pushes`] | connections to Redis: one server, sentinels, a cluster |
//!
//! **Failure mode.** Redis may be away at any time. Every step may be repeated, and none takes effect
//! twice; see the protocol, `docs/queue-protocol.md`.

pub mod connect;
pub mod consumer;
pub mod drainer;
pub mod publisher;
pub mod pushes;
pub mod reply;
pub mod scripts;
pub mod settings;
pub mod signing;
