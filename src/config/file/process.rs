//! The process itself: TLS, administration, going down, logging.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::loopback;
use crate::config::syntax::{FilePath, Host, Millis, Secret, Text};

/// A certificate and its key. A relative path begins at the directory of the settings file; a changed file is
/// taken up without a restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The certificate chain, PEM, the server's own certificate first.
    pub cert: Text<FilePath>,
    /// Its private key, PEM.
    pub key: Text<FilePath>,
}

/// The administration port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Where it listens: an IP address and a port.
    pub listen: Text<SocketAddr>,
    /// TLS for it.
    pub tls: Option<Tls>,
    /// What must be shown to change anything. Required when it does not listen on a loopback address.
    #[schemars(extend("writeOnly" = true))]
    pub token: Option<Text<Secret>>,
    /// What must be shown to read.
    #[schemars(extend("writeOnly" = true, "x-default" = "`token`"))]
    pub read_token: Option<Text<Secret>>,
    /// What must be shown for `/metrics`. Without it `/metrics` is as open as `/healthz` and `/readyz`.
    #[schemars(extend("writeOnly" = true))]
    pub metrics_token: Option<Text<Secret>>,
    /// The names by which it may be asked, besides addresses, which always may. Other names are refused: so a web page
    /// cannot reach it through a browser by a name of its own (DNS rebinding).
    #[schemars(length(min = 1, max = 64), extend("x-default" = "the address of `listen`, and `localhost`"))]
    pub hosts: Option<Vec<Text<Host>>>,
}

impl Default for Admin {
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

impl Admin {
    pub(super) fn complete(&mut self) {
        if self.read_token.is_none() {
            self.read_token.clone_from(&self.token);
        }
        let address = self.listen.0.ip().to_string();
        self.hosts.get_or_insert_with(|| vec![Text(Host(address)), Text(Host("localhost".into()))]);
    }
}

/// Going down on SIGTERM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Drain {
    /// How long new requests are still taken, because balancers learn late that the gateway is going.
    pub delay: Text<Millis>,
    /// How long streams under way may take to finish, from then on. What is left then is told so, and cut off within a
    /// second.
    pub timeout: Text<Millis>,
}

impl Default for Drain {
    fn default() -> Self {
        Self { delay: Text(Millis::from_secs(5)), timeout: Text(Millis::from_secs(60)) }
    }
}

/// Logging. The filter is the environment's (`TRAFFIC_DAM_LOG`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// The share of served requests that is logged, from 0 to 1. Refusals are always logged.
    #[schemars(range(min = 0, max = 1))]
    pub sample: f64,
}

impl Default for Log {
    fn default() -> Self {
        Self { sample: 1.0 }
    }
}
