//! Log to stderr, written by a thread of its own.
//!
//! | file | what |
//! | --- | --- |
//! | `filter` | which lines are logged |
//! | `json` | one event as one line of JSON |
//! | `lines` | bounded buffer of lines, and the thread that writes them |
//! | `thinned` | thins out lines of the Redis client library |

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

use super::CommandError;

use self::json::JsonLine;
use self::lines::{LineWriter, Writing};
use self::thinned::RateLimitedLog;

/// The running log. When dropped, it writes the remaining lines as far as somebody reads them.
pub(crate) struct Log {
    /// Counter of lost lines.
    pub(crate) lost: Arc<AtomicU64>,
    _writing: Writing,
}

/// Starts the log: text on a terminal, otherwise JSON. `quiet` logs only warnings by default.
///
/// # Errors
/// If the filter is invalid, or the system cannot start a thread.
pub(crate) fn start(quiet: bool) -> Result<Log, CommandError> {
    let default = if quiet { "warn" } else { "info" };
    let filter = filter::filter(std::env::var(filter::VARIABLE), default).map_err(CommandError::Usage)?;
    let (lines, writing) = LineWriter::to(stderr())?;
    let lost = lines.lost();
    let registry = tracing_subscriber::registry().with(filter).with(RateLimitedLog::new());
    let layer = tracing_subscriber::fmt::layer().with_writer(lines);
    if stderr().is_terminal() {
        registry.with(layer.with_ansi(true)).init();
    } else {
        registry.with(layer.fmt_fields(JsonFields::new()).event_format(JsonLine)).init();
    }
    Ok(Log { lost, _writing: writing })
}
