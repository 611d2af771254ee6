//! The input of a rule: properties and cost of a request, and the key under which it counts.

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;

use siphasher::sip::SipHasher13;

use super::rule::Per;
use crate::glob::Glob;
use crate::request::{Class, OwnLimits, RequestCost, network_of};

/// How the model is served. Invented names must neither get their own quota nor bypass a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served<'a> {
    /// Name under which it counts: that of the workers that serve it, which may be a pattern.
    /// `None` for the requested name.
    pub counted_as: Option<&'a str>,
    /// Models that may serve a request that names none.
    pub default_models: &'a [Glob],
    /// Names, other than the requested one, that it may be served as.
    pub names: &'a [Arc<str>],
}

impl Served<'_> {
    /// Counts under the requested name.
    pub const AS_ASKED: Self = Self { counted_as: None, default_models: &[], names: &[] };
}

/// Properties of a request that rules match and count by, borrowed from it.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The caller's namespaced id.
    pub caller: &'a str,
    /// The caller's team.
    pub team: Option<&'a str>,
    /// The client's address. Requests without one count together.
    pub ip: Option<IpAddr>,
    /// The model asked for. Requests without one count together.
    pub model: Option<&'a str>,
    /// How the model is served.
    pub served: Served<'a>,
    /// The route: a kind's path or a configured path pattern.
    pub route: &'a str,
    /// The decoded path.
    pub path: &'a str,
    /// The class of the request.
    pub class: Class,
    /// The caller's own limits.
    pub own: Option<&'a Arc<OwnLimits>>,
}

impl Subject<'_> {
    /// Returns its part of a key per `per`, for people; `None` if it has none.
    #[must_use]
    pub fn part(&self, per: Per) -> Option<Cow<'_, str>> {
        match per {
            Per::Caller => Some(self.caller.into()),
            Per::Model => self.counted_model().map(Into::into),
            Per::Route => Some(self.route.into()),
            Per::Team => self.team.map(Into::into),
            Per::Ip => self.ip.map(|ip| ip.to_string().into()),
            Per::All => None,
        }
    }

    const fn counted_model(&self) -> Option<&str> {
        match self.served.counted_as {
            Some(counted) => Some(counted),
            None => self.model,
        }
    }

    /// Calls `look` with the bytes that identify this subject under a rule that counts per `per`.
    /// They are the same in every process.
    #[inline]
    pub fn with_key_bytes<R>(&self, per: Per, look: impl FnOnce(&[u8]) -> R) -> R {
        match per {
            Per::Caller => look(self.caller.as_bytes()),
            Per::Model => look(self.counted_model().unwrap_or_default().as_bytes()),
            Per::Route => look(self.route.as_bytes()),
            Per::Team => look(self.team.unwrap_or_default().as_bytes()),
            Per::All => look(&[]),
            Per::Ip => match self.ip.map(network_of) {
                None => look(&[]),
                Some(IpAddr::V4(ip)) => look(&ip.octets()),
                Some(IpAddr::V6(ip)) => look(&ip.octets()[..8]),
            },
        }
    }
}

/// Expected cost of a request in tokens. Its cost in requests is always one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpectedCost {
    /// Estimated prompt tokens, over all prompts.
    pub prompt_tokens: u64,
    /// Expected output tokens, over all sequences.
    pub expected_output: u64,
    /// The client's bound on output tokens, over all sequences.
    pub max_output: Option<u64>,
}

impl From<&RequestCost> for ExpectedCost {
    fn from(cost: &RequestCost) -> Self {
        Self {
            prompt_tokens: cost.prompt_tokens,
            expected_output: cost.expected_output,
            max_output: cost.max_tokens.map(|most| most.saturating_mul(cost.sequences.into())),
        }
    }
}

/// Key hasher: SipHash-1-3 with a random secret.
///
/// Callers choose their names. With a hash that they can compute, they could target one shard or
/// the key of another caller; with a secret they can only guess.
#[derive(Clone)]
pub(crate) struct KeyHasher(SipHasher13);

/// Hashes of the parts of one subject, by `Per as usize`: each part is hashed once for all rules.
pub(crate) type KeyHashes = [Option<u64>; 5];

impl KeyHasher {
    pub(crate) fn random() -> Self {
        // The standard library seeds this from the system; two of its hashes are our secret.
        let seed = RandomState::new();
        Self(SipHasher13::new_with_keys(seed.hash_one(0_u8), seed.hash_one(1_u8)))
    }

    /// Returns the key of `subject` under a rule that counts per `per`.
    #[inline]
    pub(crate) fn key(&self, per: &[Per], subject: &Subject<'_>, key_hashes: &mut KeyHashes) -> u64 {
        if let [only] = per {
            return self.part(*only, subject, key_hashes);
        }
        let mut joined = [0; 8 * 5];
        for (slot, per) in joined.chunks_exact_mut(8).zip(per) {
            slot.copy_from_slice(&self.part(*per, subject, key_hashes).to_le_bytes());
        }
        self.0.hash(&joined)
    }

    #[inline]
    fn part(&self, per: Per, subject: &Subject<'_>, key_hashes: &mut KeyHashes) -> u64 {
        let Some(known) = key_hashes.get_mut(per as usize) else { return 0 };
        if let Some(key) = *known {
            return key;
        }
        let key = match per {
            Per::All => 0,
            per => subject.with_key_bytes(per, |bytes| self.0.hash(bytes)),
        };
        *known = Some(key);
        key
    }
}

impl std::fmt::Debug for KeyHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyHasher")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(hasher: &KeyHasher, per: &[Per], subject: &Subject<'_>) -> u64 {
        hasher.key(per, subject, &mut KeyHashes::default())
    }

    fn subject() -> Subject<'static> {
        let class = Class::Interactive;
        Subject {
            caller: "key:a",
            team: None,
            ip: None,
            model: Some("m"),
            served: Served::AS_ASKED,
            route: "/v1/*",
            path: "/v1/models",
            class,
            own: None,
        }
    }

    #[test]
    fn addresses_count_by_host_or_by_64_bit_network() {
        let hasher = KeyHasher::random();
        let of = |text: &str| key(&hasher, &[Per::Ip], &Subject { ip: text.parse().ok(), ..subject() });
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff::9"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
    }

    #[test]
    fn a_joined_key_tells_its_parts_apart() {
        let hasher = KeyHasher::random();
        let both = [Per::Caller, Per::Model];
        let of = |caller, model| key(&hasher, &both, &Subject { caller, model: Some(model), ..subject() });
        assert_eq!(of("a", "b"), of("a", "b"));
        assert_ne!(of("a", "b"), of("b", "a"));
        assert_ne!(of("ab", ""), of("a", "b"));
    }

    #[test]
    fn a_model_counts_under_the_name_that_it_is_served_by() {
        let hasher = KeyHasher::random();
        let of = |model, counted| {
            let served = Served { counted_as: counted, ..Served::AS_ASKED };
            key(&hasher, &[Per::Model], &Subject { model: Some(model), served, ..subject() })
        };
        assert_eq!(of("a", Some("*")), of("b", Some("*")));
        assert_ne!(of("a", None), of("b", None));
        assert_eq!(of("a", Some("a")), of("a", None));
    }

    #[test]
    fn seals_differ() {
        assert_ne!(
            key(&KeyHasher::random(), &[Per::Caller], &subject()),
            key(&KeyHasher::random(), &[Per::Caller], &subject())
        );
    }
}
