//! A gateway that admits to LLM workers only requests that they can serve within the TTFT SLO.
//!
//! Its decisions are the crate `traffic_dam_core`, whose modules are used here under their own
//! names, below all others. The simulation and the evaluation of runs are `traffic_dam_lab`.
//! Modules are ordered in floors; each imports only from lower floors (see `tests/floors.rs`):
//!
//! | floor | modules |
//! | --- | --- |
//! | core | [`clock`] [`estimate`] [`fleet`] [`glob`] [`limit`] `models` [`refusal`] [`request`] [`shed`] |
//! | 0 | [`net`]: sockets and the gateway's own HTTP requests · [`view`]: the gateway's state |
//! | 1 | [`openai`]: wire formats · [`metrics`] [`scrape`] `spans` |
//! | 2 | [`redis`]: shared state of gateways and workers |
//! | 3 | [`layers`] [`upstream`] [`server`] [`agent`] `discovery` [`sim`]: adapters to tower, hyper and tokio |
//! | 4 | `stack` [`config`]: the order of the layers, and the settings |
//! | 5 | [`app`]: owns state, tasks and the drain |

pub use traffic_dam_core::{clock, estimate, fleet, glob, limit, refusal, request, shed};
use traffic_dam_core::{hex, models, table};

pub mod agent;
pub mod app;
pub mod config;
mod discovery;
pub mod layers;
pub mod metrics;
pub mod net;
pub mod openai;
pub mod redis;
pub mod scrape;
pub mod server;
pub mod sim;
mod spans;
mod stack;
pub mod upstream;
pub mod view;
