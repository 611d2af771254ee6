//! Idle connections, per worker.
//!
//! The connection used last is used next: its buffers are warm, and the connections not needed age
//! together and are closed. The list is bounded and nothing waits for a connection: `shed` decides
//! how many requests a worker gets, so a request that finds no idle connection opens one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use hashbrown::HashMap;
use http::{HeaderValue, Uri, uri::PathAndQuery};
use parking_lot::{Mutex, RwLock};
use rustls::pki_types::ServerName;

use super::connect::{OwnConnection, WorkerAddress};
use super::http2::{Http2Stream, SharedConnection};
use super::http2_pool::Http2Pool;
use super::reuse::Reuse;
use crate::clock::{Clock, Nanos};
use crate::fleet::provider::ProviderState;
use crate::fleet::registry::ModelNames;
use crate::fleet::spec::WorkerSpec;
use crate::fleet::{Fleet, FleetWorker};
use crate::upstream::provider;

/// Longest idle time. Common workers close idle connections after 5 s (uvicorn), and a request sent
/// at that moment is lost. Closing first leaves a second of margin for that race.
pub(crate) const IDLE: Duration = Duration::from_secs(4);

/// Idle connections kept per worker. They hold no buffers.
pub(crate) const IDLE_MAX: usize = 256;

/// Endpoint of a worker, with its idle connections.
#[derive(Debug)]
pub(crate) struct Endpoint {
    worker: Arc<FleetWorker>,
    pub(crate) target: WorkerAddress,
    /// Value of `Host`.
    pub(crate) authority: HeaderValue,
    /// Path prefix of the worker's URL, without a slash at its end.
    prefix: Box<str>,
    clock: Clock,
    idle: Mutex<Vec<IdleConnection>>,
    shared: Http2Pool,
    /// How reused connections fare; kept when the worker's spec changes but not its URL.
    reuse: Arc<Reuse>,
    sweeping: AtomicBool,
}

#[derive(Debug)]
struct IdleConnection {
    link: Box<OwnConnection>,
    since: Nanos,
}

/// Error: a worker's URL is unusable.
#[derive(Debug, thiserror::Error)]
#[error("the URL of worker {0:?} is not usable")]
pub(crate) struct BadUrl(Arc<str>);

impl Endpoint {
    fn new(worker: &Arc<FleetWorker>, clock: &Clock, reuse: Arc<Reuse>) -> Result<Self, BadUrl> {
        let spec = &worker.spec;
        let bad = || BadUrl(Arc::clone(&spec.id));
        let secure = spec.url.scheme() == Some(&http::uri::Scheme::HTTPS);
        let host = spec.url.host().ok_or_else(bad)?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let port = spec.url.port_u16();
        let authority = match port {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let tls = secure.then(|| ServerName::try_from(bare.to_owned())).transpose().map_err(|_name| bad())?;
        Ok(Self {
            worker: Arc::clone(worker),
            target: WorkerAddress {
                host: bare.to_owned(),
                address: spec.address,
                port: port.unwrap_or(if secure { 443 } else { 80 }),
                tls,
                authority: authority.parse().map_err(|_value| bad())?,
            },
            authority: HeaderValue::try_from(authority).map_err(|_value| bad())?,
            prefix: spec.url.path().trim_end_matches('/').into(),
            clock: clock.clone(),
            idle: Mutex::default(),
            shared: Http2Pool::default(),
            reuse,
            sweeping: AtomicBool::new(false),
        })
    }

    pub(crate) fn spec(&self) -> &WorkerSpec {
        &self.worker.spec
    }

    /// Returns the quota of an external worker; `None` for a worker of one's own.
    pub(crate) fn quota(&self) -> Option<&ProviderState> {
        self.worker.quota.as_deref()
    }

    /// Returns `true` if the worker may refuse a request before any work: then another may get it,
    /// even if it must not run twice.
    pub(crate) fn may_refuse(&self) -> bool {
        self.quota().is_some() || !self.shared.is_empty()
    }

    /// Returns the models of which a new connection must answer for one before it is used.
    pub(crate) fn expects(&self) -> Option<&ModelNames> {
        self.worker.expects.as_ref()
    }

    /// Returns the path prefix of the worker's URL, without a slash at its end.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns the request target for `asked`.
    pub(crate) fn target_of(&self, asked: &Uri) -> Uri {
        let cleaned = self.quota().and_then(|_| provider::without_credentials(asked));
        let asked = cleaned.as_ref().unwrap_or(asked);
        let asked = asked.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        // `*` is no path. A query alone belongs to the path `/`, and is written with it below.
        if self.prefix.is_empty() || asked.as_str() == "*" {
            return Uri::from(asked);
        }
        // Two valid parts give a valid sum unless it is too long: then send the worker the shorter.
        let both = PathAndQuery::try_from(format!("{}{asked}", self.prefix));
        Uri::from(both.unwrap_or(asked))
    }

    /// Returns the connections that requests share.
    pub(crate) const fn shared(&self) -> &Http2Pool {
        &self.shared
    }

    /// Adds a connection that requests share; returns a stream of it.
    pub(crate) fn share(self: &Arc<Self>, connection: Arc<SharedConnection>) -> Option<Http2Stream> {
        let stream = connection.open(self.clock.now());
        self.shared.add(connection);
        self.sweep_later();
        stream
    }

    /// Takes an idle connection that still looks open.
    pub(crate) fn take(&self) -> Option<Box<OwnConnection>> {
        let now = self.clock.now();
        if !self.reuse.allowed(now) {
            return None;
        }
        loop {
            let IdleConnection { mut link, since } = self.idle.lock().pop()?;
            if now.since(since) < IDLE && link.check(now) {
                self.reuse.used(now);
                return Some(link);
            }
        }
    }

    /// Counts a connection from [`Endpoint::take`] that ended as the request was written on it.
    pub(crate) fn count_stale(&self) {
        self.reuse.died(self.clock.now());
    }

    /// Keeps a connection whose response was read to its end, if it can carry another request.
    pub(crate) fn put(self: &Arc<Self>, mut link: Box<OwnConnection>) {
        let since = self.clock.now();
        if !self.reuse.allowed(since) || !link.check(since) {
            return;
        }
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_MAX {
            idle.push(IdleConnection { link, since });
            drop(idle);
            self.sweep_later();
        }
    }

    /// Makes sure that idle connections are closed even if no request comes.
    fn sweep_later(self: &Arc<Self>) {
        if !self.sweeping.load(Ordering::Relaxed) && !self.sweeping.swap(true, Ordering::AcqRel) {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    /// Closes connections that are too old or closed by the worker; returns `true` if any is left.
    fn prune(&self) -> bool {
        let now = self.clock.now();
        let mut idle = self.idle.lock();
        idle.retain_mut(|kept| now.since(kept.since) < IDLE && kept.link.check(now));
        let shares = self.shared.prune(now);
        shares || !idle.is_empty()
    }
}

async fn sweep(endpoint: Weak<Endpoint>) {
    loop {
        tokio::time::sleep(IDLE / 4).await;
        let Some(endpoint) = endpoint.upgrade() else { return };
        if !endpoint.prune() {
            endpoint.sweeping.store(false, Ordering::Release);
            // A connection put back between the check and the store saw `sweeping` still set.
            if (endpoint.idle.lock().is_empty() && endpoint.shared.is_empty())
                || endpoint.sweeping.swap(true, Ordering::AcqRel)
            {
                return;
            }
        }
    }
}

/// Endpoints of all workers, by worker id.
#[derive(Debug, Default)]
pub(crate) struct Endpoints(RwLock<HashMap<Arc<str>, Arc<Endpoint>>>);

impl Endpoints {
    /// Returns the endpoint of `worker`; creates a new one if its spec changed.
    pub(crate) fn of(
        &self,
        worker: &Arc<FleetWorker>,
        fleet: &Fleet,
        clock: &Clock,
    ) -> Result<Arc<Endpoint>, BadUrl> {
        if let Some(endpoint) = self.0.read().get(&worker.spec.id)
            && Arc::ptr_eq(&endpoint.worker, worker)
        {
            return Ok(Arc::clone(endpoint));
        }
        let mut endpoints = self.0.write();
        endpoints.retain(|id, _| fleet.worker(id).is_some());
        let old = endpoints
            .get(&worker.spec.id)
            .filter(|old| {
                let (old, new) = (old.spec(), &worker.spec);
                (&old.url, old.address) == (&new.url, new.address)
            })
            .cloned();
        let reuse = old.as_ref().map_or_else(Arc::default, |old| Arc::clone(&old.reuse));
        let endpoint = Arc::new(Endpoint::new(worker, clock, reuse)?);
        endpoints.insert(Arc::clone(&worker.spec.id), Arc::clone(&endpoint));
        if let Some(old) = old {
            // The URL is the same: its idle connections stay usable.
            std::mem::swap(&mut *endpoint.idle.lock(), &mut *old.idle.lock());
            endpoint.shared.take_over(&old.shared);
            endpoint.sweep_later();
        }
        Ok(endpoint)
    }
}
