//! Switches from one blue/green colour to the other.
//!
//! Each switch of a pool has an epoch, one more than that of the switch before. A gateway follows
//! the switch with the latest epoch, whatever the order in which they arrive, and stays with it while
//! Redis is unreachable.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::eligibility::{CanarySide, Colours};
use super::heartbeat::{
    HeartbeatError, LARGEST, SignatureError, SigningKey, name, sign_if_keyed, without_signature,
};
use super::registry::NamedVersions;
use super::side;
use crate::shed::{CanaryShare, WHOLE};

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
    /// `true` if a gateway chose the colour, because its workers came first or the active side lost all
    /// of its own; `false` if an operator did, whose choice no gateway replaces.
    pub chosen: bool,
    /// The side on trial; `None` if `colour` gets everything.
    pub canary: Option<CanaryTrial>,
    /// Number of this switch among those of its pool; the largest is in force.
    pub epoch: u64,
}

/// A side that gets a share of a pool's work, until its gateway has judged it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanaryTrial {
    /// Its colour; not the active one.
    pub colour: Arc<str>,
    /// The only version of that colour that takes the share; `None` for all versions.
    pub version: Option<Arc<str>>,
    /// The share, in millionths: 1 to 500000.
    pub per_million: u32,
    /// Epoch of the switch before it.
    pub old_epoch: u64,
}

impl CanaryTrial {
    fn read(value: &Value) -> Option<Self> {
        let word = |field: &str| value.get(field).and_then(Value::as_str).and_then(name);
        let number = |field: &str| value.get(field).and_then(Value::as_u64);
        let per_million = number("per_million").and_then(|share| u32::try_from(share).ok());
        let version = word("version");
        if version.is_none() && value.get("version").is_some_and(|version| !version.is_null()) {
            return None;
        }
        Some(Self {
            colour: word("colour")?,
            version,
            per_million: per_million.filter(|share| (1..=MOST_SHARE).contains(share))?,
            old_epoch: number("old_epoch")?,
        })
    }

    fn write(&self) -> Value {
        let Self { colour, version, per_million, old_epoch } = self;
        json!({ "colour": colour, "version": version, "per_million": per_million, "old_epoch": old_epoch })
    }

    /// Returns the name of the side on trial.
    #[must_use]
    pub fn side(&self) -> Arc<str> {
        side_of(&self.colour, self.version.as_ref())
    }
}

/// Latest epoch that is followed. Redis compares epochs as floating-point numbers, which are exact up to
/// here.
const LATEST_EPOCH: u64 = (1 << 53) - 1;

/// Largest share of a canary, in millionths: with more than half, the old side would be on trial.
pub const MOST_SHARE: u32 = WHOLE / 2;

fn side_of(colour: &Arc<str>, version: Option<&Arc<str>>) -> Arc<str> {
    version.map_or_else(|| Arc::clone(colour), |version| side::of_version(colour, version))
}

/// Why a text is not a switch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ColourSwitchError {
    /// Its signature is missing or wrong.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// It is too long, or not JSON.
    #[error(transparent)]
    Format(#[from] HeartbeatError),
    /// A field is missing or wrong.
    #[error(
        "a colour switch needs `v` 1, a `pool`, a `colour`, an `epoch` from 1 to {LATEST_EPOCH}, and in a `canary` a \
         `colour`, an `old_epoch` and `per_million` from 1 to {MOST_SHARE}"
    )]
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
        let epoch =
            value.get("epoch").and_then(Value::as_u64).filter(|epoch| (1..=LATEST_EPOCH).contains(epoch));
        let version = word("version");
        let is_absent = |field: &str| value.get(field).is_none_or(Value::is_null);
        match (value.get("v").and_then(Value::as_u64), word("pool"), word("colour"), epoch) {
            (Some(1), Some(pool), Some(colour), Some(epoch)) if version.is_some() || is_absent("version") => {
                let chosen = value.get("chosen").and_then(Value::as_bool).unwrap_or(false);
                let canary = match value.get("canary").filter(|canary| !canary.is_null()) {
                    Some(canary) => Some(CanaryTrial::read(canary).ok_or(ColourSwitchError::Fields)?),
                    None => None,
                };
                Ok(Self { pool, colour, version, chosen, canary, epoch })
            }
            _ => Err(ColourSwitchError::Fields),
        }
    }

    /// Returns the name of the side that takes the work: the colour, or one version of it.
    #[must_use]
    pub fn side(&self) -> Arc<str> {
        side_of(&self.colour, self.version.as_ref())
    }

    /// Returns the switch that ends its canary: to the side on trial if `promoted`, otherwise back to
    /// the old one. `None` without a canary.
    #[must_use]
    pub fn ended(&self, promoted: bool) -> Option<Self> {
        let canary = self.canary.as_ref()?;
        let (colour, version, chosen) = match promoted {
            true => (&canary.colour, &canary.version, false),
            false => (&self.colour, &self.version, self.chosen),
        };
        Some(Self {
            pool: Arc::clone(&self.pool),
            colour: Arc::clone(colour),
            version: version.clone(),
            chosen,
            canary: None,
            // Not later than the next epoch: a switch that came in between has ended the canary already.
            epoch: self.epoch.saturating_add(1),
        })
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
    /// Creates an empty set. `channel` is the Redis channel of the switches; signatures include it.
    #[must_use]
    pub fn new(channel: Arc<str>, key: Option<SigningKey>) -> Self {
        Self { channel, key, followed: BTreeMap::new() }
    }

    /// Applies new settings; the known switches stay.
    pub fn apply_settings(&mut self, channel: Arc<str>, key: Option<SigningKey>) {
        (self.channel, self.key) = (channel, key);
    }

    /// Reads a text and follows its switch if it is later than the last. Returns `true` if it is.
    ///
    /// # Errors
    /// If the text is not a switch, its signature is missing or wrong, or too many pools are switched.
    pub fn receive(&mut self, text: &[u8]) -> Result<bool, ColourSwitchError> {
        let text = match &self.key {
            Some(_) if text.len() > LARGEST => text,
            Some(key) => key.verify(&self.channel, text)?,
            None => without_signature(text),
        };
        self.follow(ColourSwitch::read(text)?)
    }

    /// Follows a switch if it is later than the last of its pool, and returns `true` if it is.
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
    pub fn colours(&self, default_colour: Option<Arc<str>>) -> Colours {
        let switched =
            self.followed.iter().map(|(pool, switch)| (Arc::clone(pool), Arc::clone(&switch.colour)));
        Colours { default_colour, switched: switched.collect(), canaries: self.canaries(), exclusive: false }
    }

    /// Returns the sides that receive work from a queue. A pool that was not switched gives its
    /// work to `default_side`, the one of the settings; if that is `None`, to no side until a gateway
    /// has chosen one. `default_side` overrules the choice of a gateway, but not an operator's switch.
    #[must_use]
    pub fn sides(&self, default_side: Option<Arc<str>>) -> Colours {
        let counts = |switch: &ColourSwitch| default_side.is_none() || !switch.chosen;
        let followed = self.followed.iter().filter(|(_, switch)| counts(switch));
        let switched = followed.map(|(pool, switch)| (Arc::clone(pool), switch.side())).collect();
        Colours { default_colour: default_side, switched, canaries: self.canaries(), exclusive: true }
    }

    fn canaries(&self) -> BTreeMap<Arc<str>, CanarySide> {
        let canary = |switch: &ColourSwitch| {
            let canary = switch.canary.as_ref()?;
            let share = CanaryShare { epoch: switch.epoch, per_million: canary.per_million };
            Some((Arc::clone(&switch.pool), CanarySide { side: canary.side(), share }))
        };
        self.followed.values().filter_map(canary).collect()
    }

    /// Returns the only version that takes work, by pool and colour, where a switch names one.
    #[must_use]
    pub fn named_versions(&self) -> NamedVersions {
        let named = self.followed.values().flat_map(|switch| {
            let canary = switch.canary.as_ref().map(|canary| (&canary.colour, &canary.version));
            let sides = [Some((&switch.colour, &switch.version)), canary];
            sides.into_iter().flatten().filter_map(|(colour, version)| {
                Some(((Arc::clone(&switch.pool), Arc::clone(colour)), Arc::clone(version.as_ref()?)))
            })
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

    /// Returns the text of a switch, signed if there is a key.
    #[must_use]
    pub fn write(&self, switch: &ColourSwitch) -> String {
        let ColourSwitch { pool, colour, version, chosen, canary, epoch } = switch;
        let mut fields = json!({ "v": 1, "pool": pool, "colour": colour, "epoch": epoch });
        if let Some(version) = version {
            fields["version"] = json!(version);
        }
        if *chosen {
            fields["chosen"] = json!(true);
        }
        if let Some(canary) = canary {
            fields["canary"] = canary.write();
        }
        sign_if_keyed(self.key.as_ref(), &self.channel, fields.to_string())
    }
}

#[cfg(test)]
mod tests;
