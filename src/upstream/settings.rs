//! What an operator sets about forwarding.

use std::sync::Arc;
use std::time::Duration;

use crate::fleet::heartbeat::Key;
use crate::request::RouteTimeouts;

/// How long to wait for a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// For the first content of an event stream, from its dispatch.
    pub first_token: Duration,
    /// From the first dispatch until the head of an event stream without content is handed over, and what keeps it alive.
    pub hold: Duration,
    /// Between two pieces of the answer, after the first.
    pub idle: Duration,
    /// For the whole answer, retries included.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            first_token: Duration::from_secs(30),
            hold: Duration::from_secs(15),
            idle: Duration::from_secs(60),
            total: Duration::from_secs(600),
        }
    }
}

impl Timeouts {
    /// These, where a route does not say otherwise.
    #[must_use]
    pub fn for_route(self, route: Option<&RouteTimeouts>) -> Self {
        route.map_or(self, |route| Self {
            connect: self.connect,
            first_token: route.first_token.unwrap_or(self.first_token),
            hold: route.hold.unwrap_or(self.hold),
            idle: route.idle.unwrap_or(self.idle),
            total: route.total.unwrap_or(self.total),
        })
    }
}

/// When a request is sent to another worker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetrySettings {
    /// How often one request may be sent again.
    pub max: u32,
    /// Share of the requests of the last 10 s that may be sent again; [`super::budget::FLOOR`] of them always may. 0…1.
    pub budget: f64,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self { max: 1, budget: 0.1 }
    }
}

/// The settings of [`super::Upstream`].
#[derive(Clone, Debug)]
pub struct UpstreamSettings {
    /// How long to wait for a worker; [`RouteTimeouts`] in the request's extensions overrule them.
    pub timeouts: Timeouts,
    /// When a request is sent to another worker.
    pub retry: RetrySettings,
    /// Whether a client's `authorization` and `x-api-key` reach the worker. What [`crate::request::Forwarding`]
    /// strips never does.
    pub forward_authorization: bool,
    /// For workers with an `https` URL; see [`super::tls::client_config`]. Without it they cannot be reached.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Set when workers take requests from a queue.
    pub queue: Option<QueueSettings>,
}

/// What an operator sets about the queue.
#[derive(Clone, Debug)]
pub struct QueueSettings {
    /// What jobs are signed with, if they are.
    pub key: Option<Key>,
    /// How long a request waits for a queue that is full although the gate has room.
    pub wait: Duration,
}

impl Default for UpstreamSettings {
    fn default() -> Self {
        Self {
            timeouts: Timeouts::default(),
            retry: RetrySettings::default(),
            forward_authorization: true,
            tls: None,
            queue: None,
        }
    }
}
