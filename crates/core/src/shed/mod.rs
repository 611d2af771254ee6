//! Concurrency limits: pure decisions about which worker serves which request, and a handle for
//! async code.
//!
//! A worker that gets more requests than it can decode at once does not slow down evenly: the time
//! to the first token jumps for all. So each pool has one [`Gate`], which keeps a ledger per worker
//! and admits a request only if a worker has room. Others wait in a short fair queue or are refused
//! at once with a retry time. The gate takes time and randomness as arguments and has no effects
//! outside itself, so tests and simulations run the gateway's own code.
//!
//! The folder has three levels. Its files and `algorithm`, `callers` and `prefix` are what a gate is
//! made of: workers, permits, the queue. `gate` has the decisions. `handle` has what tasks hold: the
//! gate behind a lock, and its futures. None imports from a level above.
//!
//! * **Failure mode.** Only the last drop of a [`Permit`] releases it, or a later moment if the
//!   worker may work on ([`Gate::abandon`]): no timer, no inactivity. A permit that is never
//!   dropped is never released; a double drop is impossible.
//! * **Trade-off.** One lock per pool. Decisions take well under a microsecond, so the lock is
//!   cheaper than the races of lock-free counters between check and count.

mod account;
mod algorithm;
mod answer_pace;
mod arrivals;
mod ask;
mod caller_tokens;
mod callers;
mod canary_counts;
mod contest;
mod drain;
mod ejected_memory;
mod fair_queue;
mod first_tokens;
mod gate;
mod handle;
mod health;
mod ledger;
mod outcomes;
mod permit_record;
mod pick;
mod prefill;
mod prefix;
mod provider;
mod quantile;
mod refuse;
mod report;
mod retry_spread;
mod session_map;
pub mod settings;
mod snapshot;
mod stall;
mod stream_activity;
mod unanswered;
mod worker;
mod worker_ejection;

pub use algorithm::{Aimd, Fixed, Gradient2, LimitAlgorithm, StreamLimit, Vegas, WorkerHints, WorkerSample};
pub use ask::{PermitRequest, WorkerFailure};
pub use caller_tokens::{CallerDigest, CallerTokens};
pub use callers::WaiterId;
pub use canary_counts::{CanaryCounts, CanaryShare, LoadSide, LogMoments, MomentsByLoad, SideCounts, WHOLE};
pub use gate::{Displaced, Gate, GateAnswer, GrantedPermit, WaitOutcome};
pub use handle::{GateEntry, GateHandle, HeldPermit, Permit, Waiter};
pub use ledger::RequestLoad;
pub use permit_record::PermitId;
pub use pick::{Candidate, CandidateSums, Pick};
pub use prefix::{
    LEAST_BLOCKS, MOST_BLOCKS, PrefixChain, PrefixFigures, PrefixHasher, PrefixIndex, prefix_key,
};
pub use provider::{ProviderLevel, ProviderQuota, QuotaHandle, QuotaUse};
pub use report::LoadReport;
pub use settings::{EjectionMode, EjectionSettings};
pub use snapshot::{GateSnapshot, WorkerSnapshot};
pub use stream_activity::{REPORT_EVERY, SHORTEST_SILENCE};
pub use worker::PoolMember;
pub use worker_ejection::WorkerTrouble;
