//! The decisions of Traffic Dam, a gateway in front of LLM workers: which requests a limit admits,
//! which worker takes a request, and when it has to wait or is refused.
//!
//! Everything here is a pure function of state, request and time: there is no async runtime, no
//! network, no log and no metric. A caller passes `now`, or a [`clock::Clock`] that a test or a
//! simulation moves by hand. So the same code runs in the gateway and, in virtual time, in its
//! simulation.
//!
//! Modules are ordered in floors; each imports only from lower floors:
//!
//! | floor | modules |
//! | --- | --- |
//! | 0 | [`clock`] [`glob`] [`hex`] [`refusal`] [`request`] [`table`]: types that all modules share |
//! | 1 | [`limit`]: rules and quotas · [`models`]: names and fallbacks · [`shed`]: the gate of a pool of workers · [`estimate`]: the tokens of a request |
//! | 2 | [`fleet`]: the workers |
//! | 3 | `tower`, with the feature of this name: tower layers around the rules and the gate |

pub mod clock;
pub mod estimate;
pub mod fleet;
pub mod glob;
pub mod hex;
pub mod limit;
pub mod models;
pub mod refusal;
pub mod request;
pub mod shed;
pub mod table;
#[cfg(feature = "tower")]
pub mod tower;
