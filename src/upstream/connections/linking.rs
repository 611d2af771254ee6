//! Finds a connection for a request, or opens one.

use std::sync::Arc;
use std::time::Duration;

use super::connect::{NewConnection, connect, within};
use super::endpoints::Endpoint;
use super::error::ConnectError;
use super::link::WorkerLink;
use super::verify::verify;
use crate::clock::{Clock, Nanos};
use crate::fleet::spec::Http2Mode;
use crate::upstream::deadline::Deadline;
use crate::upstream::settings::UpstreamSettings;

/// Parameters of the connection for one request.
pub(crate) struct Linker<'a> {
    pub(crate) clock: &'a Clock,
    pub(crate) settings: &'a UpstreamSettings,
    /// Longest time to open a connection.
    pub(crate) wait: Duration,
    /// Timeout of the whole request, and its end.
    pub(crate) total: (Duration, Nanos),
    /// `true` if the request asks for a protocol upgrade, which HTTP/2 does not have.
    pub(crate) upgrade: bool,
}

impl Linker<'_> {
    /// Returns a connection to the worker: a stream of a shared one, an idle one if `reuse`, or a new
    /// one. The second value is `true` if other requests have used it before.
    ///
    /// # Errors
    /// If no connection can be made in time.
    pub(crate) async fn link(
        &self,
        endpoint: &Arc<Endpoint>,
        reuse: bool,
    ) -> Result<(WorkerLink, bool), ConnectError> {
        let http2 = self.mode(endpoint);
        if http2 != Http2Mode::Off
            && let Some(stream) = endpoint.shared().stream(self.clock.now())
        {
            return Ok((WorkerLink::Shared(stream, None), true));
        }
        if let Some(link) = reuse.then(|| endpoint.take()).flatten() {
            return Ok((WorkerLink::Own(link), true));
        }
        let deadline = Deadline { since: self.clock.now(), wait: self.wait, total: self.total };
        // Boxed: the handshakes would make the future of each request several times as large.
        Box::pin(within(deadline, self.clock, self.open(endpoint, http2))).await
    }

    /// Opens a connection, or waits for one that another request opens.
    async fn open(
        &self,
        endpoint: &Arc<Endpoint>,
        http2: Http2Mode,
    ) -> Result<(WorkerLink, bool), ConnectError> {
        let pool = (http2 != Http2Mode::Off).then(|| endpoint.shared());
        let _turn = match pool {
            Some(pool) => {
                let turn = pool.turn().await;
                if let Some(stream) = pool.stream(self.clock.now()) {
                    return Ok((WorkerLink::Shared(stream, None), true));
                }
                if !pool.has_room(self.clock.now()) {
                    return Err(ConnectError::NoStream);
                }
                turn
            }
            None => None,
        };
        // Boxed: the handshakes are larger than the rest of this future, which may wait for its turn.
        let opened = Box::pin(connect(&endpoint.target, self.settings, http2, self.wait, self.clock));
        match opened.await? {
            NewConnection::Shared(connection) => {
                if endpoint.expects().is_some() {
                    let stream = connection.open(self.clock.now()).ok_or(ConnectError::NoStream)?;
                    Box::pin(verify(&mut WorkerLink::Shared(stream, None), endpoint)).await?;
                }
                let stream = endpoint.share(connection).ok_or(ConnectError::NoStream)?;
                Ok((WorkerLink::Shared(stream, None), false))
            }
            NewConnection::Own(link) => {
                let mut link = WorkerLink::Own(link);
                if endpoint.expects().is_some() {
                    link = Box::pin(self.verified(link, endpoint)).await?;
                }
                if let Some(pool) = pool {
                    pool.chose_http1();
                }
                Ok((link, false))
            }
        }
    }

    /// Verifies a new connection that is not shared. Returns it, or another new one, not verified
    /// again, if the worker closes each connection after one response.
    async fn verified(&self, mut link: WorkerLink, endpoint: &Endpoint) -> Result<WorkerLink, ConnectError> {
        verify(&mut link, endpoint).await?;
        if link.can_send(self.clock.now()) {
            return Ok(link);
        }
        match connect(&endpoint.target, self.settings, Http2Mode::Off, self.wait, self.clock).await? {
            NewConnection::Own(again) => Ok(WorkerLink::Own(again)),
            NewConnection::Shared(_) => Err(ConnectError::NoStream),
        }
    }

    /// Returns the HTTP/2 mode for this request to the worker.
    fn mode(&self, endpoint: &Endpoint) -> Http2Mode {
        let default = if endpoint.quota().is_some() { Http2Mode::Auto } else { Http2Mode::Off };
        match endpoint.spec().http2.or(self.settings.http2).unwrap_or(default) {
            _ if self.upgrade => Http2Mode::Off,
            Http2Mode::Auto if endpoint.target.tls.is_none() => Http2Mode::Off,
            mode => mode,
        }
    }
}
