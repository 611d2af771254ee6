//! Runs the gateway: listeners, housekeeping, reload and drain.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::start_error::StartError;
use super::tokens::{self, KeySource};
use super::{App, LiveSettings, build, counting, tokenizers};
use crate::clock::Clock;
use crate::config::Settings;
use crate::config::settings::TlsFiles;
use crate::layers::paths::Paths;
use crate::layers::tokenizers::Tokenizers;
use crate::net;
use crate::server::admin::{Admin, check_open};
use crate::server::{Drain, DrainPhase, ListenerBounds, TlsHandle, serve};
use crate::spans::Spans;

/// Interval for expiring waiters and worker states in the gates. Every request does it too; this is
/// for idle times.
const HOUSEKEEPING: Duration = Duration::from_millis(100);

/// Listeners that are bound but not served yet.
#[derive(Debug)]
pub struct BoundListeners {
    main: TcpListener,
    admin: TcpListener,
    /// `true` if the main listener stays open when this process ends.
    main_outlives: bool,
    certificates: Certificates,
}

impl BoundListeners {
    /// Binds the configured addresses, except those for which the service manager handed over a
    /// listening socket (`inherited`). Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// If an address is taken, a certificate is unusable, a socket belongs to no address, or the admin
    /// port is open to others.
    pub fn bind(settings: &Settings, inherited: Vec<std::net::TcpListener>) -> Result<Self, StartError> {
        check_open(settings.admin.listen, &build::admin(settings)).map_err(StartError::OpenAdmin)?;
        let certificates = Certificates::load(settings)?;
        let (main, admin) = (settings.listen, settings.admin.listen);
        let unusable = |setting, address| move |source| StartError::Bind { setting, address, source };
        let (mut inherited_main, mut inherited_admin) = (None, None);
        for listener in inherited {
            // The whole address: a socket that is open to others than `listen` says would be a surprise.
            match listener.local_addr().map_err(unusable("listen", main))? {
                address if address == main => inherited_main = Some(listener),
                address if address == admin => inherited_admin = Some(listener),
                address => return Err(StartError::HandedOver { address, listen: main, admin }),
            }
        }
        let main_outlives = inherited_main.is_some();
        let take = |setting, address, listener| match listener {
            Some(listener) => net::inherited(listener).map_err(unusable(setting, address)),
            None => net::bind(address).map_err(unusable(setting, address)),
        };
        Ok(Self {
            main: take("listen", main, inherited_main)?,
            admin: take("admin.listen", admin, inherited_admin)?,
            main_outlives,
            certificates,
        })
    }

    /// Wraps bound listeners, without TLS.
    #[must_use]
    pub const fn bound(main: TcpListener, admin: TcpListener) -> Self {
        let certificates = Certificates { main: None, admin: None };
        Self { main, admin, main_outlives: false, certificates }
    }

    /// Returns the bound addresses: for callers and for administrators.
    ///
    /// # Errors
    /// If the operating system does not return them.
    pub fn addresses(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.main.local_addr()?, self.admin.local_addr()?))
    }

    /// Returns handles of the TLS certificates, for reloads.
    #[must_use]
    pub fn certificates(&self) -> Certificates {
        self.certificates.clone()
    }
}

/// The TLS certificates in use.
#[derive(Clone, Debug)]
pub struct Certificates {
    main: Option<TlsHandle>,
    admin: Option<TlsHandle>,
}

impl Certificates {
    /// Loads the configured certificates.
    fn load(settings: &Settings) -> Result<Self, StartError> {
        let load = |setting, files: &Option<TlsFiles>| {
            let load = |files: &TlsFiles| TlsHandle::load(&files.cert, &files.key);
            files.as_ref().map(load).transpose().map_err(|source| StartError::Tls { setting, source })
        };
        Ok(Self { main: load("tls", &settings.tls)?, admin: load("admin.tls", &settings.admin.tls)? })
    }

    /// Reloads the certificates for new connections. Does not switch TLS on or off.
    ///
    /// # Errors
    /// If a certificate cannot be used; that one stays as it was.
    pub fn reload(&self, settings: &Settings) -> Result<(), StartError> {
        for (setting, handle, files) in
            [("tls", &self.main, &settings.tls), ("admin.tls", &self.admin, &settings.admin.tls)]
        {
            match (handle, files) {
                (Some(handle), Some(files)) => handle
                    .replace(&files.cert, &files.key)
                    .map_err(|source| StartError::Tls { setting, source })?,
                (None, None) => {}
                _ => tracing::warn!(setting, "TLS is switched on or off only by a restart"),
            }
        }
        Ok(())
    }
}

/// Time for streams that outlive the drain to send their final error.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl App {
    /// Checks everything that a start checks before it listens, such as the files that the settings
    /// name. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// If a gateway with these settings would not start.
    pub fn check(settings: &Settings) -> Result<(), StartError> {
        check_open(settings.admin.listen, &build::admin(settings)).map_err(StartError::OpenAdmin)?;
        Certificates::load(settings)?;
        Self::new(settings.clone(), Clock::system()).map(drop)
    }

    /// Serves until the drain is over.
    pub async fn serve(&self, listeners: BoundListeners) {
        let BoundListeners { main, admin, main_outlives, certificates } = listeners;
        let inner = &self.0;
        if let (Some(redis_parts), Ok(addr)) = (&inner.redis_parts, main.local_addr()) {
            redis_parts.store.gateways().listens_at(addr);
        }
        // The admin port closes last: a probe must see that the gateway drains.
        let admin_drain = Drain::new();
        let admin_service = Admin::new(Arc::clone(&inner.admin), Arc::new(self.clone()));
        let admin_bounds = Arc::new(arc_swap::ArcSwap::from_pointee(ListenerBounds::default()));

        let mut tasks = JoinSet::new();
        tasks.spawn(serve(
            admin,
            certificates.admin,
            admin_bounds,
            admin_service,
            admin_drain.clone(),
            DrainPhase::Closed,
        ));
        tasks.spawn(self.clone().tick());
        tasks.spawn(self.clone().awake());
        tasks.spawn(self.clone().watch_redis_clock());
        tasks.spawn(self.clone().housekeeping());
        tasks.spawn(self.clone().show());
        tasks.spawn(self.clone().refuse_on_drain());
        tasks.spawn(self.clone().share());
        tasks.spawn(self.clone().promote());
        tasks.spawn(self.clone().keep_sides());
        tasks.spawn(self.clone().keep_canaries());
        tasks.spawn(self.clone().exchange_tokens());
        tasks.spawn(self.clone().follow_roster());
        tasks.spawn(self.clone().follow_feed());
        tasks.spawn(self.clone().follow_sources());
        tasks.spawn(self.clone().follow_keys());
        tasks.spawn(self.clone().follow_changes());
        self.catch_up().await;
        // The successor accepts what arrives while the last streams end.
        let last = if main_outlives { DrainPhase::Refusing } else { DrainPhase::Closed };
        serve(main, certificates.main, Arc::clone(&inner.bounds), self.entrance(), inner.drain.clone(), last)
            .await;
        inner.drain.reached(DrainPhase::Closed).await;
        if let Some(redis_parts) = &inner.redis_parts {
            redis_parts.leave().await;
        }
        admin_drain.close();
    }

    /// Drains as configured. Returns the number of connections that were cut off.
    pub async fn drain(&self) -> usize {
        let settings = self.0.live.load().settings.drain;
        let tell = async {
            if let Some(redis_parts) = &self.0.redis_parts {
                redis_parts.drain().await;
            }
            std::future::pending().await
        };
        let run = self.0.drain.run(settings.delay, settings.timeout + LAST_WORDS);
        let end_streams = async {
            tokio::time::sleep(settings.delay + settings.timeout).await;
            self.0.upstream.end_streams();
            std::future::pending().await
        };
        let cut_off = tokio::select! {
            cut_off = run => cut_off,
            never = end_streams => never,
            never = tell => never,
        };
        if let Some(spans) = self.0.live.load().spans.clone() {
            // A panic of the flush loses nothing more.
            tokio::task::spawn_blocking(move || spans.flush()).await.unwrap_or_default();
        }
        cut_off
    }

    /// Returns the number of open connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.0.drain.connections()
    }

    /// Closes all connections at once.
    pub fn close(&self) {
        self.0.drain.close();
    }

    /// Applies new settings. Requests in flight end under the old ones. Counts of rules with an
    /// unchanged quota, ledgers, connections and metrics stay. Listen addresses do not change.
    ///
    /// # Errors
    /// If the new settings cannot be applied; the old ones stay.
    pub fn reload(&self, settings: Settings) -> Result<(), StartError> {
        let inner = &*self.0;
        let _one_at_a_time = inner.reloading.lock();
        let before = inner.live.load_full();
        let mut settings = build::with_authorities(settings)?;
        let upstream = build::upstream(&settings)?;
        let rule_set = Arc::new(before.rule_set.rebuilt(inner.changes.apply(&settings.rules)));
        let counting = counting(inner.redis_parts.as_ref(), &rule_set, Some(&before.counting));
        let spans = if settings.spans == before.settings.spans {
            before.spans.clone()
        } else {
            build::spans(&settings)?
        };
        let key_source = KeySource::of(&settings, inner.key_source.borrow().as_ref())?;
        let tokens = tokens::tokens(&settings, key_source.as_ref());
        let exact = Arc::new(tokenizers::load(&settings, Some(&before.exact))?);
        let has_jobs = inner.redis_parts.as_ref().is_some_and(|redis_parts| redis_parts.jobs.is_some());
        let paths = Arc::new(build::paths(&settings, has_jobs));
        let state = self.state(spans.clone(), Arc::clone(&exact), Arc::clone(&paths));
        let stack = build::stack(&settings, &counting, tokens, &state)?;

        // Nothing can fail from here on.
        inner.fleet_sync.apply_settings(&settings);
        let fleet =
            Arc::new(inner.fleet_sync.fleet(&settings, self.sharing_workers(&settings), &inner.fleet.load()));
        inner.buffers.resize(settings.bounds.buffered);
        inner.upstream_settings.store(Arc::new(upstream));
        inner.bounds.store(Arc::new(settings.bounds.listener.clone()));
        inner.admin.store(Arc::new(build::admin(&settings)));
        inner.key_source.send_replace(key_source);
        inner.fleet.store(Arc::clone(&fleet));
        fleet.take_over();
        inner.fleet_sync.publish();
        for (setting, old, new) in [
            ("listen", before.settings.listen, settings.listen),
            ("admin.listen", before.settings.admin.listen, settings.admin.listen),
        ] {
            if old != new {
                tracing::warn!(setting, %old, %new, "a listen address changes only with a restart");
            }
        }
        if let Some(redis_parts) = &inner.redis_parts {
            redis_parts.apply_settings(&mut settings);
            redis_parts.store.gateways().configure(settings.gateways);
        }
        // Compared after the credentials of Redis were replaced: both settings share them.
        if before.settings.shared != settings.shared {
            tracing::warn!(
                "`state`, `callers.stored`, `workers.mode`, `concurrency.overflow` and the `redis` settings that they use \
                 change only with a restart; a new user or password in `redis.url` is used from the next connection on"
            );
        }
        inner.live.store(Arc::new(LiveSettings { settings, rule_set, counting, spans, exact, paths, stack }));
        inner.fleet_sync.reloaded.send_replace(());
        Ok(())
    }

    /// Counts a reload that was applied (`taken`) or refused.
    pub fn count_reload(&self, taken: bool) {
        self.0.metrics.config_reload(taken);
    }

    /// Returns the settings in force.
    #[must_use]
    pub(crate) fn settings(&self) -> Settings {
        self.0.live.load().settings.clone()
    }

    pub(super) fn state(
        &self,
        spans: Option<Arc<Spans>>,
        exact: Arc<Tokenizers>,
        paths: Arc<Paths>,
    ) -> build::SurvivingState {
        let inner = &*self.0;
        build::SurvivingState {
            clock: inner.clock.clone(),
            metrics: Arc::clone(&inner.metrics),
            maintenance: Arc::clone(&inner.maintenance),
            buffers: Arc::clone(&inner.buffers),
            estimates: Arc::clone(&inner.estimates),
            exact,
            paths,
            fleet: Arc::clone(&inner.fleet),
            unserved: Arc::clone(&inner.unserved),
            upstream: inner.upstream.clone(),
            stored_callers: inner.redis_parts.as_ref().and_then(|redis_parts| redis_parts.callers.clone()),
            responses: Arc::clone(&inner.responses),
            jobs: inner.redis_parts.as_ref().map(super::RedisParts::job_handling),
            spans,
        }
    }

    /// Expires everything that no timer or request wakes.
    async fn housekeeping(self) {
        let mut ticks = interval(HOUSEKEEPING);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for pool in self.0.fleet.load().pools() {
                pool.gate.expire();
            }
            self.0.live.load().rule_set.sweep(self.0.clock.now());
            self.expire_changes();
        }
    }

    /// Maintains the state shared with other gateways.
    async fn share(self) {
        if let Some(redis_parts) = &self.0.redis_parts {
            redis_parts.run().await;
        }
    }

    /// Refuses new requests once the drain reaches that phase.
    async fn refuse_on_drain(self) {
        self.0.drain.reached(DrainPhase::Refusing).await;
        self.0.maintenance.drain();
    }
}
