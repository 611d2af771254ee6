//! Switches from one blue/green colour to the other.
//!
//! Each switch of a pool has an epoch, one more than the switch before. A gateway follows the
//! latest, in whatever order they come, and keeps to it even while Redis is unreachable.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::eligibility::Colours;
use super::heartbeat::{HeartbeatError, LARGEST, SignatureError, SigningKey, name, unsealed};
use super::side;

/// The most pools that can be switched.
const MOST: usize = 1024;

/// One switch of one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColourSwitch {
    /// The pool.
    pub pool: Arc<str>,
    /// The colour that receives its work from now on.
    pub colour: Arc<str>,
    /// The only version of that colour that takes work; `None` for all versions.
    pub version: Option<Arc<str>>,
    /// `true` if a gateway chose the colour because its workers were the first or the last ones;
    /// `false` if an operator did, whose choice is never replaced.
    pub chosen: bool,
    /// Counts the switches of the pool.
    pub epoch: u64,
}

/// Why a text is not a switch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ColourSwitchError {
    /// Its signature is missing or wrong.
    #[error(transparent)]
    Seal(#[from] SignatureError),
    /// It is too long, or not JSON.
    #[error(transparent)]
    Fault(#[from] HeartbeatError),
    /// A field is missing or wrong.
    #[error("a colour switch needs `v` 1, a `pool`, a `colour` and an `epoch` of at least 1")]
    Fields,
    /// There are too many pools.
    #[error("too many switched pools: at most {MOST}")]
    Full,
}

impl ColourSwitch {
    fn read(text: &[u8]) -> Result<Self, ColourSwitchError> {
        if text.len() > LARGEST {
            return Err(HeartbeatError::Oversized(text.len()).into());
        }
        let value: Value =
            serde_json::from_slice(text).map_err(|fault| HeartbeatError::NotJson(fault.to_string()))?;
        let word = |field: &str| value.get(field).and_then(Value::as_str).and_then(name);
        let epoch = value.get("epoch").and_then(Value::as_u64).filter(|epoch| *epoch > 0);
        let version = word("version");
        let is_absent = |field: &str| value.get(field).is_none_or(Value::is_null);
        match (value.get("v").and_then(Value::as_u64), word("pool"), word("colour"), epoch) {
            (Some(1), Some(pool), Some(colour), Some(epoch)) if version.is_some() || is_absent("version") => {
                let chosen = value.get("chosen").and_then(Value::as_bool).unwrap_or(false);
                Ok(Self { pool, colour, version, chosen, epoch })
            }
            _ => Err(ColourSwitchError::Fields),
        }
    }

    /// Returns the name of the side that takes the work: the colour, or one version of it.
    #[must_use]
    pub fn side(&self) -> Arc<str> {
        match &self.version {
            Some(version) => side::of_version(&self.colour, version),
            None => Arc::clone(&self.colour),
        }
    }
}

/// The switches that a gateway follows.
#[derive(Debug, Default)]
pub struct ColourSwitches {
    channel: Arc<str>,
    key: Option<SigningKey>,
    followed: BTreeMap<Arc<str>, ColourSwitch>,
}

impl ColourSwitches {
    /// Creates an empty set. `channel` is the Redis channel of the switches, and is signed, too.
    #[must_use]
    pub fn new(channel: Arc<str>, key: Option<SigningKey>) -> Self {
        Self { channel, key, followed: BTreeMap::new() }
    }

    /// Applies new settings; the known switches stay.
    pub fn retell(&mut self, channel: Arc<str>, key: Option<SigningKey>) {
        (self.channel, self.key) = (channel, key);
    }

    /// Processes a text that may be a switch. Returns `true` if it is a later one.
    ///
    /// # Errors
    /// Reason why the text is rejected.
    pub fn hear(&mut self, text: &[u8]) -> Result<bool, ColourSwitchError> {
        let text = match &self.key {
            Some(_) if text.len() > LARGEST => text,
            Some(key) => key.open(&self.channel, text)?,
            None => unsealed(text),
        };
        self.follow(ColourSwitch::read(text)?)
    }

    /// Follows a switch if it is a later one, and returns `true` then.
    ///
    /// # Errors
    /// If too many pools are switched.
    pub fn follow(&mut self, switch: ColourSwitch) -> Result<bool, ColourSwitchError> {
        if switch.epoch <= self.epoch(&switch.pool) {
            return Ok(false);
        }
        if self.followed.len() >= MOST && !self.followed.contains_key(&switch.pool) {
            return Err(ColourSwitchError::Full);
        }
        self.followed.insert(Arc::clone(&switch.pool), switch);
        Ok(true)
    }

    /// Returns the epoch of the last switch of `pool`; 0 if it was never switched.
    #[must_use]
    pub fn epoch(&self, pool: &str) -> u64 {
        self.followed.get(pool).map_or(0, |switch| switch.epoch)
    }

    /// Returns the last switch of `pool`; `None` if it was never switched.
    #[must_use]
    pub fn last(&self, pool: &str) -> Option<&ColourSwitch> {
        self.followed.get(pool)
    }

    /// Returns the colours that receive work, with `default_colour` for pools that were not switched.
    #[must_use]
    pub fn colours(&self, everywhere: Option<Arc<str>>) -> Colours {
        let switched =
            self.followed.iter().map(|(pool, switch)| (Arc::clone(pool), Arc::clone(&switch.colour)));
        Colours { default_colour: everywhere, switched: switched.collect(), exclusive: false }
    }

    /// Returns the sides that receive work from a queue. A pool that was not switched gives its
    /// work to the side `everywhere`; without one, to none until a gateway has chosen. The settings
    /// overrule such a choice, but not an operator's switch.
    #[must_use]
    pub fn sides(&self, everywhere: Option<Arc<str>>) -> Colours {
        let counts = |switch: &ColourSwitch| everywhere.is_none() || !switch.chosen;
        let followed = self.followed.iter().filter(|(_, switch)| counts(switch));
        let switched = followed.map(|(pool, switch)| (Arc::clone(pool), switch.side())).collect();
        Colours { default_colour: everywhere, switched, exclusive: true }
    }

    /// Returns the colour and version of each pool in which only one version takes work.
    #[must_use]
    pub fn named_versions(&self) -> BTreeMap<Arc<str>, (Arc<str>, Arc<str>)> {
        let named = self.followed.iter().filter_map(|(pool, switch)| {
            Some((Arc::clone(pool), (Arc::clone(&switch.colour), Arc::clone(switch.version.as_ref()?))))
        });
        named.collect()
    }

    /// Returns the epoch of the last switch of each pool.
    #[must_use]
    pub fn epochs(&self) -> BTreeMap<Arc<str>, u64> {
        self.followed.iter().map(|(pool, switch)| (Arc::clone(pool), switch.epoch)).collect()
    }

    /// Returns the last switch of each pool.
    pub fn all(&self) -> impl Iterator<Item = ColourSwitch> + '_ {
        self.followed.values().cloned()
    }

    /// Formats a switch as text, signed if there is a key.
    #[must_use]
    pub fn write(&self, switch: &ColourSwitch) -> String {
        let ColourSwitch { pool, colour, version, chosen, epoch } = switch;
        let mut fields = json!({ "v": 1, "pool": pool, "colour": colour, "epoch": epoch });
        if let Some(version) = version {
            fields["version"] = json!(version);
        }
        if *chosen {
            fields["chosen"] = json!(true);
        }
        let text = fields.to_string();
        self.key.as_ref().map_or_else(|| text.clone(), |key| key.seal(&self.channel, &text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn switch(pool: &str, colour: &str, epoch: u64) -> ColourSwitch {
        ColourSwitch { pool: pool.into(), colour: colour.into(), version: None, chosen: false, epoch }
    }

    #[test]
    fn a_version_is_kept_and_names_a_side_of_its_own() {
        let mut switches = ColourSwitches::default();
        let named = ColourSwitch { version: Some("2.0".into()), chosen: true, ..switch("chat", "blue", 1) };
        assert_eq!(switches.hear(switches.write(&named).as_bytes()), Ok(true));
        assert_eq!(switches.last("chat"), Some(&named));
        assert_eq!(switches.sides(None).of("chat").map(|side| &**side), Some("blue@2.0"));
        // What a gateway chose gives way to the settings.
        assert_eq!(switches.sides(Some("green".into())).of("chat").map(|side| &**side), Some("green"));
        assert_eq!(switches.colours(None).of("chat").map(|colour| &**colour), Some("blue"));
        let one = ("chat".into(), ("blue".into(), "2.0".into()));
        assert_eq!(switches.named_versions(), BTreeMap::from([one]));
    }

    #[test]
    fn the_latest_is_followed_in_whatever_order_they_come() {
        let mut switches = ColourSwitches::default();
        let of = |switches: &ColourSwitches, pool| {
            switches.colours(Some("blue".into())).of(pool).map(ToString::to_string)
        };
        for (epoch, colour, news, now) in [
            (2, "green", true, "green"),
            (1, "red", false, "green"),
            (2, "red", false, "green"),
            (3, "blue", true, "blue"),
        ] {
            let text = switches.write(&switch("chat", colour, epoch));
            assert_eq!(switches.hear(text.as_bytes()), Ok(news));
            assert_eq!(of(&switches, "chat").as_deref(), Some(now));
        }
        assert_eq!(of(&switches, "embed").as_deref(), Some("blue"));
        assert_eq!((switches.epoch("chat"), switches.epoch("embed")), (3, 0));
    }

    #[test]
    fn with_a_key_only_what_is_signed_for_this_channel_counts() {
        let key = SigningKey::new("k");
        let mut switches = ColourSwitches::new("dam:control".into(), Some(key.clone()));
        let text = r#"{"v":1,"pool":"chat","colour":"green","epoch":1}"#;
        assert_eq!(switches.hear(text.as_bytes()), Err(ColourSwitchError::Seal(SignatureError::Unsigned)));
        let heartbeat = key.seal("dam:health", text);
        assert_eq!(switches.hear(heartbeat.as_bytes()), Err(ColourSwitchError::Seal(SignatureError::Wrong)));
        let signed = switches.write(&switch("chat", "green", 1));
        assert_eq!(switches.hear(signed.as_bytes()), Ok(true));
    }

    #[test]
    fn what_is_no_switch_changes_nothing() {
        let mut switches = ColourSwitches::default();
        for text in [
            "{}",
            r#"{"v":2,"pool":"a","colour":"b","epoch":1}"#,
            r#"{"v":1,"pool":"a b","colour":"b","epoch":1}"#,
            r#"{"v":1,"pool":"a","colour":"","epoch":1}"#,
            r#"{"v":1,"pool":"a","colour":"b","epoch":0}"#,
            r#"{"v":1,"pool":"a","colour":"b","epoch":1.5}"#,
            r#"{"v":1,"pool":"a","colour":"b","epoch":1,"version":"1 0"}"#,
            r#"{"v":1,"pool":"a","colour":"b","epoch":1,"version":2}"#,
        ] {
            assert_eq!(switches.hear(text.as_bytes()), Err(ColourSwitchError::Fields), "{text}");
        }
        assert!(matches!(switches.hear(b"["), Err(ColourSwitchError::Fault(HeartbeatError::NotJson(_)))));
        assert!(matches!(
            switches.hear(&[b' '; LARGEST + 1]),
            Err(ColourSwitchError::Fault(HeartbeatError::Oversized(_)))
        ));
        for number in 0..MOST {
            switches.follow(switch(&format!("p{number}"), "b", 1)).unwrap();
        }
        assert_eq!(switches.follow(switch("one-more", "b", 1)), Err(ColourSwitchError::Full));
        assert_eq!(switches.follow(switch("p7", "b", 2)), Ok(true));
    }
}
