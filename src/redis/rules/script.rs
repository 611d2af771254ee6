//! Lua scripts of the rules, and their calls.
//!
//! All keys of a call have one hash tag, so they are on one cluster node. The first key is the
//! record of the operation: with it a charge with an unknown outcome can be undone, before or after
//! it runs, and no settlement is applied twice.

use std::time::Duration;

use redis::{Script, ScriptInvocation};

use super::cell::CellArguments;
use crate::redis::millis;

/// Lifetime of a charge's record: until a gateway that got no answer has certainly undone the
/// charge. It is short because each request has a record of some 100 bytes.
pub const CHARGED: Duration = Duration::from_secs(10);
/// Lifetime of a settlement's or undo's record: longer than it is resent.
pub const ENDED: Duration = Duration::from_secs(60);

macro_rules! source {
    ($verb:literal) => {
        concat!(
            include_str!("lua/common.lua"),
            include_str!("lua/bucket.lua"),
            include_str!("lua/window.lua"),
            include_str!("lua/log.lua"),
            include_str!($verb)
        )
    };
}

/// Script: charges all cells or none.
const CHARGE: &str = source!("lua/charge.lua");
/// Script: charges one cell with the first of several amounts that fits.
pub(crate) const LEASE: &str = source!("lua/lease.lua");
/// Script: corrects charges, once.
const SETTLE: &str = source!("lua/settle.lua");
/// Script: undoes a charge with an unknown outcome.
const UNDO: &str = source!("lua/undo.lua");

/// Script: returns the state of cells.
pub(crate) const LOOK: &str = source!("lua/look.lua");

/// The scripts with their SHA-1 hashes.
#[derive(Debug)]
pub struct RuleScripts {
    /// `CHARGE`.
    pub charge: Script,
    /// `LEASE`.
    pub lease: Script,
    /// `SETTLE`.
    pub settle: Script,
    /// `UNDO`.
    pub undo: Script,
    /// `LOOK`.
    pub look: Script,
}

impl Default for RuleScripts {
    fn default() -> Self {
        Self::from_sources(str::to_owned)
    }
}

impl RuleScripts {
    /// Creates the scripts, each source passed through `change`; tests use it to replace the clock.
    #[must_use]
    pub fn from_sources(change: impl Fn(&str) -> String) -> Self {
        let script = |source| Script::new(&change(source));
        Self {
            charge: script(CHARGE),
            lease: script(LEASE),
            settle: script(SETTLE),
            undo: script(UNDO),
            look: script(LOOK),
        }
    }
}

/// Returns a call of `script` on these cells; the record lives for `lives`.
#[must_use]
pub fn call<'s, 'c>(
    script: &'s Script,
    (record, lives): (&str, Duration),
    keys: impl IntoIterator<Item = &'c str>,
    cells: impl IntoIterator<Item = (&'static str, CellArguments)>,
) -> ScriptInvocation<'s> {
    let mut call = script.prepare_invoke();
    call.key(record);
    for key in keys {
        call.key(key);
    }
    call.arg(millis(lives));
    for (kind, fields) in cells {
        call.arg(kind);
        for field in fields {
            call.arg(field);
        }
    }
    call
}
