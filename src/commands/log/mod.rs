//! The log: lines go to stderr by way of a thread of their own.
//!
//! | file | what |
//! | --- | --- |
//! | `filter` | which lines are logged |
//! | `json` | one event as one line of JSON |
//! | `lines` | lines on their way to whoever reads them, bounded |
//! | `thinned` | what the client library of Redis says, now and then |

mod filter;
mod json;
mod lines;
mod thinned;

use std::io::{IsTerminal, stderr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::Failure;

use self::json::JsonLine;
use self::lines::{Lines, Writing};
use self::thinned::Thinned;

/// The running log. When it is dropped, what was said is written as far as somebody reads it.
pub(crate) struct Log {
    /// Counts the lines that were lost.
    pub(crate) lost: Arc<AtomicU64>,
    _writing: Writing,
}

/// Begins to log: readable on a terminal, JSON elsewhere. `quiet` programs log only warnings unless told otherwise.
///
/// # Errors
/// When the filter cannot be used, or the system gives no thread.
pub(crate) fn start(quiet: bool) -> Result<Log, Failure> {
    let default = if quiet { "warn" } else { "info" };
    let filter = filter::filter(std::env::var(filter::VARIABLE), default).map_err(Failure::Misuse)?;
    let (lines, writing) = Lines::to(stderr())?;
    let lost = lines.lost();
    let registry = tracing_subscriber::registry().with(filter).with(Thinned::new());
    let layer = tracing_subscriber::fmt::layer().with_writer(lines);
    if stderr().is_terminal() {
        registry.with(layer.with_ansi(true)).init();
    } else {
        registry.with(layer.fmt_fields(JsonFields::new()).event_format(JsonLine)).init();
    }
    Ok(Log { lost, _writing: writing })
}
