//! Recognizes a gateway that starts again and again.
//!
//! Each start has a new id, and the heartbeat of a process that was killed stays in Redis for
//! [`LIVES`]. So a gateway in a crash loop would count several times, and take the parts of the
//! others. Heartbeats name a place, the host and the address at which their gateway listens: of those
//! with one place only the latest counts, until the earlier ones must have ended.
//!
//! **Trade-off.** A heartbeat that is still there after that time is another gateway's, on a host with
//! the same name and settings. It is missing from the count for these 3 s, which is too short to lower
//! it.

use std::collections::HashMap;
use std::sync::Arc;

use super::LIVES;
use crate::clock::Nanos;

/// Where Linux has the name of the host, or of the container.
const HOST: &str = "/proc/sys/kernel/hostname";

/// Returns the name of this host; `None` if it is not known.
pub(super) fn host() -> Option<String> {
    let name = std::fs::read_to_string(HOST).ok()?;
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// A heartbeat of another gateway.
#[derive(Debug)]
pub(super) struct FoundGateway {
    pub(super) id: Arc<str>,
    pub(super) drains: bool,
    /// Where it listens; `None` if it does not say.
    pub(super) place: Option<Box<[u8]>>,
}

/// When each id was seen first.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    /// Of this gateway: its first look.
    own: Option<Nanos>,
    others: HashMap<Arc<str>, Nanos>,
}

impl Restarts {
    /// Returns the gateways that count among those `found` at `now`, by one that listens at `own`.
    pub(super) fn live(
        &mut self,
        found: Vec<FoundGateway>,
        own: Option<&[u8]>,
        now: Nanos,
    ) -> Vec<FoundGateway> {
        let own_start = *self.own.get_or_insert(now);
        let since = |id: &Arc<str>| (Arc::clone(id), self.others.get(id).copied().unwrap_or(now));
        self.others = found.iter().map(|other| since(&other.id)).collect();
        // The latest start at each place; `None` is this gateway.
        let mut latest: HashMap<&[u8], (Nanos, Option<&Arc<str>>)> = HashMap::new();
        latest.extend(own.map(|own| (own, (own_start, None))));
        for other in &found {
            if let (Some(place), Some(&since)) = (&other.place, self.others.get(&other.id)) {
                let start = (since, Some(&other.id));
                let latest = latest.entry(place).or_insert(start);
                // Seen first in one look: this gateway is later than those before its first look.
                if start.0 > latest.0 {
                    *latest = start;
                }
            }
        }
        let counts = |other: &FoundGateway| {
            let latest = other.place.as_deref().and_then(|place| latest.get(place));
            latest.is_none_or(|(since, id)| *id == Some(&other.id) || now.since(*since) > LIVES)
        };
        let counted: Vec<bool> = found.iter().map(counts).collect();
        found.into_iter().zip(counted).filter_map(|(other, counts)| counts.then_some(other)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &[u8] = b"host/0.0.0.0:8080";

    /// Returns the ids that count, of those found at a millisecond, given as `ID` or `ID@PLACE`.
    fn live(restarts: &mut Restarts, millis: u64, found: &str) -> String {
        let found = found.split_whitespace().map(|word| {
            let (id, place) = word.split_once('@').map_or((word, None), |(id, place)| (id, Some(place)));
            FoundGateway { id: id.into(), drains: false, place: place.map(|place| place.as_bytes().into()) }
        });
        let live = restarts.live(found.collect(), Some(HERE), Nanos::from_millis(millis));
        live.iter().map(|other| &*other.id).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn of_one_place_the_latest_counts() {
        let mut restarts = Restarts::default();
        for (millis, found, counted) in [
            (1000, "a@x b@y", "a b"),
            (2000, "a@x b@y c@x", "b c"),
            (3000, "b@y d@x a@x c@x", "b d"),
            // Nobody counts for those that say no place, or another one.
            (3500, "b@y d@x e f@z g", "b d e f g"),
            (4000, "d@x b@y", "d b"),
        ] {
            assert_eq!(live(&mut restarts, millis, found), counted, "after {millis} ms");
        }
    }

    #[test]
    fn an_earlier_start_of_this_gateway_counts_for_nothing() {
        let mut restarts = Restarts::default();
        let before = "a@host/0.0.0.0:8080 b@host/0.0.0.0:8080 c@other/0.0.0.0:8080";
        assert_eq!(live(&mut restarts, 1000, before), "c");
        // Two other hosts have the same name: their heartbeats do not end.
        assert_eq!(live(&mut restarts, 4000, before), "c");
        assert_eq!(live(&mut restarts, 4001, before), "a b c");
    }

    #[test]
    fn hosts_of_one_name_count_after_a_while() {
        let mut restarts = Restarts::default();
        assert_eq!(live(&mut restarts, 1000, "a@x b@x").len(), 1);
        assert_eq!(live(&mut restarts, 4500, "a@x b@x"), "a b");
        // A third one comes: the count is not lower for longer than it takes to be believed.
        assert_eq!(live(&mut restarts, 5500, "a@x b@x c@x"), "c");
        assert_eq!(live(&mut restarts, 8500, "a@x b@x c@x"), "c");
        assert_eq!(live(&mut restarts, 8600, "a@x b@x c@x"), "a b c");
    }
}
