//! `traffic-dam serve`: the gateway.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use traffic_dam::app::{App, Certificates, Listeners, StartError};
use traffic_dam::clock::Clock;
use traffic_dam::config::Overrides;
use traffic_dam::config::watch::{Reload, Watch};

use super::log::Log;
use super::settings_file::SettingsFile;
use super::{Failure, runtime, say};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    file: SettingsFile,
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

pub(crate) fn run(arguments: &Arguments, log: &Log) -> Result<(), Failure> {
    runtime()?.block_on(async {
        let overrides = Overrides { listen: arguments.listen, admin_listen: arguments.admin_listen };
        let mut watch = Watch::start(&arguments.file.config, overrides)?;
        let settings = watch.load().map_err(|faults| Failure::Misuse(faults.to_string()))?;
        let app = App::new(settings.clone(), Clock::system())?;
        app.watch_log(Arc::clone(&log.lost));
        let listeners = Listeners::bind(&settings)?;
        let (main, admin) = listeners.addresses()?;
        say(format!("dam    {}://{main}", scheme(settings.tls.is_some())));
        say(format!("admin  {}://{admin}", scheme(settings.admin.tls.is_some())));
        app.say_started(super::version::FULL, &arguments.file.config, (main, admin));
        for warning in settings.warnings() {
            tracing::warn!(
                setting = warning.field,
                "a setting is probably not what was meant: {}",
                warning.problem
            );
        }
        let certificates = listeners.certificates();
        tokio::select! {
            () = serve_to_the_end(&app, listeners) => {}
            () = follow(&app, watch, certificates) => {}
        }
        Ok(())
    })
}

/// Serves until the process is told to end and has ended what was under way.
pub(super) async fn serve_to_the_end(app: &App, listeners: Listeners) {
    let (cut_off, ()) = tokio::join!(until_drained(app.clone()), app.serve(listeners));
    app.say_ended(cut_off);
}

/// Takes changed settings and certificates. What is at fault changes nothing, is counted and said in the log.
async fn follow(app: &App, mut watch: Watch, certificates: Certificates) {
    loop {
        let Reload { cause, settings } = watch.next().await;
        let taken = match settings {
            Err(faults) => Err(faults.to_string()),
            Ok(settings) => {
                let (app, certificates) = (app.clone(), certificates.clone());
                // Large files may have to be read, a tokenizer of ten megabytes above all.
                tokio::task::spawn_blocking(move || {
                    certificates.reload(&settings).and_then(|()| app.reload(settings))
                })
                .await
                .map_err(|error| error.to_string())
                .and_then(|taken| taken.map_err(|error| error.to_string()))
            }
        };
        app.count_reload(taken.is_ok());
        match taken {
            Ok(()) => tracing::info!(cause = cause.as_str(), "settings reloaded"),
            Err(faults) => {
                tracing::error!(
                    cause = cause.as_str(),
                    faults,
                    "the settings at fault were not taken; the old ones stay"
                )
            }
        }
    }
}

const fn scheme(encrypted: bool) -> &'static str {
    if encrypted { "https" } else { "http" }
}

/// Returns when the process is told to end: SIGTERM, or Ctrl-C.
pub(super) async fn terminated() {
    let mut signals = Signals::new();
    signals.next().await;
}

/// Goes down when told to: gracefully at the first signal, at once at the second. Returns how many connections were cut
/// off.
async fn until_drained(app: App) -> usize {
    let mut signals = Signals::new();
    signals.next().await;
    tracing::info!("going down; a second signal ends at once");
    tokio::select! {
        cut_off = app.drain() => {
            if cut_off > 0 {
                tracing::warn!(cut_off, "connections were cut off at drain.timeout");
            }
            cut_off
        }
        () = signals.next() => {
            let cut_off = app.connections();
            tracing::warn!(cut_off, "ended by a second signal");
            app.close();
            cut_off
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
