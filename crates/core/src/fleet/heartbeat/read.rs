//! Parses a [`Heartbeat`].

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::{
    CheckStatus, DesiredState, HealthCheck, Heartbeat, INTERVAL, LARGEST, MAX_KV_TOKENS, MAX_SLOTS,
    MAX_VERSION_LENGTH, VERSION,
};
use crate::fleet::address::{URL_EXPECTED, worker_url};

/// Longest name of a worker, a pool or a colour, in bytes; names become metric labels.
const NAME: usize = 64;
/// Longest pattern for models, and longest message of a check, in bytes.
const TEXT: usize = 256;
/// Most checks in one heartbeat.
const CHECKS: usize = 16;
/// Largest number of milliseconds: larger ones could overflow sums.
const LONGEST: u64 = 1_000_000_000_000;
/// Number of characters of a wrong value that are shown.
const SHOWN: usize = 64;

/// Why a text is not a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeartbeatError {
    /// It is too long.
    #[error("{0} bytes is too large; the maximum is {LARGEST}")]
    Oversized(usize),
    /// It is not a JSON object.
    #[error("not a JSON object: {0}")]
    NotJson(String),
    /// Its version is not supported.
    #[error("`v` is {0}; versions {from} and {VERSION} are supported", from = VERSION.saturating_sub(1))]
    Version(u64),
    /// A required field is missing.
    #[error("`{0}` is missing; it must be {1}")]
    Missing(&'static str, &'static str),
    /// A field has a wrong value.
    #[error("`{field}` is {found}; it must be {expected}")]
    Field {
        /// The field.
        field: &'static str,
        /// Its value.
        found: String,
        /// The expected value, to complete "must be …".
        expected: &'static str,
    },
}

impl Heartbeat {
    /// Parses a text without its signature.
    ///
    /// # Errors
    /// Names the first wrong field.
    pub fn read(text: &[u8]) -> Result<Self, HeartbeatError> {
        if text.len() > LARGEST {
            return Err(HeartbeatError::Oversized(text.len()));
        }
        let fields = JsonFields(
            serde_json::from_slice(text).map_err(|fault| HeartbeatError::NotJson(fault.to_string()))?,
        );
        // First, because another version may have other fields.
        let version =
            fields.number("v", "a number", 0, u64::MAX)?.ok_or(HeartbeatError::Missing("v", "1"))?;
        if version > VERSION || version < VERSION.saturating_sub(1) {
            return Err(HeartbeatError::Version(version));
        }
        let shortest = millis(INTERVAL.0);
        let expected = "a number of milliseconds from 100 to 60000";
        let interval = fields
            .number("interval_ms", expected, shortest, millis(INTERVAL.1))?
            .ok_or(HeartbeatError::Missing("interval_ms", expected))?;
        let length = |field| {
            fields
                .number(field, "a number of milliseconds", 0, LONGEST)
                .map(|it| it.map(Duration::from_millis))
        };
        Ok(Self {
            worker: fields.name("worker")?.ok_or(HeartbeatError::Missing("worker", NAME_EXPECTED))?,
            boot: fields.name("boot")?.ok_or(HeartbeatError::Missing("boot", NAME_EXPECTED))?,
            seq: fields
                .number("seq", "a whole number", 0, u64::MAX)?
                .ok_or(HeartbeatError::Missing("seq", "a whole number"))?,
            at_ms: fields.number("at_ms", "whole milliseconds since 1970", 0, u64::MAX)?,
            interval: Duration::from_millis(interval),
            url: fields
                .text("url", URL_EXPECTED, |text| (text.len() <= TEXT).then(|| worker_url(text)).flatten())?,
            pool: fields.name("pool")?,
            model: fields.text("model", "1 to 256 characters", |text| plain(text, TEXT))?,
            colour: fields.name("colour")?,
            version: fields.text("version", "1 to 64 characters", |text| plain(text, MAX_VERSION_LENGTH))?,
            state: fields
                .text("state", STATE_EXPECTED, |text| {
                    DesiredState::ALL.into_iter().find(|it| it.as_str() == text)
                })?
                .ok_or(HeartbeatError::Missing("state", STATE_EXPECTED))?,
            slots: fields.count("slots", 1)?,
            running: fields.count("running", 0)?,
            waiting: fields.count("waiting", 0)?,
            kv_used: fields.share("kv_used")?,
            kv_tokens: fields.number("kv_tokens", "a whole number of at least 1", 1, MAX_KV_TOKENS)?,
            ttft_p90: length("ttft_p90_ms")?,
            itl_p90: length("itl_p90_ms")?,
            checks: fields.checks()?,
        })
    }
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

const NAME_EXPECTED: &str = "1 to 64 letters, digits, `.`, `_` or `-`";
const STATE_EXPECTED: &str = "`ready`, `draining`, `standby` or `failed`";

/// Parses the name of a worker, a pool or a colour, which becomes a metric label.
pub(in crate::fleet) fn name(text: &str) -> Option<Arc<str>> {
    let sound = (1..=NAME).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    sound.then(|| text.into())
}

fn plain(text: &str, most: usize) -> Option<Arc<str>> {
    let sound = (1..=most).contains(&text.len()) && !text.chars().any(char::is_control);
    sound.then(|| text.into())
}

/// The fields of one JSON object. `null` counts as missing.
struct JsonFields(Map<String, Value>);

impl JsonFields {
    fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    fn read<'a, T>(
        &'a self,
        field: &'static str,
        expected: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, HeartbeatError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let wrong = || HeartbeatError::Field { field, found: shown(value), expected };
        read(value).map(Some).ok_or_else(wrong)
    }

    fn text<T>(
        &self,
        field: &'static str,
        expected: &'static str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, HeartbeatError> {
        self.read(field, expected, |value| value.as_str().and_then(read))
    }

    fn name(&self, field: &'static str) -> Result<Option<Arc<str>>, HeartbeatError> {
        self.text(field, NAME_EXPECTED, name)
    }

    fn number(
        &self,
        field: &'static str,
        expected: &'static str,
        least: u64,
        most: u64,
    ) -> Result<Option<u64>, HeartbeatError> {
        self.read(field, expected, |value| value.as_u64().filter(|number| (least..=most).contains(number)))
    }

    fn count(&self, field: &'static str, least: u64) -> Result<Option<u32>, HeartbeatError> {
        let expected =
            if least == 0 { "a whole number up to 1000000" } else { "a whole number from 1 to 1000000" };
        let count = self.number(field, expected, least, MAX_SLOTS.into())?;
        Ok(count.and_then(|count| u32::try_from(count).ok()))
    }

    fn share(&self, field: &'static str) -> Result<Option<f64>, HeartbeatError> {
        let within = |value: &Value| value.as_f64().filter(|share| (0.0..=1.0).contains(share));
        self.read(field, "a number from 0 to 1", within)
    }

    fn checks(&self) -> Result<Vec<HealthCheck>, HeartbeatError> {
        let expected = "a list of up to 16 objects with a `name` of up to 64 characters, a `status` of `green`, \
             `yellow` or `red`, and a `message` of up to 256 characters";
        let read = |value: &Value| {
            let list = value.as_array().filter(|list| list.len() <= CHECKS)?;
            list.iter().map(check).collect::<Option<Vec<_>>>()
        };
        Ok(self.read("checks", expected, read)?.unwrap_or_default())
    }
}

fn check(value: &Value) -> Option<HealthCheck> {
    let status = match value.get("status")?.as_str()? {
        "green" => CheckStatus::Green,
        "yellow" => CheckStatus::Yellow,
        "red" => CheckStatus::Red,
        _ => return None,
    };
    let message = match value.get("message").filter(|message| !message.is_null()) {
        Some(message) => message.as_str().filter(|text| text.len() <= TEXT)?,
        None => "",
    };
    let name = plain(value.get("name")?.as_str()?, NAME)?;
    Some(HealthCheck { name, status, message: message.into() })
}

/// Formats a wrong value for a log, cut and without control characters: its author is untrusted.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        other => other.to_string(),
    };
    let plain = |letter: char| if letter.is_control() { '.' } else { letter };
    let mut shown: String = text.chars().take(SHOWN).map(plain).collect();
    if shown.len() < text.len() && text.chars().count() > SHOWN {
        shown.push('…');
    }
    shown
}
