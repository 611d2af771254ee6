//! `traffic-dam serve`: the gateway.

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::signal::unix::{Signal, SignalKind, signal};
use traffic_dam::app::{App, Listeners, StartError};
use traffic_dam::clock::Clock;
use traffic_dam::config::{self, Faults, Overrides, Settings};

use super::{Failure, runtime, say};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The configuration file
    #[arg(long)]
    config: PathBuf,
    /// Where callers connect, instead of what the file says
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Where administrators connect, instead of what the file says
    #[arg(long)]
    admin_listen: Option<SocketAddr>,
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        Self::Misuse(error.to_string())
    }
}

impl Arguments {
    fn settings(&self) -> Result<Settings, Faults> {
        let overrides = Overrides { listen: self.listen, admin_listen: self.admin_listen };
        config::load(&self.config, overrides)
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let settings = arguments.settings().map_err(|faults| Failure::Misuse(faults.to_string()))?;
    runtime()?.block_on(async {
        let app = App::new(settings.clone(), Clock::system())?;
        let listeners = Listeners::bind(&settings)?;
        let (main, admin) = listeners.addresses()?;
        say(format!("dam    {}://{main}", scheme(settings.tls.is_some())));
        say(format!("admin  {}://{admin}", scheme(settings.admin.tls.is_some())));
        tokio::select! {
            () = until_drained(app.clone()) => {}
            () = app.serve(listeners) => {}
        }
        Ok(())
    })
}

const fn scheme(encrypted: bool) -> &'static str {
    if encrypted { "https" } else { "http" }
}

/// Returns when the process is told to end: SIGTERM, or Ctrl-C.
pub(super) async fn terminated() {
    let mut signals = Signals::new();
    signals.next().await;
}

/// Goes down when told to: gracefully at the first signal, at once at the second.
pub(super) async fn until_drained(app: App) {
    let mut signals = Signals::new();
    signals.next().await;
    tracing::info!("going down; a second signal ends at once");
    tokio::select! {
        cut_off = app.drain() => {
            if cut_off > 0 {
                tracing::warn!(cut_off, "connections were cut off at drain.timeout");
            }
        }
        () = signals.next() => {
            tracing::warn!("ended by a second signal");
            app.close();
        }
    }
}

/// The signals that end the process.
struct Signals(Vec<Signal>);

impl Signals {
    fn new() -> Self {
        let kinds = [SignalKind::terminate(), SignalKind::interrupt()];
        // A signal that cannot be caught keeps its default, which ends the process too, if less politely.
        Self(kinds.into_iter().filter_map(|kind| signal(kind).ok()).collect())
    }

    async fn next(&mut self) {
        std::future::poll_fn(|cx| {
            let came = self.0.iter_mut().any(|signal| signal.poll_recv(cx).is_ready());
            if came { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }
}
