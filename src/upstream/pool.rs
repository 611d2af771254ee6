//! Idle connections, per worker.
//!
//! The one used last is used next: its buffers are warm, and those not needed grow old together and are closed. The
//! list is bounded and nothing waits for a connection: how many requests a worker gets is decided by `shed`, so a
//! request that finds no idle connection opens one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use hashbrown::HashMap;
use http::{HeaderValue, Uri, uri::PathAndQuery};
use parking_lot::{Mutex, RwLock};
use rustls::pki_types::ServerName;

use super::connect::Target;
use super::link::Link;
use super::reuse::Reuse;
use crate::clock::{Clock, Nanos};
use crate::fleet::spec::WorkerSpec;
use crate::fleet::{Fleet, Worker};

/// How long a connection may be idle. Common workers close theirs after 5 s (uvicorn), and a request sent just then
/// is lost in between; closing first leaves that race to a second's clock skew.
pub(crate) const IDLE: Duration = Duration::from_secs(4);

/// The most idle connections kept for one worker: 16 KiB of buffers each.
pub(crate) const IDLE_MAX: usize = 256;

/// A worker as a place to connect to, with its idle connections.
#[derive(Debug)]
pub(crate) struct Site {
    worker: Arc<Worker>,
    /// Where to connect.
    pub(crate) target: Target,
    /// Its `Host`.
    pub(crate) authority: HeaderValue,
    /// What comes before each path, without a slash at its end.
    prefix: Box<str>,
    clock: Clock,
    idle: Mutex<Vec<Idle>>,
    /// How they fare. Of the place, not of its description.
    reuse: Arc<Reuse>,
    sweeping: AtomicBool,
}

#[derive(Debug)]
struct Idle {
    link: Box<Link>,
    since: Nanos,
}

/// A worker's URL cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the URL of worker {0:?} is not usable")]
pub(crate) struct BadUrl(Arc<str>);

impl Site {
    fn new(worker: &Arc<Worker>, clock: &Clock, reuse: Arc<Reuse>) -> Result<Self, BadUrl> {
        let spec = &worker.spec;
        let bad = || BadUrl(Arc::clone(&spec.id));
        let secure = spec.url.scheme() == Some(&http::uri::Scheme::HTTPS);
        let host = spec.url.host().ok_or_else(bad)?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let port = spec.url.port_u16();
        let authority = match port {
            Some(port) => HeaderValue::try_from(format!("{host}:{port}")),
            None => HeaderValue::from_str(host),
        };
        let tls = secure.then(|| ServerName::try_from(bare.to_owned())).transpose().map_err(|_name| bad())?;
        Ok(Self {
            worker: Arc::clone(worker),
            target: Target {
                host: bare.to_owned(),
                port: port.unwrap_or(if secure { 443 } else { 80 }),
                tls,
            },
            authority: authority.map_err(|_value| bad())?,
            prefix: spec.url.path().trim_end_matches('/').into(),
            clock: clock.clone(),
            idle: Mutex::default(),
            reuse,
            sweeping: AtomicBool::new(false),
        })
    }

    /// What the operator said of the worker.
    pub(crate) fn spec(&self) -> &WorkerSpec {
        &self.worker.spec
    }

    /// What comes before each path, without a slash at its end.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The target line for a request of `asked`.
    pub(crate) fn target_of(&self, asked: &Uri) -> Uri {
        let asked = asked.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        // `*` is no path. A query alone is one of the path `/`, and is written with it below.
        if self.prefix.is_empty() || asked.as_str() == "*" {
            return Uri::from(asked);
        }
        // Both parts are valid, so their sum is, unless it is too long; then the worker may say so of the shorter.
        let both = PathAndQuery::try_from(format!("{}{asked}", self.prefix));
        Uri::from(both.unwrap_or(asked))
    }

    /// An idle connection that is still open, as far as can be seen.
    pub(crate) fn take(&self) -> Option<Box<Link>> {
        let now = self.clock.now();
        if !self.reuse.allowed(now) {
            return None;
        }
        loop {
            let Idle { mut link, since } = self.idle.lock().pop()?;
            if now.since(since) < IDLE && link.check() {
                self.reuse.used(now);
                return Some(link);
            }
        }
    }

    /// A connection that [`Site::take`] gave ended as the request was written on it.
    pub(crate) fn died(&self) {
        self.reuse.died(self.clock.now());
    }

    /// Keeps a connection whose answer was read to the end, if another request can follow on it.
    pub(crate) fn put(self: &Arc<Self>, mut link: Box<Link>) {
        let since = self.clock.now();
        if !self.reuse.allowed(since) || !link.check() {
            return;
        }
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_MAX {
            idle.push(Idle { link, since });
            drop(idle);
            self.sweep_later();
        }
    }

    /// Sees to it that idle connections are closed when no request comes to do it.
    fn sweep_later(self: &Arc<Self>) {
        if !self.sweeping.load(Ordering::Relaxed) && !self.sweeping.swap(true, Ordering::AcqRel) {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    /// Closes what is too old or was closed by the worker; whether any is left.
    fn prune(&self) -> bool {
        let now = self.clock.now();
        let mut idle = self.idle.lock();
        idle.retain_mut(|kept| now.since(kept.since) < IDLE && kept.link.check());
        !idle.is_empty()
    }
}

async fn sweep(site: Weak<Site>) {
    loop {
        tokio::time::sleep(IDLE / 4).await;
        let Some(site) = site.upgrade() else { return };
        if !site.prune() {
            site.sweeping.store(false, Ordering::Release);
            // A connection put back between the look and the store has seen `sweeping` still set.
            if site.idle.lock().is_empty() || site.sweeping.swap(true, Ordering::AcqRel) {
                return;
            }
        }
    }
}

/// The places of all workers.
#[derive(Debug, Default)]
pub(crate) struct Sites(RwLock<HashMap<Arc<str>, Arc<Site>>>);

impl Sites {
    /// The place of `worker`; a worker that was described anew gets a new one.
    pub(crate) fn of(&self, worker: &Arc<Worker>, fleet: &Fleet, clock: &Clock) -> Result<Arc<Site>, BadUrl> {
        if let Some(site) = self.0.read().get(&worker.spec.id)
            && Arc::ptr_eq(&site.worker, worker)
        {
            return Ok(Arc::clone(site));
        }
        let mut sites = self.0.write();
        sites.retain(|id, _| fleet.worker(id).is_some());
        let old = sites.get(&worker.spec.id).filter(|old| old.spec().url == worker.spec.url).cloned();
        let reuse = old.as_ref().map_or_else(Arc::default, |old| Arc::clone(&old.reuse));
        let site = Arc::new(Site::new(worker, clock, reuse)?);
        sites.insert(Arc::clone(&worker.spec.id), Arc::clone(&site));
        if let Some(old) = old {
            // The same place: what is idle there stays of use.
            std::mem::swap(&mut *site.idle.lock(), &mut *old.idle.lock());
            site.sweep_later();
        }
        Ok(site)
    }
}
