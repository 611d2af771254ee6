//! The process: TLS, administration port, shutdown, logging.

use std::net::SocketAddr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::loopback;
use crate::config::syntax::{FilePath, Host, Secret, Text};

/// Certificate and private key. Relative paths start at the directory of the settings file. A
/// changed file is loaded without a restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tls {
    /// The certificate chain, PEM, the server's own certificate first.
    pub cert: Text<FilePath>,
    /// The certificate's private key, PEM.
    pub key: Text<FilePath>,
}

/// The administration port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AdminSection {
    /// IP address and port of the administration port.
    pub listen: Text<SocketAddr>,
    /// TLS for the administration port.
    pub tls: Option<Tls>,
    /// Token required to change anything. Mandatory if `listen` is not a loopback address.
    #[schemars(extend("writeOnly" = true))]
    pub token: Option<Text<Secret>>,
    /// Token required to read.
    #[schemars(extend("writeOnly" = true, "x-default" = "`token`"))]
    pub read_token: Option<Text<Secret>>,
    /// Token required for `/metrics`. Without it `/metrics` is as open as `/healthz` and `/readyz`.
    #[schemars(extend("writeOnly" = true))]
    pub metrics_token: Option<Text<Secret>>,
    /// Accepted host names; IP addresses are always accepted. Other names are refused, so that a
    /// web page cannot reach the port through a browser under its own name (DNS rebinding).
    #[schemars(length(min = 1, max = 64), extend("x-default" = "the address of `listen`, and `localhost`"))]
    pub hosts: Option<Vec<Text<Host>>>,
}

impl Default for AdminSection {
    fn default() -> Self {
        Self {
            listen: loopback(8081),
            tls: None,
            token: None,
            read_token: None,
            metrics_token: None,
            hosts: None,
        }
    }
}

impl AdminSection {
    pub(super) fn complete(&mut self) {
        if self.read_token.is_none() {
            self.read_token.clone_from(&self.token);
        }
        let address = self.listen.0.ip().to_string();
        self.hosts.get_or_insert_with(|| vec![Text(Host(address)), Text(Host("localhost".into()))]);
    }
}

/// Graceful shutdown on SIGTERM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DrainSection {
    /// Time for which new requests are still accepted: load balancers notice the shutdown late.
    pub delay: Text<Duration>,
    /// Maximum time after `delay` for running streams to finish. Those left are then notified and
    /// cut off within a second.
    pub timeout: Text<Duration>,
}

impl Default for DrainSection {
    fn default() -> Self {
        Self { delay: Text(Duration::from_secs(5)), timeout: Text(Duration::from_secs(60)) }
    }
}

/// Logging. The environment variable `TRAFFIC_DAM_LOG` sets the filter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LogSection {
    /// Share of served requests that is logged, from 0 to 1. Refusals are always logged.
    #[schemars(range(min = 0, max = 1))]
    pub sample: f64,
}

impl Default for LogSection {
    fn default() -> Self {
        Self { sample: 1.0 }
    }
}
