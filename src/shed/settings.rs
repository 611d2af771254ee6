//! What an operator sets about concurrency and waiting.

use std::time::Duration;

/// Where a worker's limit comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LimitSource {
    /// What each worker says it has: its `slots`.
    #[default]
    Slots,
    /// The same number for each worker.
    Fixed(u32),
}

/// The settings of one pool's gate.
#[derive(Clone, Debug, PartialEq)]
pub struct GateSettings {
    /// Where a worker's limit comes from.
    pub limit: LimitSource,
    /// The most requests that wait; 0 refuses at once.
    pub queue_length: usize,
    /// The most bytes of request bodies that wait.
    pub queue_bytes: u64,
    /// The longest wait for a permit; zero refuses at once.
    pub queue_wait: Duration,
    /// The longest wait when no worker is there at all (scale from zero).
    pub wait_no_worker: Duration,
    /// Share of the limit kept for each class and those above it, by `Class as usize`; each 0…1.
    pub reserve: [f64; 3],
    /// The promise.
    pub ttft_slo: Duration,
    /// How many gateways share the workers: told limits are divided by it. At least 1.
    pub dams: u32,
}

impl Default for GateSettings {
    fn default() -> Self {
        Self {
            limit: LimitSource::Slots,
            queue_length: 256,
            queue_bytes: 64 << 20,
            queue_wait: Duration::from_millis(250),
            wait_no_worker: Duration::ZERO,
            reserve: [0.0; 3],
            ttft_slo: Duration::from_secs(1),
            dams: 1,
        }
    }
}
