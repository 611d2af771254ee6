//! A gateway that admits to LLM workers only requests that they can serve within the TTFT SLO.
//!
//! Modules are ordered in floors; each imports only from lower floors (see `tests/floors.rs`):
//!
//! | floor | modules |
//! | --- | --- |
//! | 0 | [`clock`] [`glob`] [`net`] [`refusal`] [`request`]: types that all modules share |
//! | 1 | [`limit`] [`shed`]: pure decisions · [`openai`]: wire formats · [`metrics`] [`spans`] · `sim::engine` · [`evidence`]: results of measured runs |
//! | 2 | [`fleet`]: the workers |
//! | 3 | [`redis`]: shared state of gateways and workers · `sim::simulate`: the decisions with simulated workers, in virtual time |
//! | 4 | [`layers`] [`upstream`] [`server`] [`agent`] `sim::worker`: adapters to tower, hyper and tokio |
//! | 5 | [`stack`] [`config`]: the order of the layers, and the settings |
//! | 6 | [`app`]: owns state, tasks and the drain |

pub mod agent;
pub mod app;
pub mod clock;
pub mod config;
pub mod evidence;
pub mod fleet;
#[cfg(test)]
mod fuzz;
pub mod glob;
mod hex;
pub mod layers;
pub mod limit;
pub mod metrics;
pub mod net;
pub mod openai;
pub mod redis;
pub mod refusal;
pub mod request;
pub mod server;
pub mod shed;
pub mod sim;
pub mod spans;
pub mod stack;
mod table;
pub mod upstream;
