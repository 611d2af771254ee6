//! `traffic-dam serve`: runs the gateway.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use traffic_dam::app::{App, BoundListeners, Certificates, StartError};
use traffic_dam::clock::Clock;
use traffic_dam::config::Overrides;
use traffic_dam::config::watch::{ConfigWatch, Reload};

use super::arguments::read;
use super::log::Log;
use super::settings_file::SettingsFile;
use super::{CommandError, print_line, runtime, service_manager};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    file: SettingsFile,
    /// Address for callers, instead of `listen` in the file
    #[arg(long, value_parser = read::<SocketAddr>)]
    listen: Option<SocketAddr>,
    /// Address of the admin port, instead of `admin.listen` in the file
    #[arg(long, value_parser = read::<SocketAddr>)]
    admin_listen: Option<SocketAddr>,
}

impl From<StartError> for CommandError {
    fn from(error: StartError) -> Self {
        Self::Usage(error.to_string())
    }
}

pub(crate) fn run(arguments: &Arguments, log: &Log) -> Result<(), CommandError> {
    let inherited = service_manager::inherited_listeners()?;
    runtime()?.block_on(async {
        let overrides = Overrides { listen: arguments.listen, admin_listen: arguments.admin_listen };
        let mut watch = ConfigWatch::start(&arguments.file.config, overrides)?;
        let settings = watch.load().map_err(|faults| CommandError::Usage(faults.to_string()))?;
        let app = App::new(settings.clone(), Clock::system())?;
        app.watch_log(Arc::clone(&log.lost));
        let listeners = BoundListeners::bind(&settings, inherited)?;
        let (main, admin) = listeners.addresses()?;
        print_line(format!("gateway  {}://{main}", scheme(settings.tls.is_some())));
        print_line(format!("admin    {}://{admin}", scheme(settings.admin.tls.is_some())));
        app.log_started(super::version::FULL, &arguments.file.config, (main, admin));
        for warning in settings.warnings() {
            tracing::warn!(setting = warning.field, "a setting is probably a mistake: {}", warning.problem);
        }
        let certificates = listeners.certificates();
        // Clients can connect from here on: the kernel holds their connections until they are accepted.
        service_manager::ready();
        tokio::select! {
            () = serve_to_the_end(&app, listeners) => {}
            () = follow(&app, watch, certificates) => {}
            () = service_manager::watchdog() => {}
        }
        Ok(())
    })
}

/// Serves until the process is told to stop and has drained.
pub(super) async fn serve_to_the_end(app: &App, listeners: BoundListeners) {
    let (cut_off, ()) = tokio::join!(until_drained(app.clone()), app.serve(listeners));
    app.log_ended(cut_off);
}

/// Applies changed settings and certificates, except invalid ones. Counts and logs each reload.
async fn follow(app: &App, mut watch: ConfigWatch, certificates: Certificates) {
    loop {
        let Reload { cause, settings } = watch.next().await;
        let taken = match settings {
            Err(faults) => Err(faults.to_string()),
            Ok(settings) => {
                let (app, certificates) = (app.clone(), certificates.clone());
                // A reload may read large files, such as a tokenizer of ten megabytes.
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
                    "invalid settings refused; keeping the old ones"
                )
            }
        }
    }
}

const fn scheme(encrypted: bool) -> &'static str {
    if encrypted { "https" } else { "http" }
}

/// Returns when the process is told to stop, by SIGTERM or Ctrl-C.
pub(super) async fn terminated() {
    let mut signals = Signals::new();
    signals.next().await;
}

/// Drains at the first signal, stops at a second one. Returns the number of connections cut off.
async fn until_drained(app: App) -> usize {
    let mut signals = Signals::new();
    signals.next().await;
    service_manager::stopping();
    tracing::info!("shutting down; a second signal ends at once");
    tokio::select! {
        cut_off = app.drain() => {
            if cut_off > 0 {
                tracing::warn!(cut_off, "connections were cut off at drain.timeout");
            }
            cut_off
        }
        () = signals.next() => {
            let cut_off = app.connections();
            tracing::warn!(cut_off, "stopped by a second signal");
            app.close();
            cut_off
        }
    }
}

/// Signals that end the process.
struct Signals(Vec<Signal>);

impl Signals {
    fn new() -> Self {
        let kinds = [SignalKind::terminate(), SignalKind::interrupt()];
        // If a handler cannot be installed, that signal ends the process without a drain.
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
