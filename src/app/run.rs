//! Running: listeners, housekeeping, reload, and the way down.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::tokens::{self, KeySource};
use super::{App, Live, build, counting, tokenizers};
use crate::config::Settings;
use crate::layers::exact::Exact;
use crate::layers::paths::Paths;
use crate::net;
use crate::openai::demand::PointerFault;
use crate::server::admin::{Admin, check_open};
use crate::server::{Bounds, Drain, Phase, TlsError, TlsHandle, serve};
use crate::spans::Spans;
use crate::upstream::tls::TlsError as WorkerTlsError;

/// How often the gates are looked at for waiters and workers whose time is over. Every request does it too; this is
/// for the time when none comes.
const HOUSEKEEPING: Duration = Duration::from_millis(100);

/// Why the gateway could not start, or a reload was refused.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("{setting}: cannot listen on {address}: {source}")]
    Bind {
        /// The setting that names the address.
        setting: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A certificate or key cannot be used.
    #[error("{setting}: {source}")]
    Tls {
        /// The setting that names the files.
        setting: &'static str,
        /// Why.
        source: TlsError,
    },
    /// The file of certificate authorities for workers cannot be read.
    #[error("workers.ca: {}: {source}", file.display())]
    WorkerCa {
        /// The file.
        file: PathBuf,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// The file of certificate authorities for Redis cannot be read.
    #[error("redis.ca: {}: {source}", file.display())]
    RedisCa {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The keys by which tokens are signed cannot be used.
    #[error("callers.jwt.jwks: {}: {problem}", file.display())]
    TokenKeys {
        /// The file.
        file: PathBuf,
        /// Why.
        problem: String,
    },
    /// A model's tokenizer cannot be used.
    #[error("models[{index}].tokenizer: {}: {problem}", file.display())]
    Tokenizer {
        /// Which model, counted from 0.
        index: usize,
        /// The file.
        file: PathBuf,
        /// Why.
        problem: String,
    },
    /// The certificate authorities for the keys of tokens cannot be used.
    #[error("callers.jwt.ca: {0}")]
    TokenCa(String),
    /// The certificate authorities for workers cannot be used.
    #[error("workers.ca: {0}")]
    WorkerTls(#[from] WorkerTlsError),
    /// The system has no certificate authorities for an encrypted collector.
    #[error("tracing.otlp: {0}")]
    SpanTls(#[source] WorkerTlsError),
    /// The collector cannot be used.
    #[error("tracing.otlp: {0}")]
    Spans(String),
    /// A JSON pointer is none.
    #[error("routes: {0}")]
    Pointer(#[from] PointerFault),
    /// The admin port would be open to others.
    #[error("{0}")]
    OpenAdmin(String),
}

/// Listeners that are bound but not served yet.
#[derive(Debug)]
pub struct Listeners {
    main: TcpListener,
    admin: TcpListener,
    main_tls: Option<TlsHandle>,
    admin_tls: Option<TlsHandle>,
}

impl Listeners {
    /// Binds what the settings name. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When an address is taken, a certificate cannot be used, or the admin port would be open to others.
    pub fn bind(settings: &Settings) -> Result<Self, StartError> {
        check_open(settings.admin.listen, &build::admin(settings)).map_err(StartError::OpenAdmin)?;
        let bind = |setting, address| {
            net::bind(address).map_err(|source| StartError::Bind { setting, address, source })
        };
        let tls = |setting, files: &Option<crate::config::settings::TlsFiles>| {
            let load = |files: &crate::config::settings::TlsFiles| TlsHandle::load(&files.cert, &files.key);
            files.as_ref().map(load).transpose().map_err(|source| StartError::Tls { setting, source })
        };
        Ok(Self {
            main: bind("listen", settings.listen)?,
            admin: bind("admin.listen", settings.admin.listen)?,
            main_tls: tls("tls", &settings.tls)?,
            admin_tls: tls("admin.tls", &settings.admin.tls)?,
        })
    }

    /// Listeners that are bound already, without TLS.
    #[must_use]
    pub const fn bound(main: TcpListener, admin: TcpListener) -> Self {
        Self { main, admin, main_tls: None, admin_tls: None }
    }

    /// The addresses that were bound: for callers, and for administrators.
    ///
    /// # Errors
    /// When the operating system does not say.
    pub fn addresses(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.main.local_addr()?, self.admin.local_addr()?))
    }

    /// The TLS pairs, for their reload.
    #[must_use]
    pub fn certificates(&self) -> Certificates {
        Certificates { main: self.main_tls.clone(), admin: self.admin_tls.clone() }
    }
}

/// The TLS pairs in use.
#[derive(Clone, Debug)]
pub struct Certificates {
    main: Option<TlsHandle>,
    admin: Option<TlsHandle>,
}

impl Certificates {
    /// Reads the pairs again that `settings` name. New connections get them; TLS is not switched on or off.
    ///
    /// # Errors
    /// When a pair cannot be used; that one stays as it was.
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

/// How long streams that outlive the drain may take to say that they are cut off.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl App {
    /// Serves until the drain is over.
    pub async fn serve(&self, listeners: Listeners) {
        let Listeners { main, admin, main_tls, admin_tls } = listeners;
        let inner = &self.0;
        // The admin port answers until the very end: a probe must see that the gateway drains.
        let admin_drain = Drain::new();
        let admin_service = Admin::new(Arc::clone(&inner.admin), Arc::new(self.clone()));
        let admin_bounds = Arc::new(arc_swap::ArcSwap::from_pointee(Bounds::default()));

        let mut tasks = JoinSet::new();
        tasks.spawn(serve(admin, admin_tls, admin_bounds, admin_service, admin_drain.clone()));
        tasks.spawn(self.clone().tick());
        tasks.spawn(self.clone().awake());
        tasks.spawn(self.clone().heed_redis());
        tasks.spawn(self.clone().keep_house());
        tasks.spawn(self.clone().show());
        tasks.spawn(self.clone().shut_the_door());
        tasks.spawn(self.clone().share());
        tasks.spawn(self.clone().promote());
        tasks.spawn(self.clone().follow_roster());
        tasks.spawn(self.clone().follow_feed());
        tasks.spawn(self.clone().follow_keys());
        tasks.spawn(self.clone().follow_changes());
        self.catch_up().await;
        serve(main, main_tls, Arc::clone(&inner.bounds), self.entrance(), inner.drain.clone()).await;
        if let Some(together) = &inner.together {
            together.leave().await;
        }
        admin_drain.close();
    }

    /// Goes down as the settings say. Returns how many connections were cut off.
    pub async fn drain(&self) -> usize {
        let settings = self.0.live.load().settings.drain;
        let run = self.0.drain.run(settings.delay, settings.timeout + LAST_WORDS);
        let end_streams = async {
            tokio::time::sleep(settings.delay + settings.timeout).await;
            self.0.upstream.end_streams();
            std::future::pending().await
        };
        let cut_off = tokio::select! {
            cut_off = run => cut_off,
            never = end_streams => never,
        };
        if let Some(spans) = self.0.live.load().spans.clone() {
            // A thread that cannot be joined has nothing left to say.
            tokio::task::spawn_blocking(move || spans.flush()).await.unwrap_or_default();
        }
        cut_off
    }

    /// Connections that are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.0.drain.connections()
    }

    /// Cuts everything off.
    pub fn close(&self) {
        self.0.drain.close();
    }

    /// Takes new settings. What is under way ends by the old ones; counts of rules whose quota is unchanged, ledgers,
    /// connections and metrics stay. Listen addresses are not changed by a reload.
    ///
    /// # Errors
    /// When the new settings cannot be put to use; the old ones stay.
    pub fn reload(&self, settings: Settings) -> Result<(), StartError> {
        let inner = &*self.0;
        let _one_at_a_time = inner.reloading.lock();
        let before = inner.live.load_full();
        let mut settings = build::with_authorities(settings)?;
        let upstream = build::upstream(&settings)?;
        let ladder = Arc::new(before.ladder.rebuilt(inner.changes.apply(&settings.rules)));
        let counting = counting(inner.together.as_ref(), &ladder, Some(&before.counting));
        let spans = if settings.spans == before.settings.spans {
            before.spans.clone()
        } else {
            build::spans(&settings)?
        };
        let key_source = KeySource::of(&settings, inner.key_source.borrow().as_ref())?;
        let tokens = tokens::tokens(&settings, key_source.as_ref());
        let exact = Arc::new(tokenizers::load(&settings, Some(&before.exact))?);
        let has_jobs = inner.together.as_ref().is_some_and(|together| together.jobs.is_some());
        let paths = Arc::new(build::paths(&settings, has_jobs)?);
        let state = self.state(spans.clone(), Arc::clone(&exact), Arc::clone(&paths));
        let stack = build::stack(&settings, &counting, tokens, &state)?;

        // From here on nothing can fail.
        inner.following.retell(&settings);
        let fleet =
            Arc::new(inner.following.fleet(&settings, self.sharing_workers(&settings), &inner.fleet.load()));
        inner.buffers.resize(settings.bounds.buffered);
        inner.upstream_settings.store(Arc::new(upstream));
        inner.bounds.store(Arc::new(build::bounds(&settings)));
        inner.admin.store(Arc::new(build::admin(&settings)));
        inner.key_source.send_replace(key_source);
        inner.fleet.store(Arc::clone(&fleet));
        fleet.take_over();
        inner.following.publish();
        for (setting, old, new) in [
            ("listen", before.settings.listen, settings.listen),
            ("admin.listen", before.settings.admin.listen, settings.admin.listen),
        ] {
            if old != new {
                tracing::warn!(setting, %old, %new, "a listen address changes only with a restart");
            }
        }
        if let Some(together) = &inner.together {
            together.retell(&mut settings);
            together.store.dams().tell(settings.dams);
        }
        // Compared after the credentials of Redis were taken: the settings before share them.
        if before.settings.shared != settings.shared {
            tracing::warn!(
                "`state`, `callers.stored`, `workers.mode`, `concurrency.overflow` and the `redis` that they use change \
                 only with a restart; of `redis.url`, user and password are taken at the next connection"
            );
        }
        inner.live.store(Arc::new(Live { settings, ladder, counting, spans, exact, paths, stack }));
        inner.following.reloaded.send_replace(());
        Ok(())
    }

    /// Counts a reload that was taken or refused.
    pub fn count_reload(&self, taken: bool) {
        self.0.metrics.config_reload(taken);
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.0.live.load().settings.clone()
    }

    pub(super) fn state(
        &self,
        spans: Option<Arc<Spans>>,
        exact: Arc<Exact>,
        paths: Arc<Paths>,
    ) -> build::State {
        let inner = &*self.0;
        build::State {
            clock: inner.clock.clone(),
            metrics: Arc::clone(&inner.metrics),
            door: Arc::clone(&inner.door),
            buffers: Arc::clone(&inner.buffers),
            estimates: Arc::clone(&inner.estimates),
            exact,
            paths,
            fleet: Arc::clone(&inner.fleet),
            upstream: inner.upstream.clone(),
            stored_callers: inner.together.as_ref().and_then(|together| together.callers.clone()),
            jobs: inner.together.as_ref().and_then(|together| together.jobs.clone()),
            only_overflow: inner.together.as_ref().is_some_and(|together| together.overflow),
            spans,
        }
    }

    /// Looks after what has a time and nobody to wake it.
    async fn keep_house(self) {
        let mut ticks = interval(HOUSEKEEPING);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for pool in self.0.fleet.load().pools() {
                pool.gate.expire();
            }
            self.0.live.load().ladder.sweep(self.0.clock.now());
            self.expire_changes();
        }
    }

    /// Keeps what is shared with other gateways.
    async fn share(self) {
        if let Some(together) = &self.0.together {
            together.run().await;
        }
    }

    /// Refuses new requests when the drain has come so far.
    async fn shut_the_door(self) {
        self.0.drain.reached(Phase::Refusing).await;
        self.0.door.drain();
    }
}
