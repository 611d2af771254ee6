//! Admin port of a running gateway, for the commands that query it.

use http::Uri;
use traffic_dam::config::syntax::{Syntax, WorkerUrl};

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
