//! The HTTP/2 connections of one worker.
//!
//! Few connections carry all requests: the first that has room for a stream takes the request. While
//! one is being opened, others wait for it instead of opening their own, unless the worker is known
//! to speak HTTP/1.1.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::http2::{Http2Stream, SharedConnection};
use crate::clock::Nanos;

/// Most connections of one worker; with 128 streams each, over 8000 requests.
pub(crate) const CONNECTIONS_MAX: usize = 64;

/// Shared connections of one worker.
#[derive(Debug)]
pub(crate) struct Http2Pool {
    connections: Mutex<SmallVec<[Arc<SharedConnection>; 2]>>,
    /// One connection is opened at a time.
    opening: Semaphore,
    /// Set when the worker chose HTTP/1.1 last.
    speaks_http1: AtomicBool,
}

impl Default for Http2Pool {
    fn default() -> Self {
        Self {
            connections: Mutex::default(),
            opening: Semaphore::new(1),
            speaks_http1: AtomicBool::new(false),
        }
    }
}

impl Http2Pool {
    pub(crate) fn stream(&self, now: Nanos) -> Option<Http2Stream> {
        self.connections.lock().iter().find_map(|connection| connection.open(now))
    }

    /// Waits for the right to open a connection; `None` if nobody needs to wait.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        if self.speaks_http1.load(Ordering::Relaxed) {
            return None;
        }
        self.opening.acquire().await.ok()
    }

    /// Returns `true` if one more connection may be opened.
    pub(crate) fn has_room(&self, now: Nanos) -> bool {
        let mut connections = self.connections.lock();
        connections.retain(|connection| connection.is_kept(now));
        connections.len() < CONNECTIONS_MAX
    }

    pub(crate) fn add(&self, connection: Arc<SharedConnection>) {
        self.speaks_http1.store(false, Ordering::Relaxed);
        self.connections.lock().push(connection);
    }

    /// Notes that the worker chose HTTP/1.1.
    pub(crate) fn chose_http1(&self) {
        self.speaks_http1.store(true, Ordering::Relaxed);
    }

    /// Lets go of connections that are closed, too old or idle for too long; returns `true` if any
    /// is left. Their streams go on.
    pub(crate) fn prune(&self, now: Nanos) -> bool {
        let mut connections = self.connections.lock();
        connections.retain(|connection| connection.is_kept(now));
        !connections.is_empty()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.connections.lock().is_empty()
    }

    pub(crate) fn take_over(&self, other: &Self) {
        let taken = std::mem::take(&mut *other.connections.lock());
        self.connections.lock().extend(taken);
    }
}
