//! What an operator sets about concurrency and waiting.

use std::time::Duration;

use super::ejection::EjectionSettings;

/// Where a worker's limit comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LimitSource {
    /// Found by a law from what the worker does; `slots`, when told, bound it from above.
    #[default]
    Adaptive,
    /// What each worker says it has: its `slots`.
    Slots,
    /// The same number for each worker.
    Fixed(u32),
}

/// The law that finds an adaptive limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LawKind {
    /// The one made for workers that stream: it watches the time to the first token.
    #[default]
    Stream,
    /// Additive increase, multiplicative decrease on whole answers; for comparison.
    Aimd,
    /// Netflix's Gradient2 on whole answers; for comparison.
    Gradient2,
    /// Vegas, as Netflix has it, on whole answers; for comparison.
    Vegas,
}

impl LawKind {
    /// All of them, with the names by which settings know them.
    pub const ALL: [(&'static str, Self); 4] = [
        ("stream", Self::Stream),
        ("aimd", Self::Aimd),
        ("gradient2", Self::Gradient2),
        ("vegas", Self::Vegas),
    ];
}

impl std::str::FromStr for LawKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|(name, _)| *name == text);
        known
            .map(|(_, kind)| kind)
            .ok_or_else(|| format!("`{text}` is no law; it must be `stream`, `aimd`, `gradient2` or `vegas`"))
    }
}

/// The settings of one pool's gate.
#[derive(Clone, Debug, PartialEq)]
pub struct GateSettings {
    /// Where a worker's limit comes from.
    pub limit: LimitSource,
    /// The law that finds it, when it is adaptive.
    pub law: LawKind,
    /// The most requests that wait; 0 refuses at once.
    pub queue_length: usize,
    /// The most bytes of request bodies that wait.
    pub queue_bytes: u64,
    /// The longest wait for a permit; zero refuses at once.
    pub queue_wait: Duration,
    /// The longest wait when no worker is there at all (scale from zero).
    pub wait_no_worker: Duration,
    /// A class of which nobody was admitted for so long although somebody asked goes first once; zero never.
    pub promote: Duration,
    /// Share of the limit kept for each class and those above it, by `Class as usize`; each 0…1.
    pub reserve: [f64; 3],
    /// The promise.
    pub ttft_slo: Duration,
    /// What the promise grows by with every 1000 tokens of prompt.
    pub ttft_per_1k: Duration,
    /// The promise for what follows the first token: the time from one token to the next.
    pub itl_slo: Duration,
    /// What several workers do together, relative to the sum of what each does alone; above 0, at most 1.
    pub fleet_factor: f64,
    /// How many gateways share the workers: told limits are divided by it. At least 1.
    pub dams: u32,
    /// What becomes of workers that fail.
    pub ejection: EjectionSettings,
}

impl GateSettings {
    /// The promise for a prompt of so many tokens.
    #[must_use]
    pub fn slo(&self, prompt: u64) -> Duration {
        let longer = self.ttft_per_1k.as_secs_f64() * prompt as f64 / 1000.0;
        self.ttft_slo.saturating_add(Duration::try_from_secs_f64(longer).unwrap_or(Duration::MAX))
    }
}

impl Default for GateSettings {
    fn default() -> Self {
        Self {
            limit: LimitSource::Adaptive,
            law: LawKind::Stream,
            queue_length: 256,
            queue_bytes: 64 << 20,
            queue_wait: Duration::from_millis(250),
            wait_no_worker: Duration::ZERO,
            promote: Duration::from_secs(10),
            reserve: [0.0; 3],
            ttft_slo: Duration::from_secs(1),
            ttft_per_1k: Duration::ZERO,
            itl_slo: Duration::from_millis(100),
            fleet_factor: 0.83,
            dams: 1,
            ejection: EjectionSettings::default(),
        }
    }
}
