//! Evaluates the last heartbeat of a worker by its age.

use std::sync::Arc;
use std::time::Duration;

use crate::fleet::Light;
use crate::fleet::heartbeat::{CheckStatus, DesiredState, Heartbeat};

/// Age in intervals up to which a heartbeat is as good as new: one may be lost, or late.
const FRESH: f64 = 2.0;
/// Age in intervals from which a heartbeat counts for nothing.
const STALE: f64 = 3.0;
/// Share of the KV cache in use above which a worker is about to preempt.
const KV_FULL: f64 = 0.8;

/// Status of a worker by its own heartbeat.
#[derive(Clone, Debug)]
pub struct WorkerReport {
    /// Its last heartbeat.
    pub beat: Arc<Heartbeat>,
    /// Age of the heartbeat, on the feed clock.
    pub age: Duration,
    /// Light that is shown.
    pub light: Light,
    /// Share of its capacity that counts, 0…1. A report only lowers what the gateway measures.
    pub weight: f64,
    /// `true` if its state or a check bars new requests, whatever the gateway measures.
    pub held: bool,
    /// `true` if this gateway read it from the worker: then it is no heartbeat.
    pub scraped: bool,
}

/// A worker that answered the gateway itself within this time cannot be gone.
const SEEN: Duration = Duration::from_secs(3);
/// Least weight of such a worker.
const SEEN_WEIGHT: f64 = 0.5;

impl WorkerReport {
    pub(super) fn new(beat: &Arc<Heartbeat>, age: Duration) -> Self {
        let light = light(beat, intervals(beat, age));
        let weight = weight(beat, intervals(beat, age));
        Self {
            beat: Arc::clone(beat),
            age,
            light,
            weight,
            held: beat.state != DesiredState::Ready,
            scraped: false,
        }
    }

    /// Returns the age of its heartbeat in intervals; `None` if draining, which announces silence.
    #[must_use]
    pub fn intervals_since(&self) -> Option<f64> {
        (self.beat.state != DesiredState::Draining).then(|| intervals(&self.beat, self.age))
    }

    /// Returns why its light is not green: `true` if it is red, and a sentence.
    #[must_use]
    pub fn reason(&self) -> Option<(bool, String)> {
        let red = self.light == Light::Red;
        let (beat, age) = (&self.beat, self.age.as_secs_f64());
        let check = beat.checks.iter().filter(|check| check.status != CheckStatus::Green);
        let reason = match self.light {
            Light::Green => return None,
            _ if intervals(beat, self.age) > if red { STALE } else { FRESH } => {
                format!(
                    "its last heartbeat is {age:.1} s old, and it sends one every {:.1} s",
                    beat.interval.as_secs_f64()
                )
            }
            Light::Red if beat.state == DesiredState::Failed => "it reports the state `failed`".to_owned(),
            _ => match (check.max_by_key(|check| check.status), beat.waiting, beat.kv_used) {
                (Some(check), ..) if red == (check.status == CheckStatus::Red) => {
                    format!("its check `{}` is {}", check.name, if red { "red" } else { "yellow" })
                }
                (_, Some(waiting @ 1..), _) => format!("{waiting} requests wait in its own queue"),
                (.., Some(used)) => format!("its KV cache is {:.0} % full", used * 100.0),
                _ => return None,
            },
        };
        Some((red, reason))
    }

    /// Returns `true` if one of its own checks is red.
    pub(super) fn is_unfit_by_check(&self) -> bool {
        worst(&self.beat) == Some(CheckStatus::Red)
    }

    /// Returns `true` if it could serve.
    pub(super) fn is_able(&self) -> bool {
        self.weight > 0.0 && !self.held && !self.is_unfit_by_check()
    }

    /// Returns its weight, given the time since its last answer: maybe only heartbeats get lost.
    #[must_use]
    pub fn weight_if_answering(&self, answered: Option<Duration>) -> f64 {
        let seen = !self.held && answered.is_some_and(|ago| ago <= SEEN);
        if seen { self.weight.max(SEEN_WEIGHT) } else { self.weight }
    }

    /// Takes it out of service.
    pub(super) fn hold(&mut self) {
        self.held = true;
        self.weight = 0.0;
    }
}

fn intervals(beat: &Heartbeat, age: Duration) -> f64 {
    age.as_secs_f64() / beat.interval.as_secs_f64().max(f64::MIN_POSITIVE)
}

fn worst(beat: &Heartbeat) -> Option<CheckStatus> {
    beat.checks.iter().map(|check| check.status).max()
}

fn light(beat: &Heartbeat, age: f64) -> Light {
    let worst = worst(beat);
    if age > STALE || beat.state == DesiredState::Failed || worst == Some(CheckStatus::Red) {
        Light::Red
    } else if age > FRESH
        || beat.waiting.is_some_and(|waiting| waiting > 0)
        || beat.kv_used.is_some_and(|used| used > KV_FULL)
        || worst == Some(CheckStatus::Yellow)
    {
        Light::Yellow
    } else {
        Light::Green
    }
}

/// Returns 1 up to an age of two intervals, 0 from three on, and falls linearly between: a fleet
/// whose heartbeats are late loses its capacity gradually, not at once.
fn weight(beat: &Heartbeat, age: f64) -> f64 {
    if beat.state == DesiredState::Ready { ((STALE - age) / (STALE - FRESH)).clamp(0.0, 1.0) } else { 0.0 }
}
