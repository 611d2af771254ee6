//! One configured limit, as data.

use std::sync::Arc;
use std::time::Duration;

use super::meter::Level;
use crate::clock::saturating_nanos;
use crate::refusal::{Standing, Unit};
use crate::request::Class;

/// How a rule counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// GCRA: a sustained rate and a burst.
    TokenBucket,
    /// The weighted two-bucket counter: constant memory, a stated error.
    SlidingWindow,
    /// Exact, for small quotas: remembers each admission.
    SlidingLog,
}

impl Algorithm {
    /// The most that it ever admits at once by `quota`.
    #[must_use]
    pub fn capacity(self, quota: &Quota) -> u64 {
        match self {
            Self::TokenBucket => quota.burst.max(1),
            Self::SlidingWindow | Self::SlidingLog => quota.limit.max(1),
        }
    }
}

/// One part of a rule's key. A rule counts separately for every combination of its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Per {
    /// The identified caller.
    Caller,
    /// The client's address (IPv6 by /64).
    Ip,
    /// The model asked for.
    Model,
    /// The route: a kind's path or a configured path pattern.
    Route,
    /// The team of the caller. A rule with it does not see callers without a team.
    Team,
    /// One counter for everything the rule matches.
    All,
}

impl Per {
    /// The name in configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Ip => "ip",
            Self::Model => "model",
            Self::Route => "route",
            Self::Team => "team",
            Self::All => "all",
        }
    }
}

/// How much fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quota {
    /// Units per `period`: a bucket's refill, or a window's limit. At least 1.
    pub limit: u64,
    /// The period of the rate, or the length of the window. At least 1 ms.
    pub period: Duration,
    /// What a full bucket holds; equal to `limit` for windows. At least 1.
    pub burst: u64,
}

/// Whether a rule refuses or only says that it would have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Refuse.
    #[default]
    Enforce,
    /// Count what would have been refused, and let it pass.
    Observe,
}

/// What becomes of a rule that is counted in Redis while Redis cannot be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnLoss {
    /// Each gateway counts its share of the quota by itself.
    #[default]
    Share,
    /// It lets everything through.
    Open,
    /// It refuses.
    Closed,
}

/// Which requests a rule sees. An empty field matches everything; `*` stands for any run of characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// A pattern for the path.
    pub path: Option<Arc<str>>,
    /// A pattern for the model; a request that names none matches when it may be served as one.
    pub model: Option<Arc<str>>,
    /// A pattern for the caller's id, with or without its namespace.
    pub caller: Option<Arc<str>>,
    /// The class.
    pub class: Option<Class>,
}

/// One configured limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Unique among the rules; a metric label and a header value: `[A-Za-z0-9_-]{1,64}`.
    pub name: Arc<str>,
    /// How it counts.
    pub algorithm: Algorithm,
    /// What it counts separately; never empty, `All` only alone.
    pub per: Vec<Per>,
    /// What it counts.
    pub unit: Unit,
    /// How much fits.
    pub quota: Quota,
    /// Refuse, or observe.
    pub mode: Mode,
    /// Which requests it sees.
    pub matches: Match,
    /// For rules in tokens: reserve the client's own `max_tokens` instead of the expected output.
    pub reserve_max: bool,
    /// What becomes of it while Redis cannot be asked; rules counted in memory have no use for it.
    pub on_loss: OnLoss,
    /// The most keys this rule remembers.
    pub max_keys: usize,
}

impl Rule {
    /// Whether a request's body has to be read to know what the rule says to it.
    #[must_use]
    pub fn needs_body(&self) -> bool {
        self.unit == Unit::Tokens || self.per.contains(&Per::Model) || self.matches.model.is_some()
    }

    /// The most that it ever admits at once.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.algorithm.capacity(&self.quota)
    }

    /// The time in which the [capacity](Self::capacity) comes in: of a bucket the time that it needs to fill from empty.
    #[must_use]
    pub fn window(&self) -> Duration {
        match self.algorithm {
            Algorithm::TokenBucket => {
                let nanos = u128::from(saturating_nanos(self.quota.period)) * u128::from(self.capacity())
                    / u128::from(self.quota.limit.max(1));
                Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
            }
            Algorithm::SlidingWindow | Algorithm::SlidingLog => self.quota.period,
        }
    }

    /// The same rule with another quota.
    #[must_use]
    pub fn with_quota(&self, quota: Quota) -> Self {
        Self { quota, ..self.clone() }
    }

    /// How it stands for a key at this level.
    #[must_use]
    pub fn standing(&self, level: Level) -> Standing {
        let Level { remaining, reset } = level;
        let limit = self.capacity();
        let window = self.window();
        Standing { rule: Arc::clone(&self.name), unit: self.unit, limit, remaining, reset, window }
    }
}
