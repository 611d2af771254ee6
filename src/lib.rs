//! A gateway that admits to LLM workers only what they can serve within the promised time to first token.
//!
//! Modules stand on floors; each imports only from lower ones (`tests/floors.rs` keeps it so):
//!
//! | floor | modules |
//! | --- | --- |
//! | 0 | [`clock`] [`glob`] [`net`] [`refusal`] [`request`]: words that everything shares |
//! | 1 | [`limit`] [`shed`]: pure decisions · [`openai`]: what the bytes mean · [`metrics`] [`spans`] · `sim::physics` · [`evidence`]: what measured runs come to |
//! | 2 | [`fleet`]: who can serve |
//! | 3 | [`redis`]: what gateways and workers share · `sim::simulate`: the decisions before simulated workers, in virtual time |
//! | 4 | [`layers`] [`upstream`] [`server`] [`agent`] `sim::worker`: adapters to tower, hyper and tokio |
//! | 5 | [`stack`] [`config`]: how the parts are put together, and by which settings |
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
