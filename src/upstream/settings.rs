//! Operator settings for forwarding.

use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fleet::heartbeat::SigningKey;
use crate::fleet::spec::Http2Mode;
use crate::request::{AnswerHeaders, RouteTimeouts};

/// Timeouts of a request to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamTimeouts {
    /// Time for a connection, TLS included.
    pub connect: Duration,
    /// Time from dispatch to the first content of an event stream.
    pub first_token: Duration,
    /// Time from the first dispatch until an event stream without content is started for the
    /// client: its head and its keep-alive comments and pings are sent.
    pub hold: Duration,
    /// Longest gap between two pieces of the response, after the first.
    pub idle: Duration,
    /// Time for the whole response, retries included.
    pub total: Duration,
}

impl Default for UpstreamTimeouts {
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

impl UpstreamTimeouts {
    /// Returns these timeouts with those that `route` overrides.
    #[must_use]
    pub(super) fn for_route(self, route: Option<&RouteTimeouts>) -> Self {
        route.map_or(self, |route| Self {
            connect: route.connect.unwrap_or(self.connect),
            first_token: route.first_token.unwrap_or(self.first_token),
            hold: route.head_without_content.unwrap_or(self.hold),
            idle: route.idle.unwrap_or(self.idle),
            total: route.total.unwrap_or(self.total),
        })
    }
}

/// Retries on another worker, only before the first token.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetrySettings {
    /// Maximum number of other workers tried for one request; 0 for none.
    #[schemars(range(max = 10))]
    pub max: u32,
    /// Share of the requests of the last 10 s that may be retries, from 0 to 1. 10 retries are
    /// always allowed.
    #[schemars(range(min = 0, max = 1))]
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
    /// Timeouts; [`RouteTimeouts`] in the request's extensions override them.
    pub timeouts: UpstreamTimeouts,
    /// Age from which a connection takes no new requests, varied by up to a fifth.
    pub connection_age: Duration,
    /// Limits on sending a request to another worker.
    pub retry: RetrySettings,
    /// `true` if a client's `authorization` and `x-api-key` reach the worker. Headers that
    /// [`crate::request::Forwarding`] strips never do.
    pub forward_authorization: bool,
    /// Headers that answers get, unless the caller has a setting of its own.
    pub answer_headers: AnswerHeaders,
    /// TLS client for workers with an `https` URL, see [`super::tls::client_config`]; `None` makes
    /// them unreachable.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Whether requests go to workers over HTTP/2, for those that have no setting of their own;
    /// `None`: to external ones with an `https` URL, if they choose it.
    pub http2: Option<Http2Mode>,
    /// Settings of the queue; `None` if workers are reached over HTTP.
    pub queue: Option<QueueSettings>,
}

/// Settings of the Redis queue.
#[derive(Clone, Debug)]
pub struct QueueSettings {
    /// Key that signs jobs; `None` leaves them unsigned.
    pub(crate) key: Option<SigningKey>,
    /// Longest time a request waits for a queue that is full although the gate has room.
    pub(crate) wait: Duration,
    /// Longest time that a turn of a session waits for the worker that had the turn before.
    pub(crate) sticky_wait: Duration,
}

impl Default for UpstreamSettings {
    fn default() -> Self {
        Self {
            timeouts: UpstreamTimeouts::default(),
            connection_age: Duration::from_secs(300),
            retry: RetrySettings::default(),
            forward_authorization: true,
            answer_headers: AnswerHeaders::default(),
            tls: None,
            http2: None,
            queue: None,
        }
    }
}
