//! The scripts, and calls of them.
//!
//! A call's keys all carry one hash tag, so that a cluster keeps them on one node. Its first key is the record of the
//! operation: by it a charge that was not heard of can be taken back, before or after it runs, and nothing is settled
//! twice.

use std::time::Duration;

use redis::{Script, ScriptInvocation};

use super::cell::Fields;

/// How long the record of a charge lives: until who sent it in vain has certainly taken it back, and no longer, because
/// each costs some 100 bytes and there is one for each request.
pub const CHARGED: Duration = Duration::from_secs(10);
/// How long the record of a settlement or an undoing lives: longer than it is sent again.
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

/// Charges all cells or none.
pub const CHARGE: &str = source!("lua/charge.lua");
/// Charges one cell with the first of several amounts that fits.
pub const LEASE: &str = source!("lua/lease.lua");
/// Corrects charges, once.
pub const SETTLE: &str = source!("lua/settle.lua");
/// Takes a charge back that was not heard of.
pub const UNDO: &str = source!("lua/undo.lua");

/// Says how cells stand.
pub const LOOK: &str = source!("lua/look.lua");

/// The scripts with their hashes.
#[derive(Debug)]
pub struct Scripts {
    /// [`CHARGE`].
    pub charge: Script,
    /// [`LEASE`].
    pub lease: Script,
    /// [`SETTLE`].
    pub settle: Script,
    /// [`UNDO`].
    pub undo: Script,
    /// [`LOOK`].
    pub look: Script,
}

impl Default for Scripts {
    fn default() -> Self {
        Self::from_sources(str::to_owned)
    }
}

impl Scripts {
    /// The scripts, each source passed through `change`: a test counts by its own time.
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

/// A call of `script` on these cells, with a record that lives so long.
#[must_use]
pub fn call<'s, 'c>(
    script: &'s Script,
    (record, lives): (&str, Duration),
    keys: impl IntoIterator<Item = &'c str>,
    cells: impl IntoIterator<Item = (&'static str, Fields)>,
) -> ScriptInvocation<'s> {
    let mut call = script.prepare_invoke();
    call.key(record);
    for key in keys {
        call.key(key);
    }
    call.arg(u64::try_from(lives.as_millis()).unwrap_or(u64::MAX));
    for (kind, fields) in cells {
        call.arg(kind);
        for field in fields {
            call.arg(field);
        }
    }
    call
}
