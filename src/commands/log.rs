//! The log: lines go to stderr by way of a thread of their own.
//!
//! **Failure mode.** Whoever reads stderr stops, as a container's log driver may: lines are kept up to a bound and then
//! lost, and counted (`log_lines_lost_total`). Requests go on; a write that waits would stop every one of them.

use std::io::{BufWriter, IsTerminal};

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The variable that sets the log filter, as in `info,traffic_dam=debug`.
const FILTER: &str = "TRAFFIC_DAM_LOG";
/// Lines that wait to be written: some seconds of a busy gateway, some 8 MiB.
const MOST_LINES: usize = 16_384;

/// The running log. What was said is written at the latest when it is dropped.
pub(crate) struct Log {
    /// Counts the lines that were lost.
    pub(crate) lost: ErrorCounter,
    _writing: WorkerGuard,
}

/// Begins to log: readable on a terminal, JSON elsewhere. `quiet` programs log only warnings unless told otherwise.
pub(crate) fn start(quiet: bool) -> Log {
    let default = if quiet { "warn" } else { "info" };
    let filter = EnvFilter::try_from_env(FILTER).unwrap_or_else(|_| EnvFilter::new(default));
    // What waits together is written together.
    let stderr = BufWriter::new(std::io::stderr());
    let lines = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(MOST_LINES).thread_name("log");
    let (writer, writing) = lines.finish(stderr);
    let lost = writer.error_counter();
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    if std::io::stderr().is_terminal() {
        registry.with(layer.with_ansi(true)).init();
    } else {
        registry.with(layer.json().flatten_event(true)).init();
    }
    Log { lost, _writing: writing }
}
