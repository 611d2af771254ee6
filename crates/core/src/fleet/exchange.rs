//! The text in which a gateway tells the others what it charged to callers.
//!
//! A text has the last two seconds, so that nobody misses one whose clock ticks a little later, and
//! numbers them, so that nobody charges one twice. Callers stand in it as digests.
//!
//! **Failure mode.** Texts that are not valid, of another version, or older than what was heard
//! before say nothing. The first text of a gateway only tells at which number it is: texts that
//! somebody kept and writes again, under a gateway that has gone, charge nobody.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::heartbeat::{SigningKey, sign_if_keyed, verify_if_keyed};
use crate::clock::Nanos;
use crate::hex;
use crate::request::Class;
use crate::shed::{CallerDigest, CallerTokens};

/// Interval at which gateways tell and hear.
pub const EXCHANGE_EVERY: Duration = Duration::from_secs(1);
/// Age from which tokens are not charged: the gateway was paused between charging and telling, or
/// between asking and hearing.
const LATE: Duration = Duration::from_secs(2);
/// Seconds in a text.
const SECONDS: usize = 2;
/// Callers in a second of a text, over all pools and classes: those with the most tokens.
const MOST_CALLERS: usize = 256;
/// Largest text that is read: many times what a gateway writes.
const LARGEST: usize = 128 * 1024;
/// Version that is written and read.
const VERSION: u32 = 1;

/// Tokens of the callers of one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolTokens {
    /// The pool.
    pub pool: Arc<str>,
    /// Its callers, of all classes.
    pub tokens: Vec<CallerTokens>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ExchangeText<S> {
    v: u32,
    seconds: S,
}

/// What was charged in one second.
#[derive(Debug, Serialize, Deserialize)]
struct ToldSecond {
    number: u64,
    charged: Vec<ClassTokens>,
}

/// A pool, a class of it, and the digests of callers with their tokens.
type ClassTokens = (Arc<str>, Class, Vec<(String, u64)>);

/// What this gateway tells the others.
#[derive(Debug, Default)]
pub struct ToldTokens {
    number: u64,
    seconds: VecDeque<ToldSecond>,
    added: Option<Nanos>,
}

impl ToldTokens {
    /// Adds what was charged since the last call. What was charged over more than two seconds is
    /// not told.
    pub fn add(&mut self, pools: Vec<PoolTokens>, now: Nanos) {
        let is_late = self.added.replace(now).is_some_and(|added| now.since(added) > LATE);
        self.number += 1;
        let charged = if is_late { Vec::new() } else { by_pool_and_class(pools) };
        self.seconds.push_back(ToldSecond { number: self.number, charged });
        if self.seconds.len() > SECONDS {
            self.seconds.pop_front();
        }
    }

    /// Formats it for the Redis key `place`, signed if there is a key.
    #[must_use]
    pub fn write(&self, place: &str, key: Option<&SigningKey>) -> String {
        let text = ExchangeText { v: VERSION, seconds: &self.seconds };
        // Lists of texts and numbers always serialize.
        sign_if_keyed(key, place, serde_json::to_string(&text).unwrap_or_default())
    }
}

fn by_pool_and_class(pools: Vec<PoolTokens>) -> Vec<ClassTokens> {
    let each = pools.into_iter().flat_map(|PoolTokens { pool, tokens }| {
        tokens.into_iter().map(move |tokens| (Arc::clone(&pool), tokens))
    });
    let mut all: Vec<(Arc<str>, CallerTokens)> = each.collect();
    all.sort_by_key(|(_, tokens)| Reverse(tokens.tokens));
    all.truncate(MOST_CALLERS);
    let mut charged: BTreeMap<_, Vec<(String, u64)>> = BTreeMap::new();
    for (pool, CallerTokens { class, caller, tokens }) in all {
        let digest = hex::write(&caller.0.to_be_bytes());
        charged.entry((pool, class)).or_default().push((digest, tokens));
    }
    charged.into_iter().map(|((pool, class), callers)| (pool, class, callers)).collect()
}

/// What the other gateways have told so far.
#[derive(Debug, Default)]
pub struct HeardGateways {
    /// The last number heard, by gateway.
    numbers: HashMap<Arc<str>, u64>,
}

impl HeardGateways {
    /// Forgets all gateways but these.
    pub fn retain(&mut self, live: &[Arc<str>]) {
        self.numbers.retain(|gateway, _| live.contains(gateway));
    }

    /// Returns what the gateway tells in the text under the Redis key `place` that was not heard
    /// before; `None` if the text is not valid.
    pub fn hear(
        &mut self,
        gateway: &Arc<str>,
        text: &[u8],
        place: &str,
        key: Option<&SigningKey>,
    ) -> Option<Vec<PoolTokens>> {
        if text.len() > LARGEST {
            return None;
        }
        let text = verify_if_keyed(key, place, text).ok()?;
        let ExchangeText { v, seconds } =
            serde_json::from_slice::<ExchangeText<Vec<ToldSecond>>>(text).ok()?;
        if v != VERSION {
            return None;
        }
        let last = seconds.iter().map(|second| second.number).max()?;
        let heard = match self.numbers.get_mut(gateway) {
            Some(heard) => std::mem::replace(heard, last.max(*heard)),
            None => {
                self.numbers.insert(Arc::clone(gateway), last);
                last
            }
        };
        let news = seconds.into_iter().filter(|second| second.number > heard);
        Some(news.flat_map(ToldSecond::read).collect())
    }
}

impl ToldSecond {
    fn read(self) -> impl Iterator<Item = PoolTokens> {
        self.charged.into_iter().map(|(pool, class, callers)| {
            let read = |(digest, tokens): (String, u64)| {
                let caller = CallerDigest(u128::from_be_bytes(hex::read(digest.as_bytes())?));
                Some(CallerTokens { class, caller, tokens })
            };
            PoolTokens { pool, tokens: callers.into_iter().filter_map(read).collect() }
        })
    }
}

/// Returns `true` if what was asked for at `asked` came too late to be charged at `now`.
#[must_use]
pub fn is_too_late(asked: Nanos, now: Nanos) -> bool {
    now.since(asked) > LATE
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: &str = "dam:{exchange}:a";

    fn tokens(caller: &str, tokens: u64) -> CallerTokens {
        CallerTokens { class: Class::Interactive, caller: CallerDigest::of(caller), tokens }
    }

    fn pool(all: &[CallerTokens]) -> Vec<PoolTokens> {
        vec![PoolTokens { pool: "chat".into(), tokens: all.to_vec() }]
    }

    fn at(millis: u64) -> Nanos {
        Nanos::from_millis(millis)
    }

    /// Returns the text of a gateway after it has told each of these for a second.
    fn text(told: &mut ToldTokens, seconds: &[&[CallerTokens]], key: Option<&SigningKey>) -> String {
        for charged in seconds {
            told.add(pool(charged), at(1000 * (told.number + 1)));
        }
        told.write(PLACE, key)
    }

    #[test]
    fn each_second_is_heard_once_and_the_first_text_tells_only_its_number() {
        let (mut told, mut heard) = (ToldTokens::default(), HeardGateways::default());
        let gateway: Arc<str> = "a".into();
        let [one, two, three] = [1, 2, 3].map(|number| tokens("x", number));
        let mut hear = |text: &str| heard.hear(&gateway, text.as_bytes(), PLACE, None);
        let first = text(&mut told, &[&[one]], None);
        assert_eq!(hear(&first), Some(Vec::new()));
        let second = text(&mut told, &[&[two]], None);
        assert_eq!(hear(&second), Some(pool(&[two])));
        assert_eq!(hear(&second), Some(Vec::new()), "read twice");
        assert_eq!(hear(&first), Some(Vec::new()), "an old text, written again");
        let later = text(&mut told, &[&[one], &[two], &[three]], None);
        assert_eq!(hear(&later), Some([pool(&[two]), pool(&[three])].concat()), "one second was missed");
        heard.retain(&[]);
        assert_eq!(
            heard.hear(&gateway, later.as_bytes(), PLACE, None),
            Some(Vec::new()),
            "as the first time"
        );
    }

    #[test]
    fn only_texts_of_its_own_key_and_version_are_heard() {
        let (mut told, gateway) = (ToldTokens::default(), Arc::from("a"));
        let [ours, theirs] = ["ours", "theirs"].map(SigningKey::new);
        let good = text(&mut told, &[&[tokens("x", 1)]], Some(&ours));
        let unsigned = told.write(PLACE, None);
        let hear = |text: &str, place: &str, key| {
            HeardGateways::default().hear(&gateway, text.as_bytes(), place, key).is_some()
        };
        assert!(hear(&good, PLACE, Some(&ours)));
        assert!(hear(&good, PLACE, None), "gateways may get the key one after another");
        assert!(!hear(&good, PLACE, Some(&theirs)));
        assert!(!hear(&good, "dam:{exchange}:b", Some(&ours)), "the text of another gateway");
        assert!(!hear(&unsigned, PLACE, Some(&ours)));
        for wrong in
            ["", "{}", "[]", "1 2", &unsigned.replace("\"v\":1", "\"v\":2"), &"9".repeat(LARGEST + 1)]
        {
            assert!(!hear(wrong, PLACE, None), "{}", wrong.get(..20).unwrap_or(wrong));
        }
    }

    #[test]
    fn a_digest_that_is_none_is_skipped_and_a_text_stays_small() {
        let (mut told, gateway) = (ToldTokens::default(), Arc::from("a"));
        let mut heard = HeardGateways::default();
        let all: Vec<CallerTokens> = (0..2000).map(|number| tokens(&number.to_string(), number)).collect();
        let first = text(&mut told, &[&all], None);
        assert!(heard.hear(&gateway, first.as_bytes(), PLACE, None).is_some());
        let next = text(&mut told, &[&all], None);
        assert!(next.len() < LARGEST / 2, "{} bytes", next.len());
        let most = hex::write(&CallerDigest::of("1999").0.to_be_bytes());
        let spoilt = next.replace(&most, "no digest");
        let read = heard.hear(&gateway, spoilt.as_bytes(), PLACE, None).unwrap();
        assert_eq!(read, pool(&all[2000 - MOST_CALLERS..1999].iter().rev().copied().collect::<Vec<_>>()));
    }

    #[test]
    fn what_is_late_is_not_told() {
        let (mut told, mut heard, gateway) = (ToldTokens::default(), HeardGateways::default(), "a".into());
        told.add(Vec::new(), at(1000));
        assert!(heard.hear(&gateway, told.write(PLACE, None).as_bytes(), PLACE, None).is_some());
        told.add(pool(&[tokens("x", 1)]), at(4000));
        let after_a_pause = told.write(PLACE, None);
        assert_eq!(heard.hear(&gateway, after_a_pause.as_bytes(), PLACE, None), Some(Vec::new()));
        assert!(is_too_late(at(1000), at(3001)) && !is_too_late(at(1000), at(3000)));
    }
}
