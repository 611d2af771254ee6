//! Concurrency: pure decisions about who occupies a worker, and the thin handle that async code holds.
//!
//! A worker that gets more than it can decode at once does not slow down evenly, it falls off an edge: the time to
//! the first token jumps for everybody. So each pool has one [`Gate`] that keeps a ledger per worker and lets a
//! request through only when a worker has room for it; the others wait in a short fair queue or are told at once
//! when to come back. The gate takes time and randomness as arguments and records nothing outside itself, so tests
//! and simulations run the very code that the gateway runs.
//!
//! * **Failure mode.** A seat is freed by the last drop of its [`Permit`], or later where the worker is supposed to work on
//!   ([`Gate::abandon`]), and by nothing else: no timer, no inactivity. A permit that is never dropped therefore keeps its seat; one that is dropped twice cannot exist.
//! * **Trade-off.** One lock per pool. Decisions take well under a microsecond, so the lock is cheaper than the
//!   races that counters without one would have between checking and counting.

mod abandoned;
mod account;
mod aside;
mod ask;
mod callers;
mod contest;
mod crowd;
mod displace;
mod drain;
mod ejection;
mod fair_queue;
mod gate;
mod handle;
mod health;
mod homes;
mod law;
mod ledger;
mod member;
mod outcomes;
mod permit;
mod pick;
mod placing;
mod prefill;
mod quantile;
mod refuse;
mod report;
mod roll;
mod seat;
pub mod settings;
mod silence;
mod snapshot;
mod stall;
#[cfg(test)]
mod tests;
mod upkeep;
mod waiter;

pub use aside::WorkerTrouble;
pub use ask::{Ask, Failure};
pub use callers::WaiterId;
pub use displace::Displaced;
pub use ejection::{EjectionMode, EjectionSettings};
pub use gate::{Answer, Gate, Grant, Outcome};
pub use handle::{Entry, GateHandle};
pub use law::{Aimd, Fixed, Gradient2, Law, Sample, Stream, Told, Vegas};
pub use ledger::{Ledger, Load};
pub use member::Member;
pub use permit::{Permit, REPORT_EVERY};
pub use pick::{Candidate, Pick, Whole};
pub use report::Report;
pub use seat::SeatId;
pub use silence::SHORTEST_SILENCE;
pub use snapshot::{GateSnapshot, WorkerSnapshot};
pub use waiter::Waiter;
