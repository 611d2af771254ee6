//! Admin port of a running gateway, for the commands that query it.

use std::sync::Arc;

use http::header::{AUTHORIZATION, HOST};
use http::{Method, Request, Uri, request};
use rustls::ClientConfig;
use traffic_dam::config::syntax::{Syntax, WorkerUrl};
use traffic_dam::upstream::tls;

use super::CommandError;

/// Default URL of the admin port.
pub(crate) const USUAL: &str = "http://127.0.0.1:8081";

/// Parses a URL, or a host and a port, which means plain HTTP.
pub(crate) fn read(text: &str) -> Result<Uri, String> {
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = WorkerUrl::read(&url).map(|url| url.0);
    url.filter(|url| url.port().is_some() || text.contains("://")).ok_or_else(|| {
        format!("must be the URL of an admin port, such as `{USUAL}`, or a host and a port, such as `127.0.0.1:8081`")
    })
}

/// Where the admin port of a gateway is, and the token for it.
#[derive(Debug, clap::Args)]
pub(crate) struct AdminAddress {
    /// The admin port: a URL, or a host and a port
    #[arg(long, default_value = USUAL, value_parser = read)]
    pub(crate) admin: Uri,
    /// Token for the admin port
    #[arg(long, env = "TRAFFIC_DAM_ADMIN_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
}

/// What is said if the token is missing or wrong.
pub(crate) const NO_TOKEN: &str = "token missing or wrong: set --token or TRAFFIC_DAM_ADMIN_TOKEN";

/// Address, credentials and TLS configuration of an admin port.
#[derive(Debug)]
pub(crate) struct AdminPort {
    pub(crate) url: Uri,
    pub(crate) tls: Option<Arc<ClientConfig>>,
    token: Option<String>,
}

impl AdminPort {
    pub(crate) fn new(address: AdminAddress) -> Result<Self, CommandError> {
        let AdminAddress { admin, token } = address;
        let tls = match admin.scheme_str() {
            Some("https") => Some(
                tls::client_config([]).map_err(|error| CommandError::Usage(format!("--admin: {error}")))?,
            ),
            _ => None,
        };
        Ok(Self { url: admin, tls, token })
    }

    /// Begins a request to the admin port.
    pub(crate) fn request(&self, method: Method, path: &str) -> request::Builder {
        let path = format!("{}{path}", self.url.path().trim_end_matches('/'));
        let host = self.url.authority().map_or("", |authority| authority.as_str());
        let request = Request::builder().method(method).uri(path).header(HOST, host);
        match &self.token {
            Some(token) => request.header(AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_and_a_url_are_the_same_admin_port() {
        for (text, url) in [
            ("127.0.0.1:8081", "http://127.0.0.1:8081/"),
            ("[::1]:8081", "http://[::1]:8081/"),
            ("gateway.example:8081", "http://gateway.example:8081/"),
            ("https://gateway.example", "https://gateway.example/"),
        ] {
            assert_eq!(read(text).unwrap().to_string(), url);
        }
        for wrong in ["", "gateway", "127.0.0.1", "ftp://h:1", "8081"] {
            assert!(read(wrong).unwrap_err().contains("such as `127.0.0.1:8081`"), "{wrong}");
        }
    }
}
