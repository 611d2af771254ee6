//! The workers, as the gateway sees them at one moment.
//!
//! A [`Fleet`] is an immutable snapshot: which pools there are, which workers serve them, and which pool serves a
//! model. What changes from request to request, the ledgers and the queues, lives in the pools' gates, which a new
//! snapshot takes over from the old one; so a reload loses no count and no waiting request.
//!
//! **Failure mode.** A reload happens while requests hold seats at workers that it removes. Such a worker stays
//! known to the new snapshot, takes nothing new, and is forgotten by a later reload, when its seats are free.

pub mod address;
pub mod colour;
pub mod heartbeat;
mod pick;
mod pool;
pub mod roster;
pub mod scaling;
mod snapshot;
pub mod spec;
#[cfg(test)]
mod spread;
mod standing;
#[cfg(test)]
mod tests;

pub use pick::PICK;
pub use pool::{Pool, Worker};
pub use snapshot::Fleet;
pub use standing::{Colours, Standing};
