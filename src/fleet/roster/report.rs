//! What the last heartbeat of a worker comes to, some time later.

use std::sync::Arc;
use std::time::Duration;

use crate::fleet::heartbeat::{Heartbeat, State, Status};
use crate::metrics::Light;

/// Up to how many intervals a heartbeat is as good as new: one may be lost, or late.
const FRESH: f64 = 2.0;
/// From how many intervals on a heartbeat says nothing any more.
const STALE: f64 = 3.0;
/// Use of the KV cache beyond which a worker is about to preempt.
const KV_FULL: f64 = 0.8;

/// A worker by its own account.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its last heartbeat.
    pub beat: Arc<Heartbeat>,
    /// How long ago that was, in the feed's time.
    pub age: Duration,
    /// What is shown.
    pub light: Light,
    /// The share of its capacity that counts, 0…1. A report lowers what the gateway measures, never raises it.
    pub weight: f64,
    /// Whether it gets nothing new, whatever the gateway sees of it: by its state, or by a check.
    pub held: bool,
}

/// A worker that answered the gateway itself within this time cannot be gone.
const SEEN: Duration = Duration::from_secs(3);
/// What of such a worker counts at least.
const SEEN_WEIGHT: f64 = 0.5;

impl Report {
    pub(super) fn new(beat: &Arc<Heartbeat>, age: Duration) -> Self {
        let light = light(beat, intervals(beat, age));
        let weight = weight(beat, intervals(beat, age));
        Self { beat: Arc::clone(beat), age, light, weight, held: beat.state != State::Ready }
    }

    /// How many of its own intervals have passed since it spoke. Nothing for one that said it is leaving: its silence is
    /// what was announced.
    #[must_use]
    pub fn missed(&self) -> Option<f64> {
        (self.beat.state != State::Draining).then(|| intervals(&self.beat, self.age))
    }

    /// Why its light is not green: whether it is red, and a sentence.
    #[must_use]
    pub fn reason(&self) -> Option<(bool, String)> {
        let red = self.light == Light::Red;
        let (beat, age) = (&self.beat, self.age.as_secs_f64());
        let check = beat.checks.iter().filter(|check| check.status != Status::Green);
        let reason = match self.light {
            Light::Green => return None,
            _ if intervals(beat, self.age) > if red { STALE } else { FRESH } => {
                format!(
                    "its last heartbeat is {age:.1} s old, and it sends one every {:.1} s",
                    beat.interval.as_secs_f64()
                )
            }
            Light::Red if beat.state == State::Failed => "it says that it failed".to_owned(),
            _ => match (check.max_by_key(|check| check.status), beat.waiting, beat.kv_used) {
                (Some(check), ..) if red == (check.status == Status::Red) => {
                    format!("its check `{}` is {}", check.name, if red { "red" } else { "yellow" })
                }
                (_, Some(waiting @ 1..), _) => format!("{waiting} requests wait inside it"),
                (.., Some(used)) => format!("its KV cache is {:.0} % full", used * 100.0),
                _ => return None,
            },
        };
        Some((red, reason))
    }

    /// Whether a check of its own speaks against it.
    pub(super) fn is_unfit_by_check(&self) -> bool {
        worst(&self.beat) == Some(Status::Red)
    }

    /// Whether it is one that could serve.
    pub(super) fn is_able(&self) -> bool {
        self.weight > 0.0 && !self.held && !self.is_unfit_by_check()
    }

    /// Its weight, when it answered this gateway so long ago: heartbeats may get lost where requests do not.
    #[must_use]
    pub fn weight_of_one_seen(&self, answered: Option<Duration>) -> f64 {
        let seen = !self.held && answered.is_some_and(|ago| ago <= SEEN);
        if seen { self.weight.max(SEEN_WEIGHT) } else { self.weight }
    }

    /// Takes it out.
    pub(super) fn hold(&mut self) {
        self.held = true;
        self.weight = 0.0;
    }
}

fn intervals(beat: &Heartbeat, age: Duration) -> f64 {
    age.as_secs_f64() / beat.interval.as_secs_f64().max(f64::MIN_POSITIVE)
}

fn worst(beat: &Heartbeat) -> Option<Status> {
    beat.checks.iter().map(|check| check.status).max()
}

fn light(beat: &Heartbeat, age: f64) -> Light {
    let worst = worst(beat);
    if age > STALE || beat.state == State::Failed || worst == Some(Status::Red) {
        Light::Red
    } else if age > FRESH
        || beat.waiting.is_some_and(|waiting| waiting > 0)
        || beat.kv_used.is_some_and(|used| used > KV_FULL)
        || worst == Some(Status::Yellow)
    {
        Light::Yellow
    } else {
        Light::Green
    }
}

/// One until two intervals have passed, nothing from three on, and in a straight line between: a fleet whose
/// heartbeats are late loses its capacity gradually, not at one stroke.
fn weight(beat: &Heartbeat, age: f64) -> f64 {
    if beat.state == State::Ready { ((STALE - age) / (STALE - FRESH)).clamp(0.0, 1.0) } else { 0.0 }
}
