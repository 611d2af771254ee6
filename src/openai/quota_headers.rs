//! The remaining quota in headers: in OpenAI's form, and in that of the IETF draft for all dialects.
//!
//! Below the dialects ([`dialect`](super::dialect)), each of which chooses its forms.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

use crate::refusal::{QuotaStatus, Unit};

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const STANDING: HeaderName = HeaderName::from_static("ratelimit");
/// Limit, remaining and reset of the tightest rule in requests.
const REQUESTS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
/// The same for the tightest rule in tokens.
const TOKENS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

/// Greatest integer of a structured field (RFC 9651).
const GREATEST: u64 = 999_999_999_999_999;

/// Writes the tightest rule of each unit in OpenAI's form.
pub(super) fn openai_quotas(headers: &mut HeaderMap, quotas: &[QuotaStatus]) {
    headers.reserve(2 * REQUESTS.len() + 2);
    let mut text = String::with_capacity(16);
    for (unit, [limit, remaining, reset]) in [(Unit::Requests, REQUESTS), (Unit::Tokens, TOKENS)] {
        if let Some(tightest) = tightest(quotas, unit) {
            headers.insert(limit, tightest.limit.into());
            headers.insert(remaining, tightest.remaining.into());
            go_duration(&mut text, tightest.reset);
            insert(headers, reset, &mut text);
        }
    }
}

/// Writes the quota status of all rules in the form of the IETF draft
/// (`draft-ietf-httpapi-ratelimit-headers`).
pub(super) fn standard_quotas(headers: &mut HeaderMap, quotas: &[QuotaStatus]) {
    if let Some(policy) = RenderedPolicies::header(quotas) {
        headers.insert(POLICY, policy);
    }
    let mut text = String::with_capacity(128);
    for quota in quotas {
        item(&mut text, &quota.rule);
        parameter(&mut text, ";r=", quota.remaining);
        parameter(&mut text, ";t=", seconds(quota.reset));
    }
    insert(headers, STANDING, &mut text);
}

/// The policies of the rules that were met last, as a header.
///
/// They change only with the settings, and most requests of a gateway meet the same rules.
struct RenderedPolicies {
    rules: SmallVec<[RenderedPolicy; 4]>,
    header: HeaderValue,
}

/// What the policy of a rule is written from.
struct RenderedPolicy {
    rule: Arc<str>,
    limit: u64,
    unit: Unit,
    window: Duration,
}

thread_local! {
    static POLICIES: RefCell<Option<RenderedPolicies>> = const { RefCell::new(None) };
}

impl RenderedPolicies {
    /// Returns the policies of these rules; `None` without rules.
    fn header(quotas: &[QuotaStatus]) -> Option<HeaderValue> {
        POLICIES.with_borrow_mut(|last| {
            if !last.as_ref().is_some_and(|last| last.are_of(quotas)) {
                *last = Self::of(quotas);
            }
            last.as_ref().map(|last| last.header.clone())
        })
    }

    fn are_of(&self, quotas: &[QuotaStatus]) -> bool {
        let same = |(policy, quota): (&RenderedPolicy, &QuotaStatus)| {
            Arc::ptr_eq(&policy.rule, &quota.rule)
                && (policy.limit, policy.unit, policy.window) == (quota.limit, quota.unit, quota.window)
        };
        self.rules.len() == quotas.len() && self.rules.iter().zip(quotas).all(same)
    }

    fn of(quotas: &[QuotaStatus]) -> Option<Self> {
        let mut text = String::with_capacity(128);
        for quota in quotas {
            item(&mut text, &quota.rule);
            parameter(&mut text, ";q=", quota.limit);
            text.push_str(if quota.unit == Unit::Tokens { ";qu=\"tokens\"" } else { "" });
            parameter(&mut text, ";w=", seconds(quota.window).max(1));
        }
        // From its bytes as they are: then a clone of the header shares them.
        let header = HeaderValue::from_maybe_shared(Bytes::from_owner(text)).ok()?;
        let policy = |quota: &QuotaStatus| RenderedPolicy {
            rule: Arc::clone(&quota.rule),
            limit: quota.limit,
            unit: quota.unit,
            window: quota.window,
        };
        Some(Self { rules: quotas.iter().map(policy).collect(), header })
    }
}

/// Returns the rule of a unit with the least share left; of equals the slowest to recover.
pub(super) fn tightest(quotas: &[QuotaStatus], unit: Unit) -> Option<&QuotaStatus> {
    quotas.iter().filter(|quota| quota.unit == unit).min_by(|one, other| {
        let one_share = u128::from(one.remaining) * u128::from(other.limit);
        let other_share = u128::from(other.remaining) * u128::from(one.limit);
        one_share.cmp(&other_share).then(other.reset.cmp(&one.reset))
    })
}

/// Returns whole seconds, rounded up.
pub(super) fn seconds(length: Duration) -> u64 {
    length.as_secs().saturating_add(u64::from(length.subsec_nanos() > 0))
}

/// Returns whole milliseconds, rounded up.
pub(super) fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// Writes a duration as Go and OpenAI do, in ms rounded up: `12ms`, `1.5s`, `6m0s`, `1h0m0.25s`.
fn go_duration(text: &mut String, length: Duration) {
    let all = millis(length);
    let (seconds, rest) = (all / 1000, all % 1000);
    if seconds == 0 && rest > 0 {
        text.push_str(itoa::Buffer::new().format(rest));
        text.push_str("ms");
        return;
    }
    if seconds >= 3600 {
        text.push_str(itoa::Buffer::new().format(seconds / 3600));
        text.push('h');
    }
    if seconds >= 60 {
        text.push_str(itoa::Buffer::new().format(seconds / 60 % 60));
        text.push('m');
    }
    text.push_str(itoa::Buffer::new().format(seconds % 60));
    if rest > 0 {
        thousandths(text, rest);
        text.truncate(text.trim_end_matches('0').len());
    }
    text.push('s');
}

/// Writes a point and three digits. `write!` takes five times as long.
pub(super) fn thousandths(text: &mut String, number: u64) {
    let mut digits = itoa::Buffer::new();
    // A digit before them keeps their zeros.
    let four = digits.format(1000 + number % 1000);
    text.push('.');
    text.push_str(four.get(1..).unwrap_or_default());
}

/// Appends an item to a structured field's list: a string. Rule names are plain ASCII; other
/// characters are dropped so that the field stays valid.
fn item(list: &mut String, name: &str) {
    let plain = |letter: u8| matches!(letter, b' '..=b'~') && letter != b'"' && letter != b'\\';
    list.push_str(if list.is_empty() { "\"" } else { ", \"" });
    if name.bytes().all(plain) {
        list.push_str(name);
    } else {
        list.extend(name.bytes().filter(|&letter| plain(letter)).map(char::from));
    }
    list.push('"');
}

/// Adds a parameter to an item. A response with four rules has eight; `write!` takes five times as
/// long for one.
fn parameter(list: &mut String, name: &str, value: u64) {
    list.push_str(name);
    list.push_str(itoa::Buffer::new().format(value.min(GREATEST)));
}

/// Inserts a header and clears the text.
fn insert(headers: &mut HeaderMap, name: HeaderName, text: &mut String) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
    text.clear();
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::openai::dialect::Dialect;
    use std::time::SystemTime;

    /// Returns the headers that are written, in the order of their names.
    pub(in crate::openai) fn told(write: impl FnOnce(&mut HeaderMap)) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        write(&mut headers);
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        let mut told: Vec<_> = headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        told.sort();
        told
    }

    pub(in crate::openai) fn pairs<const N: usize>(expected: [(&str, &str); N]) -> Vec<(String, String)> {
        expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    fn quota_headers(headers: &mut HeaderMap, quotas: &[QuotaStatus]) {
        Dialect::OpenAi.quota_headers(headers, quotas, || SystemTime::UNIX_EPOCH);
    }

    fn quota(rule: &str, unit: Unit, limit: u64, remaining: u64, reset_ms: u64) -> QuotaStatus {
        let (reset, window) = (Duration::from_millis(reset_ms), Duration::from_secs(60));
        QuotaStatus { rule: rule.into(), unit, limit, remaining, reset, window }
    }

    #[test]
    fn openai_headers_show_the_tightest_rule_of_each_unit() {
        let told = told(|headers| {
            quota_headers(
                headers,
                &[
                    quota("wide", Unit::Requests, 1000, 400, 100),
                    quota("narrow", Unit::Requests, 10, 4, 1500),
                    quota("per_minute", Unit::Tokens, 60_000, 0, 360_000),
                ],
            );
        });
        let policy = r#""wide";q=1000;w=60, "narrow";q=10;w=60, "per_minute";q=60000;qu="tokens";w=60"#;
        assert_eq!(
            told,
            pairs([
                ("ratelimit", r#""wide";r=400;t=1, "narrow";r=4;t=2, "per_minute";r=0;t=360"#),
                ("ratelimit-policy", policy),
                ("x-ratelimit-limit-requests", "10"),
                ("x-ratelimit-limit-tokens", "60000"),
                ("x-ratelimit-remaining-requests", "4"),
                ("x-ratelimit-remaining-tokens", "0"),
                ("x-ratelimit-reset-requests", "1.5s"),
                ("x-ratelimit-reset-tokens", "6m0s"),
            ])
        );
    }

    #[test]
    fn no_rules_no_headers_and_odd_rules_no_panic() {
        assert_eq!(told(|headers| quota_headers(headers, &[])), []);
        let odd = QuotaStatus {
            reset: Duration::MAX,
            window: Duration::ZERO,
            ..quota("a\"\\\né", Unit::Tokens, u64::MAX, u64::MAX, 0)
        };
        let told = told(|headers| quota_headers(headers, &[odd]));
        assert_eq!(told[0].1, r#""a";r=999999999999999;t=999999999999999"#);
        assert_eq!(told[1].1, r#""a";q=999999999999999;qu="tokens";w=1"#);
    }

    #[test]
    fn lengths_are_written_as_go_writes_them() {
        for (micros, text) in [
            (0, "0s"),
            (1, "1ms"),
            (12_000, "12ms"),
            (999_001, "1s"),
            (1_500_000, "1.5s"),
            (1_050_000, "1.05s"),
            (60_000_000, "1m0s"),
            (360_000_000, "6m0s"),
            (90_500_000, "1m30.5s"),
            (3_600_250_000, "1h0m0.25s"),
        ] {
            let mut written = String::new();
            go_duration(&mut written, Duration::from_micros(micros));
            assert_eq!(written, text);
        }
    }
}
