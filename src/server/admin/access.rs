//! Access control of the admin port.
//!
//! Three defences against different attacks. The token keeps out strangers. The `Host` list keeps
//! out pages whose name was pointed at this address after loading (DNS rebinding); IP addresses
//! pass: such pages send their name, probes and scrapers an address. The `Origin` of a write keeps
//! out foreign pages that use a password the browser remembers.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, StatusCode};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::answer::AdminError;

/// A secret, kept as its SHA-256 and compared in constant time.
#[derive(Clone)]
pub struct Token([u8; 32]);

impl Token {
    /// Hashes a secret.
    #[must_use]
    pub fn new(secret: &str) -> Self {
        Self(Sha256::digest(secret.as_bytes()).into())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(redacted)")
    }
}

/// Access settings of the admin port.
#[derive(Clone, Debug, Default)]
pub struct AdminSettings {
    /// Token to read and write. A port without tokens must be on loopback (`check_open`).
    pub token: Option<Token>,
    /// Token to read only.
    pub read_token: Option<Token>,
    /// Token to scrape `/metrics`, which is open if this is `None`.
    pub metrics_token: Option<Token>,
    /// Accepted host names, without a port. IP addresses are always accepted.
    pub hosts: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    Open,
    Metrics,
    Read,
    /// Changing something.
    Write,
}

/// Checks that an admin port without a token is on loopback only.
///
/// # Errors
/// A message that names the settings to change.
pub(crate) fn check_open(listen: SocketAddr, settings: &AdminSettings) -> Result<(), String> {
    if listen.ip().to_canonical().is_loopback() || settings.token.is_some() {
        return Ok(());
    }
    Err(format!(
        "admin.listen is {listen}, which others can reach, and admin.token is not set; set admin.token, or listen on \
         127.0.0.1"
    ))
}

impl AdminSettings {
    pub(super) fn check_host(&self, parts: &Parts) -> Result<(), AdminError> {
        // Browsers always send a host, so a request without one (an HTTP/1.0 probe) is no page.
        let Some(called) = host_of(parts) else { return Ok(()) };
        // A user name before the host is not part of it; no browser sends one.
        let allowed = !called.contains('@')
            && Authority::from_str(called).is_ok_and(|authority| {
                let host = authority.host();
                let address = host.trim_start_matches('[').trim_end_matches(']');
                address.parse::<IpAddr>().is_ok()
                    || self.hosts.iter().any(|name| {
                        host.trim_end_matches('.').eq_ignore_ascii_case(name)
                            || address.eq_ignore_ascii_case(name.trim_matches(['[', ']']))
                    })
            });
        if allowed {
            return Ok(());
        }
        Err(AdminError::new(
            StatusCode::MISDIRECTED_REQUEST,
            "foreign_host",
            "this host name is not served here; add it to admin.hosts if it should be",
        ))
    }

    pub(super) fn check_token(&self, need: Need, headers: &HeaderMap) -> Result<(), AdminError> {
        let write = [self.token.as_ref().or(self.read_token.as_ref()), None, None];
        let read = [self.token.as_ref(), self.read_token.as_ref(), None];
        let metrics = [self.token.as_ref(), self.read_token.as_ref(), self.metrics_token.as_ref()];
        let accepted = match need {
            Need::Open => return Ok(()),
            Need::Metrics if self.metrics_token.is_none() => return Ok(()),
            Need::Metrics => metrics,
            Need::Read => read,
            Need::Write => write,
        };
        if accepted.iter().all(Option::is_none) {
            return Ok(());
        }
        let Some(given) = secret_of(headers) else {
            return Err(unauthorised("a token is needed: send `Authorization: Bearer <token>`"));
        };
        let given = Token::new(&given);
        if given.is_one_of(&accepted) {
            return Ok(());
        }
        if given.is_one_of(&read) {
            let message = "this token may only read; a write needs admin.token";
            return Err(AdminError::new(StatusCode::FORBIDDEN, "forbidden", message));
        }
        Err(unauthorised(match need {
            Need::Metrics => "the token is none of admin.metrics_token, admin.read_token and admin.token",
            Need::Write => "the token is not admin.token",
            Need::Read | Need::Open => "the token is neither admin.read_token nor admin.token",
        }))
    }
}

impl Token {
    fn is_one_of(&self, accepted: &[Option<&Self>]) -> bool {
        // Compares all of them, so that the time does not reveal which one matched.
        let none = Choice::from(0);
        accepted.iter().flatten().fold(none, |found, token| found | token.0.ct_eq(&self.0)).into()
    }
}

/// Refuses writes from foreign pages, even if the browser adds a remembered password.
pub(super) fn check_origin(parts: &Parts) -> Result<(), AdminError> {
    let Some(origin) = parts.headers.get(ORIGIN) else { return Ok(()) };
    let own = host_of(parts).unwrap_or_default();
    let same =
        origin.to_str().ok().and_then(|origin| origin.split_once("://")).is_some_and(|(scheme, host)| {
            matches!(scheme, "http" | "https") && host.eq_ignore_ascii_case(own)
        });
    if same {
        return Ok(());
    }
    let message = "a write must come from this page itself: the Origin header names another site";
    Err(AdminError::new(StatusCode::FORBIDDEN, "foreign_origin", message))
}

fn host_of(parts: &Parts) -> Option<&str> {
    match parts.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        // A host that is not text never matches.
        None => parts.headers.get(HOST).map(|host| host.to_str().unwrap_or("?")),
    }
}

fn unauthorised(message: &'static str) -> AdminError {
    AdminError::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
}

/// Returns the secret in `Authorization`: a bearer token, or Basic's password, for browsers.
fn secret_of(headers: &HeaderMap) -> Option<String> {
    let (scheme, rest) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8(STANDARD.decode(rest).ok()?).ok()?;
    pair.split_once(':').map(|(_, password)| password.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn parts(fields: &[(&'static str, &str)]) -> Parts {
        let mut request = Request::get("/");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn it_does_not_open_where_others_can_reach_it() {
        let open = AdminSettings::default();
        let read_only = AdminSettings { read_token: Some(Token::new("r")), ..AdminSettings::default() };
        let closed = AdminSettings { token: Some(Token::new("t")), ..AdminSettings::default() };
        for listen in ["0.0.0.0:8081", "[::]:8081", "192.0.2.1:8081"] {
            let listen = listen.parse().unwrap();
            assert!(check_open(listen, &open).unwrap_err().contains("admin.token"));
            assert!(check_open(listen, &read_only).is_err());
            assert!(check_open(listen, &closed).is_ok());
        }
        for listen in ["127.0.0.1:8081", "127.9.9.9:1", "[::1]:8081", "[::ffff:127.0.0.1]:1"] {
            assert!(check_open(listen.parse().unwrap(), &open).is_ok());
        }
    }

    #[test]
    fn names_must_be_listed_and_addresses_need_not() {
        let settings = AdminSettings {
            hosts: vec!["localhost".to_owned(), "dam.internal".to_owned()],
            ..AdminSettings::default()
        };
        for host in
            ["localhost", "LOCALHOST:8081", "dam.internal.:8081", "127.0.0.1:8081", "[::1]:8081", "10.1.2.3"]
        {
            assert!(settings.check_host(&parts(&[("host", host)])).is_ok(), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "evil@localhost:x",
            "127.0.0.1.evil.example",
            "a b",
            "",
        ] {
            assert!(settings.check_host(&parts(&[("host", host)])).is_err(), "{host}");
        }
        assert!(settings.check_host(&parts(&[])).is_ok());
    }

    #[test]
    fn each_need_has_its_tokens() {
        let settings = AdminSettings {
            token: Some(Token::new("t")),
            read_token: Some(Token::new("r")),
            metrics_token: Some(Token::new("m")),
            hosts: Vec::new(),
        };
        let status = |settings: &AdminSettings, need, secret: &str| {
            let given = parts(&[("authorization", &format!("Bearer {secret}"))]);
            settings.check_token(need, &given.headers).err().map(|fault| fault.status.as_u16())
        };
        let table = [
            (Need::Metrics, [None, None, None, Some(401)]),
            (Need::Read, [None, None, Some(401), Some(401)]),
            (Need::Write, [None, Some(403), Some(401), Some(401)]),
            (Need::Open, [None, None, None, None]),
        ];
        for (need, expected) in table {
            assert_eq!(
                ["t", "r", "m", "x"].map(|secret| status(&settings, need, secret)),
                expected,
                "{need:?}"
            );
        }
        // Without tokens everything is open. With only a read token, writes need it too.
        assert_eq!(status(&AdminSettings::default(), Need::Write, "x"), None);
        let read_only = AdminSettings { read_token: Some(Token::new("r")), ..AdminSettings::default() };
        assert_eq!(
            (status(&read_only, Need::Write, "r"), status(&read_only, Need::Write, "x")),
            (None, Some(401))
        );
    }

    #[test]
    fn a_secret_comes_as_bearer_or_as_password() {
        let secret = |value: &str| secret_of(&parts(&[("authorization", value)]).headers);
        assert_eq!(secret("bearer  s3:cret"), Some("s3:cret".to_owned()));
        assert_eq!(secret("Basic YWRtaW46czM6Y3JldA=="), Some("s3:cret".to_owned()));
        for bad in ["s3cret", "Basic !!", "Basic YWRtaW4=", "Basic /////w==", "Digest x", ""] {
            assert_eq!(secret(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_the_same_origin_writes() {
        let allowed =
            |origin: &str| check_origin(&parts(&[("host", "dam:8081"), ("origin", origin)])).is_ok();
        assert!(allowed("http://dam:8081") && allowed("https://DAM:8081"));
        for origin in ["http://dam", "http://dam:8082", "http://evil.example", "null", "", "file://dam:8081"]
        {
            assert!(!allowed(origin), "{origin}");
        }
        assert!(check_origin(&parts(&[("host", "dam:8081")])).is_ok());
    }
}
