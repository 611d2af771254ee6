//! The workers, as the gateway sees them at one moment.
//!
//! A [`Fleet`] is an immutable snapshot of the pools, their workers and their models. State that
//! each request changes (ledgers, queues) is in the pools' gates, which a new snapshot takes over
//! from the old one; so a reload loses no count and no queued request.
//!
//! **Failure mode.** A reload may remove workers with permits in use. Such a worker stays in the
//! snapshot without new requests, until a later reload finds its permits free.

pub mod address;
mod canary_lease;
pub mod colour;
pub mod discovery;
mod eligibility;
pub mod exchange;
mod fallback;
pub mod heartbeat;
pub mod judge;
mod light;
mod local;
pub mod lookup_schedule;
mod pick;
mod pool;
pub mod provider;
pub mod registry;
pub mod scaling;
pub mod scaling_law;
pub mod side;
mod snapshot;
pub mod spec;
#[cfg(test)]
mod spread;
pub mod strangers;
#[cfg(test)]
mod tests;
pub mod turnover;

pub use canary_lease::{LEASE, LeaseText, SeenLease};
pub use eligibility::{CanarySide, Colours, Eligibility};
pub use light::Light;
pub use local::local_gate;
pub use pick::PICK;
pub use pool::{FleetWorker, Pool};
pub use snapshot::Fleet;
